//! What a check does when it is due: it connects, asks, takes answers, and reports what it observes.

use std::time::Duration;

use proxypair::{
    api::Side,
    domain::{
        evidence::{Fault, Link},
        machine::{GateObservation, Input, ServerObservation},
        resync::ServerState,
    },
};

use super::{
    super::{
        clock::Time,
        gate::GateEvent,
        network::{Link as Wire, Passage},
        world::{Event, World},
    },
    Check, CheckKind, State, TRIP,
};

/// Times as in src/check.
const RETRY: Duration = Duration::from_millis(100);
const LOGIN_RETRY: Duration = Duration::from_secs(1);
const LOGIN_BACKOFF: Duration = Duration::from_secs(60);
const ATTEMPT: Duration = Duration::from_secs(2);
const GIVE_UP: Duration = Duration::from_secs(300);
const PINGS: u32 = 6;
const PINGS_BEFORE_LOST: u32 = 2;
const SUSPECTED_AFTER: Duration = Duration::from_millis(200);

/// One step of one check.
pub struct CheckStep<'a> {
    pub world: &'a mut World,
    pub operator: usize,
    pub pair: usize,
    /// Which check of the worker it is.
    pub at: usize,
    /// What it observes.
    pub inputs: Vec<Input>,
}

impl CheckStep<'_> {
    fn check(&mut self) -> Option<&mut Check> {
        let at = self.at;
        self.world.worker_mut(self.operator, self.pair)?.checks.get_mut(at)
    }

    /// Does what is due. Returns when it has something to do next.
    pub fn run(&mut self) -> Time {
        let now = self.world.now;
        let Some(check) = self.check() else {
            return now + GIVE_UP;
        };
        match check.state {
            State::Waiting { until } if until > now => until,
            State::Waiting { .. } => {
                check.state = State::Connecting {
                    since: now,
                    is_silent: false,
                };
                now + TRIP
            }
            State::Connecting { since, is_silent } => self.connects(since, is_silent),
            State::Open {
                peer,
                asked,
                next,
                is_silent,
            } => self.asks(peer, asked, next, is_silent),
        }
    }

    fn connects(&mut self, since: Time, is_silent: bool) -> Time {
        let now = self.world.now;
        let interval = self.interval();
        if let Some(until) = self.login_waits() {
            return self.fails(Fault::Login, "the login is refused", until);
        }
        if self.world.operators[self.operator].is_blind {
            let link = Link::Unseen {
                message: "no file descriptor is left".to_owned(),
            };
            self.link(link);
            self.set(State::Waiting { until: now + RETRY });
            return now + RETRY;
        }
        match self.reach(true) {
            Ok(Reach::Answers { peer, trip }) if now >= since + TRIP + trip => {
                if let Some((fault, wait)) = self.rejects_login() {
                    return self.fails(fault, "the login is refused", now + wait);
                }
                self.opens(peer)
            }
            Ok(Reach::Answers { trip, .. }) => self.waits(since, is_silent, interval, Some(since + TRIP + trip)),
            Ok(Reach::Silent) => self.waits(since, is_silent, interval, None),
            Err(()) if now >= since + TRIP => self.fails(Fault::Connection, "connection refused", now + RETRY),
            Err(()) => since + TRIP,
        }
    }

    /// Waits for a connection that is there at `due`. It is late after an interval, and given up after [`ATTEMPT`].
    fn waits(&mut self, since: Time, is_silent: bool, interval: Duration, due: Option<Time>) -> Time {
        let now = self.world.now;
        let (late, end) = (since + interval.min(ATTEMPT), since + ATTEMPT);
        if now >= end {
            // Also an attempt that is given up before it was late.
            if !is_silent {
                self.silent(since);
            }
            self.set(State::Waiting { until: now + RETRY });
            return now + RETRY;
        }
        let is_late = now >= late;
        if is_late && !is_silent {
            self.set(State::Connecting { since, is_silent: true });
            self.silent(since);
        }
        let next = if is_late { end } else { late };
        due.map_or(next, |due| due.min(next))
    }

    fn opens(&mut self, peer: (u64, u64)) -> Time {
        let now = self.world.now;
        self.set(State::Open {
            peer,
            asked: Some(now),
            next: now,
            is_silent: false,
        });
        if let Some(check) = self.check() {
            check.is_sent = false;
            check.has_reported = false;
        }
        let (operator, pair) = (self.operator, self.pair);
        let greeting = self.check().and_then(|check| match check.kind {
            CheckKind::Control(pod) => Some((pod, check.number)),
            CheckKind::Path(_) | CheckKind::Direct => None,
        });
        if let Some((pod, number)) = greeting {
            let term = self.world.worker(operator, pair).map_or(0, |worker| worker.term);
            self.world.gate_greeted(pod, operator, number, term);
        }
        now + TRIP
    }

    fn asks(&mut self, peer: (u64, u64), asked: Option<Time>, next: Time, is_silent: bool) -> Time {
        let now = self.world.now;
        let every = self.every();
        let interval = match self.is_control() {
            true => SUSPECTED_AFTER,
            false => self.interval().min(every),
        };
        match self.reach(false) {
            Err(()) => self.closed(asked.filter(|_| is_silent)),
            Ok(Reach::Answers { peer: found, .. }) if found != peer => self.closed(asked.filter(|_| is_silent)),
            Ok(Reach::Answers { trip, .. }) => {
                self.sends_command(trip);
                self.reports(false);
                let asked = match asked {
                    Some(asked) if now >= asked + TRIP + trip => {
                        self.answered(asked);
                        let next = (asked + every).max(now);
                        self.set(State::Open {
                            peer,
                            asked: None,
                            next,
                            is_silent: false,
                        });
                        return next;
                    }
                    Some(asked) => asked,
                    None if now >= next => now,
                    None => return next,
                };
                let is_late = self.is_late(asked, interval, is_silent);
                self.set(State::Open {
                    peer,
                    asked: Some(asked),
                    next,
                    is_silent: is_late,
                });
                asked + TRIP + trip
            }
            Ok(Reach::Silent) => {
                let asked = asked.unwrap_or_else(|| next.max(now));
                if self.is_one_way() {
                    self.sends_command(Duration::ZERO);
                }
                let is_late = self.is_late(asked, interval, is_silent);
                if self.asks_anything() && now >= asked + GIVE_UP {
                    // Nobody will answer on this connection any more.
                    self.set(State::Waiting { until: now + RETRY });
                    return now + RETRY;
                }
                if !self.asks_anything() {
                    return now + Duration::from_secs(5);
                }
                self.set(State::Open {
                    peer,
                    asked: Some(asked),
                    next,
                    is_silent: is_late,
                });
                if is_late {
                    (now + Duration::from_secs(1)).min(asked + GIVE_UP)
                } else {
                    asked + interval
                }
            }
        }
    }

    /// Reports a silence that has become long enough, once.
    fn is_late(&mut self, asked: Time, interval: Duration, is_silent: bool) -> bool {
        let is_late = self.world.now >= asked + interval;
        if is_late && !is_silent {
            self.silent(asked);
        }
        is_late || is_silent
    }

    /// The other end has closed the connection: it is made again at once.
    fn closed(&mut self, silent_since: Option<Time>) -> Time {
        let now = self.world.now;
        let is_control = self.is_control();
        let is_direct = self.check().is_some_and(|check| check.kind == CheckKind::Direct);
        if is_direct && self.has_login() {
            let side = self.check().map_or(Side::Primary, |check| check.side);
            self.inputs.push(Input::Server(side, ServerObservation::SessionEnded));
        }
        let since = silent_since.unwrap_or(now);
        if is_control {
            if let Some(check) = self.check() {
                check.failing_since.get_or_insert(since);
            }
        } else {
            self.silent(since);
        }
        self.set(State::Connecting {
            since: now,
            is_silent: false,
        });
        now + TRIP
    }

    fn fails(&mut self, fault: Fault, message: &str, until: Time) -> Time {
        let now = self.world.now;
        let Some(check) = self.check() else { return until };
        check.state = State::Waiting { until };
        let since = *check.failing_since.get_or_insert(now);
        self.link(Link::Failed {
            since: since.instant(),
            fault,
            message: message.to_owned(),
        });
        until
    }

    fn silent(&mut self, since: Time) {
        let Some(check) = self.check() else { return };
        let since = match check.kind {
            CheckKind::Control(_) if matches!(check.state, State::Open { .. }) => since,
            _ => *check.failing_since.get_or_insert(since),
        };
        self.link(Link::Silent { since: since.instant() });
    }

    fn link(&mut self, link: Link) {
        let Some(check) = self.check() else { return };
        let side = check.side;
        let input = match check.kind {
            CheckKind::Control(pod) => Input::Gate(side, format!("pod-{pod}"), GateObservation::Control(link)),
            CheckKind::Path(pod) => Input::Gate(side, format!("pod-{pod}"), GateObservation::Path(link)),
            CheckKind::Direct => Input::Server(side, ServerObservation::Direct(link)),
        };
        self.inputs.push(input);
    }

    /// The answer to what was asked then.
    fn answered(&mut self, asked: Time) {
        let pair = self.pair;
        let Some(check) = self.check() else { return };
        let (side, kind, was_failing) = (check.side, check.kind, check.failing_since.is_some());
        let is_first = !matches!(check.state, State::Open { is_silent: false, .. }) || was_failing;
        if matches!(kind, CheckKind::Control(_)) {
            // A ping is answered by a report, whether or not anything has changed.
            check.seen = None;
            self.reports(true);
            if is_first {
                self.answering();
            }
            return;
        }
        let is_other = self.world.pairs[pair].servers[side].is_other && self.has_login();
        if is_other {
            let since = self
                .check()
                .map_or(asked, |check| *check.failing_since.get_or_insert(asked));
            return self.link(Link::Failed {
                since: since.instant(),
                fault: Fault::WrongServer,
                message: "the server has another name".to_owned(),
            });
        }
        self.answering();
        if kind == CheckKind::Direct && self.has_login() {
            self.states(side, asked);
        }
    }

    /// What an ObjectServer says about itself.
    fn states(&mut self, side: Side, asked: Time) {
        let pair = self.pair;
        let wanted = self
            .world
            .worker(self.operator, pair)
            .is_some_and(|worker| worker.reads_gateways[side]);
        let server = &self.world.pairs[pair].servers[side];
        let state = ServerState {
            asked: asked.instant(),
            answered: self.world.now.instant(),
            acting_primary: Some(server.acting_primary),
            gateways: wanted.then(|| Ok(self.world.pairs[pair].gateway.sessions(side))),
            attached_since: None,
        };
        self.inputs.push(Input::Server(side, ServerObservation::State(state)));
    }

    /// Passes on what the gate reports, as the answer to a ping or because something has changed.
    fn reports(&mut self, is_answer: bool) {
        let now = self.world.now;
        let Some(check) = self.check() else { return };
        let (side, CheckKind::Control(pod), seen) = (check.side, check.kind, check.seen) else {
            return;
        };
        let is_first = !check.has_reported;
        let Some(version) = self.world.gate(pod).map(|gate| gate.version) else {
            return;
        };
        if seen == Some(version) {
            return;
        }
        let Some(mut report) = self.world.report(pod) else {
            return;
        };
        if let Some(check) = self.check() {
            check.seen = Some(version);
            check.has_reported = true;
            report.rejected_command = check.rejected.take();
            report.answers = is_answer.then_some(1);
            let outlook = check.outlook.clone();
            report.sights = self.world.sights_of_others(self.pair, &outlook);
        }
        let observation = GateObservation::Report(now.instant(), Box::new(report));
        self.inputs.push(Input::Gate(side, format!("pod-{pod}"), observation));
        if is_first {
            self.answering();
        }
    }

    fn answering(&mut self) {
        if let Some(check) = self.check() {
            check.failing_since = None;
        }
        self.link(Link::Answering);
    }

    /// On a link on which a message takes this much longer than usual.
    fn sends_command(&mut self, delay: Duration) {
        let (operator, pair, now) = (self.operator, self.pair, self.world.now);
        let Some(check) = self.check() else { return };
        let CheckKind::Control(pod) = check.kind else { return };
        let (false, Some(request)) = (check.is_sent, check.command.clone()) else {
            return;
        };
        check.is_sent = true;
        check.arrives = check.arrives.max(now + TRIP / 2 + delay);
        let arrives = check.arrives;
        let term = self.world.worker(operator, pair).map_or(0, |worker| worker.term);
        let Some(instance) = self.world.gate(pod).map(|gate| gate.instance) else {
            return;
        };
        let event = GateEvent::Command {
            holder: format!("operator-{operator}"),
            term,
            request,
            operator,
        };
        self.world.at(arrives, Event::Gate { pod, instance, event });
    }

    fn set(&mut self, state: State) {
        if let Some(check) = self.check() {
            check.state = state;
        }
    }

    fn interval(&self) -> Duration {
        let worker = self.world.worker(self.operator, self.pair);
        worker.map_or(GIVE_UP, |worker| worker.timing.interval)
    }

    /// How often it asks.
    fn every(&mut self) -> Duration {
        let is_control = self.is_control();
        let has_login = self.has_login();
        let Some(worker) = self.world.worker(self.operator, self.pair) else {
            return GIVE_UP;
        };
        let timing = worker.timing;
        match (is_control, has_login) {
            (true, _) => timing
                .interval
                .min(timing.unresponsive_after / PINGS)
                .min(timing.lost_after / PINGS_BEFORE_LOST),
            (false, true) => timing.interval,
            (false, false) => GIVE_UP,
        }
    }

    fn is_control(&mut self) -> bool {
        let check = self.check();
        check.is_some_and(|check| matches!(check.kind, CheckKind::Control(_)))
    }

    /// Without a login nothing is sent on the connections to an ObjectServer.
    fn asks_anything(&mut self) -> bool {
        let is_control = self.is_control();
        is_control || self.has_login()
    }

    fn has_login(&self) -> bool {
        let worker = self.world.worker(self.operator, self.pair);
        worker.is_some_and(|worker| worker.pair.spec.health_check.login.is_some())
    }

    fn login_waits(&mut self) -> Option<Time> {
        let now = self.world.now;
        let check = self.check()?;
        let side = check.side;
        let is_session = !matches!(check.kind, CheckKind::Control(_));
        let until = self.world.worker(self.operator, self.pair)?.refused_until[side];
        (is_session && self.has_login() && until > now).then_some(until)
    }

    /// Whether the ObjectServer refuses the login, and how long no other is tried.
    fn rejects_login(&mut self) -> Option<(Fault, Duration)> {
        let (now, pair) = (self.world.now, self.pair);
        let check = self.check()?;
        let side = check.side;
        if matches!(check.kind, CheckKind::Control(_)) || !self.has_login() {
            return None;
        }
        if !self.world.pairs[pair].servers[side].refuses_login {
            return None;
        }
        if let Some(worker) = self.world.worker_mut(self.operator, pair) {
            worker.refused_until[side] = now + LOGIN_BACKOFF;
        }
        Some((Fault::Login, LOGIN_BACKOFF.max(LOGIN_RETRY)))
    }

    fn is_one_way(&mut self) -> bool {
        let (operator, pair) = (self.operator, self.pair);
        let Some(check) = self.check() else { return false };
        let (side, Some(pod)) = (check.side, check.pod()) else {
            return false;
        };
        let wire = Wire::OperatorGate(operator, pair, side);
        self.world.network.at_pod(pod, wire, false) == Passage::OneWay
    }

    /// What the other end does with what is sent to it. An error if a kernel refuses or resets it.
    fn reach(&mut self, is_new: bool) -> Result<Reach, ()> {
        let (operator, pair) = (self.operator, self.pair);
        let has_login = self.has_login();
        let Some(check) = self.check() else {
            return Ok(Reach::Silent);
        };
        let (side, kind) = (check.side, check.kind);
        let network = &self.world.network;
        let server = &self.world.pairs[pair].servers[side];
        let passage = match kind {
            CheckKind::Direct => {
                let wire = Wire::OperatorServer(operator, pair, side);
                if is_new {
                    network.connect(wire)
                } else {
                    network.message(wire)
                }
            }
            CheckKind::Control(pod) => network.at_pod(pod, Wire::OperatorGate(operator, pair, side), is_new),
            CheckKind::Path(pod) => network
                .at_pod(pod, Wire::OperatorGate(operator, pair, side), is_new)
                .then(network.at_pod(pod, Wire::GateServer(pair, side), is_new)),
        };
        let trip = match passage {
            Passage::Free(trip) => trip,
            Passage::Silent | Passage::OneWay => return Ok(Reach::Silent),
            Passage::Refused => return Err(()),
        };
        let mut peer = (0, 0);
        if let CheckKind::Control(pod) | CheckKind::Path(pod) = kind {
            let gate = self.world.gate(pod).ok_or(())?;
            if gate.is_frozen {
                return Ok(Reach::Silent);
            }
            peer.0 = gate.instance;
        }
        if !matches!(kind, CheckKind::Control(_)) {
            if !server.is_alive {
                return Err(());
            }
            peer.1 = server.incarnation;
            if server.is_stalled && has_login {
                return Ok(Reach::Silent);
            }
        }
        Ok(Reach::Answers { peer, trip })
    }
}

/// See [`CheckStep::reach`].
enum Reach {
    Answers { peer: (u64, u64), trip: Duration },
    Silent,
}
