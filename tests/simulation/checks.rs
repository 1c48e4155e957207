//! The checks of a worker. They stand for src/check, which needs real connections: the same moments at which something is sent, taken for
//! late, given up, or tried again, on the links of this world.

mod looks;
mod step;

use std::time::Duration;

use proxypair::{api::Side, domain::machine::Source, protocol::Request};

use self::{looks::Outlook, step::CheckStep};
use super::{clock::Time, operator::OperatorEvent, world::World};

/// One check.
pub struct Check {
    pub number: u64,
    pub side: Side,
    pub kind: CheckKind,
    state: State,
    /// When the first of the failures in a row began.
    failing_since: Option<Time>,
    /// Only the newest timer counts.
    turn: u64,
    /// What the gate is commanded, and whether it was sent on this connection.
    command: Option<Request>,
    is_sent: bool,
    /// When the last command arrives: none overtakes another.
    arrives: Time,
    /// The version of the gate's state that was reported last.
    seen: Option<u64>,
    /// There was a report on this connection.
    has_reported: bool,
    /// A rejection that is still to be told.
    rejected: Option<String>,
    outlook: Outlook,
}

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// The gate in that pod.
    Control(u64),
    /// The ObjectServer through the gate in that pod.
    Path(u64),
    /// The ObjectServer.
    Direct,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The next attempt comes then.
    Waiting {
        until: Time,
    },
    Connecting {
        since: Time,
        is_silent: bool,
    },
    Open {
        /// The processes at the other end: gate, ObjectServer.
        peer: (u64, u64),
        /// When the question without an answer was sent.
        asked: Option<Time>,
        next: Time,
        is_silent: bool,
    },
}

/// What happens to a check: its number, and the turn of a timer or `None` if it may notice a change.
#[derive(Clone, Debug)]
pub struct CheckEvent(u64, Option<u64>);

/// How long an answer takes on a link that is clear.
const TRIP: Duration = Duration::from_millis(2);

impl Check {
    pub fn source(&self) -> Source {
        match self.kind {
            CheckKind::Control(pod) | CheckKind::Path(pod) => Source::Gate(format!("pod-{pod}")),
            CheckKind::Direct => Source::Server,
        }
    }

    const fn pod(&self) -> Option<u64> {
        match self.kind {
            CheckKind::Control(pod) | CheckKind::Path(pod) => Some(pod),
            CheckKind::Direct => None,
        }
    }

    fn restart(&mut self, now: Time) {
        self.state = State::Waiting { until: now };
        self.failing_since = None;
        self.is_sent = false;
        self.seen = None;
        self.has_reported = false;
    }
}

impl World {
    fn add_check(&mut self, operator: usize, pair: usize, side: Side, kind: CheckKind) {
        let (number, now) = (self.new_id(), self.now);
        if let Some(worker) = self.worker_mut(operator, pair) {
            worker.checks.push(Check {
                number,
                side,
                kind,
                state: State::Waiting { until: now },
                failing_since: None,
                turn: 0,
                command: None,
                is_sent: false,
                arrives: Time::ZERO,
                seen: None,
                has_reported: false,
                rejected: None,
                outlook: Outlook::default(),
            });
            self.notice(operator, pair, number, Duration::from_millis(1));
        }
    }

    pub fn start_server_check(&mut self, operator: usize, pair: usize, side: Side) {
        self.add_check(operator, pair, side, CheckKind::Direct);
    }

    /// Starts and ends checks as the pods come and go. Returns the sources whose checks were restarted: none, as no pod changes its address.
    pub fn assign_checks(&mut self, operator: usize, pair: usize) -> Vec<(Side, Source)> {
        let pods = self.assigned_pods(operator, pair);
        let wanted: Vec<_> = pods
            .iter()
            .filter(|(_, pod)| pod.ip.is_some())
            .filter_map(|(side, pod)| Some((*side, pod.uid.strip_prefix("pod-")?.parse().ok()?)))
            .collect();
        let Some(worker) = self.worker_mut(operator, pair) else {
            return Vec::new();
        };
        worker
            .checks
            .retain(|check| check.pod().is_none_or(|pod| wanted.iter().any(|(_, id)| *id == pod)));
        let known: Vec<_> = worker.checks.iter().filter_map(Check::pod).collect();
        for (side, pod) in wanted {
            if !known.contains(&pod) {
                self.add_check(operator, pair, side, CheckKind::Control(pod));
                self.add_check(operator, pair, side, CheckKind::Path(pod));
            }
        }
        Vec::new()
    }

    /// The timings have changed: every check begins anew.
    pub fn restart_checks(&mut self, operator: usize, pair: usize) -> Vec<(Side, Source)> {
        let now = self.now;
        let sources = self.sources(operator, pair);
        let Some(worker) = self.worker_mut(operator, pair) else {
            return Vec::new();
        };
        for check in &mut worker.checks {
            check.restart(now);
        }
        let numbers: Vec<_> = worker.checks.iter().map(|check| check.number).collect();
        for number in numbers {
            self.notice(operator, pair, number, Duration::from_millis(1));
        }
        sources
    }

    /// Whether that check has an open connection.
    pub fn has_open_check(&self, operator: usize, pair: usize, check: u64) -> bool {
        let checks = self.worker(operator, pair).map(|worker| &worker.checks);
        let mut checks = checks.into_iter().flatten();
        checks.any(|found| found.number == check && matches!(found.state, State::Open { .. }))
    }

    fn notice(&mut self, operator: usize, pair: usize, check: u64, by: Duration) {
        if let Some(worker) = self.worker(operator, pair).map(|worker| worker.number) {
            self.operator_later(
                operator,
                by,
                OperatorEvent::Check(pair, worker, CheckEvent(check, None)),
            );
        }
    }

    /// Checks may notice that something has changed.
    pub fn checks_notice(&mut self) {
        for operator in 0..self.operators.len() {
            for pair in 0..self.pairs.len() {
                let Some(worker) = self.worker(operator, pair) else {
                    continue;
                };
                let numbers: Vec<_> = worker.checks.iter().map(|check| check.number).collect();
                for number in numbers {
                    let by = self.random.millis(1, 8);
                    self.notice(operator, pair, number, by);
                }
            }
        }
        for pair in 0..self.pairs.len() {
            self.end_orphaned_sessions(pair);
        }
    }

    /// The number of sessions on a gate has changed.
    pub fn reports_are_due(&mut self, pod: u64) {
        for operator in 0..self.operators.len() {
            for pair in 0..self.pairs.len() {
                let Some(worker) = self.worker(operator, pair) else {
                    continue;
                };
                let check = worker.checks.iter().find(|check| check.kind == CheckKind::Control(pod));
                if let Some(number) = check.map(|check| check.number) {
                    self.notice(operator, pair, number, Duration::from_millis(100));
                }
            }
        }
    }

    pub fn recheck(&mut self, operator: usize, pair: usize, gate: &str) {
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let is_it = |check: &&mut Check| matches!(check.kind, CheckKind::Control(pod) if format!("pod-{pod}") == gate);
        if let Some(check) = worker.checks.iter_mut().find(is_it) {
            check.seen = None;
            let number = check.number;
            self.notice(operator, pair, number, TRIP);
        }
    }

    pub fn ask_server_now(&mut self, operator: usize, pair: usize, side: Side) {
        let now = self.now;
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let is_it = |check: &&mut Check| check.kind == CheckKind::Direct && check.side == side;
        if let Some(check) = worker.checks.iter_mut().find(is_it) {
            if let State::Open { next, .. } = &mut check.state {
                *next = now;
            }
            let number = check.number;
            self.notice(operator, pair, number, Duration::ZERO);
        }
    }

    pub fn command(&mut self, operator: usize, pair: usize, side: Side, gate: &str, request: Request) {
        let word = super::worker::command_word(&request);
        self.note(
            format_args!("operator {operator}"),
            format_args!("pair {pair}: commands {gate} of the {} to {word}", side.label()),
        );
        self.guarantee_11_nobody_is_driven_off_without_a_way_out(operator, pair, (side, gate), &request);
        self.a_drain_waits(operator, pair, gate, &request);
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let is_it = |check: &&mut Check| matches!(check.kind, CheckKind::Control(pod) if format!("pod-{pod}") == gate);
        if let Some(check) = worker.checks.iter_mut().find(is_it) {
            check.command = Some(request);
            check.is_sent = false;
            let number = check.number;
            self.notice(operator, pair, number, Duration::ZERO);
        }
    }

    pub fn command_rejected(&mut self, pod: u64, operator: usize, message: String) {
        for pair in 0..self.pairs.len() {
            let Some(worker) = self.worker_mut(operator, pair) else {
                continue;
            };
            let check = worker
                .checks
                .iter_mut()
                .find(|check| check.kind == CheckKind::Control(pod));
            if let Some(check) = check {
                check.rejected = Some(message.clone());
                check.seen = None;
                let number = check.number;
                self.notice(operator, pair, number, TRIP);
            }
        }
    }

    pub fn check_event(&mut self, operator: usize, pair: usize, worker: u64, CheckEvent(number, turn): CheckEvent) {
        let Some(found) = self.worker_mut(operator, pair) else {
            return;
        };
        if found.number != worker {
            return;
        }
        let Some(at) = found.checks.iter().position(|check| check.number == number) else {
            return;
        };
        if turn.is_some_and(|turn| turn != found.checks[at].turn) {
            return;
        }
        let mut step = CheckStep {
            world: self,
            operator,
            pair,
            at,
            inputs: Vec::new(),
        };
        let next = step.run();
        let inputs = step.inputs;
        let now = self.now;
        if let Some(found) = self.worker_mut(operator, pair) {
            let check = &mut found.checks[at];
            check.turn += 1;
            let turn = check.turn;
            // Never twice at the same moment.
            let by = next.after(now).max(Duration::from_micros(100));
            self.operator_later(
                operator,
                by,
                OperatorEvent::Check(pair, worker, CheckEvent(number, Some(turn))),
            );
        }
        for input in inputs {
            self.feed(operator, pair, input);
        }
    }
}
