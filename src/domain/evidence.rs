//! What was seen of one side, and what it means: [`classify`] turns evidence into a [`Reading`].
//!
//! *Refused* and *closed* are proofs: the other machine's kernel said so. *Silence* is not, and needs its own, longer deadline.

use std::time::{Duration, Instant};

use crate::api::{Cause, HealthCheckSpec};

/// One persistent connection, as seen from the operator.
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
    /// It was refused or closed, and an immediate second attempt failed as well.
    Failed {
        /// When it was first seen.
        since: Instant,
        /// The certificates were the reason.
        tls: bool,
        /// In words, for status and logs.
        message: String,
    },
}

impl Link {
    fn silent_since(&self) -> Option<Instant> {
        match self {
            Self::Silent { since } => Some(*since),
            _ => None,
        }
    }
}

/// The proxy pod of a side, from the API server's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pod {
    /// Not read yet.
    Unknown,
    /// There is none.
    Missing {
        /// Since when.
        since: Instant,
    },
    /// It has no address yet.
    Starting {
        /// Since when.
        since: Instant,
    },
    /// It has an address.
    Running,
    /// It is being deleted.
    Leaving,
}

/// What the gate last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateReport {
    /// When it arrived.
    pub at: Instant,
    /// Whether the gate reaches its ObjectServer.
    pub upstream: Upstream,
    /// The gate has been told to end.
    pub leaving: bool,
    /// Probe sessions.
    pub sessions: u32,
}

/// Whether a gate reaches its ObjectServer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// It does.
    Reachable,
    /// It was refused, closed, or the name has no address.
    Unreachable {
        /// Since when the gate has said so.
        since: Instant,
        /// The gate's words.
        message: String,
    },
    /// It is silent for longer than `unresponsiveAfter`.
    Unresponsive {
        /// The gate's words.
        message: String,
    },
}

/// Everything that was seen of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The API server's word.
    pub pod: Pod,
    /// The session with the gate.
    pub control: Link,
    /// What the gate last said on it.
    pub report: Option<GateReport>,
    /// The check session through the gate to the ObjectServer.
    pub path: Link,
    /// The connection straight to the ObjectServer.
    pub direct: Link,
}

impl Evidence {
    /// Nothing was seen yet.
    pub fn none() -> Self {
        Self {
            pod: Pod::Unknown,
            control: Link::Untried,
            report: None,
            path: Link::Untried,
            direct: Link::Untried,
        }
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
    /// How long a side that was down must be good.
    pub healthy_after: Duration,
}

impl Timing {
    /// A silence shorter than this says nothing: an answer is merely on its way.
    pub fn doubtful_after(&self) -> Duration {
        (self.interval * 2).min(self.unresponsive_after)
    }
}

impl From<&HealthCheckSpec> for Timing {
    fn from(spec: &HealthCheckSpec) -> Self {
        Self {
            interval: spec.interval.get(),
            unreachable_after: spec.unreachable_after.get(),
            unresponsive_after: spec.unresponsive_after.get(),
            healthy_after: spec.healthy_after.get(),
        }
    }
}

/// What the evidence says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Too little was seen.
    Unknown,
    /// An event sent to this side would arrive.
    Good,
    /// Something is late or contradictory, and too young to be called a failure.
    Doubtful {
        /// When to look again at the latest, if nothing new is seen before.
        until: Option<Instant>,
    },
    /// An event sent to this side would not arrive.
    Bad {
        /// Why.
        cause: Cause,
        /// In words.
        message: String,
        /// From when on it counts as down.
        down_at: Instant,
    },
}

/// How much later than the gate the operator may see the same ObjectServer die.
const OTHER_EYE: Duration = Duration::from_millis(50);

/// Says what the evidence of one side means, looking from the outside in: pod, gate, path, ObjectServer.
///
/// The direct connection never brings a side down by itself: while the path through the gate is proved, events arrive. It tells *the
/// ObjectServer is dead* from *the way to it is broken*.
pub fn classify(evidence: &Evidence, timing: &Timing, now: Instant) -> Reading {
    let proved = |cause, since: Instant, message: String| Reading::Bad {
        cause,
        message,
        down_at: since + timing.unreachable_after,
    };
    let silent = |cause, since: Instant, what: &str| {
        let silence = now.saturating_duration_since(since);
        if silence < timing.doubtful_after() {
            return Reading::Doubtful {
                until: Some(since + timing.doubtful_after()),
            };
        }
        Reading::Bad {
            cause,
            message: format!("no answer from {what}"),
            down_at: since + timing.unresponsive_after,
        }
    };

    match evidence.pod {
        Pod::Unknown => return Reading::Unknown,
        Pod::Missing { since } => return proved(Cause::ProxyMissing, since, "there is no proxy pod".to_owned()),
        Pod::Starting { since } => {
            return proved(Cause::ProxyMissing, since, "the proxy pod has not started".to_owned());
        }
        Pod::Leaving => {
            return Reading::Bad {
                cause: Cause::ProxyLeaving,
                message: "the proxy pod is being deleted".to_owned(),
                down_at: now,
            };
        }
        Pod::Running => {}
    }

    match &evidence.control {
        Link::Failed {
            since,
            tls: true,
            message,
        } => return proved(Cause::TlsRejected, *since, message.clone()),
        Link::Failed {
            since,
            tls: false,
            message,
        } => return proved(Cause::ProxyUnreachable, *since, message.clone()),
        Link::Silent { since } => match silent(Cause::ProxyUnresponsive, *since, "the gate") {
            Reading::Doubtful { .. } if evidence.report.is_some() => {}
            reading => return reading,
        },
        Link::Untried => return Reading::Unknown,
        Link::Answering => {}
    }
    let Some(report) = &evidence.report else {
        return Reading::Unknown;
    };
    if report.leaving {
        return Reading::Bad {
            cause: Cause::ProxyLeaving,
            message: "the gate has been told to end".to_owned(),
            down_at: now,
        };
    }
    match &report.upstream {
        Upstream::Reachable => {}
        Upstream::Unreachable { since, message } => {
            if evidence.direct != Link::Answering {
                return proved(Cause::ObjectServerUnreachable, *since, message.clone());
            }
            // A dying ObjectServer closes one connection after the other: the direct one may be the last.
            let confirmed_at = *since + OTHER_EYE;
            if now < confirmed_at {
                return Reading::Doubtful {
                    until: Some(confirmed_at),
                };
            }
            return proved(Cause::PathBroken, *since, message.clone());
        }
        Upstream::Unresponsive { message } => {
            let cause = if evidence.direct == Link::Answering {
                Cause::PathBroken
            } else {
                Cause::ObjectServerUnresponsive
            };
            return Reading::Bad {
                cause,
                message: message.clone(),
                down_at: now,
            };
        }
    }

    match &evidence.path {
        Link::Untried => Reading::Unknown,
        Link::Answering => Reading::Good,
        Link::Silent { since } => silent(Cause::PathBroken, *since, "the ObjectServer through the gate"),
        Link::Failed { since, .. } if report.at <= *since || now < *since + OTHER_EYE => Reading::Doubtful {
            until: Some(*since + OTHER_EYE).filter(|until| *until > now),
        },
        Link::Failed {
            since,
            tls: true,
            message,
        } => proved(Cause::TlsRejected, *since, message.clone()),
        Link::Failed {
            since,
            tls: false,
            message,
        } => proved(Cause::PathBroken, *since, message.clone()),
    }
}

impl Evidence {
    /// The oldest silence on any connection of this side, for the next look.
    pub fn oldest_silence(&self) -> Option<Instant> {
        [&self.control, &self.path, &self.direct]
            .into_iter()
            .filter_map(Link::silent_since)
            .min()
    }
}

#[cfg(test)]
mod tests;
