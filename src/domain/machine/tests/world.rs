//! What surrounds a machine: the API server's state, gates and ObjectServers that live or die, and time. After each effect it checks what
//! must hold at every moment.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::{
    api::{FailbackMode, ProxyPairStatus, Reason, Side, Sides, SwitchKind},
    domain::{
        evidence::{Fault as LinkFault, Link},
        machine::{
            Call, CallDone, CallError, Effect, GateObservation, Input, Machine, PodView, Selects, ServerObservation,
            Source, StopReason, Stored,
        },
        now::Now,
        pair::{
            Pair,
            fixture::{merge, pair},
        },
    },
    protocol::{GateState, LookAt, Report, Request, Seen, Sight, UnreachableCause, Upstream},
};

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It succeeds.
    None,
    /// It takes effect, and nobody learns of it.
    AnswerLost,
    /// It takes no effect.
    Refused,
    /// It takes no effect, and the API server asks to be left alone for so long.
    Overloaded(Duration),
    /// The pair has been deleted.
    Gone,
}

/// When an operator crashes: before an effect is carried out, or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// An operator process, as far as one pair is concerned.
pub struct Operator {
    pub machine: Machine,
    pub stopped: Option<StopReason>,
    call: Option<Call>,
    is_calling: bool,
    is_dead: bool,
}

impl Operator {
    pub fn is_calling(&self) -> bool {
        self.is_calling
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead
    }
}

/// How a side is, or one gate of it.
#[derive(Clone, Copy, PartialEq)]
pub enum Life {
    Alive,
    /// Its ObjectServer is dead.
    Dead {
        since: Instant,
    },
    /// Its gate answers nothing.
    Frozen {
        since: Instant,
    },
    /// Its gate is gone with its machine: nothing comes back to anybody.
    Lost {
        since: Instant,
    },
    /// Its gate serves, and nothing comes back to the operator.
    Hidden {
        since: Instant,
    },
    /// The process of its gate is gone.
    Ended {
        since: Instant,
    },
    /// Its gate cannot reach the ObjectServer, which is alive.
    Cut {
        since: Instant,
    },
}

pub struct World {
    pub now: Now,
    pub status: ProxyPairStatus,
    pub selects: Selects,
    pub sessions: Sides<u32>,
    pub endpoints_follow: bool,
    /// A drain or a drop empties the gate.
    pub drains_finish: bool,
    pub announced: Vec<String>,
    pub switched: usize,
    pub watches_route: bool,
    pub effects: usize,
    pub crash_at: Option<(usize, Moment)>,
    pair: Arc<Pair>,
    pods: Sides<Vec<PodView>>,
    life: Sides<Life>,
    /// Gates report what they see of each other.
    pub gates_look: bool,
    /// What each gate was told to look at, by `metadata.uid`.
    outlooks: BTreeMap<String, (u64, Vec<LookAt>)>,
    /// Gates that are otherwise than their side, by `metadata.uid`.
    lives: BTreeMap<String, Life>,
    modes: Sides<Option<&'static str>>,
    /// Every command to a gate, in order.
    pub commands: Vec<(Side, Request)>,
    /// The same, by `metadata.uid` of the pod.
    pub commanded: Vec<(String, &'static str)>,
    /// Why the gate of a side has not opened its port for probes.
    closed: Sides<Option<String>>,
    calls: Vec<String>,
}

fn declared(mode: FailbackMode) -> Arc<Pair> {
    Arc::new(pair(json!({
        "healthCheck": {"unreachableAfter": "0s", "healthyAfter": "0s"},
        "failback": {"mode": mode},
    })))
}

fn pod(side: Side, number: u8, created: Timestamp) -> PodView {
    PodView {
        uid: format!("{}-{number}", side.label()),
        name: format!("proxy-v-{}-{number}", side.label()),
        ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, u8::from(side == Side::Backup), number))),
        created: Some(created),
        node: Some(format!("node-{}", side.label())),
        terminating: None,
        failure: None,
        template: Some("t".to_owned()),
        routed: true,
    }
}

/// What the checks see: the direct connection, the control port and the path.
fn links(life: Life) -> (Link, Link, Link) {
    let refused = |since| Link::Failed {
        since,
        fault: LinkFault::Connection,
        message: "refused".to_owned(),
    };
    match life {
        Life::Alive => (Link::Answering, Link::Answering, Link::Answering),
        Life::Dead { since } => (refused(since), Link::Answering, refused(since)),
        Life::Frozen { since } | Life::Lost { since } | Life::Hidden { since } => {
            (Link::Answering, Link::Silent { since }, Link::Silent { since })
        }
        Life::Ended { since } => (Link::Answering, refused(since), refused(since)),
        Life::Cut { since } => (Link::Answering, Link::Answering, refused(since)),
    }
}

/// What comes back from the machine of a gate: to the operator, and to another gate.
const fn comes_back(life: Life) -> (Seen, Seen) {
    match life {
        Life::Alive => (Seen::Host, Seen::Ready),
        Life::Dead { .. } | Life::Cut { .. } | Life::Frozen { .. } | Life::Ended { .. } => (Seen::Host, Seen::Host),
        Life::Lost { .. } => (Seen::Nothing, Seen::Nothing),
        Life::Hidden { .. } => (Seen::Nothing, Seen::Ready),
    }
}

impl World {
    /// A pair that has been settled on `side` for an hour, with everything alive and said in status.
    pub fn settled(side: Side) -> Self {
        let wall: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        let now = Now {
            monotonic: Instant::now() + Duration::from_secs(24 * 3600),
            wall,
        };
        let mut world = Self {
            now,
            status: ProxyPairStatus {
                serving: Some(side),
                target: Some(side),
                since: Some(Time(wall - SignedDuration::from_hours(1))),
                ..ProxyPairStatus::default()
            },
            selects: Selects::Side(side),
            sessions: Sides::default(),
            endpoints_follow: true,
            drains_finish: false,
            announced: Vec::new(),
            switched: 0,
            watches_route: false,
            effects: 0,
            crash_at: None,
            pair: declared(FailbackMode::Automatic),
            pods: Sides::from_fn(|side| vec![pod(side, 1, wall)]),
            life: Sides::from_fn(|_| Life::Alive),
            gates_look: true,
            outlooks: BTreeMap::new(),
            lives: BTreeMap::new(),
            modes: Sides::default(),
            commands: Vec::new(),
            commanded: Vec::new(),
            closed: Sides::default(),
            calls: Vec::new(),
        };
        let mut operator = world.start();
        world.run(&mut operator);
        world.forget_calls();
        world
    }

    pub fn set_failback(&mut self, mode: FailbackMode) {
        self.pair = declared(mode);
    }

    /// Starts an operator that takes over what is stored.
    pub fn start(&mut self) -> Operator {
        self.start_with(|machine| machine)
    }

    /// The same, with what `changed` makes of its machine.
    pub fn start_with(&mut self, changed: impl FnOnce(Machine) -> Machine) -> Operator {
        let stored = Stored {
            status: self.status.clone(),
            selects: Selects::NoService,
        };
        let mut operator = Operator {
            machine: changed(Machine::resume(Arc::clone(&self.pair), &stored, self.now)),
            stopped: None,
            call: None,
            is_calling: false,
            is_dead: false,
        };
        self.feed(&mut operator, Input::Pods(self.pods.clone()));
        self.feed(&mut operator, Input::Service(self.selects));
        self.feed_endpoints(&mut operator);
        self.observe(&mut operator);
        operator
    }

    pub fn calls(&self) -> &[String] {
        &self.calls
    }

    pub fn forget_calls(&mut self) {
        self.calls.clear();
        self.announced.clear();
    }

    /// What the gate of that side was commanded last.
    pub fn mode(&self, side: Side) -> Option<&'static str> {
        self.modes[side]
    }

    pub fn later(&self, by: Duration) -> Now {
        Now {
            monotonic: self.now.monotonic + by,
            wall: self.now.wall + SignedDuration::try_from(by).unwrap(),
        }
    }

    pub fn kill(&mut self, operator: &mut Operator, side: Side) {
        if self.life[side] == Life::Alive {
            self.life[side] = Life::Dead {
                since: self.now.monotonic,
            };
        }
        self.observe_side(operator, side);
    }

    pub fn freeze(&mut self, operator: &mut Operator, side: Side) {
        self.life[side] = Life::Frozen {
            since: self.now.monotonic,
        };
        self.observe_side(operator, side);
    }

    pub fn revive(&mut self, operator: &mut Operator, side: Side) {
        self.life[side] = Life::Alive;
        self.observe_side(operator, side);
    }

    pub fn terminate(&mut self, operator: &mut Operator, side: Side) {
        for pod in &mut self.pods[side] {
            pod.terminating = Some(Duration::from_secs(65));
        }
        self.feed(operator, Input::Pods(self.pods.clone()));
    }

    pub fn add_pod(&mut self, operator: &mut Operator, side: Side) {
        self.pods[side].push(pod(side, 2, self.now.wall));
        self.feed(operator, Input::Pods(self.pods.clone()));
        self.observe_side(operator, side);
    }

    /// The gate of that side rejects a command.
    pub fn reject(&mut self, operator: &mut Operator, side: Side, message: &str) {
        let report = Report {
            rejected_command: Some(message.to_owned()),
            ..self.report(side)
        };
        self.report_from(operator, side, report);
    }

    /// The gate of that side answers a ping and says nothing else.
    pub fn answer_ping(&mut self, operator: &mut Operator, side: Side) {
        let report = Report {
            answers: Some(1),
            ..self.report(side)
        };
        self.report_from(operator, side, report);
    }

    /// The gate of that side cannot open its port for probes; `None`: it can.
    pub fn close_port(&mut self, operator: &mut Operator, side: Side, why: Option<&str>) {
        self.closed[side] = why.map(str::to_owned);
        self.observe_side(operator, side);
    }

    /// The process of that side's gate ends: its control port refuses connections.
    pub fn end_process(&mut self, operator: &mut Operator, side: Side) {
        self.link(operator, side, |since| Link::Failed {
            since,
            fault: LinkFault::Connection,
            message: "refused".to_owned(),
        });
    }

    /// From now on the connection to the control port of that side's gate is as `link` says.
    pub fn link(&mut self, operator: &mut Operator, side: Side, link: impl FnOnce(Instant) -> Link) {
        let uid = self.pods[side][0].uid.clone();
        let observation = GateObservation::Control(link(self.now.monotonic));
        self.feed(operator, Input::Gate(side, uid, observation));
    }

    /// Changes the first pod of that side.
    pub fn change_pod(&mut self, operator: &mut Operator, side: Side, change: impl FnOnce(&mut PodView)) {
        self.change_pod_at(operator, side, 0, change);
    }

    pub fn change_pod_at(
        &mut self,
        operator: &mut Operator,
        side: Side,
        pod: usize,
        change: impl FnOnce(&mut PodView),
    ) {
        change(&mut self.pods[side][pod]);
        self.feed(operator, Input::Pods(self.pods.clone()));
    }

    /// The pods of that side end.
    pub fn remove_pods(&mut self, operator: &mut Operator, side: Side) {
        self.pods[side].clear();
        self.feed(operator, Input::Pods(self.pods.clone()));
    }

    /// The pods of that side end, and another one is there at once.
    pub fn replace_pods(&mut self, operator: &mut Operator, side: Side) {
        let created = self.now.wall;
        self.pods[side] = vec![pod(side, 3, created)];
        self.feed(operator, Input::Pods(self.pods.clone()));
        self.observe_side(operator, side);
    }

    /// The user changes the spec.
    pub fn declare(&mut self, operator: &mut Operator, spec: Value) {
        let mut whole = json!({"healthCheck": {"unreachableAfter": "0s", "healthyAfter": "0s"}});
        merge(&mut whole, spec);
        self.pair = Arc::new(pair(whole));
        self.feed(operator, Input::Declared(Arc::clone(&self.pair)));
    }

    fn report_from(&mut self, operator: &mut Operator, side: Side, report: Report) {
        let observation = GateObservation::Report(self.now.monotonic, Box::new(report));
        let uid = self.pods[side][0].uid.clone();
        self.feed(operator, Input::Gate(side, uid, observation));
    }

    /// The gate of that side has drained, and accepts no probes yet.
    pub fn report_drained(&mut self, operator: &mut Operator, side: Side) {
        self.sessions[side] = 0;
        let report = Report {
            state: GateState::Draining,
            ..self.report(side)
        };
        self.report_from(operator, side, report);
    }

    /// At the address of that side's gate the gate of the other side answers.
    pub fn mistake_gate(&mut self, operator: &mut Operator, side: Side) {
        let other = self.pair.spec.side(side.other());
        let report = Report {
            gate: other.server_name.clone(),
            object_server: other.object_server.name.clone(),
            ..self.report(side)
        };
        self.report_from(operator, side, report);
    }

    /// The checks of all sides are started anew, as after a change of `spec.healthCheck`, and have observed nothing yet.
    pub fn restart_checks(&mut self, operator: &mut Operator) {
        for side in Side::BOTH {
            self.feed(operator, Input::Restarted(side, Source::Server));
            for pod in self.pods[side].clone() {
                self.feed(operator, Input::Restarted(side, Source::Gate(pod.uid)));
            }
        }
    }

    /// Tells the operator what its checks observe now.
    pub fn observe(&mut self, operator: &mut Operator) {
        for side in Side::BOTH {
            self.observe_side(operator, side);
        }
    }

    fn observe_side(&mut self, operator: &mut Operator, side: Side) {
        let (direct, _, _) = links(self.life[side]);
        self.feed(operator, Input::Server(side, ServerObservation::Direct(direct)));
        for pod in 0..self.pods[side].len() {
            self.observe_pod(operator, side, pod);
        }
    }

    /// Tells the operator what the checks of one gate observe now.
    pub fn observe_pod(&mut self, operator: &mut Operator, side: Side, pod: usize) {
        let uid = self.pods[side][pod].uid.clone();
        let life = self.lives.get(&uid).copied().unwrap_or(self.life[side]);
        let (_, control, path) = links(life);
        let gate = |observation| Input::Gate(side, uid.clone(), observation);
        self.feed(operator, gate(GateObservation::Control(control)));
        let is_heard = !matches!(
            life,
            Life::Frozen { .. } | Life::Lost { .. } | Life::Hidden { .. } | Life::Ended { .. }
        );
        if is_heard {
            let mut report = self.report_of(side, life);
            report.sights = self.sights(&uid);
            let observation = GateObservation::Report(self.now.monotonic, Box::new(report));
            self.feed(operator, gate(observation));
        }
        self.feed(operator, gate(GateObservation::Path(path)));
        if let Some((question, _)) = self.outlooks.get(&uid).filter(|(question, _)| *question != 0) {
            let (seen, _) = comes_back(life);
            self.feed(operator, gate(GateObservation::Host(*question, seen)));
        }
    }

    /// The number of the question about a gate, by `metadata.uid`; 0: there is none.
    pub fn question(&self, uid: &str) -> u64 {
        self.outlooks.get(uid).map_or(0, |(question, _)| *question)
    }

    /// What a gate reports of those that it was told to look at.
    fn sights(&self, uid: &str) -> Vec<Sight> {
        let Some((_, look_at)) = self.outlooks.get(uid).filter(|_| self.gates_look) else {
            return Vec::new();
        };
        let pods = || {
            Side::BOTH
                .into_iter()
                .flat_map(|side| self.pods[side].iter().map(move |pod| (side, pod)))
        };
        let sight = |look: &LookAt| {
            let (side, pod) = pods().find(|(_, pod)| pod.ip == Some(look.address.ip()))?;
            let life = self.lives.get(&pod.uid).copied().unwrap_or(self.life[side]);
            let (_, seen) = comes_back(life);
            let LookAt { address, question } = *look;
            Some(Sight {
                address,
                question,
                seen,
            })
        };
        look_at.iter().filter_map(sight).collect()
    }

    /// Lets the gate in a pod of that side, counted from 0, be otherwise than its side.
    pub fn set_gate(&mut self, operator: &mut Operator, side: Side, pod: usize, life: impl FnOnce(Instant) -> Life) {
        let life = life(self.now.monotonic);
        self.lives.insert(self.pods[side][pod].uid.clone(), life);
        self.observe_side(operator, side);
    }

    fn report(&self, side: Side) -> Report {
        self.report_of(side, self.life[side])
    }

    fn report_of(&self, side: Side, life: Life) -> Report {
        let line = r#"{"gate":"P","objectServer":"A","instance":"1","admission":"Open","sessions":0,"upstream":{"state":"Reachable"},"leaving":false}"#;
        let upstream = match life {
            Life::Alive | Life::Frozen { .. } | Life::Lost { .. } | Life::Hidden { .. } | Life::Ended { .. } => {
                Upstream::Reachable
            }
            Life::Dead { .. } | Life::Cut { .. } => Upstream::Unreachable {
                cause: UnreachableCause::Refused,
                message: "refused".to_owned(),
            },
        };
        Report {
            sessions: self.sessions[side],
            state: match (&upstream, &self.closed[side]) {
                (Upstream::Reachable, None) => GateState::Open,
                (Upstream::Reachable, Some(_)) | (Upstream::Unreachable { .. }, _) => GateState::Closed,
            },
            listen_error: self.closed[side].clone(),
            upstream,
            ..serde_json::from_str(line).unwrap()
        }
    }

    fn feed_endpoints(&mut self, operator: &mut Operator) {
        let Selects::Side(side) = self.selects else { return };
        if self.endpoints_follow {
            let routed = self.pods[side].iter().filter(|pod| pod.routed);
            let addresses = routed.filter_map(|pod| pod.ip).collect();
            self.feed(operator, Input::Endpoints(addresses));
        }
    }

    pub fn tick(&mut self, operator: &mut Operator) {
        self.feed(operator, Input::Tick);
    }

    pub fn feed(&mut self, operator: &mut Operator, input: Input) {
        if operator.is_dead || operator.stopped.is_some() {
            return;
        }
        let mut emptied = Vec::new();
        for effect in operator.machine.handle(input, self.now) {
            let crashes = self
                .crash_at
                .filter(|(nth, _)| *nth == self.effects)
                .map(|(_, moment)| moment);
            self.effects += 1;
            if crashes == Some(Moment::Before) {
                operator.is_dead = true;
                return;
            }
            self.carry_out(operator, effect, crashes.is_some(), &mut emptied);
            if crashes.is_some() {
                operator.is_dead = true;
                return;
            }
        }
        for side in emptied {
            self.observe_side(operator, side);
        }
    }

    fn carry_out(&mut self, operator: &mut Operator, effect: Effect, crashes: bool, emptied: &mut Vec<Side>) {
        match effect {
            Effect::Call(call) => {
                assert!(!operator.is_calling, "{call:?} begins while another call is under way");
                operator.is_calling = true;
                self.check(&call);
                if crashes {
                    self.execute(&call);
                }
                operator.call = Some(call);
            }
            Effect::Command { side, gate, request } => {
                let mode = match request {
                    Request::Admit => "Admit",
                    Request::Drain { .. } => "Drain",
                    Request::Drop => "Drop",
                    Request::Hello { .. } | Request::Ping { .. } => panic!("{request:?} is no command"),
                };
                self.modes[side] = Some(mode);
                self.commands.push((side, request.clone()));
                self.commanded.push((gate.clone(), mode));
                if mode != "Admit" {
                    let is_led_to = self.pods[side].iter().any(|pod| pod.uid == gate && pod.routed);
                    let serves = self.status.serving == Some(side) && is_led_to;
                    assert!(!serves, "{mode} to a gate that serves");
                    if self.drains_finish {
                        self.sessions[side] = 0;
                        emptied.push(side);
                    }
                }
            }
            Effect::Publish(notice) => self.announced.push(notice.text(&self.pair).reason.to_string()),
            Effect::Switched(_) => self.switched += 1,
            Effect::Stop(reason) => operator.stopped = Some(reason),
            Effect::WatchRoute(wanted) => self.watches_route = wanted,
            Effect::Look {
                side: _,
                gate,
                question,
                look_at,
            } => drop(self.outlooks.insert(gate, (question, look_at))),
            Effect::Recheck(..) | Effect::ReadGateways(..) => {}
        }
    }

    /// What must hold whenever a call begins.
    fn check(&self, call: &Call) {
        let Call::PatchSelector(side) = call else { return };
        let stored = [self.status.serving, self.status.target];
        assert!(
            stored.contains(&Some(*side)),
            "no intent to go to {side:?} is stored: {:?}",
            self.calls
        );
        let is_repair = self.selects == Selects::Other;
        assert!(
            is_repair || self.life[*side] == Life::Alive,
            "{side:?} cannot serve: {:?}",
            self.calls
        );
    }

    /// Takes the call that is under way; its outcome is up to the test.
    pub fn take_call(&mut self, operator: &mut Operator) -> Call {
        operator.call.take().expect("no call is under way")
    }

    /// The call that is under way.
    pub fn peek_call<'a>(&self, operator: &'a Operator) -> &'a Call {
        operator.call.as_ref().expect("no call is under way")
    }

    /// Ends a call.
    pub fn answer(&mut self, operator: &mut Operator, call: Call, fault: Fault) {
        operator.is_calling = false;
        operator.call = None;
        let failed = |reason, retry_after| Err(CallError::Failed { retry_after, reason });
        let outcome = match fault {
            Fault::None => Ok(self.execute(&call)),
            Fault::AnswerLost => {
                self.execute(&call);
                failed(Reason::ApiServerTimeout, None)
            }
            Fault::Refused => failed(Reason::Forbidden, None),
            Fault::Overloaded(wait) => failed(Reason::ApiServerError, Some(wait)),
            Fault::Gone => Err(CallError::Stop(StopReason::Gone)),
        };
        self.feed(operator, Input::Outcome(outcome));
        if matches!(call, Call::DeletePod { .. } | Call::LabelPod { .. }) {
            self.feed(operator, Input::Pods(self.pods.clone()));
        }
        self.feed_endpoints(operator);
    }

    pub fn answer_if_calling(&mut self, operator: &mut Operator, fault: Fault) {
        if let Some(call) = operator.call.take() {
            self.answer(operator, call, fault);
        }
    }

    fn execute(&mut self, call: &Call) -> CallDone {
        match call {
            Call::Read => {
                return CallDone::Read(Box::new(Stored {
                    status: self.status.clone(),
                    selects: self.selects,
                }));
            }
            Call::WriteStatus(status) => {
                let word = |side: Option<Side>| side.map_or("", Side::as_str);
                self.calls.push(if status.serving != self.status.serving {
                    format!("status serving={}", word(status.serving))
                } else if status.target != self.status.target {
                    format!("status target={}", word(status.target))
                } else {
                    "status".to_owned()
                });
                self.status = (**status).clone();
            }
            Call::PatchSelector(side) => {
                self.calls.push(format!("selector {}", side.as_str()));
                self.selects = Selects::Side(*side);
            }
            Call::LabelPod {
                side,
                name,
                uid,
                routed,
            } => {
                let place = if *routed { "in" } else { "out" };
                self.calls.push(format!("{name} {place}"));
                for pod in self.pods[*side].iter_mut().filter(|pod| pod.uid == *uid) {
                    pod.routed = *routed;
                }
                let is_led_to = |pod: &PodView| pod.routed && pod.ip.is_some();
                assert!(
                    self.pods[*side].iter().any(is_led_to),
                    "{name} was the last one: {:?}",
                    self.calls
                );
            }
            Call::DeletePod { side, uid, name, grace } => {
                let grace_text = if grace.is_zero() { " without grace" } else { "" };
                self.calls.push(format!("delete {name}{grace_text}"));
                if grace.is_zero() {
                    self.pods[*side].retain(|pod| pod.uid != *uid);
                }
            }
        }
        CallDone::Written
    }

    /// Answers calls until none is left.
    pub fn run(&mut self, operator: &mut Operator) {
        for _ in 0..1000 {
            if operator.is_dead {
                return;
            }
            match operator.call.take() {
                Some(call) => self.answer(operator, call, Fault::None),
                None => return,
            }
        }
        panic!("there is no end to the calls: {:?}", &self.calls[..20]);
    }

    /// Lets time pass, and answers calls.
    pub fn pass(&mut self, operator: &mut Operator, by: Duration) {
        let end = self.now.monotonic + by;
        self.run(operator);
        while self.step(operator, end) {
            self.run(operator);
        }
        self.run(operator);
    }

    /// Lets time pass, and answers no call.
    pub fn pass_without_calls(&mut self, operator: &mut Operator, by: Duration) {
        let end = self.now.monotonic + by;
        while self.step(operator, end) {}
    }

    /// Lets time pass and answers calls until `done`.
    pub fn pass_until(&mut self, operator: &mut Operator, by: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now.monotonic + by;
        loop {
            while let Some(call) = operator.call.take() {
                self.answer(operator, call, Fault::None);
                if done(self) {
                    return;
                }
            }
            assert!(self.step(operator, end), "it did not happen: {:?}", self.calls);
        }
    }

    /// Goes on to the next moment at which the machine wants to wake up, or to `end`. Whether there is more time left.
    fn step(&mut self, operator: &mut Operator, end: Instant) -> bool {
        let wake = operator.machine.wake_at().filter(|_| !operator.is_dead);
        let next = wake.map_or(end, |wake| wake.min(end)).max(self.now.monotonic);
        assert!(
            wake.is_none_or(|wake| wake > self.now.monotonic),
            "it wakes up for nothing"
        );
        self.now = self.later(next.duration_since(self.now.monotonic));
        self.feed(operator, Input::Tick);
        self.now.monotonic < end
    }

    pub fn assert_moved(&self, to: Side, kind: SwitchKind) {
        assert_eq!(self.status.serving, Some(to), "{:?}", self.calls);
        assert_eq!(self.selects, Selects::Side(to), "{:?}", self.calls);
        assert_eq!(self.status.target, Some(to));
        assert_eq!(self.status.history.first().map(|switch| switch.kind), Some(kind));
    }
}
