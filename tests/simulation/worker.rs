//! A worker: the real machine of one pair, and what src/worker does around it. At most one call is under way; each write is preceded by a look
//! at the claim and carries the resourceVersion of the newest object that is known.

use std::{sync::Arc, time::Duration};

use proxypair::{
    api::{Reason, Side, Sides, SwitchKind},
    domain::{
        evidence::Timing,
        machine::{
            Call, CallDone, CallError, Effect, Input, Machine, Phase, PodView, Selects, Source, StopReason, Stored,
        },
        pair::Pair,
        rollout::Snapshot,
    },
    gate::mode::Listening,
    protocol::Request as Command,
};

use super::{
    api_server::{Answer, Caller, DEADLINE, Object, Request, Service},
    checks::Check,
    clock::Time,
    network::{Link, Passage},
    operator::OperatorEvent,
    plan::{CallKind, both},
    world::{Kill, World},
};

/// The worker of one pair.
pub struct Worker {
    pub number: u64,
    pub machine: Machine,
    pub pair: Arc<Pair>,
    pub term: u64,
    pub snapshot: Snapshot,
    pub checks: Vec<Check>,
    pub timing: Timing,
    /// Whether each ObjectServer is asked for its gateways.
    pub reads_gateways: Sides<bool>,
    /// Grows whenever it begins or ends to watch where the virtual Service leads; even: it does not.
    route_turn: u64,
    /// Until when no login is tried after a refused one.
    pub refused_until: Sides<Time>,
    /// The newest objects that are known.
    object: Object,
    pub service: Option<Service>,
    /// Whether the call under way is the selector's, and so on: what its answer means.
    call: Option<Call>,
    read: Option<Box<Object>>,
    pods: Option<Sides<Vec<PodView>>>,
    wakes: u64,
    wake_at: Option<Time>,
    /// How often it was woken at the same moment.
    woken_here: (Time, u32),
}

impl Worker {
    /// Whether it was told of that pod, and where it is.
    pub fn knows(&self, pod: u64) -> bool {
        let uid = format!("pod-{pod}");
        let mut known = self.pods.iter().flat_map(|pods| pods.iter()).flat_map(|(_, pods)| pods);
        known.any(|view| view.uid == uid && view.ip.is_some())
    }
}

/// Times as in src/check/service.rs.
const ROUTE_EVERY: Duration = Duration::from_millis(250);
const ROUTE_PATIENCE: Duration = Duration::from_secs(1);
/// Until the first question is answered.
const TRIP: Duration = Duration::from_millis(2);

/// How long an operator waits at the most when the API server asks it to.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// More wake-ups at one moment than any machine needs.
const TOO_OFTEN: u32 = 50;

fn pod_id(uid: &str) -> u64 {
    uid.strip_prefix("pod-")
        .and_then(|id| id.parse().ok())
        .unwrap_or_default()
}

impl World {
    pub fn worker(&self, operator: usize, pair: usize) -> Option<&Worker> {
        self.operators[operator].workers[pair].as_ref()
    }

    pub fn worker_mut(&mut self, operator: usize, pair: usize) -> Option<&mut Worker> {
        self.operators[operator].workers[pair].as_mut()
    }

    pub fn start_worker(&mut self, operator: usize, pair: usize, object: &Object) {
        let Some(term) = self.claims(operator) else { return };
        let stored = Stored {
            status: object.status.clone(),
            ..Stored::default()
        };
        let now = self.now.now(self.operators[operator].skew);
        let number = self.new_id();
        let declared = Arc::clone(&object.pair);
        self.operators[operator].workers[pair] = Some(Worker {
            number,
            machine: Machine::resume(Arc::clone(&declared), &stored, now),
            timing: Timing::from(&declared.spec.health_check),
            pair: declared,
            term,
            snapshot: Snapshot::default(),
            checks: Vec::new(),
            reads_gateways: Sides::default(),
            route_turn: 0,
            refused_until: both(|_| Time::ZERO),
            object: object.clone(),
            service: None,
            call: None,
            read: None,
            pods: None,
            wakes: 0,
            wake_at: None,
            woken_here: (Time::ZERO, 0),
        });
        self.note(format_args!("operator {operator}"), format_args!("watches pair {pair}"));
        for side in Side::BOTH {
            self.start_server_check(operator, pair, side);
        }
        self.look_at_pods(operator, pair);
        self.look_at_endpoints(operator, pair);
    }

    /// What a reconciliation hands over.
    pub fn hand_over(&mut self, operator: usize, pair: usize, object: &Object) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        if object.version > worker.object.version {
            worker.object = object.clone();
            let status = Box::new(object.status.clone());
            self.feed(operator, pair, Input::Status(status));
        }
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let timing = Timing::from(&object.pair.spec.health_check);
        let is_restarted = worker.timing != timing;
        worker.timing = timing;
        worker.pair = Arc::clone(&object.pair);
        if is_restarted {
            for (side, source) in self.restart_checks(operator, pair) {
                self.feed(operator, pair, Input::Restarted(side, source));
            }
        }
        self.feed(operator, pair, Input::Declared(Arc::clone(&object.pair)));
    }

    pub fn take_service(&mut self, operator: usize, pair: usize, found: Option<Service>) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        if let (Some(found), Some(known)) = (found, worker.service)
            && found.version <= known.version
        {
            return;
        }
        worker.service = found;
        let selects = Service::selects_for(found, worker.object.made);
        self.feed(operator, pair, Input::Service(selects));
    }

    pub fn look_at_pods(&mut self, operator: usize, pair: usize) {
        let pods = self.pod_views(pair);
        self.take_pods(operator, pair, pods);
    }

    /// The pods as the API server shows them.
    pub fn pod_views(&self, pair: usize) -> Sides<Vec<PodView>> {
        both(|side| {
            let mut views: Vec<_> = self.pods_of(pair, side).map(super::pod::Pod::view).collect();
            views.sort_by(|a, b| a.uid.cmp(&b.uid));
            views
        })
    }

    pub fn take_pods(&mut self, operator: usize, pair: usize, pods: Sides<Vec<PodView>>) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        if worker.pods.as_ref() == Some(&pods) {
            return;
        }
        worker.pods = Some(pods.clone());
        self.look_at_the_truth();
        let restarted = self.assign_checks(operator, pair);
        self.feed(operator, pair, Input::Pods(pods));
        for (side, source) in restarted {
            self.feed(operator, pair, Input::Restarted(side, source));
        }
    }

    pub fn look_at_endpoints(&mut self, operator: usize, pair: usize) {
        let addresses = self.slice_addresses(pair);
        self.feed(operator, pair, Input::Endpoints(addresses));
    }

    pub fn wake(&mut self, operator: usize, pair: usize, number: u64, turn: u64) {
        let now = self.now;
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        if worker.number != number || worker.wakes != turn {
            return;
        }
        worker.wake_at = None;
        let (at, times) = worker.woken_here;
        worker.woken_here = if at == now { (at, times + 1) } else { (now, 1) };
        if worker.woken_here.1 > TOO_OFTEN {
            self.violate(
                "a machine is woken for nothing",
                format!("pair {pair} at operator {operator}"),
            );
            return;
        }
        self.feed(operator, pair, Input::Tick);
    }

    /// Feeds one input to the machine and carries out what it answers.
    pub fn feed(&mut self, operator: usize, pair: usize, input: Input) {
        let now = self.now.now(self.operators[operator].skew);
        let life = self.operators[operator].life;
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let number = worker.number;
        let effects = worker.machine.handle(input, now);
        self.counts.inputs += 1;
        for effect in effects {
            self.carry_out(operator, pair, effect);
            // It may have been the last thing that this process, or this worker, did.
            let is_same = self
                .worker(operator, pair)
                .is_some_and(|worker| worker.number == number);
            if self.operators[operator].life != life || !is_same {
                return;
            }
        }
        self.publish(operator, pair);
    }

    /// Asks for a reconciliation if what it needs to know has changed, and to be woken.
    fn publish(&mut self, operator: usize, pair: usize) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let snapshot = worker.machine.snapshot();
        let is_new = worker.snapshot != snapshot;
        worker.snapshot = snapshot;
        let wake_at = worker.machine.wake_at().map(Time::of);
        if worker.wake_at != wake_at {
            worker.wake_at = wake_at;
            worker.wakes += 1;
            let (number, turn) = (worker.number, worker.wakes);
            if let Some(at) = wake_at {
                let by = at.after(self.now);
                self.operator_later(operator, by, OperatorEvent::Wake(pair, number, turn));
            }
        }
        if is_new {
            let after = self.random.millis(1, 20);
            self.reconcile_later(operator, pair, after);
        }
    }

    fn carry_out(&mut self, operator: usize, pair: usize, effect: Effect) {
        let is_order = matches!(effect, Effect::Call(_) | Effect::Command { .. });
        let order = self.orders;
        self.orders += usize::from(is_order);
        let kill = |is_after| Kill { order, is_after };
        if is_order && self.kill == Some(kill(false)) {
            return self.restart_operator(operator);
        }
        match effect {
            Effect::Call(call) => self.begin(operator, pair, call),
            Effect::Command { side, gate, request } => {
                let empties = !matches!(request, Command::Admit);
                self.command(operator, pair, side, &gate, request);
                self.count_call(CallKind::Command);
                if empties {
                    self.count_call(CallKind::Drain);
                }
            }
            Effect::WatchRoute(wanted) => self.watch_route(operator, pair, wanted),
            Effect::Recheck(_, gate) => self.recheck(operator, pair, &gate),
            Effect::Look {
                side: _,
                gate,
                question,
                look_at,
            } => self.look(operator, pair, &gate, question, look_at),
            Effect::ReadGateways(side, wanted) => {
                if let Some(worker) = self.worker_mut(operator, pair) {
                    worker.reads_gateways[side] = wanted;
                }
                self.ask_server_now(operator, pair, side);
            }
            Effect::Switched(_) => {}
            Effect::Publish(notice) => {
                let text = notice.text(&self.plan.pairs[pair].pair);
                self.note(
                    format_args!("operator {operator}"),
                    format_args!("pair {pair}: Event {}", text.reason),
                );
            }
            Effect::Stop(reason) => self.stop_worker(operator, pair, reason),
        }
        if is_order && self.kill == Some(kill(true)) {
            self.restart_operator(operator);
        }
    }

    /// The worker ends. The next reconciliation starts another one.
    fn stop_worker(&mut self, operator: usize, pair: usize, reason: StopReason) {
        self.note(
            format_args!("operator {operator}"),
            format_args!("stops watching pair {pair}: {reason:?}"),
        );
        self.operators[operator].workers[pair] = None;
        self.reconcile_later(operator, pair, Duration::from_millis(100));
    }

    fn begin(&mut self, operator: usize, pair: usize, call: Call) {
        let claim = self.claims(operator);
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        if worker.call.is_some() {
            let text = format!("{call:?} begins while another call is under way");
            return self.violate("one call at a time", text);
        }
        let (number, version) = (worker.number, worker.object.version);
        let is_read = matches!(call, Call::Read);
        let service = worker.service.map(|service| service.version);
        worker.call = Some(call.clone());
        if claim.is_none() && !is_read {
            return self.operator_later(operator, Duration::ZERO, OperatorEvent::Denied(pair, number));
        }
        let request = match call {
            Call::WriteStatus(status) => {
                self.judge_status(operator, pair, &status);
                Request::WriteStatus(pair, version, status)
            }
            Call::PatchSelector(side) => {
                self.count_call(CallKind::Selector);
                self.guarantee_02_only_to_a_side_that_may_serve(operator, pair, side);
                self.guarantee_02_only_to_open_gates(pair, side);
                self.guarantee_01_a_switch_has_an_endpoint(operator, pair, side);
                self.a_failback_is_still_due(operator, pair, side);
                Request::PatchSelector(pair, service, side)
            }
            Call::Read => {
                self.count_call(CallKind::Read);
                Request::ReadObject(pair)
            }
            Call::LabelPod { uid, routed, .. } => {
                if !routed {
                    self.guarantee_18_a_good_gate_stays(operator, pair, pod_id(&uid));
                }
                Request::LabelPod(pod_id(&uid), routed)
            }
            Call::DeletePod { uid, grace, .. } => {
                self.look_at_the_truth();
                self.only_a_lost_pod_is_deleted(operator, pair, pod_id(&uid), grace);
                Request::DeletePod(pod_id(&uid), grace)
            }
        };
        self.call(operator, Caller::Worker(pair, number), request, DEADLINE);
    }

    pub fn denied(&mut self, operator: usize, pair: usize, number: u64) {
        if self
            .worker(operator, pair)
            .is_some_and(|worker| worker.number == number)
        {
            self.outcome(operator, pair, Err(CallError::Stop(StopReason::NotLeading)));
        }
    }

    /// Tells which step of a switch a status is, for faults that wait for it, and judges the beginning of a switch.
    fn judge_status(&mut self, operator: usize, pair: usize, next: &proxypair::api::ProxyPairStatus) {
        let stored = &self.api.objects[pair].status;
        let begins = next.switching.is_some() && stored.switching != next.switching;
        let is_fact = next.switching.is_none() && stored.switching.is_some();
        let is_withdrawn = is_fact && next.serving == stored.serving;
        if is_fact {
            self.count_call(CallKind::Fact);
        }
        if is_withdrawn {
            self.guarantee_06_withdrawn_for_a_reason(operator, pair);
        }
        if !begins {
            return;
        }
        self.count_call(CallKind::Intent);
        let Some(Phase::Switching { switch, .. }) =
            self.worker(operator, pair).map(|worker| worker.machine.phase().clone())
        else {
            return;
        };
        self.note(
            format_args!("operator {operator}"),
            format_args!(
                "pair {pair}: begins a {:?} to the {}, {:?}",
                switch.kind,
                switch.to.label(),
                switch.cause
            ),
        );
        if switch.kind == SwitchKind::Failback {
            self.look_at_the_truth();
            self.guarantee_08_no_failback_before_the_resync(operator, pair);
            self.a_failback_waits(operator, pair);
        } else {
            self.look_at_the_truth();
            self.guarantee_05_silence_has_lasted(operator, pair, &switch);
            self.guarantee_12_a_refused_login_causes_no_switch(operator, pair, &switch);
            self.guarantee_18_one_gate_moves_nothing(operator, pair, &switch);
        }
    }

    pub fn worker_answered(&mut self, operator: usize, pair: usize, number: u64, answer: Answer) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        if worker.number != number {
            return;
        }
        let Some(call) = worker.call.clone() else { return };
        if let Answer::Busy(after) = &answer {
            let until = self.now + (*after).min(LONGEST_WAIT);
            self.watchdog.waits_until = self.watchdog.waits_until.max(until);
        }
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let outcome = match (call, answer) {
            (_, Answer::Failed) => Err(CallError::Failed {
                retry_after: None,
                reason: Reason::ApiServerError,
            }),
            (_, Answer::Busy(after)) => Err(CallError::Failed {
                retry_after: Some(after),
                reason: Reason::ApiServerError,
            }),
            (Call::DeletePod { .. } | Call::LabelPod { .. }, Answer::Gone) => Ok(CallDone::AlreadyGone),
            (Call::WriteStatus(status), Answer::Written(version)) => {
                worker.object.version = version;
                worker.object.status = *status;
                Ok(CallDone::Written)
            }
            (Call::PatchSelector(side), Answer::Written(version)) => {
                let selects = Selects::Side(side);
                let owner = worker.object.made;
                worker.service = Some(Service {
                    version,
                    selects,
                    owner,
                });
                Ok(CallDone::Written)
            }
            (Call::DeletePod { uid, grace, .. }, Answer::Written(_)) => {
                self.pod_was_deleted(number, pod_id(&uid), grace);
                Ok(CallDone::Written)
            }
            (Call::LabelPod { .. }, Answer::Written(_)) => Ok(CallDone::Written),
            (Call::Read, Answer::Object(object)) if object.pair.uid != worker.pair.uid => {
                Err(CallError::Stop(StopReason::Gone))
            }
            (Call::Read, Answer::Object(object)) => {
                worker.read = Some(object);
                let request = Request::ReadService(pair);
                return self.call(operator, Caller::Worker(pair, number), request, DEADLINE);
            }
            (Call::Read, Answer::Service(service)) => {
                let Some(object) = worker.read.take() else { return };
                let stored = Stored {
                    status: object.status.clone(),
                    selects: Service::selects_for(service, object.made),
                };
                worker.object = *object;
                worker.service = service;
                Ok(CallDone::Read(Box::new(stored)))
            }
            (call, _) => {
                let text = format!("{call:?} has an answer to something else");
                return self.violate("the world is wrong", text);
            }
        };
        self.outcome(operator, pair, outcome);
    }

    fn outcome(&mut self, operator: usize, pair: usize, outcome: Result<CallDone, CallError>) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        worker.call = None;
        worker.read = None;
        self.feed(operator, pair, Input::Outcome(outcome));
    }

    fn watch_route(&mut self, operator: usize, pair: usize, wanted: bool) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        worker.route_turn += 1 + u64::from((worker.route_turn % 2 == 0) != wanted);
        let (number, turn) = (worker.number, worker.route_turn);
        if wanted {
            self.operator_later(operator, TRIP, OperatorEvent::AskRoute(pair, number, turn));
        }
    }

    /// Asks which gate a connection to the virtual Service reaches. It stands for src/check/service.rs.
    pub fn ask_route(&mut self, operator: usize, pair: usize, number: u64, turn: u64) {
        let is_it = |worker: &Worker| worker.number == number && worker.route_turn == turn;
        if !self.worker(operator, pair).is_some_and(is_it) {
            return;
        }
        let (gate, takes) = self.route_of(operator, pair);
        self.feed(operator, pair, Input::Route(gate));
        self.operator_later(
            operator,
            ROUTE_EVERY + takes,
            OperatorEvent::AskRoute(pair, number, turn),
        );
    }

    /// The name of the gate, and how long it took to learn it, or that nobody says.
    fn route_of(&mut self, operator: usize, pair: usize) -> (Option<String>, Duration) {
        let pods = self.operators[operator].rules[pair].clone();
        if pods.is_empty() || self.operators[operator].is_blind {
            return (None, Duration::ZERO);
        }
        let pod = self.random.pick(&pods);
        let Some((_, found)) = self.pod(pod) else {
            return (None, Duration::ZERO);
        };
        let side = found.side;
        let Some(gate) = &found.gate else {
            return (None, Duration::ZERO);
        };
        let is_open = gate.listening == Listening::Yes;
        match self.network.at_pod(pod, Link::OperatorGate(operator, pair, side), true) {
            Passage::Free(delay) if is_open && !gate.is_frozen && delay < ROUTE_PATIENCE => {
                let name = self.plan.pairs[pair].pair.spec.side(side).server_name.clone();
                (Some(name), delay)
            }
            Passage::Free(_) if gate.is_frozen => (None, ROUTE_PATIENCE),
            Passage::Free(_) | Passage::Refused => (None, Duration::ZERO),
            Passage::Silent | Passage::OneWay => (None, ROUTE_PATIENCE),
        }
    }

    /// Every source of observations of a pair.
    pub fn sources(&self, operator: usize, pair: usize) -> Vec<(Side, Source)> {
        let checks = self.worker(operator, pair).map(|worker| &worker.checks);
        let sources = checks.into_iter().flatten().map(|check| (check.side, check.source()));
        let mut sources: Vec<_> = sources.collect();
        sources.dedup();
        sources
    }

    /// The pods as the worker was told.
    pub fn assigned_pods(&self, operator: usize, pair: usize) -> Vec<(Side, PodView)> {
        let pods = self.worker(operator, pair).and_then(|worker| worker.pods.as_ref());
        let of = |pods: &Sides<Vec<PodView>>| {
            let views = pods
                .iter()
                .flat_map(|(side, pods)| pods.iter().map(move |pod| (side, pod.clone())));
            views.collect()
        };
        pods.map(of).unwrap_or_default()
    }
}

/// What a command is called in a timeline.
pub const fn command_word(command: &Command) -> &'static str {
    match command {
        Command::Admit => "admit",
        Command::Drain { .. } => "drain",
        Command::Drop => "drop",
        Command::Hello { .. } | Command::Ping { .. } => "no command",
    }
}
