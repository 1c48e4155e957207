//! One side of a pair: its gates, its ObjectServer, and the health computed from both.

use std::{
    cmp::Reverse,
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    api::SideSpec,
    domain::{
        evidence::{
            ADMITS_WITHIN, Fault, GateEvidence, GateReport, Link, PodState, Reading, ServerEvidence, Timing, classify,
            oldest_silence, without_pod,
        },
        expiry::Expiry,
        gate_mode::{GateMode, Occupancy},
        health::SideHealth,
        now::Now,
        resync::ServerState,
    },
    protocol::{GateState, Report, Request, Upstream},
};

/// A proxy pod, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.name`.
    pub name: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It is being deleted, and should be gone by then.
    pub terminating_until: Option<Timestamp>,
    /// Why it does not run, in the cluster's words.
    pub failure: Option<String>,
    /// The pod template that it was made from.
    pub template: Option<String>,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The gate in the pod with that `metadata.uid`.
    Gate(String),
    /// The ObjectServer.
    Server,
}

/// An observation of one gate.
#[derive(Clone, Debug, PartialEq)]
pub enum GateObservation {
    /// The state of the connection to its control port.
    Control(Link),
    /// The state of the check session through it.
    Path(Link),
    /// A report, and when it arrived.
    Report(Instant, Box<Report>),
}

/// An observation of one ObjectServer.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerObservation {
    /// The state of the direct connection.
    Direct(Link),
    /// What it says about itself.
    State(ServerState),
    /// The session ended in which it said that.
    SessionEnded,
    /// When the certificate that it showed expires.
    CertificateExpires(Timestamp),
}

/// One gate.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Its pod.
    pub pod: PodView,
    /// What was observed of it.
    pub evidence: GateEvidence,
    mode: Option<GateMode>,
    commanded: Option<Request>,
    /// A report is wanted now.
    recheck: bool,
}

impl Gate {
    fn new(pod: PodView, state: PodState) -> Self {
        Self {
            evidence: GateEvidence::none(state, pod.failure.clone()),
            pod,
            mode: None,
            commanded: None,
            recheck: false,
        }
    }

    /// Probe sessions, by its newest report.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.report().map_or(0, |report| report.sessions)
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            sessions: self.sessions(),
            terminating: self.evidence.pod == PodState::Terminating
                || self.report().is_some_and(|report| report.terminating),
            last: self.mode,
        }
    }

    /// Takes note of a command. Whether it differs from the one in force.
    pub(super) fn command(&mut self, mode: GateMode, request: &Request, now: Instant) -> bool {
        self.mode = Some(mode);
        self.take_note_of_refusal(now);
        let is_new = self.commanded.as_ref() != Some(request);
        if is_new {
            self.commanded = Some(request.clone());
        }
        is_new
    }

    /// Keeps since when the gate has not done what it is commanded to: accept probes.
    fn take_note_of_refusal(&mut self, now: Instant) {
        // Without its ObjectServer it refuses probes whatever it is commanded.
        let could_admit = |report: &Report| report.upstream == Upstream::Reachable && report.state != GateState::Open;
        let refuses = self.mode == Some(GateMode::Admit) && self.report().is_some_and(could_admit);
        self.evidence.refusing_since = refuses.then(|| self.evidence.refusing_since.unwrap_or(now));
    }

    pub(super) fn take_recheck(&mut self) -> bool {
        std::mem::take(&mut self.recheck)
    }

    fn report(&self) -> Option<&Report> {
        self.evidence.report.as_ref().map(|report| &report.report)
    }

    fn rank(&self, now: Timestamp) -> (u8, Option<Timestamp>) {
        let rank = match self.pod.terminating_until {
            Some(until) if until >= now => 2,
            None => 1,
            Some(_) => 0,
        };
        (rank, self.pod.created)
    }
}

/// One side of a pair.
#[derive(Clone, Debug)]
pub struct SideState {
    /// Its gates. The first is the one that stands for the side:
    ///
    /// 1. a terminating one, as long as it may take to end: it holds the sessions, and a Service that selects the side would also send
    ///    probes to it;
    /// 2. else the newest;
    /// 3. else one that is terminating for longer than it may take, as on a lost node.
    pub gates: Vec<Gate>,
    /// What was observed of its ObjectServer.
    pub server: ServerEvidence,
    /// Whether an event sent to it would arrive.
    pub health: SideHealth,
    pods: Pods,
    /// No reading has said anything yet.
    is_unobserved: bool,
    server_certificate: Option<Timestamp>,
}

/// What is known of the pods of a side as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pods {
    /// They have not been listed yet.
    Unlisted,
    /// There is at least one.
    Some,
    /// There is none.
    None { since: Instant },
}

impl SideState {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            gates: Vec::new(),
            server: ServerEvidence::NONE,
            health: SideHealth::unknown(now),
            pods: Pods::Unlisted,
            is_unobserved: true,
            server_certificate: None,
        }
    }

    /// The gate that stands for the side.
    #[must_use]
    pub fn standing(&self) -> Option<&Gate> {
        self.gates.first()
    }

    /// Probe sessions on all its gates.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.gates
            .iter()
            .fold(0, |sum, gate| sum.saturating_add(gate.sessions()))
    }

    /// Certificate expiry times: the nearest of its gates, and the ObjectServer's.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        let listeners = self.gates.iter().filter_map(Gate::report);
        Expiry {
            listener: listeners.filter_map(|report| report.listener_certificate_expires).min(),
            object_server: self.server_certificate,
        }
    }

    pub(super) const fn is_unobserved(&self) -> bool {
        self.is_unobserved
    }

    pub(super) fn take_pods(&mut self, pods: &[PodView], now: Now) {
        let missing_since = match self.pods {
            Pods::None { since } => Some(since),
            Pods::Some | Pods::Unlisted => None,
        };
        let mut before = std::mem::take(&mut self.gates);
        for pod in pods {
            let known = before
                .iter()
                .position(|gate| gate.pod.uid == pod.uid)
                .map(|at| before.swap_remove(at));
            let known_state = known.as_ref().map(|gate| gate.evidence.pod);
            let state = pod_state(pod, known_state, missing_since, now.monotonic);
            let mut gate = match known {
                Some(gate) if gate.pod.ip == pod.ip => gate,
                _ => Gate::new(pod.clone(), state),
            };
            gate.evidence.pod = state;
            gate.evidence.pod_failure.clone_from(&pod.failure);
            gate.pod = pod.clone();
            self.gates.push(gate);
        }
        self.gates.sort_by_key(|gate| Reverse(gate.rank(now.wall)));
        self.pods = if self.gates.is_empty() {
            Pods::None {
                since: missing_since.unwrap_or(now.monotonic),
            }
        } else {
            Pods::Some
        };
    }

    /// Takes in an observation of a gate. Returns pod and message of a command that the gate rejected.
    pub(super) fn take_gate(
        &mut self,
        uid: &str,
        observation: GateObservation,
        other: &SideSpec,
    ) -> Option<(String, String)> {
        let gate = self.gates.iter_mut().find(|gate| gate.pod.uid == uid)?;
        match observation {
            GateObservation::Control(link) => gate.evidence.control = link,
            GateObservation::Path(link) => {
                let is_failed = |link: &Link| matches!(link, Link::Failed { .. });
                // The gate may not have noticed yet: its report tells the broken path from the dead ObjectServer.
                gate.recheck |= is_failed(&link) && !is_failed(&gate.evidence.path);
                gate.evidence.path = link;
            }
            // The address of a pod that is gone was given to a pod of the other side, and both have the same certificate.
            GateObservation::Report(at, report)
                if report.gate == other.server_name && report.object_server == other.object_server.name =>
            {
                gate.evidence.report = None;
                gate.evidence.control = Link::Failed {
                    since: at,
                    fault: Fault::Connection,
                    message: format!("the gate at this address is {}", report.gate),
                };
            }
            GateObservation::Report(at, report) => {
                let rejected = report.rejected_command.clone();
                let is_restarted = gate.report().is_some_and(|known| known.instance != report.instance);
                if is_restarted {
                    gate.mode = None;
                }
                gate.evidence.report = Some(GateReport::after(gate.evidence.report.as_ref(), at, *report));
                gate.take_note_of_refusal(at);
                return rejected.map(|message| (gate.pod.name.clone(), message));
            }
        }
        None
    }

    pub(super) fn take_server(&mut self, observation: ServerObservation, description: &str, lasts: Duration, now: Now) {
        match observation {
            ServerObservation::Direct(link) => self.server.take_link(link, now.monotonic),
            ServerObservation::State(state) => {
                self.server.state = Some(state.after(self.server.state.as_ref(), description, lasts));
            }
            ServerObservation::SessionEnded => {
                if let Some(state) = &mut self.server.state {
                    state.end_session();
                }
            }
            ServerObservation::CertificateExpires(expires) => self.server_certificate = Some(expires),
        }
    }

    /// Forgets what was observed by checks that were restarted.
    pub(super) fn forget(&mut self, source: &Source) {
        match source {
            Source::Server => {
                self.server = ServerEvidence::NONE;
                self.server_certificate = None;
            }
            Source::Gate(uid) => {
                if let Some(gate) = self.gates.iter_mut().find(|gate| gate.pod.uid == *uid) {
                    let report = gate.evidence.report.take();
                    gate.evidence = GateEvidence {
                        report,
                        ..GateEvidence::none(gate.evidence.pod, gate.pod.failure.clone())
                    };
                }
            }
        }
    }

    /// Computes the health from all that was observed.
    pub(super) fn assess(&mut self, timing: &Timing, now: Instant) {
        let reading = match (self.pods, self.gates.first()) {
            (Pods::None { since }, _) => without_pod(since, timing),
            (_, None) => Reading::Unknown,
            (_, Some(gate)) => classify(&gate.evidence, &self.server, timing, now),
        };
        self.is_unobserved &= matches!(
            reading,
            Reading::Unknown | Reading::Unseen { .. } | Reading::Doubtful { .. }
        );
        self.health = self.health.clone().step(&reading, timing, now);
    }

    /// When the health, or which gate stands for the side, may change although nothing is observed.
    pub(super) fn next_look(&self, timing: &Timing, now: Now) -> Option<Instant> {
        let standing = self.standing();
        let links = standing.map(|gate| [&gate.evidence.control, &gate.evidence.path]);
        let silence = oldest_silence(links.into_iter().flatten().chain([&self.server.direct]))
            .map(|since| since + timing.doubtful_after())
            .filter(|at| *at > now.monotonic);
        let ends = standing
            .and_then(|gate| gate.pod.terminating_until)
            .filter(|until| *until >= now.wall)
            .map(|until| now.instant_ahead(until) + Duration::from_millis(1));
        let refusal = standing
            .and_then(|gate| gate.evidence.refusing_since)
            .map(|since| since + ADMITS_WITHIN);
        [self.health.look_again, silence, ends, refusal]
            .into_iter()
            .flatten()
            .filter(|at| *at > now.monotonic)
            .min()
    }

    /// Puts the gates in order again: time alone changes which one stands for the side.
    pub(super) fn order_gates(&mut self, now: Timestamp) {
        self.gates.sort_by_key(|gate| Reverse(gate.rank(now)));
    }
}

fn pod_state(pod: &PodView, known: Option<PodState>, missing_since: Option<Instant>, now: Instant) -> PodState {
    if pod.terminating_until.is_some() {
        PodState::Terminating
    } else if pod.ip.is_some() {
        PodState::Running
    } else if let Some(PodState::Starting { since }) = known {
        PodState::Starting { since }
    } else {
        PodState::Starting {
            since: missing_since.unwrap_or(now),
        }
    }
}
