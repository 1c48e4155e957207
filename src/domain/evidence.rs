//! What was observed of a gate and its ObjectServer, and what it means: [`classify`] turns evidence into a [`Reading`].
//!
//! *Refused* and *closed* are proofs: the other machine's kernel said so. *Silence* is not, and has its own, longer deadline. What the operator
//! could not look at for a reason of its own is *unseen*: it says nothing about the other end.

mod classify;

use std::time::{Duration, Instant};

pub use classify::{classify, without_pod};

use super::resync::ServerState;
use crate::{
    api::{Cause, HealthCheckSpec},
    protocol::{Report, Seen, UnreachableCause, Upstream},
};

/// The state of one persistent connection of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// No attempt has had time to succeed or fail.
    Untried,
    /// It is open and everything asked on it was answered.
    Answering,
    /// Something was asked, or a connection attempted, at `since`, and nothing has come back.
    Silent {
        /// When the oldest unanswered thing was sent.
        since: Instant,
    },
    /// The operator cannot look, for a reason of its own: it has no file descriptor or no route left, its resolver does not answer, or the
    /// check itself failed.
    Unseen {
        /// For status and logs.
        message: String,
    },
    /// It was refused or closed, and an immediate second attempt failed as well.
    Failed {
        /// When it was first noticed.
        since: Instant,
        /// What kind of failure it is.
        fault: Fault,
        /// For status and logs.
        message: String,
    },
}

/// Why a connection is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was refused or closed.
    Connection,
    /// There is no way to the machine, says one on the way to it or this one's own kernel. What runs on it may go on.
    Unroutable,
    /// A certificate was refused.
    Tls,
    /// The ObjectServer answers and refuses the operator's login.
    Login,
    /// Another server than the declared one answers.
    WrongServer,
    /// It answers in a way that cannot be decoded, or sends without being asked.
    Protocol,
}

impl Link {
    /// Since when nothing has come back, while that is so.
    #[must_use]
    pub const fn silent_since(&self) -> Option<Instant> {
        match self {
            Self::Silent { since } => Some(*since),
            _ => None,
        }
    }
}

/// The state of a proxy pod, as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It has no address yet.
    Starting {
        /// Since when the side has no pod with an address.
        since: Instant,
    },
    /// It has an address.
    Running,
    /// It is being deleted.
    Terminating,
}

/// A report of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateReport {
    /// When it arrived.
    pub at: Instant,
    /// Since when every report has said that the gate cannot serve probes, for whatever proved reason.
    pub failing_since: Option<Instant>,
    /// The report.
    pub report: Report,
}

impl GateReport {
    /// `report`, which arrived `at`, after `earlier`.
    #[must_use]
    pub fn after(earlier: Option<&Self>, at: Instant, report: Report) -> Self {
        let is_failing = report.listen_error.is_some()
            || matches!(&report.upstream, Upstream::Unreachable { cause, .. } if *cause != UnreachableCause::TimedOut);
        let earlier = earlier.filter(|earlier| earlier.report.instance == report.instance);
        let failing_since = is_failing.then(|| earlier.and_then(|earlier| earlier.failing_since).unwrap_or(at));
        Self {
            at,
            failing_since,
            report,
        }
    }
}

/// Everything that was observed of one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateEvidence {
    /// Its pod.
    pub pod: PodState,
    /// Why the pod does not run, in the cluster's words.
    pub pod_failure: Option<String>,
    /// The connection to its control port.
    pub control: Link,
    /// Since when that has been answering, while it is.
    pub heard_since: Option<Instant>,
    /// The newest report on that connection.
    pub report: Option<GateReport>,
    /// Since when it accepts no probes, by its reports, although it is commanded to admit them.
    pub refusing_since: Option<Instant>,
    /// The check session through the gate to the ObjectServer.
    pub path: Link,
    /// What came back from its machine when it was looked at because it was silent.
    pub looks: Looks,
}

/// What came back from the machine of a silent gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// To the operator.
    pub own: Seen,
    /// To other gates of the pair: the most that any of them saw. [`Seen::Untried`] if none could say.
    pub others: Seen,
}

impl Looks {
    /// Nothing was tried.
    pub const NONE: Self = Self {
        own: Seen::Untried,
        others: Seen::Untried,
    };

    /// Nobody sees anything of it any more.
    #[must_use]
    pub fn is_lost(self) -> bool {
        self.own == Seen::Nothing && self.others == Seen::Nothing
    }

    /// Another gate sees that it accepts probes.
    #[must_use]
    pub fn differ(self) -> bool {
        self.others == Seen::Ready
    }
}

impl GateEvidence {
    /// When it counts that the gate has been silent since `since`; `None`: while another gate sees it serve, never.
    #[must_use]
    pub fn silence_counts_at(&self, since: Instant, timing: &Timing) -> Option<Instant> {
        if self.looks.differ() {
            None
        } else if self.looks.is_lost() {
            Some(since + timing.lost_after)
        } else {
            Some(since + timing.unresponsive_after)
        }
    }

    /// Nothing was observed of the gate in a pod in this state.
    #[must_use]
    pub const fn none(pod: PodState, pod_failure: Option<String>) -> Self {
        Self {
            pod,
            pod_failure,
            control: Link::Untried,
            heard_since: None,
            report: None,
            refusing_since: None,
            path: Link::Untried,
            looks: Looks::NONE,
        }
    }
}

/// Everything that was observed of the ObjectServer of one side, on the direct connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEvidence {
    /// The connection.
    pub direct: Link,
    /// Since when it has been answering, while it is.
    pub answering_since: Option<Instant>,
    /// What the ObjectServer last said about itself, if the operator logs in there.
    pub state: Option<ServerState>,
}

impl ServerEvidence {
    /// Nothing was observed.
    pub const NONE: Self = Self {
        direct: Link::Untried,
        answering_since: None,
        state: None,
    };

    /// Takes in a change of the connection, at `now`.
    pub fn take_link(&mut self, link: Link, now: Instant) {
        if matches!(link, Link::Failed { .. }) {
            self.state = None;
        }
        self.answering_since = match link {
            Link::Answering => self.answering_since.or(Some(now)),
            _ => None,
        };
        self.direct = link;
    }

    /// Why it cannot be asked about itself, if that is known.
    #[must_use]
    pub fn unasked(&self) -> Option<&str> {
        match &self.direct {
            Link::Failed { message, .. } | Link::Unseen { message } => Some(message),
            Link::Untried | Link::Answering | Link::Silent { .. } => None,
        }
    }

    /// Whether the ObjectServer has come back so recently, after a failure at `since`, that the gate need not have noticed yet.
    fn has_just_returned(&self, since: Instant, now: Instant) -> bool {
        self.answering_since
            .is_some_and(|returned| returned > since && now < returned + GATE_DIALS_AGAIN)
    }
}

/// The deadlines of `spec.healthCheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between two checks.
    pub interval: Duration,
    /// How long a proof must last.
    pub unreachable_after: Duration,
    /// How long a silence must last.
    pub unresponsive_after: Duration,
    /// How long nothing may come back from a machine that nobody sees any more.
    pub lost_after: Duration,
    /// How long a side that was down must be good.
    pub healthy_after: Duration,
}

impl Timing {
    /// A silence shorter than this says nothing: an answer is merely on its way.
    pub fn doubtful_after(&self) -> Duration {
        (self.interval * 2).min(self.unresponsive_after)
    }

    /// How old an ObjectServer's answer about itself may be: two rounds of questions, and not less than 3 s.
    pub fn answer_lasts(&self) -> Duration {
        (self.interval * 2).max(Duration::from_secs(3))
    }
}

impl From<&HealthCheckSpec> for Timing {
    fn from(spec: &HealthCheckSpec) -> Self {
        Self {
            interval: spec.interval.get(),
            unreachable_after: spec.unreachable_after.get(),
            unresponsive_after: spec.unresponsive_after.get(),
            lost_after: spec.lost_after.get(),
            healthy_after: spec.healthy_after.get(),
        }
    }
}

/// What the evidence says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Too little was observed.
    Unknown,
    /// Something could not be observed, for a reason of the operator's own.
    Unseen {
        /// For status and logs.
        message: String,
    },
    /// An event sent to this side would arrive.
    Good,
    /// Something is late or contradictory, and too young to be called a failure.
    Doubtful {
        /// When to decide again, if nothing new is observed before.
        until: Option<Instant>,
    },
    /// An event sent to this side would not arrive.
    Bad {
        /// Why.
        cause: Cause,
        /// For status and logs.
        message: String,
        /// From when on it counts as down.
        down_at: Instant,
    },
}

/// How much later than the operator the gate may notice that the same ObjectServer is back: it dials again every 250 ms.
const GATE_DIALS_AGAIN: Duration = Duration::from_secs(1);

/// How long a gate may take to open its port for probes once it is commanded to.
pub const ADMITS_WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
