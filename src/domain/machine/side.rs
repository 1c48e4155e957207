//! One side of a pair: its gates, its ObjectServer, and the health computed from both.

use std::{
    cmp::Reverse,
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    gate::{Gate, PodView},
    placement::{CONFIRMED_AFTER, TAKEN_OUT_WITHIN, read_all},
    settled::KUBELET_MARGIN,
};
use crate::{
    api::{Health, SideSpec},
    domain::{
        evidence::{ADMITS_WITHIN, Fault, Link, PodState, Reading, ServerEvidence, Timing, without_pod},
        expiry::Expiry,
        gate_mode::STAYS_FOR,
        health::SideHealth,
        now::Now,
        resync::ServerState,
    },
    protocol::{Report, Seen},
};

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The gate in the pod with that `metadata.uid`.
    Gate(String),
    /// The ObjectServer.
    Server,
    /// The virtual Service, which belongs to no side.
    Service,
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
    /// What came back from its host, asked with that number.
    Host(u64, Seen),
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

/// How long after its grace period a pod that is still there counts as lost with its node.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);

/// One side of a pair.
#[derive(Clone, Debug)]
pub struct SideState {
    /// Its gates. The first is the one that stands for the side:
    ///
    /// 1. a terminating one, as long as it may take to end: it holds the sessions, and a Service that selects the side would also send
    ///    probes to it;
    /// 2. else the newest that has an address;
    /// 3. else one that is terminating for longer than it may take, as on a lost node.
    ///
    /// The others count too: a Service that selects the side leads to each of them that has an address, unless it was taken out.
    pub gates: Vec<Gate>,
    /// What was observed of its ObjectServer.
    pub server: ServerEvidence,
    /// Whether an event sent to it would arrive.
    pub health: SideHealth,
    pods: Pods,
    /// No reading has said anything yet.
    is_unobserved: bool,
    /// The checks of its gates were started anew, and no reading has said anything since.
    is_looked_at_anew: bool,
    /// Since when the virtual Service would lead to no gate that serves.
    deserted_since: Option<Instant>,
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
            is_looked_at_anew: false,
            deserted_since: None,
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

    /// How many good gates it has that the virtual Service leads to while it serves.
    #[must_use]
    pub fn good_gates(&self) -> usize {
        self.gates.iter().filter(|gate| gate.is_in() && gate.is_good()).count()
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

    /// Up, and unproven only because its checks were started anew: it is about to be observed.
    pub(super) fn is_looked_at_anew(&self) -> bool {
        self.is_looked_at_anew && self.health.health == Health::Up
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
            let ends_at = known.as_ref().and_then(|gate| gate.ends_at);
            let mut gate = match known {
                Some(gate) if gate.pod.ip == pod.ip => gate,
                _ => Gate::new(pod.clone(), state, now.monotonic),
            };
            gate.ends_at = ends_at;
            gate.take_pod(pod, state, now.monotonic);
            self.gates.push(gate);
        }
        self.order_gates(now.monotonic);
        self.pods = if self.gates.is_empty() {
            Pods::None {
                since: missing_since.unwrap_or(now.monotonic),
            }
        } else {
            Pods::Some
        };
    }

    /// Takes in an observation of a gate.
    pub(super) fn take_gate(&mut self, uid: &str, observation: GateObservation, other: &SideSpec) {
        let Some(gate) = self.gates.iter_mut().find(|gate| gate.pod.uid == uid) else {
            return;
        };
        match observation {
            GateObservation::Control(link) => gate.take_control(link),
            GateObservation::Path(link) => gate.take_path(link),
            GateObservation::Host(question, seen) => gate.take_look(question, seen),
            // The address of a pod that is gone was given to a pod of the other side, and both have the same certificate.
            GateObservation::Report(at, report)
                if report.gate == other.server_name && report.object_server == other.object_server.name =>
            {
                gate.evidence.report = None;
                gate.take_control(Link::Failed {
                    since: at,
                    fault: Fault::Connection,
                    message: format!("the gate at this address is {}", report.gate),
                });
            }
            GateObservation::Report(at, report) => gate.take_report(at, *report),
        }
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
            Source::Service => {}
            Source::Gate(uid) => {
                if let Some(gate) = self.gates.iter_mut().find(|gate| gate.pod.uid == *uid) {
                    gate.forget();
                    self.is_looked_at_anew = true;
                }
            }
        }
    }

    /// Computes the health of the side, and of each gate, from all that was observed. `endpoints` are those of the virtual Service.
    pub(super) fn assess(&mut self, timing: &Timing, endpoints: &[IpAddr], now: Instant) {
        for gate in &mut self.gates {
            gate.assess(&self.server, timing, endpoints, now);
        }
        self.ask_siblings(now);
        let is_deserted = !self.gates.iter().any(|gate| gate.is_in() && gate.serves());
        self.deserted_since = is_deserted.then(|| self.deserted_since.unwrap_or(now));
        let reading = match self.pods {
            Pods::None { since } => without_pod(since, timing),
            Pods::Unlisted | Pods::Some => read_all(&self.gates, self.deserted_since, now),
        };
        self.is_unobserved &= matches!(
            reading,
            Reading::Unknown | Reading::Unseen { .. } | Reading::Doubtful { .. }
        );
        self.is_looked_at_anew &= reading == Reading::Unknown;
        self.health = self.health.clone().step(&reading, timing, now);
    }

    /// When one gate has turned bad, the others are asked whether they are still good.
    fn ask_siblings(&mut self, now: Instant) {
        let is_due = |since: &Instant| now >= *since + CONFIRMED_AFTER;
        let Some(since) = self.gates.iter().filter_map(|gate| gate.bad_since).filter(is_due).max() else {
            return;
        };
        for gate in self.gates.iter_mut().filter(|gate| gate.is_good()) {
            gate.confirm(since);
        }
    }

    /// A pod that kubelet has not ended in time, as on a lost node. `beside` another one only, if that is wanted.
    pub(super) fn overdue(&self, beside: bool, now: Instant) -> Option<&Gate> {
        let skipped = usize::from(beside);
        let is_overdue = |gate: &&Gate| gate.ends_at.is_some_and(|ends_at| ends_at + OVERDUE_AFTER <= now);
        self.gates.iter().skip(skipped).find(is_overdue)
    }

    /// When the health, or which gate stands for the side, may change although nothing is observed.
    pub(super) fn next_look(&self, timing: &Timing, now: Instant) -> Option<Instant> {
        let links = self
            .gates
            .iter()
            .flat_map(|gate| [&gate.evidence.control, &gate.evidence.path]);
        let silences = links
            .chain([&self.server.direct])
            .filter_map(Link::silent_since)
            .flat_map(|since| [timing.doubtful_after(), timing.lost_after].map(|after| Some(since + after)));
        let is_several = self.gates.len() > 1;
        let of_gates = self.gates.iter().flat_map(|gate| {
            let occupied = gate.occupancy().occupied_since;
            [
                gate.ends_at.map(|ends_at| ends_at + Duration::from_millis(1)),
                gate.ends_at.map(|ends_at| ends_at + KUBELET_MARGIN),
                gate.ends_at.map(|ends_at| ends_at + OVERDUE_AFTER),
                occupied.map(|since| since + STAYS_FOR),
                gate.evidence.refusing_since.map(|since| since + ADMITS_WITHIN),
                gate.bad_since
                    .filter(|_| is_several)
                    .map(|since| since + TAKEN_OUT_WITHIN),
                gate.bad_since
                    .filter(|_| is_several)
                    .map(|since| since + CONFIRMED_AFTER),
                gate.serves_since
                    .filter(|_| is_several)
                    .map(|since| since + CONFIRMED_AFTER),
                gate.health.look_again,
                gate.good_since
                    .filter(|_| !gate.pod.routed)
                    .map(|since| since + timing.healthy_after),
                gate.retry_at(),
                gate.differs_at(),
            ]
        });
        of_gates
            .chain(silences)
            .chain([self.health.look_again])
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// Puts the gates in order again: time alone changes which one stands for the side.
    pub(super) fn order_gates(&mut self, now: Instant) {
        self.gates.sort_by_key(|gate| Reverse(gate.rank(now)));
    }
}

fn pod_state(pod: &PodView, known: Option<PodState>, missing_since: Option<Instant>, now: Instant) -> PodState {
    if pod.terminating.is_some() {
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
