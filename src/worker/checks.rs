//! Starts and stops the checks of one pair: two for each gate, one for each ObjectServer. They only observe; what they observe comes back
//! with the number of the checks that observed it, so that what older ones still say is left out.

mod supervise;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tracing::Instrument;

use self::supervise::{Recipient, silence_limit, supervise};
use super::Handover;
use crate::{
    api::{Engine, Side, Sides},
    check::{
        Check, Credentials, GateCommands, Login, Observation, Refusals, check_gate, check_objectserver, check_path,
        check_service,
    },
    dial::{Address, Dialer},
    domain::{
        children::{CHECK_PORT, CONTROL_PORT},
        evidence::{Link, Timing},
        machine::{GateObservation, Input, PodView, ServerObservation, Source},
        pair::Pair,
        resync::ServerState,
    },
    foreign::{MESSAGE_MAX, cut},
    protocol::{LookAt, Request},
    tls::ObjectServerTls,
};

/// How long the check of the virtual Service may say nothing: it asks several times a second, and each answer has a deadline.
const SERVICE_SILENCE: Duration = Duration::from_secs(10);

/// The operator's keys for the gates of one pair.
#[derive(Clone, Debug)]
pub struct Keys {
    /// What it shows and trusts.
    pub config: Arc<ClientConfig>,
    /// The name in the gates' certificate.
    pub gate_name: ServerName<'static>,
    /// The certificate, in PEM: tells new keys from old ones.
    pub certificate: String,
}

/// What a worker has its checks do.
pub trait Checks: Send {
    /// Takes what is declared now. Returns the sources whose checks were restarted.
    fn declare(&mut self, handover: &Handover) -> Vec<(Side, Source)>;
    /// Takes the pods of both sides. Returns the sources whose checks were restarted.
    fn assign(&mut self, pods: &Sides<Vec<PodView>>) -> Vec<(Side, Source)>;
    /// Commands a gate, now and on each new connection.
    fn command(&mut self, side: Side, gate: &str, request: Request);
    /// Has connections to the virtual Service at `address` observed; `None`: no longer.
    fn watch_route(&mut self, address: Option<SocketAddr>);
    /// Asks a gate for a report now.
    fn recheck(&mut self, side: Side, gate: &str);
    /// Tells a gate at which others it is to look, and has its machine looked at while `question` is not 0.
    fn look(&mut self, side: Side, gate: &str, question: u64, look_at: Vec<LookAt>);
    /// Has an ObjectServer asked for its gateways too, or no longer.
    fn read_gateways(&mut self, side: Side, wanted: bool);
    /// The input that an observation is, unless its checks have been replaced.
    fn input(&self, observed: Observed) -> Option<Input>;
}

/// An observation, with the checks that made it.
#[derive(Debug)]
pub struct Observed {
    pub side: Side,
    pub source: Source,
    pub number: u64,
    pub observation: Observation,
}

/// The checks of one pair.
pub struct PairChecks {
    identity: String,
    term: u64,
    out: mpsc::Sender<Observed>,
    declared: Option<Declared>,
    sides: Sides<SideChecks>,
    service: Option<Running>,
    /// Numbers given to checks so far.
    numbers: u64,
}

/// What the checks of both sides need.
#[derive(Clone)]
struct Declared {
    keys: Option<Keys>,
    timing: Timing,
    login: Option<Credentials>,
    servers: Sides<ObjectServerTarget>,
}

impl Declared {
    fn certificate(&self) -> Option<&str> {
        self.keys.as_ref().map(|keys| keys.certificate.as_str())
    }
}

/// How to reach an ObjectServer, and what it must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ObjectServerTarget {
    address: Address,
    /// The name that it must say, and must have in its certificate.
    name: String,
    /// Who may have issued its certificate, in PEM, if it speaks TLS. Without any, nobody is trusted.
    authorities: Option<Arc<Vec<u8>>>,
    /// The user lets a password travel to it in the clear.
    allow_plaintext: bool,
    /// The name of the proxy server between the gate and it, if there is one.
    proxy: Option<String>,
}

struct SideChecks {
    gates: BTreeMap<String, GateChecks>,
    server: Option<Running>,
    /// What both sessions of the side know of rejected logins.
    refusals: Arc<Refusals>,
    gateways: watch::Sender<bool>,
}

struct GateChecks {
    ip: Option<IpAddr>,
    commands: watch::Sender<GateCommands>,
    running: Option<Running>,
}

/// Tasks that end together.
struct Running {
    number: u64,
    tasks: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl PairChecks {
    /// No checks yet. `term` is that of the leadership under which gates are commanded.
    pub fn new(identity: &str, term: u64, out: mpsc::Sender<Observed>) -> Self {
        Self {
            identity: identity.to_owned(),
            term,
            out,
            declared: None,
            sides: Sides::from_fn(|_| SideChecks {
                gates: BTreeMap::new(),
                server: None,
                refusals: Arc::default(),
                gateways: watch::Sender::new(false),
            }),
            service: None,
            numbers: 0,
        }
    }

    fn start_server(&mut self, side: Side) {
        let Some(declared) = self.declared.clone() else { return };
        let server = &declared.servers[side];
        let login = self.login(&declared, side);
        let recipient = self.recipient(side, Source::Server);
        let mut running = Running::new(recipient.number);
        let timing = declared.timing;
        match dialer(server, &timing) {
            Ok(dialer) => {
                let start = move |out| check_objectserver(dialer.clone(), timing, login.clone(), out);
                running.spawn(supervise(Check::Direct, silence_limit(&timing), recipient, start));
            }
            Err(message) => running.spawn(async move {
                let link = Link::Unseen {
                    message: cut(&message, MESSAGE_MAX),
                };
                // Without a recipient there is nobody to tell.
                let _ = recipient.send(Observation::Link(Check::Direct, link)).await;
            }),
        }
        self.sides[side].server = Some(running);
    }

    fn start_gate(&mut self, side: Side, uid: &str) {
        let Some(declared) = self.declared.clone() else { return };
        let Some(gate) = self.sides[side].gates.get_mut(uid) else {
            return;
        };
        gate.running = None;
        let (Some(ip), Some(keys)) = (gate.ip, declared.keys.as_ref()) else {
            return;
        };
        let commands = gate.commands.subscribe();
        let login = self.login(&declared, side);
        let recipient = self.recipient(side, Source::Gate(uid.to_owned()));
        let mut running = Running::new(recipient.number);
        let (timing, limit) = (declared.timing, silence_limit(&declared.timing));
        let (name, config) = (keys.gate_name.clone(), Arc::clone(&keys.config));
        let control = SocketAddr::new(ip, CONTROL_PORT);
        let start = move |out| {
            check_gate(
                control,
                name.clone(),
                Arc::clone(&config),
                timing,
                commands.clone(),
                out,
            )
        };
        running.spawn(supervise(Check::Control, limit, recipient.clone(), start));
        let (name, config) = (keys.gate_name.clone(), Arc::clone(&keys.config));
        let path = SocketAddr::new(ip, CHECK_PORT);
        let start = move |out| check_path(path, name.clone(), Arc::clone(&config), timing, login.clone(), out);
        running.spawn(supervise(Check::Path, limit, recipient, start));
        if let Some(gate) = self.sides[side].gates.get_mut(uid) {
            gate.running = Some(running);
        }
    }

    fn login(&self, declared: &Declared, side: Side) -> Option<Login> {
        let server = &declared.servers[side];
        // On the path there is TLS up to the gate. What a proxy server behind it does with a password in the clear is its own affair.
        let is_private = server.authorities.is_some();
        declared.login.clone().map(|credentials| Login {
            credentials: Arc::new(credentials),
            allow_plaintext: server.allow_plaintext || is_private,
            object_server: server.name.clone(),
            proxy: server.proxy.clone(),
            gateways: self.sides[side].gateways.subscribe(),
            refusals: Arc::clone(&self.sides[side].refusals),
            undecodable: Arc::default(),
        })
    }

    /// Where the observations of new checks go: side, source and a new number are put on them.
    fn recipient(&mut self, side: Side, source: Source) -> Recipient {
        self.numbers += 1;
        Recipient {
            side,
            source,
            number: self.numbers,
            out: self.out.clone(),
        }
    }

    fn restart_gates(&mut self, side: Side) -> Vec<(Side, Source)> {
        let gates: Vec<_> = self.sides[side].gates.keys().cloned().collect();
        for uid in &gates {
            self.start_gate(side, uid);
        }
        gates.into_iter().map(|uid| (side, Source::Gate(uid))).collect()
    }
}

impl Running {
    const fn new(number: u64) -> Self {
        Self {
            number,
            tasks: Vec::new(),
        }
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task.in_current_span()).abort_handle());
    }
}

impl Checks for PairChecks {
    fn declare(&mut self, handover: &Handover) -> Vec<(Side, Source)> {
        let before = self.declared.take();
        let declared = declared(handover, before.as_ref());
        let same = |side: Side| {
            before.as_ref().is_some_and(|before| {
                (&before.login, &before.servers[side], before.timing)
                    == (&declared.login, &declared.servers[side], declared.timing)
            })
        };
        let (same_server, same_keys) = (
            Sides::from_fn(same),
            before
                .as_ref()
                .is_some_and(|before| before.certificate() == declared.certificate()),
        );
        self.declared = Some(declared);
        let mut restarted = Vec::new();
        for side in Side::BOTH {
            if !same_server[side] {
                self.sides[side].refusals = Arc::default();
                self.start_server(side);
                restarted.push((side, Source::Server));
            }
            if !same_server[side] || !same_keys {
                restarted.extend(self.restart_gates(side));
            }
        }
        restarted
    }

    fn assign(&mut self, pods: &Sides<Vec<PodView>>) -> Vec<(Side, Source)> {
        let mut restarted = Vec::new();
        for (side, pods) in pods.iter() {
            self.sides[side]
                .gates
                .retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
            for pod in pods {
                let known = self.sides[side].gates.get(&pod.uid).map(|gate| gate.ip);
                if known == Some(pod.ip) {
                    continue;
                }
                let commands = GateCommands {
                    holder: self.identity.clone(),
                    term: self.term,
                    command: None,
                    number: 0,
                    ask: 0,
                    look_at: Vec::new(),
                    question: 0,
                };
                let gate = GateChecks {
                    ip: pod.ip,
                    commands: watch::Sender::new(commands),
                    running: None,
                };
                self.sides[side].gates.insert(pod.uid.clone(), gate);
                self.start_gate(side, &pod.uid);
                if known.is_some() {
                    restarted.push((side, Source::Gate(pod.uid.clone())));
                }
            }
        }
        restarted
    }

    fn command(&mut self, side: Side, gate: &str, request: Request) {
        if let Some(gate) = self.sides[side].gates.get(gate) {
            gate.commands.send_modify(|commands| {
                commands.command = Some(request);
                commands.number += 1;
            });
        }
    }

    fn watch_route(&mut self, address: Option<SocketAddr>) {
        self.service = address.map(|address| {
            // It belongs to no side; the one that is given here is not looked at.
            let recipient = self.recipient(Side::Primary, Source::Service);
            let mut running = Running::new(recipient.number);
            let start = move |out| check_service(address, out);
            running.spawn(supervise(Check::Service, SERVICE_SILENCE, recipient, start));
            running
        });
    }

    fn recheck(&mut self, side: Side, gate: &str) {
        if let Some(gate) = self.sides[side].gates.get(gate) {
            gate.commands.send_modify(|commands| commands.ask += 1);
        }
    }

    fn look(&mut self, side: Side, gate: &str, question: u64, look_at: Vec<LookAt>) {
        if let Some(gate) = self.sides[side].gates.get(gate) {
            gate.commands.send_modify(|commands| {
                commands.question = question;
                commands.look_at = look_at;
            });
        }
    }

    fn read_gateways(&mut self, side: Side, wanted: bool) {
        self.sides[side].gateways.send_replace(wanted);
    }

    fn input(&self, observed: Observed) -> Option<Input> {
        let Observed {
            side,
            source,
            number,
            observation,
        } = observed;
        let checks = &self.sides[side];
        let running = match &source {
            Source::Service => self.service.as_ref(),
            Source::Server => checks.server.as_ref(),
            Source::Gate(uid) => checks.gates.get(uid).and_then(|gate| gate.running.as_ref()),
        };
        running.filter(|running| running.number == number)?;
        input(side, source, observation)
    }
}

/// The input that an observation is. What the path session learns about the ObjectServer only proves the path.
pub fn input(side: Side, source: Source, observation: Observation) -> Option<Input> {
    let gate = |observation| match source {
        Source::Gate(uid) => Some(Input::Gate(side, uid, observation)),
        Source::Server | Source::Service => None,
    };
    let server = |observation| Some(Input::Server(side, observation));
    let observation = match observation {
        Observation::Restarted { check, message } => Observation::Link(check, Link::Unseen { message }),
        observation => observation,
    };
    match observation {
        Observation::Link(Check::Control, link) => gate(GateObservation::Control(link)),
        Observation::Link(Check::Path, link) => gate(GateObservation::Path(link)),
        Observation::Report { at, report } => gate(GateObservation::Report(at, Box::new(report))),
        Observation::Host { question, seen } => gate(GateObservation::Host(question, seen)),
        Observation::Link(Check::Direct, link) => server(ServerObservation::Direct(link)),
        Observation::Link(Check::Service, _) => Some(Input::Route(None)),
        Observation::Server(info) if info.check == Check::Direct => server(ServerObservation::State(ServerState {
            asked: info.asked,
            answered: info.answered,
            acting_primary: info.acting_primary,
            gateways: info.gateways,
            attached_since: None,
        })),
        Observation::SessionEnded(Check::Direct) => server(ServerObservation::SessionEnded),
        Observation::Server(_)
        | Observation::SessionEnded(_)
        | Observation::Unchanged(_)
        | Observation::Restarted { .. } => None,
        Observation::Expires(expires) => server(ServerObservation::CertificateExpires(expires)),
        Observation::Route(gate) => Some(Input::Route(gate)),
    }
}

/// What is declared now, with what `before` knows where the handover lacks it: a Secret or a bundle that has gone missing ends no check.
fn declared(handover: &Handover, before: Option<&Declared>) -> Declared {
    let pair = &handover.pair;
    let login = handover.login.clone().or_else(|| before?.login.clone());
    Declared {
        keys: handover.keys.clone().or_else(|| before?.keys.clone()),
        timing: Timing::from(&pair.spec.health_check),
        login: login.filter(|_| pair.spec.health_check.login.is_some()),
        servers: Sides::from_fn(|side| {
            let known = || before?.servers[side].authorities.clone();
            server(pair, side, handover.authorities[side].clone().or_else(known))
        }),
    }
}

fn server(pair: &Pair, side: Side, authorities: Option<Arc<Vec<u8>>>) -> ObjectServerTarget {
    let (declared, login) = (pair.spec.side(side), pair.spec.health_check.login.as_ref());
    let is_proxied = pair.spec.proxy.engine == Engine::Proxyserv;
    ObjectServerTarget {
        address: pair.object_server(side).clone(),
        name: declared.object_server.name.clone(),
        authorities: declared
            .object_server
            .tls
            .as_ref()
            .map(|_| authorities.unwrap_or_default()),
        allow_plaintext: login.is_some_and(|login| login.allow_plaintext_login),
        proxy: is_proxied.then(|| declared.server_name.clone()),
    }
}

/// A dialer that takes silence for absence after `unresponsiveAfter`; or why the CA bundle cannot be used.
fn dialer(server: &ObjectServerTarget, timing: &Timing) -> Result<Dialer, String> {
    let dialer = Dialer::new(server.address.clone(), timing.unresponsive_after);
    match &server.authorities {
        None => Ok(dialer),
        Some(authorities) => match ObjectServerTls::new(authorities, &server.name) {
            Ok(tls) => Ok(dialer.with_tls(tls)),
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests;
