//! The world of one history: everything that there is, and the queue of what happens next. One thread, no waiting: the next event is taken,
//! time jumps to it, and it makes further events.

use std::{cmp::Reverse, collections::BinaryHeap, fmt::Arguments, net::IpAddr, time::Duration};

use proxypair::api::{Side, Sides};

use super::{
    api_server::{ApiEvent, ApiServer},
    clock::Time,
    gate::GateEvent,
    invariants::{Violation, Watchdog},
    network::Network,
    object_server::{Gateway, ObjectServer},
    operator::{Operator, OperatorEvent},
    plan::{CallKind, Plan, When, both},
    pod::{Deployment, Pod, PodEvent},
    probe::{Probe, ProbeEvent, Session, SessionEvent},
    random::Random,
    timeline::Timeline,
};

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The planned fault of that number strikes, or is over.
    Strike(usize),
    Repair(usize),
    /// From now on there are no faults.
    Calm,
    Operator {
        operator: usize,
        /// The process that it is meant for: another one has other plans.
        life: u32,
        event: OperatorEvent,
    },
    Api(u64, ApiEvent),
    Pod(u64, PodEvent),
    /// Of the gate process `instance` in that pod.
    Gate {
        pod: u64,
        instance: u64,
        event: GateEvent,
    },
    /// The deployment controller looks at one side.
    Deploy(usize, Side),
    /// The EndpointSlice controller looks at one pair.
    Slices(usize),
    /// The node of a probe applies the EndpointSlices as they were.
    Rules(usize, usize, Vec<u64>),
    /// The node of an operator does: pair, operator.
    OperatorRules(usize, usize, Vec<u64>),
    Probe(usize, usize, u64, ProbeEvent),
    Session(usize, u64, SessionEvent),
    /// The gateway of a pair looks at its two ObjectServers.
    Gateway(usize),
}

/// One pair and what belongs to it.
pub struct PairWorld {
    pub servers: Sides<ObjectServer>,
    pub gateway: Gateway,
    pub pods: Vec<Pod>,
    /// Addresses of pods that are gone: the next pod may get one of them.
    pub free_addresses: Vec<IpAddr>,
    pub deployments: Sides<Deployment>,
    /// Certificates of listeners that cannot be used.
    pub port_closed: Sides<bool>,
    /// The pods in the EndpointSlices of the virtual Service.
    pub slices: Vec<u64>,
    pub probes: Vec<Probe>,
    pub sessions: Vec<Session>,
}

/// What a history did, for the summary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub inputs: u64,
    pub faults: u64,
    pub switches: u64,
    pub simulated: Duration,
}

pub struct World {
    pub now: Time,
    pub plan: Plan,
    pub random: Random,
    pub network: Network,
    pub api: ApiServer,
    pub pairs: Vec<PairWorld>,
    pub operators: Vec<Operator>,
    pub watchdog: Watchdog,
    pub timeline: Timeline,
    pub counts: Counts,
    pub violation: Option<Violation>,
    /// Something has changed that checks, gates and gateways may notice.
    pub is_disturbed: bool,
    /// Where an operator is killed, in the exhaustive run.
    pub kill: Option<Kill>,
    /// API calls and commands so far.
    pub orders: usize,
    calls: Vec<(CallKind, usize)>,
    queue: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    ids: u64,
}

/// An operator dies before or after an API call or a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    pub order: usize,
    pub is_after: bool,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// More events than any history needs: the product, or the world, runs in a circle.
const TOO_MANY: u64 = 20_000_000;

impl World {
    /// The world at the start of a history: new pairs, whose pods do not exist yet.
    pub fn new(plan: Plan, keeps_timeline: bool) -> Self {
        let mut world = Self {
            now: Time::ZERO,
            random: Random::new(plan.seed ^ 0x5eed),
            network: Network::default(),
            api: ApiServer::new(&plan),
            pairs: plan.pairs.iter().map(PairWorld::new).collect(),
            operators: (0..plan.operators)
                .map(|operator| Operator::new(operator, &plan))
                .collect(),
            watchdog: Watchdog::new(&plan),
            timeline: Timeline::new(keeps_timeline),
            counts: Counts::default(),
            violation: None,
            is_disturbed: false,
            kill: None,
            orders: 0,
            calls: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            ids: 0,
            plan,
        };
        for operator in 0..world.operators.len() {
            let after = world.random.millis(0, 300);
            world.start_operator(operator, after);
        }
        for pair in 0..world.pairs.len() {
            world.later(Duration::ZERO, Event::Gateway(pair));
            for probe in 0..world.pairs[pair].probes.len() {
                world.probe_rests(pair, probe);
            }
        }
        for number in 0..world.plan.faults.len() {
            if let When::At(at) = world.plan.faults[number].when {
                world.at(at, Event::Strike(number));
            }
        }
        let calm_from = world.plan.calm_from;
        world.at(calm_from, Event::Calm);
        world
    }

    /// Runs until everything has come to rest, or something is violated.
    pub fn run(&mut self) {
        while self.violation.is_none() {
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.now = entry.at;
            self.counts.events += 1;
            if self.counts.events > TOO_MANY {
                let text = format!("{TOO_MANY} events and no end: the last is {:?}", entry.event);
                self.violate("it runs in a circle", text);
                break;
            }
            self.happen(entry.event);
            if std::mem::take(&mut self.is_disturbed) {
                self.disturbed();
                self.look_at_the_truth();
            }
            self.patrol();
            if self.is_over() {
                break;
            }
        }
        self.counts.simulated = self.now.since_start();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Strike(number) => self.strike(number),
            Event::Repair(number) => self.repair(number),
            Event::Calm => self.calm(),
            Event::Operator { operator, life, event } => {
                if self.operators[operator].life == life {
                    self.operator_event(operator, event);
                }
            }
            Event::Api(flight, event) => self.api_event(flight, event),
            Event::Pod(pod, event) => self.pod_event(pod, event),
            Event::Gate { pod, instance, event } => self.gate_event(pod, instance, event),
            Event::Deploy(pair, side) => self.deploy(pair, side),
            Event::Slices(pair) => self.renew_slices(pair),
            Event::Rules(pair, probe, pods) => self.pairs[pair].probes[probe].rules = pods,
            Event::OperatorRules(pair, operator, pods) => self.operators[operator].rules[pair] = pods,
            Event::Probe(pair, probe, turn, event) => {
                if self.pairs[pair].probes[probe].turn == turn {
                    self.probe_event(pair, probe, event);
                }
            }
            Event::Session(pair, session, event) => self.session_event(pair, session, event),
            Event::Gateway(pair) => self.gateway_looks(pair, true),
        }
    }

    /// Whoever can notice a change does so a little later, each in its own time.
    fn disturbed(&mut self) {
        for pair in 0..self.pairs.len() {
            self.gateway_looks(pair, false);
        }
        self.gates_notice();
        self.checks_notice();
    }

    pub fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Entry {
            at: at.max(self.now),
            sequence: self.sequence,
            event,
        }));
    }

    pub fn later(&mut self, by: Duration, event: Event) {
        self.at(self.now + by, event);
    }

    /// A number that nothing else in this history has.
    pub fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn note(&mut self, who: Arguments<'_>, what: Arguments<'_>) {
        self.timeline.note(self.now, who, what);
    }

    /// Something does not hold. The first time counts.
    pub fn violate(&mut self, rule: &'static str, text: String) {
        self.note(format_args!("VIOLATION"), format_args!("{rule}: {text}"));
        let at = self.now;
        self.violation.get_or_insert(Violation { rule, text, at });
    }

    /// An operator begins a call: faults may wait for it.
    pub fn count_call(&mut self, kind: CallKind) {
        let known = self.calls.iter().position(|(known, _)| *known == kind);
        let at = known.unwrap_or_else(|| {
            self.calls.push((kind, 0));
            self.calls.len() - 1
        });
        let nth = self.calls[at].1;
        self.calls[at].1 += 1;
        if self.now >= self.plan.calm_from {
            return;
        }
        for number in 0..self.plan.faults.len() {
            if let When::OnCall(wanted, which, after) = self.plan.faults[number].when
                && (wanted, which) == (kind, nth)
            {
                self.later(after, Event::Strike(number));
            }
        }
    }
}

impl PairWorld {
    fn new(plan: &super::plan::PairPlan) -> Self {
        Self {
            servers: both(ObjectServer::new),
            gateway: Gateway::new(plan.resync),
            pods: Vec::new(),
            free_addresses: Vec::new(),
            deployments: both(|_| Deployment::default()),
            port_closed: Sides::default(),
            slices: Vec::new(),
            probes: plan.probes.iter().map(|plan| Probe::new(*plan)).collect(),
            sessions: Vec::new(),
        }
    }
}
