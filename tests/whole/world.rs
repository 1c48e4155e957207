//! Everything together, step by step.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use fake_api_server::ApiServer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use proxypair::{
    api::{Side, Sides},
    net::network,
};
use turmoil::{Builder, Sim};

use super::{
    faults::How,
    kubernetes::Kubernetes,
    log::Log,
    manifest,
    object_server::{self, ObjectServer},
    operators::Operators,
    places::{OPERATORS, host_of, probe_address, server_address},
    plan::Plan,
    probe::{self, Probe},
    rules::{REST, Routed, Session},
    touches::Touch,
};

pub const PAIR: &str = "proxy-v";
pub const LEASE: &str = "proxypair-operator";
/// How far virtual time goes in one step.
pub const TICK: Duration = Duration::from_millis(5);
/// When probes start: the pair was made before.
const PROBES_AT: Duration = Duration::from_secs(12);

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
    pub(super) operators: Operators,
    /// The faults that last, and until when.
    pub(super) active: BTreeMap<usize, Duration>,
    /// The links that each fault has cut, and how.
    pub(super) cut: BTreeMap<usize, (How, Vec<(IpAddr, IpAddr)>)>,
    /// The pods that each fault has lost with their nodes.
    pub(super) lost: BTreeMap<usize, Vec<String>>,
    /// The machine that each ObjectServer runs on.
    pub(super) machines: Sides<usize>,
    /// How often each kind of fault has struck.
    pub struck: BTreeMap<&'static str, u32>,
    pub(super) shown: Vec<String>,
    pub(super) renewed: Option<MicroTime>,
    /// The versions of what is shown, and where the probes were connected.
    pub(super) seen: ([u64; 4], Vec<Option<SocketAddr>>),
    /// Since when each side has had no pod with an address.
    pub(super) missing: Sides<Option<Duration>>,
    /// What served by status, and the version of the ProxyPairs of which that was so.
    pub(super) serving: Option<Side>,
    pub(super) served_at: u64,
    /// Of each probe.
    pub(super) sessions: Vec<Session>,
    /// What faults touch.
    pub touches: Vec<Touch>,
    /// Which pods are led to, and the version of the pods of which that was so.
    pub(super) routed: Routed,
    pub(super) routed_at: u64,
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
            server.borrow_mut().answers_after = Duration::from_millis(plan.answers_after);
            for machine in 0..2 {
                let process = Rc::clone(&server);
                sim.host(server_address(side, machine), move || {
                    let server = Rc::clone(&process);
                    async move { Ok(object_server::machine(server, side, machine).await?) }
                });
            }
            network(|network| network.names.insert(host_of(side).to_owned(), server_address(side, 0)));
            server
        });
        let operators = Operators::new(&mut sim, &api, plan.lease);
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
            operators,
            machines: Sides::default(),
            active: BTreeMap::new(),
            cut: BTreeMap::new(),
            lost: BTreeMap::new(),
            struck: BTreeMap::new(),
            shown: Vec::new(),
            renewed: None,
            seen: ([0; 4], Vec::new()),
            missing: Sides::default(),
            serving: None,
            served_at: 0,
            sessions: Vec::new(),
            touches: Vec::new(),
            routed: Routed::new(),
            routed_at: 0,
        };
        manifest::declare(&world.api, &world.plan);
        if world.plan.has_login {
            manifest::declare_login(&world.api, object_server::PASSWORD);
        }
        world
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
                    if now >= since + REST {
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
        self.operators.keep(&mut self.sim, now, &mut self.log);
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
                    self.end(number, fault, now);
                }
                _ => {}
            }
        }
        self.show(now);
        Ok(())
    }

    fn take_requests(&mut self, now: Duration) {
        for number in 0..OPERATORS {
            for request in self.operators.networks[number].take_requests() {
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
