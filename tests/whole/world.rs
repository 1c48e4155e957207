//! Everything together, step by step.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use clap::Parser;
use fake_api_server::ApiServer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use proxypair::{
    api::{ProxyPair, Side, Sides},
    net::network,
    operator::{self, OperatorArgs},
};
use serde_json::json;
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use super::{
    kubernetes::{Kubernetes, NAMESPACE},
    log::Log,
    object_server::{self, ObjectServer},
    places::{OPERATORS, host_of, identity, operator_address, probe_address, server_address, server_name},
    plan::{Fault, Plan},
    probe::{self, Probe},
    rules::Routed,
    touches::Touch,
};

pub const PAIR: &str = "proxy-v";
pub const LEASE: &str = "proxypair-operator";
/// How far virtual time goes in one step.
pub const TICK: Duration = Duration::from_millis(5);
/// When probes start: the pair was made before.
const PROBES_AT: Duration = Duration::from_secs(12);
/// `leaseDuration` of the chart's default.
const LEASE_LASTS: Duration = Duration::from_secs(5);
/// Time from the end of an operator's process to the next.
const RESTARTS_AFTER: Duration = Duration::from_secs(1);

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
    pub(super) sim: Sim<'static>,
    /// What lies between each operator and the API server.
    pub(super) networks: [ApiServer; OPERATORS],
    pub(super) killed: [bool; OPERATORS],
    /// The faults that last, and until when.
    pub(super) active: BTreeMap<usize, Duration>,
    /// The links that each fault has cut.
    pub(super) cut: BTreeMap<usize, Vec<(IpAddr, IpAddr)>>,
    /// How often each kind of fault has struck.
    pub struck: BTreeMap<&'static str, u32>,
    pub(super) shown: Vec<String>,
    pub(super) renewed: Option<MicroTime>,
    /// The version of the API server, and where the probes were connected, when that was shown.
    pub(super) seen: (u64, Vec<Option<SocketAddr>>),
    /// What faults touch.
    pub touches: Vec<Touch>,
    /// Which pods are led to, and the version of the API server of which that was so.
    pub(super) routed: Routed,
    pub(super) routed_at: u64,
    restarts: [Option<Duration>; OPERATORS],
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
            sim.host(server_address(side, 0), move || {
                let server = Rc::clone(&process);
                async move { Ok(object_server::machine(server).await?) }
            });
            network(|network| network.names.insert(host_of(side).to_owned(), server_address(side, 0)));
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
            killed: [false; OPERATORS],
            active: BTreeMap::new(),
            cut: BTreeMap::new(),
            struck: BTreeMap::new(),
            shown: Vec::new(),
            renewed: None,
            seen: (0, Vec::new()),
            touches: Vec::new(),
            routed: Routed::new(),
            routed_at: 0,
            restarts: [None; OPERATORS],
        };
        world.declare();
        world
    }

    fn declare(&self) {
        let timing = self.plan.timing;
        let millis = |millis: u64| format!("{millis}ms");
        let side = |name: &str, side| {
            json!({
                "serverName": name,
                "objectServer": {"name": server_name(side), "host": host_of(side), "port": object_server::PORT},
            })
        };
        let manifest = json!({
            "apiVersion": "proxypair.dev/v1alpha1",
            "kind": "ProxyPair",
            "metadata": {"name": PAIR, "namespace": NAMESPACE},
            "spec": {
                "serverName": "PROXY_V",
                "proxy": {"replicas": self.plan.replicas},
                "primary": side("PROXY_P", Side::Primary),
                "backup": side("PROXY_B", Side::Backup),
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
                    if self.begin(number, fault, now) {
                        *self.struck.entry(fault.kind()).or_default() += 1;
                    } else {
                        self.log.say(now, format_args!("fault {number} strikes nothing"));
                    }
                }
                Some(ends) if *ends <= now => {
                    self.log.say(now, format_args!("fault {number} is over: {fault:?}"));
                    self.active.remove(&number);
                    self.untouch(number, now);
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
        for number in 0..OPERATORS {
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
        for number in 0..self.plan.probes {
            let probe = Rc::new(RefCell::new(Probe::default()));
            self.probes.push(Rc::clone(&probe));
            self.sim.host(probe_address(number), move || {
                let probe = Rc::clone(&probe);
                async move {
                    probe::run(probe, number).await;
                    Ok(())
                }
            });
        }
    }

    pub fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    pub fn timeline(&self) -> &str {
        self.log.text()
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
