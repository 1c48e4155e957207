//! A gate process. Admission, commands, terms, termination and the pace of a drain are the product's; the watch over the ObjectServer, the
//! sockets and the sessions stand for src/gate/{upstream,listener,session}.rs, which need real connections.

mod upstream;

use std::time::Duration;

use proxypair::{
    gate::{
        commands::{self, Terms},
        drain::{Credit, Plan},
        mode::{self, ActiveCommand, Inputs, Listening, Mode, Termination},
    },
    protocol::{Report, Request, UnreachableCause},
};

use self::upstream::{UpstreamWatch, unreachable};
use super::{
    clock::Time,
    network::{Link, Passage},
    pod::PodEvent,
    probe::SessionEnd,
    world::{Event, World},
};

/// A gate process.
pub struct Gate {
    /// Random for each process, as in its reports.
    pub instance: u64,
    /// It is stopped: it answers nothing, and its kernel keeps its connections.
    pub is_frozen: bool,
    pub inputs: Inputs,
    pub terms: Terms,
    pub mode: Mode,
    pub listening: Listening,
    /// Grows with each change that an operator is told of.
    pub version: u64,
    watch: UpstreamWatch,
    /// Sessions that the drain may close now.
    permits: usize,
    drain: Option<(Plan, Credit, Time)>,
    /// Connections of operators to its control port.
    controls: Vec<Control>,
    /// When it last went on after it had been stopped, or its node was back.
    pub thawed: Time,
    /// What reached its kernel while it was stopped.
    held: Vec<GateEvent>,
    /// The highest term of any operator that has connected.
    pub highest_term: u64,
}

impl Gate {
    pub const fn is_draining(&self) -> bool {
        matches!(self.mode, Mode::Draining { .. })
    }

    /// Probes that connect are served.
    pub fn accepts(&self) -> bool {
        self.mode == Mode::Open && self.listening == Listening::Yes
    }
}

/// A connection of an operator to the control port.
struct Control {
    operator: usize,
    /// The process, and its check.
    life: u32,
    check: u64,
    term: u64,
    /// When it was last seen to be open.
    seen: Time,
}

/// What happens to a gate.
#[derive(Clone, Debug)]
pub enum GateEvent {
    /// Its watch over the ObjectServer has something to do, or may notice a change.
    Watch,
    /// A command arrives on a connection of that operator.
    Command {
        holder: String,
        term: u64,
        request: Request,
        operator: usize,
    },
    /// It looks whether its control connections are still there, and whether the command in force lapses.
    Attend,
    /// The mode may change because time has passed.
    Refresh,
    /// The port for probes is open.
    Opened,
    /// The pacer issues permits.
    Pace,
}

/// How often permits are issued. The gate does it every 10 ms.
const PACE: Duration = Duration::from_millis(50);
/// How often a gate looks after its control connections. A real one is told by its kernel.
const ATTENDS: Duration = Duration::from_secs(1);

impl World {
    pub fn gate(&self, pod: u64) -> Option<&Gate> {
        self.pod(pod)?.1.gate.as_ref()
    }

    fn gate_mut(&mut self, pod: u64) -> Option<&mut Gate> {
        self.pod_mut(pod)?.gate.as_mut()
    }

    pub fn start_gate(&mut self, pod: u64) {
        let instance = self.new_id();
        let inputs = Inputs {
            command: ActiveCommand::Admit,
            termination: None,
            upstream: unreachable(UnreachableCause::Untried, "the gate has just started"),
            keeps_sessions: false,
            unattended_since: None,
        };
        let gate = Gate {
            instance,
            is_frozen: false,
            mode: mode::decide(&inputs, self.now.tokio()),
            inputs,
            terms: Terms::default(),
            listening: Listening::No,
            version: 0,
            watch: UpstreamWatch::new(self.now),
            permits: 0,
            drain: None,
            controls: Vec::new(),
            thawed: self.now,
            held: Vec::new(),
            highest_term: 0,
        };
        if let Some(found) = self.pod_mut(pod) {
            found.gate = Some(gate);
        }
        self.note(
            format_args!("pod {pod}"),
            format_args!("its gate starts, process {instance}"),
        );
        self.is_disturbed = true;
        self.gate_later(pod, Duration::from_millis(1), GateEvent::Watch);
    }

    /// The process is gone; its kernel closes its connections.
    pub fn end_gate(&mut self, pod: u64, why: &str) {
        if self.pod_mut(pod).and_then(|pod| pod.gate.take()).is_some() {
            self.note(format_args!("pod {pod}"), format_args!("its gate ends: {why}"));
            self.end_sessions_of(pod, SessionEnd::GateGone);
            self.is_disturbed = true;
        }
    }

    pub fn terminate_gate(&mut self, pod: u64) {
        let Some((pair, _)) = self.pod(pod) else { return };
        let (grace, now) = (self.grace(pair), self.now);
        let per_second = self.plan.pairs[pair].pair.spec.failback.drain.connections_per_second;
        let Some(gate) = self.gate_mut(pod) else {
            self.later(Duration::from_millis(10), Event::Pod(pod, PodEvent::Ends));
            return;
        };
        if gate.is_frozen || gate.inputs.termination.is_some() {
            return;
        }
        let per_second = u32::try_from(per_second).unwrap_or(1);
        let termination = Termination::begin(now.tokio(), grace, per_second);
        gate.inputs.termination = Some(termination);
        self.note(format_args!("pod {pod}"), format_args!("receives SIGTERM"));
        for at in [termination.serves_until, termination.drained_by] {
            let after = at.saturating_duration_since(now.tokio());
            self.gate_later(pod, after, GateEvent::Refresh);
        }
        self.gate_changed(pod);
    }

    fn gate_later(&mut self, pod: u64, by: Duration, event: GateEvent) {
        if let Some(instance) = self.gate(pod).map(|gate| gate.instance) {
            self.later(by, Event::Gate { pod, instance, event });
        }
    }

    pub fn gate_event(&mut self, pod: u64, instance: u64, event: GateEvent) {
        let Some(gate) = self.gate_mut(pod).filter(|gate| gate.instance == instance) else {
            return;
        };
        if gate.is_frozen {
            // It looks at its ObjectServer when it goes on, and does then what was due meanwhile.
            if !matches!(event, GateEvent::Watch) {
                gate.held.push(event);
            }
            return;
        }
        match event {
            GateEvent::Watch => self.watch_upstream(pod),
            GateEvent::Command {
                holder,
                term,
                request,
                operator,
            } => self.gate_commanded(pod, &holder, term, &request, operator),
            GateEvent::Attend => self.gate_attends(pod),
            GateEvent::Refresh => self.gate_changed(pod),
            GateEvent::Opened => self.port_opens(pod),
            GateEvent::Pace => self.pace(pod),
        }
    }

    /// The process is stopped, or goes on.
    pub fn freeze_gate(&mut self, pod: u64, is_frozen: bool) {
        let now = self.now;
        let Some(gate) = self.gate_mut(pod) else { return };
        gate.is_frozen = is_frozen;
        if is_frozen {
            return;
        }
        gate.thawed = now;
        for event in std::mem::take(&mut gate.held) {
            self.gate_later(pod, Duration::ZERO, event);
        }
    }

    /// Its node was cut off, and with it what a kernel would have said of its ObjectServer.
    pub fn gate_is_back(&mut self, pod: u64) {
        let now = self.now;
        if let Some(gate) = self.gate_mut(pod) {
            gate.thawed = now;
        }
    }

    /// A new connection of an operator: its term counts from now on.
    pub fn gate_greeted(&mut self, pod: u64, operator: usize, check: u64, term: u64) {
        let (life, seen) = (self.operators[operator].life, self.now);
        let Some(gate) = self.gate_mut(pod) else { return };
        let unattended_since = &mut gate.inputs.unattended_since;
        gate.terms
            .note(&format!("operator-{operator}"), term, || *unattended_since = None);
        gate.highest_term = gate.highest_term.max(term);
        let is_first = gate.controls.is_empty();
        gate.controls.push(Control {
            operator,
            life,
            check,
            term,
            seen,
        });
        if is_first {
            self.gate_later(pod, ATTENDS, GateEvent::Attend);
        }
    }

    /// Looks after the control connections, and has a command lapse that nobody is left to take back.
    fn gate_attends(&mut self, pod: u64) {
        let Some((pair, found)) = self.pod(pod) else { return };
        let side = found.side;
        let (now, limit) = (
            self.now,
            self.plan.pairs[pair].pair.spec.health_check.unresponsive_after.get(),
        );
        let Some(gate) = self.gate(pod) else { return };
        let seen: Vec<_> = gate
            .controls
            .iter()
            .map(|control| {
                let link = Link::OperatorGate(control.operator, pair, side);
                let is_open = self.operators[control.operator].life == control.life
                    && self.has_open_check(control.operator, pair, control.check);
                match self.network.at_pod(pod, link, false) {
                    Passage::Free(_) if is_open => Some(now),
                    Passage::Silent | Passage::OneWay => Some(control.seen).filter(|seen| now.after(*seen) < limit),
                    Passage::Free(_) | Passage::Refused => None,
                }
            })
            .collect();
        let sessions = self.sessions_on(pod);
        let Some(gate) = self.gate_mut(pod) else { return };
        let unattended_since = &mut gate.inputs.unattended_since;
        let terms = &gate.terms;
        let mut seen = seen.into_iter();
        gate.controls.retain_mut(|control| match seen.next().flatten() {
            Some(seen) => {
                control.seen = seen;
                true
            }
            None => {
                terms.leave(control.term, || *unattended_since = Some(now.tokio()));
                false
            }
        });
        let lapses_at = gate.inputs.lapses_at(2 * limit);
        let lapses = lapses_at.is_some_and(|at| at <= now.tokio()) && sessions == 0;
        if !gate.controls.is_empty() || lapses_at.is_some() {
            self.gate_later(pod, ATTENDS, GateEvent::Attend);
        }
        if lapses && let Some(gate) = self.gate_mut(pod) {
            gate.inputs.command = ActiveCommand::Admit;
            self.note(format_args!("pod {pod}"), format_args!("its command lapses"));
            self.gate_changed(pod);
        }
    }

    fn gate_commanded(&mut self, pod: u64, holder: &str, term: u64, request: &Request, operator: usize) {
        let now = self.now.tokio();
        let Some(gate) = self.gate_mut(pod) else { return };
        let accepted = gate
            .terms
            .act(holder, term, || commands::accept(&gate.inputs, request, now));
        match accepted {
            Ok(command) => {
                let is_new = command != gate.inputs.command;
                gate.inputs.command = command;
                if is_new {
                    self.note(
                        format_args!("pod {pod}"),
                        format_args!("is commanded by {holder}: {request:?}"),
                    );
                    self.guarantee_07_commanded(pod, operator, term);
                    self.gate_changed(pod);
                }
            }
            Err(error) => {
                self.note(format_args!("pod {pod}"), format_args!("rejects {request:?}: {error}"));
                self.command_rejected(pod, operator, error.to_string());
            }
        }
    }

    /// An input of the mode has changed, or time has passed.
    pub fn gate_changed(&mut self, pod: u64) {
        let now = self.now;
        let Some((pair, found)) = self.pod(pod) else { return };
        let port_is_closed = self.pairs[pair].port_closed[found.side];
        let Some(gate) = self.gate_mut(pod) else { return };
        let mode = mode::decide(&gate.inputs, now.tokio());
        gate.version += 1;
        if mode != gate.mode {
            gate.mode = mode;
            gate.permits = 0;
            gate.drain = None;
            match mode {
                Mode::Open if port_is_closed => {
                    gate.listening = Listening::Failed("no certificate to show to probes".to_owned());
                }
                Mode::Open => self.gate_later(pod, Duration::from_millis(1), GateEvent::Opened),
                Mode::Draining { deadline, per_second } => {
                    gate.listening = Listening::No;
                    let left = deadline.saturating_duration_since(now.tokio());
                    let plan = Plan::new(per_second, deadline, now.tokio());
                    gate.drain = Some((plan, Credit::default(), now));
                    self.gate_later(pod, left, GateEvent::Refresh);
                    self.gate_later(pod, PACE, GateEvent::Pace);
                }
                Mode::Refusing | Mode::Closed(_) => gate.listening = Listening::No,
            }
            self.note(format_args!("pod {pod}"), format_args!("{}", mode_word(mode)));
        }
        match mode {
            Mode::Closed(by) => self.end_sessions_of(pod, SessionEnd::Closed(by)),
            Mode::Draining { deadline, .. } if deadline <= now.tokio() => {
                self.end_sessions_of(pod, SessionEnd::DrainDeadline);
            }
            Mode::Draining { .. } | Mode::Refusing | Mode::Open => {}
        }
        self.exit_if_done(pod);
        self.is_disturbed = true;
    }

    fn port_opens(&mut self, pod: u64) {
        if let Some(gate) = self.gate_mut(pod)
            && gate.mode == Mode::Open
            && gate.listening == Listening::No
        {
            gate.listening = Listening::Yes;
            gate.version += 1;
            self.is_disturbed = true;
        }
    }

    /// The listener's certificate can be used again, or no longer.
    pub fn port_changed(&mut self, pod: u64, is_closed: bool) {
        let Some(gate) = self.gate_mut(pod) else { return };
        if is_closed {
            return; // A running gate keeps the certificate that it has.
        }
        if matches!(gate.listening, Listening::Failed(_)) {
            gate.listening = Listening::No;
            gate.version += 1;
            self.gate_later(pod, Duration::from_secs(1), GateEvent::Opened);
        }
    }

    pub fn exit_if_done(&mut self, pod: u64) {
        let (sessions, now) = (self.sessions_on(pod), self.now);
        let is_done = |gate: &Gate| !gate.is_frozen && mode::may_exit(&gate.inputs, sessions, now.tokio());
        if self.gate(pod).is_some_and(is_done) {
            self.end_sessions_of(pod, SessionEnd::DrainDeadline);
            self.end_gate(pod, "it is drained");
            self.later(Duration::from_millis(100), Event::Pod(pod, PodEvent::Ends));
        }
    }

    /// The pacer: permits that are not taken by the next issue expire.
    fn pace(&mut self, pod: u64) {
        let (now, sessions) = (self.now, self.sessions_on(pod));
        let Some(gate) = self.gate_mut(pod) else { return };
        let Some((plan, credit, last)) = &mut gate.drain else {
            return;
        };
        gate.permits = credit.earn(plan.rate(sessions, now.tokio()), now.after(*last));
        *last = now;
        self.close_idle_sessions(pod);
        if self.sessions_on(pod) > 0 {
            self.gate_later(pod, PACE, GateEvent::Pace);
        }
    }

    /// Whether a session on that gate that has nothing outstanding may be closed now.
    pub fn take_permit(&mut self, pod: u64) -> bool {
        let Some(gate) = self.gate_mut(pod) else { return false };
        let may = matches!(gate.mode, Mode::Draining { .. }) && gate.permits > 0 && !gate.is_frozen;
        gate.permits -= usize::from(may);
        may
    }

    /// What the gate tells an operator.
    pub fn report(&self, pod: u64) -> Option<Report> {
        let (pair, found) = self.pod(pod)?;
        let gate = found.gate.as_ref()?;
        let side = self.plan.pairs[pair].pair.spec.side(found.side);
        let sessions = self.sessions_on(pod);
        Some(Report {
            gate: side.server_name.clone(),
            object_server: side.object_server.name.clone(),
            instance: gate.instance.to_string(),
            answers: None,
            state: mode::reported(gate.mode, gate.listening == Listening::Yes, sessions),
            sessions,
            upstream: gate.inputs.upstream.clone(),
            terminating: gate.inputs.termination.is_some(),
            listen_error: match &gate.listening {
                Listening::Failed(why) => Some(why.clone()),
                Listening::Yes | Listening::No => None,
            },
            listener_certificate_expires: None,
            rejected_command: None,
            sights: Vec::new(),
        })
    }

    /// Gates may notice that something has changed.
    pub fn gates_notice(&mut self) {
        let pods: Vec<_> = self
            .pairs
            .iter()
            .flat_map(|pair| pair.pods.iter().map(|pod| pod.id))
            .collect();
        for pod in pods {
            let notices = self.random.millis(0, 5);
            self.gate_later(pod, notices, GateEvent::Watch);
        }
    }
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Open => "opens",
        Mode::Refusing => "refuses probes and keeps its sessions",
        Mode::Draining { .. } => "drains",
        Mode::Closed(mode::ClosedBy::Command) => "closes: commanded",
        Mode::Closed(mode::ClosedBy::Upstream) => "closes: its ObjectServer is away",
    }
}
