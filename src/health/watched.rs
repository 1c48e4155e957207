//! One side under watch: its eyes, what they have seen, and the order that its gate is given.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::{Assignment, Identity, PodAddress, SideFinding, index};
use crate::{
    api::{DrainSpec, Side},
    check::{Check, GateCommands, Login, Observation, Refusals, check_gate, check_objectserver, check_path},
    domain::{
        admission::{Admission, Occupancy},
        children::{CHECK_PORT, CONTROL_PORT},
        evidence::{Evidence, Fault, GateReport, Link, Upstream},
        expiry::Expiry,
        health::SideHealth,
        resync::Word,
    },
    protocol::{self, Request},
};

/// Where sightings go, with the side and the number of the eyes that saw them.
pub(super) type Observations = mpsc::Sender<(Side, u64, Observation)>;

/// One side under watch.
pub(super) struct Watched {
    pub(super) side: Side,
    pod: PodAddress,
    pub(super) evidence: Evidence,
    pub(super) health: SideHealth,
    sessions: u32,
    expiry: Expiry,
    last: Option<Admission>,
    steering: watch::Sender<GateCommands>,
    /// Whether the ObjectServer is asked for its gateways.
    gateways: watch::Sender<bool>,
    refusals: Arc<Refusals>,
    /// The eyes on the pod.
    on_pod: Eyes,
    /// The eye on the ObjectServer.
    on_server: Eyes,
    /// Numbers given to eyes so far.
    numbers: u64,
    description: String,
    word_lasts: Duration,
}

/// Tasks that are ended together, with a number: what older ones still say is not listened to.
#[derive(Default)]
struct Eyes {
    number: u64,
    tasks: Vec<AbortHandle>,
}

impl Eyes {
    fn open(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task).abort_handle());
    }
}

impl Drop for Eyes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Watched {
    pub(super) fn new(
        side: Side,
        assignment: &Assignment,
        identity: &Identity,
        out: &Observations,
        now: Instant,
    ) -> Self {
        let steering = GateCommands {
            holder: identity.holder.clone(),
            term: identity.term,
            command: None,
            ask: 0,
        };
        let mut watched = Self {
            side,
            pod: PodAddress::UNKNOWN,
            evidence: Evidence::none(),
            health: SideHealth::unknown(now),
            sessions: 0,
            expiry: Expiry::default(),
            last: None,
            steering: watch::Sender::new(steering),
            gateways: watch::Sender::new(false),
            refusals: Arc::default(),
            on_pod: Eyes::default(),
            on_server: Eyes::default(),
            numbers: 0,
            description: String::new(),
            word_lasts: Duration::ZERO,
        };
        watched.look_at_server(assignment, out);
        watched.look_at_pod(assignment, out);
        watched
    }

    pub(super) fn assign(&mut self, old: &Assignment, new: &Assignment, out: &Observations) {
        let at = index(self.side);
        let same_server = (&old.login, &old.servers[at], old.timing) == (&new.login, &new.servers[at], new.timing);
        let same_pod = (&self.pod.uid, self.pod.ip) == (&new.pods[at].uid, new.pods[at].ip);
        let same_keys = match (&old.keys, &new.keys) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if old.resync != new.resync {
            self.description_of(new);
            self.evidence.word = None;
        }
        if !same_server {
            self.refusals = Arc::default();
            self.look_at_server(new, out);
        }
        if same_pod && same_keys && same_server {
            self.pod = new.pods[at].clone();
            self.evidence.pod = self.pod.state;
            self.evidence.trouble = self.pod.trouble.clone();
            return;
        }
        if !same_pod {
            self.last = None;
            self.sessions = 0;
            self.expiry.listener = None;
        }
        self.look_at_pod(new, out);
        tracing::debug!(side = self.side.label(), pod = self.pod.name, "watching another pod");
    }

    fn description_of(&mut self, assignment: &Assignment) {
        self.description = assignment
            .resync
            .as_ref()
            .map(|resync| resync.gateway_description.clone())
            .unwrap_or_default();
        self.word_lasts = assignment.timing.word_lasts();
    }

    fn login(&self, assignment: &Assignment, eye: Check) -> Option<Login> {
        let server = &assignment.servers[index(self.side)];
        // To the gate there is TLS, and the proxy server is in the gate's pod.
        let is_private = server.authorities.is_some() || (eye == Check::Path && server.proxy.is_some());
        assignment.login.clone().map(|credentials| Login {
            credentials: Arc::new(credentials),
            allow_plaintext: server.allow_plaintext || is_private,
            object_server: server.name.clone(),
            proxy: server.proxy.clone(),
            gateways: self.gateways.subscribe(),
            refusals: Arc::clone(&self.refusals),
        })
    }

    /// Sends an eye to the ObjectServer.
    fn look_at_server(&mut self, assignment: &Assignment, out: &Observations) {
        self.on_server = Eyes::default();
        self.description_of(assignment);
        self.evidence.direct = Link::Untried;
        self.evidence.direct_since = None;
        self.evidence.word = None;
        self.expiry.object_server = None;
        let dialer = match assignment.servers[index(self.side)].dialer(assignment.timing.unresponsive_after) {
            Ok(dialer) => dialer,
            Err(error) => {
                self.evidence.direct = Link::Failed {
                    since: Instant::now(),
                    fault: Fault::Tls,
                    message: error.to_string(),
                };
                return;
            }
        };
        let (relayed, relay) = self.relay(out);
        self.on_server.number = self.numbers;
        self.on_server.open(relay);
        self.on_server.open(check_objectserver(
            dialer,
            assignment.timing,
            self.login(assignment, Check::Direct),
            relayed,
        ));
    }

    /// Sends the eyes to the pod, if it has an address.
    fn look_at_pod(&mut self, assignment: &Assignment, out: &Observations) {
        self.on_pod = Eyes::default();
        self.pod = assignment.pods[index(self.side)].clone();
        self.evidence = Evidence {
            pod: self.pod.state,
            trouble: self.pod.trouble.clone(),
            direct: self.evidence.direct.clone(),
            direct_since: self.evidence.direct_since,
            word: self.evidence.word.clone(),
            ..Evidence::none()
        };
        let (Some(ip), Some(keys)) = (self.pod.ip, &assignment.keys) else {
            return;
        };
        let (name, timing) = (&assignment.gate_name, assignment.timing);
        let (relayed, relay) = self.relay(out);
        self.on_pod.number = self.numbers;
        self.on_pod.open(relay);
        let steering = self.steering.subscribe();
        self.on_pod.open(check_gate(
            SocketAddr::new(ip, CONTROL_PORT),
            name.clone(),
            Arc::clone(keys),
            timing,
            steering,
            relayed.clone(),
        ));
        self.on_pod.open(check_path(
            SocketAddr::new(ip, CHECK_PORT),
            name.clone(),
            Arc::clone(keys),
            timing,
            self.login(assignment, Check::Path),
            relayed,
        ));
    }

    /// A channel whose sightings arrive with this side and a new number on them, and the task that carries them.
    fn relay(&mut self, out: &Observations) -> (mpsc::Sender<Observation>, impl Future<Output = ()> + Send + use<>) {
        self.numbers += 1;
        let (sender, mut receiver) = mpsc::channel(16);
        let (side, number, out) = (self.side, self.numbers, out.clone());
        let relay = async move {
            while let Some(sighting) = receiver.recv().await {
                if out.send((side, number, sighting)).await.is_err() {
                    return;
                }
            }
        };
        (sender, relay)
    }

    pub(super) fn see(&mut self, number: u64, sighting: Observation) {
        if number != self.on_pod.number && number != self.on_server.number {
            return;
        }
        tracing::trace!(side = self.side.label(), ?sighting, "seen");
        match sighting {
            Observation::Link(Check::Control, link) => self.evidence.control = link,
            Observation::Link(Check::Path, link) => {
                if matches!(link, Link::Failed { .. }) && !matches!(self.evidence.path, Link::Failed { .. }) {
                    self.steering.send_modify(|steering| steering.ask += 1);
                }
                self.evidence.path = link;
            }
            Observation::Link(Check::Direct, link) => {
                if matches!(link, Link::Failed { .. }) {
                    self.evidence.word = None;
                }
                self.evidence.direct_since = match link {
                    Link::Answering => self.evidence.direct_since.or_else(|| Some(Instant::now())),
                    _ => None,
                };
                self.evidence.direct = link;
            }
            Observation::Report { at, report } => {
                self.sessions = report.sessions;
                self.expiry.listener = report.listener_certificate_expires;
                self.evidence.report = Some(self.understood(at, report));
            }
            Observation::Server(said) if said.check == Check::Direct => {
                let word = Word {
                    asked: said.asked,
                    heard: said.answered,
                    acting_primary: said.acting_primary,
                    gateways: said.gateways,
                    attached_since: None,
                };
                self.evidence.word = Some(word.after(self.evidence.word.as_ref(), &self.description, self.word_lasts));
            }
            Observation::Server(_) => {}
            Observation::Expires(expires) => self.expiry.object_server = Some(expires),
        }
    }

    /// Has the ObjectServer asked for its gateways, or not any more.
    pub(super) fn ask_for_gateways(&mut self, wanted: bool) {
        self.gateways
            .send_if_modified(|current| std::mem::replace(current, wanted) != wanted);
    }

    fn understood(&self, at: Instant, report: protocol::Report) -> GateReport {
        let upstream = match report.upstream {
            protocol::Upstream::Reachable => Upstream::Reachable,
            protocol::Upstream::Unreachable {
                cause: protocol::UnreachableCause::TimedOut,
                message,
            } => Upstream::Unresponsive { message },
            protocol::Upstream::Unreachable { cause, message } => {
                let since = self
                    .evidence
                    .report
                    .as_ref()
                    .and_then(|report| report.upstream.bad_since());
                let since = since.unwrap_or(at);
                match cause {
                    protocol::UnreachableCause::TlsRejected => Upstream::Rejected { since, message },
                    protocol::UnreachableCause::ProxyUnreachable => Upstream::ProxyUnreachable { since, message },
                    _ => Upstream::Unreachable { since, message },
                }
            }
        };
        GateReport {
            at,
            upstream,
            leaving: report.leaving,
            sessions: report.sessions,
        }
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            sessions: self.sessions,
            last: self.last,
        }
    }

    pub(super) fn steer(&mut self, order: Admission, drain: &DrainSpec) {
        if self.last == Some(order) {
            return;
        }
        tracing::info!(
            side = self.side.label(),
            ?order,
            sessions = self.sessions,
            "ordering the gate"
        );
        self.last = Some(order);
        let request = match order {
            Admission::Admit => Request::Admit,
            Admission::Drop => Request::Drop,
            Admission::Drain => Request::Drain {
                grace_period_ms: u64::try_from(drain.grace_period.get().as_millis()).unwrap_or(u64::MAX),
                connections_per_second: u32::try_from(drain.connections_per_second).unwrap_or(1),
            },
        };
        self.steering.send_modify(|steering| steering.command = Some(request));
    }

    pub(super) fn finding(&self) -> SideFinding {
        SideFinding {
            health: self.health.clone(),
            sessions: self.sessions,
            acting_primary: self.evidence.word.as_ref().and_then(|word| word.acting_primary),
            expiry: self.expiry,
            pod: self.pod.clone(),
        }
    }
}
