//! Everything together, step by step.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{Display, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use clap::Parser;
use fake_api_server::{ApiServer, Fault as Answer, Match, Verb};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Pod, Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use proxypair::{
    api::{LABEL_SIDE, ProxyPair, Side, Sides},
    net::network,
    operator::{self, OperatorArgs},
};
use serde_json::json;
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use super::{
    kubernetes::Kubernetes,
    object_server::{self, ObjectServer},
    plan::{ApiFault, Fault, Link, Plan},
    probe::{self, Probe},
};

pub const NAMESPACE: &str = "netcool";
pub const PAIR: &str = "proxy-v";
const LEASE: &str = "proxypair-operator";
/// How far virtual time goes in one step.
const TICK: Duration = Duration::from_millis(5);
/// When probes start: the pair was made before.
const PROBES_AT: Duration = Duration::from_secs(12);
/// `leaseDuration` of the chart's default.
const LEASE_LASTS: Duration = Duration::from_secs(5);
/// Time from the end of an operator's process to the next.
const RESTARTS_AFTER: Duration = Duration::from_secs(1);

/// What happens, for people.
#[derive(Default)]
pub struct Log(String);

impl Log {
    pub fn say(&mut self, now: Duration, words: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{:>9.3} s  {words}", now.as_secs_f64());
    }
}

#[derive(Parser)]
struct Operator {
    #[command(flatten)]
    args: OperatorArgs,
}

pub struct World {
    pub plan: Plan,
    pub api: ApiServer,
    pub kubernetes: Kubernetes,
    pub servers: Sides<Rc<RefCell<ObjectServer>>>,
    pub probes: Vec<Rc<RefCell<Probe>>>,
    pub log: Log,
    /// When each request that writes came, and what it was, without those for Leases and Events.
    pub writes: Vec<(Duration, String)>,
    /// Since when the process of each ObjectServer is down.
    pub down: Sides<Option<Duration>>,
    /// Who holds the Lease, since when, and when it was last renewed.
    pub leader: Option<(String, Duration, Duration)>,
    /// The first write of an operator while another one led.
    pub usurper: Option<String>,
    /// When the virtual Service came to select a side.
    pub selected: Vec<(Duration, Side)>,
    sim: Sim<'static>,
    networks: [ApiServer; 2],
    restarts: [Option<Duration>; 2],
    killed: [bool; 2],
    active: BTreeMap<usize, Duration>,
    cut: BTreeMap<usize, (IpAddr, IpAddr)>,
    shown: Vec<String>,
    renewed: Option<MicroTime>,
    /// The version of the API server, and where the probes were connected, when that was shown.
    seen: (u64, Vec<Option<SocketAddr>>),
}

fn address(net: u8, number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, 0, number))
}

fn operator_address(number: usize) -> IpAddr {
    address(1, u8::try_from(number + 1).unwrap_or(u8::MAX))
}

fn identity(operator: usize) -> String {
    format!("operator-{operator}")
}

fn server_address(side: Side) -> IpAddr {
    address(2, if side == Side::Primary { 1 } else { 2 })
}

fn host_of(side: Side) -> &'static str {
    match side {
        Side::Primary => "aggp.example.com",
        Side::Backup => "aggb.example.com",
    }
}

impl World {
    pub fn new(plan: Plan) -> Self {
        // Another one was installed in this process only if this is called twice.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut sim = Builder::new()
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(24 * 3600))
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(2))
            .rng_seed(plan.seed)
            .tcp_capacity(4096)
            .build();
        let api = ApiServer::new();
        let servers = Sides::from_fn(|side| {
            let server = Rc::new(RefCell::new(ObjectServer::default()));
            server.borrow().runs.send_replace(true);
            let process = Rc::clone(&server);
            sim.host(server_address(side), move || {
                let server = Rc::clone(&process);
                async move { Ok(object_server::machine(server).await?) }
            });
            network(|network| network.names.insert(host_of(side).to_owned(), server_address(side)));
            server
        });
        let networks = [api.another_network(), api.another_network()];
        for (number, network) in networks.iter().enumerate() {
            let network = network.clone();
            sim.host(operator_address(number), move || run_operator(network.clone(), number));
        }
        let world = Self {
            kubernetes: Kubernetes::new(api.clone(), plan.seed),
            plan,
            api,
            servers,
            probes: Vec::new(),
            log: Log::default(),
            writes: Vec::new(),
            down: Sides::default(),
            leader: None,
            usurper: None,
            selected: Vec::new(),
            sim,
            networks,
            restarts: [None; 2],
            killed: [false; 2],
            active: BTreeMap::new(),
            cut: BTreeMap::new(),
            shown: Vec::new(),
            renewed: None,
            seen: (0, Vec::new()),
        };
        world.declare();
        world
    }

    fn declare(&self) {
        let timing = self.plan.timing;
        let millis = |millis: u64| format!("{millis}ms");
        let side = |name: &str, server: &str, side| {
            json!({
                "serverName": name,
                "objectServer": {"name": server, "host": host_of(side), "port": object_server::PORT},
            })
        };
        let manifest = json!({
            "apiVersion": "proxypair.dev/v1alpha1",
            "kind": "ProxyPair",
            "metadata": {"name": PAIR, "namespace": NAMESPACE},
            "spec": {
                "serverName": "PROXY_V",
                "primary": side("PROXY_P", "AGG_P", Side::Primary),
                "backup": side("PROXY_B", "AGG_B", Side::Backup),
                "healthCheck": {
                    "interval": millis(timing.interval),
                    "unreachableAfter": millis(timing.unreachable_after),
                    "unresponsiveAfter": millis(timing.unresponsive_after),
                    "healthyAfter": millis(timing.healthy_after),
                },
                "failback": {
                    "stableFor": millis(timing.stable_for),
                    "drain": {"gracePeriod": "10s"},
                },
            },
        });
        self.api
            .put::<ProxyPair>(&serde_json::from_value(manifest).expect("a ProxyPair"));
    }

    /// Runs the history to its end.
    ///
    /// # Errors
    ///
    /// What is violated.
    pub fn run(&mut self) -> Result<(), String> {
        let mut rests_since = None;
        loop {
            self.step()?;
            let now = self.sim.elapsed();
            self.check()?;
            if now < self.plan.repaired_at() + TICK || !now.subsec_millis().is_multiple_of(50) {
                continue;
            }
            match self.unrest() {
                None => {
                    let since = *rests_since.get_or_insert(now);
                    if now >= since + super::rules::REST {
                        return self.check_rest(since);
                    }
                }
                Some(why) => {
                    rests_since = None;
                    if now > self.plan.repaired_at() + self.comes_to_rest_within() {
                        return Err(format!("it comes to rest: {why}"));
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| format!("no process fails: {error}"))?;
        let now = self.sim.elapsed();
        self.take_requests(now);
        self.kubernetes.step(&mut self.sim, now, &mut self.log);
        self.keep_operators(now);
        if now >= PROBES_AT && self.probes.is_empty() {
            self.start_probes();
        }
        for number in 0..self.plan.faults.len() {
            let (begins, lasts, fault) = self.plan.faults[number];
            match self.active.get(&number) {
                None if begins <= now && begins + TICK > now => {
                    self.log.say(now, format_args!("fault {number} begins: {fault:?}"));
                    self.active.insert(number, begins + lasts);
                    self.begin(number, fault, now);
                }
                Some(ends) if *ends <= now => {
                    self.log.say(now, format_args!("fault {number} is over: {fault:?}"));
                    self.active.remove(&number);
                    self.end(number, fault);
                }
                _ => {}
            }
        }
        self.show(now);
        Ok(())
    }

    fn take_requests(&mut self, now: Duration) {
        for number in 0..self.networks.len() {
            for request in self.networks[number].take_requests() {
                let is_small = ["leases", "events"].contains(&request.resource.as_str());
                if request.verb.writes() && !is_small {
                    self.usurper = self.usurper.take().or_else(|| self.usurper_of(number, now));
                    let name = request.name.as_deref().unwrap_or_default();
                    let what = format!("operator {number}: {:?} {} {name}", request.verb, request.resource);
                    self.writes.push((now, what));
                }
            }
        }
    }

    /// What is wrong with a write of that operator: another one has held the Lease, longer than the claim of a leader can last whose Lease was
    /// deleted.
    fn usurper_of(&self, operator: usize, now: Duration) -> Option<String> {
        let (holder, since, _) = self.leader.as_ref()?;
        let may_overlap = self.plan.faults.iter().any(|(.., fault)| *fault == Fault::LeaseDeleted);
        let tolerated = if may_overlap { LEASE_LASTS } else { TICK * 2 };
        let is_late = *holder != identity(operator) && now > *since + tolerated;
        is_late
            .then(|| format!("operator {operator} writes at {now:?}, and {holder} has held the Lease since {since:?}"))
    }

    fn keep_operators(&mut self, now: Duration) {
        for number in 0..2 {
            let host = operator_address(number);
            if self.killed[number] || self.sim.is_host_running(host) {
                continue;
            }
            let due = *self.restarts[number].get_or_insert_with(|| {
                self.log.say(now, format_args!("operator {number} has ended"));
                now + RESTARTS_AFTER
            });
            if now >= due {
                self.restarts[number] = None;
                self.sim.bounce(host);
                self.log.say(now, format_args!("operator {number} starts"));
            }
        }
    }

    fn start_probes(&mut self) {
        let Some(service) = self.kubernetes.service(PAIR) else {
            return;
        };
        for number in 0..self.plan.probes {
            let probe = Rc::new(RefCell::new(Probe::default()));
            self.probes.push(Rc::clone(&probe));
            let host = address(3, u8::try_from(number + 1).unwrap_or(u8::MAX));
            self.sim.host(host, move || {
                let probe = Rc::clone(&probe);
                async move {
                    probe::run(probe, number, SocketAddr::new(service, 4400)).await;
                    Ok(())
                }
            });
        }
    }

    fn begin(&mut self, number: usize, fault: Fault, now: Duration) {
        match fault {
            Fault::OperatorKilled(operator) => {
                self.killed[operator] = true;
                self.sim.crash(operator_address(operator));
            }
            Fault::LeaseDeleted => drop(self.api.delete::<Lease>(NAMESPACE, LEASE)),
            Fault::Api(operator, fault) => self.begin_api_fault(operator, fault),
            Fault::WatchesEnd => self.api.end_watches(),
            Fault::HistoryForgotten => {
                self.api.forget_history();
                self.api.end_watches();
            }
            Fault::ServerKilled(side) => {
                self.down[side].get_or_insert(now);
                self.servers[side].borrow().runs.send_replace(false);
            }
            Fault::ServerStalled(side) => self.servers[side].borrow_mut().is_stalled = true,
            Fault::NameGone(side) => drop(network(|network| network.names.remove(host_of(side)))),
            Fault::GateKilled(side) => {
                if let Some((_, gate)) = self.kubernetes.gate(side)
                    && self.sim.is_host_running(gate)
                {
                    self.sim.crash(gate);
                }
            }
            Fault::PodDeleted(side) => {
                if let Some((name, _)) = self.kubernetes.gate(side) {
                    let ends = json!({"metadata": {
                        "deletionTimestamp": "2026-11-01T00:00:00Z",
                        "deletionGracePeriodSeconds": 45,
                    }});
                    self.api.merge::<Pod>(NAMESPACE, &name, &ends);
                }
            }
            Fault::Silent(link) => {
                if let Some((one, other)) = self.ends_of(link) {
                    self.cut.insert(number, (one, other));
                    self.sim.hold(one, other);
                    network(|network| network.set_silent(one, other, true));
                }
            }
            Fault::PairEdited => {
                let interval = format!("{}ms", self.plan.timing.interval + 1);
                let edit = json!({"spec": {"healthCheck": {"interval": interval}}});
                self.api.merge::<ProxyPair>(NAMESPACE, PAIR, &edit);
            }
            Fault::KeysDeleted => drop(self.api.delete::<Secret>(NAMESPACE, &format!("{PAIR}-gate-tls"))),
        }
    }

    fn end(&mut self, number: usize, fault: Fault) {
        let lasts_on = |fault: Fault| {
            let others = self.active.keys().map(|other| self.plan.faults[*other].2);
            others.into_iter().any(|other| other == fault)
        };
        match fault {
            Fault::OperatorKilled(operator) if !lasts_on(fault) => self.killed[operator] = false,
            Fault::Api(..) => self.end_api_fault(),
            Fault::ServerKilled(side) if !lasts_on(fault) => {
                self.down[side] = None;
                self.servers[side].borrow().runs.send_replace(true);
            }
            Fault::ServerStalled(side) if !lasts_on(fault) => self.servers[side].borrow_mut().is_stalled = false,
            Fault::NameGone(side) if !lasts_on(fault) => {
                network(|network| network.names.insert(host_of(side).to_owned(), server_address(side)));
            }
            Fault::Silent(_) => {
                if let Some(link) = self.cut.remove(&number)
                    && !self.cut.values().any(|other| *other == link)
                {
                    self.sim.release(link.0, link.1);
                    network(|network| network.set_silent(link.0, link.1, false));
                }
            }
            _ => {}
        }
    }

    fn begin_api_fault(&self, operator: Option<usize>, fault: ApiFault) {
        for (number, network) in self.networks.iter().enumerate() {
            if operator.is_none_or(|operator| operator == number) {
                begin_api_fault(network, fault);
            }
        }
    }

    /// The script of an API server can only be emptied: what lasts on is written again.
    fn end_api_fault(&self) {
        for network in &self.networks {
            network.clear_faults();
        }
        for number in self.active.keys() {
            if let Fault::Api(operator, fault) = self.plan.faults[*number].2 {
                self.begin_api_fault(operator, fault);
            }
        }
    }

    fn ends_of(&self, link: Link) -> Option<(IpAddr, IpAddr)> {
        let gate = |side| self.kubernetes.gate(side).map(|(_, gate)| gate);
        Some(match link {
            Link::OperatorGate(operator, side) => (operator_address(operator), gate(side)?),
            Link::OperatorServer(operator, side) => (operator_address(operator), server_address(side)),
            Link::GateServer(side) => (gate(side)?, server_address(side)),
        })
    }

    /// The side that the virtual Service selects.
    pub fn selects(&self) -> Option<Side> {
        let service = self.api.get::<Service>(NAMESPACE, PAIR)?;
        let selector = service.spec?.selector?;
        match selector.get(LABEL_SIDE)?.as_str() {
            "primary" => Some(Side::Primary),
            _ => Some(Side::Backup),
        }
    }

    /// The pair as it is stored.
    pub fn pair(&self) -> Option<ProxyPair> {
        self.api.get::<ProxyPair>(NAMESPACE, PAIR)
    }

    /// Adds to the log what has changed.
    fn show(&mut self, now: Duration) {
        let connected: Vec<_> = self.probes.iter().map(|probe| probe.borrow().connected).collect();
        if (self.api.version(), &connected) == (self.seen.0, &self.seen.1) {
            return;
        }
        self.seen = (self.api.version(), connected);
        self.look_at_lease(now);
        let selects = self.selects();
        if let Some(side) = selects
            && self.selected.last().is_none_or(|(_, last)| *last != side)
        {
            self.selected.push((now, side));
        }
        let status = self.pair().and_then(|pair| pair.status).unwrap_or_default();
        let mut shown = vec![
            format!("the Service selects {selects:?}"),
            format!("status: serving {:?} target {:?}", status.serving, status.target),
        ];
        for condition in &status.conditions {
            shown.push(format!(
                "{} is {} ({})",
                condition.type_, condition.status, condition.reason
            ));
        }
        for (number, probe) in self.probes.iter().enumerate() {
            let gate = probe.borrow().connected.map(|gate| gate.ip());
            shown.push(format!("probe {number} is connected to {gate:?}"));
        }
        for line in &shown {
            if !self.shown.contains(line) {
                self.log.say(now, line);
            }
        }
        self.shown = shown;
    }

    fn look_at_lease(&mut self, now: Duration) {
        let spec = self.api.get::<Lease>(NAMESPACE, LEASE).and_then(|lease| lease.spec);
        let holder = spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let renewed = spec.and_then(|spec| spec.renew_time);
        if renewed == self.renewed {
            return;
        }
        self.renewed = renewed;
        let Some(holder) = holder else {
            self.leader = None;
            return;
        };
        let since = match &self.leader {
            Some((known, since, _)) if *known == holder => *since,
            _ => now,
        };
        self.leader = Some((holder, since, now));
    }

    pub fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    pub fn timeline(&self) -> &str {
        &self.log.0
    }

    pub fn switches(&self) -> usize {
        self.selected.len().saturating_sub(1)
    }

    pub fn seconds(&self) -> u64 {
        self.sim.elapsed().as_secs()
    }
}

async fn run_operator(api: ApiServer, number: usize) -> turmoil::Result {
    let Operator { args } = Operator::parse_from([
        "operator",
        "--image=proxypair:1",
        &format!("--identity={}", identity(number)),
        &format!("--namespace={NAMESPACE}"),
    ]);
    let (_stop, stopped) = watch::channel(false);
    // Leadership that was lost is the end of the process, and no failure of the simulation.
    let _ended = operator::run_until(args, api.client(), stopped).await;
    Ok(())
}

fn begin_api_fault(network: &ApiServer, fault: ApiFault) {
    let every = || Match::any().always();
    let written = |kind: &str, code| {
        for verb in [Verb::Create, Verb::Patch, Verb::Update] {
            network.fault(Match::new(verb, kind).always(), Answer::status(code));
        }
    };
    match fault {
        ApiFault::Slow => network.fault(every(), Answer::SlowAnswer(Duration::from_millis(1500))),
        ApiFault::LostBefore => network.fault(every(), Answer::DisconnectBefore),
        ApiFault::LostAfter => network.fault(every(), Answer::DisconnectAfter),
        ApiFault::Busy => network.fault(every(), Answer::too_many_requests(1)),
        ApiFault::Failing => network.fault(every(), Answer::status(500)),
        ApiFault::Silent => network.fault(every(), Answer::SilenceBefore),
        ApiFault::Forbids(kind) => written(kind, 403),
        ApiFault::Rejects(kind) => written(kind, 422),
    }
}
