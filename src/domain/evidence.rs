//! What was seen of one side, and what it means: [`classify`] turns evidence into a [`Reading`].
//!
//! *Refused* and *closed* are proofs: the other machine's kernel said so. *Silence* is not, and needs its own, longer deadline.

use std::time::{Duration, Instant};

use super::resync::Word;
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
        /// What kind of failure it is.
        fault: Fault,
        /// In words, for status and logs.
        message: String,
    },
}

/// Why a connection is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was refused or closed.
    Connection,
    /// A certificate was refused.
    Tls,
    /// The ObjectServer answers and refuses the operator's login.
    Login,
    /// Another server than the declared one answers.
    WrongServer,
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
    /// Its certificate was refused.
    Rejected {
        /// Since when the gate has said so.
        since: Instant,
        /// The gate's words.
        message: String,
    },
    /// The proxy server behind the gate was refused or closed.
    ProxyUnreachable {
        /// Since when the gate has said so.
        since: Instant,
        /// The gate's words.
        message: String,
    },
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

impl Upstream {
    /// Since when it has been refused or closed, for whatever reason.
    pub fn bad_since(&self) -> Option<Instant> {
        match self {
            Self::Rejected { since, .. } | Self::ProxyUnreachable { since, .. } | Self::Unreachable { since, .. } => {
                Some(*since)
            }
            Self::Reachable | Self::Unresponsive { .. } => None,
        }
    }
}

/// Everything that was seen of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The API server's word.
    pub pod: Pod,
    /// What keeps the pod from running, in words, from there too.
    pub trouble: Option<String>,
    /// The session with the gate.
    pub control: Link,
    /// What the gate last said on it.
    pub report: Option<GateReport>,
    /// The check session through the gate to the ObjectServer.
    pub path: Link,
    /// The connection straight to the ObjectServer.
    pub direct: Link,
    /// Since when that has been answering, while it is.
    pub direct_since: Option<Instant>,
    /// What the ObjectServer last said of itself on that connection, if the operator logs in there.
    pub word: Option<Word>,
}

impl Evidence {
    /// Nothing was seen yet.
    pub fn none() -> Self {
        Self {
            pod: Pod::Unknown,
            trouble: None,
            control: Link::Untried,
            report: None,
            path: Link::Untried,
            direct: Link::Untried,
            direct_since: None,
            word: None,
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

    /// How old an ObjectServer's word of itself may be: two rounds of questions, and not less than a few seconds.
    pub fn word_lasts(&self) -> Duration {
        (self.interval * 2).max(Duration::from_secs(3))
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

/// How much later than the first who notices the others may see the same ObjectServer die.
const OTHER_EYE: Duration = Duration::from_millis(50);
/// How much later than the operator the gate may see the same ObjectServer return: it dials again every 250 ms.
const GATE_DIALS_AGAIN: Duration = Duration::from_secs(1);

/// Says what the evidence of one side means, looking from the outside in: pod, gate, path, ObjectServer.
///
/// The direct connection never brings a side down by its silence or failure: while the path through the gate is proved, events arrive. It
/// tells *the ObjectServer is dead* from *the way to it is broken*. Only its word that another server answers is believed alone, because
/// through a proxy that name may be hidden.
pub fn classify(evidence: &Evidence, timing: &Timing, now: Instant) -> Reading {
    match (read(evidence, timing, now), &evidence.trouble) {
        (
            Reading::Bad {
                cause: cause @ (Cause::ProxyMissing | Cause::ProxyUnreachable),
                message,
                down_at,
            },
            Some(trouble),
        ) => Reading::Bad {
            cause,
            message: format!("{message}: {trouble}"),
            down_at,
        },
        (reading, _) => reading,
    }
}

fn read(evidence: &Evidence, timing: &Timing, now: Instant) -> Reading {
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
                cause: Cause::ProxyTerminating,
                message: "the proxy pod is being deleted".to_owned(),
                down_at: now,
            };
        }
        Pod::Running => {}
    }

    match &evidence.control {
        Link::Failed {
            since,
            fault: Fault::Tls,
            message,
        } => return proved(Cause::TlsRejected, *since, message.clone()),
        Link::Failed { since, message, .. } => return proved(Cause::ProxyUnreachable, *since, message.clone()),
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
            cause: Cause::ProxyTerminating,
            message: "the gate has been told to end".to_owned(),
            down_at: now,
        };
    }
    match &report.upstream {
        Upstream::Reachable => {}
        Upstream::Rejected { since, message } => return proved(Cause::TlsRejected, *since, message.clone()),
        Upstream::ProxyUnreachable { since, message } => {
            // A proxy server may exit because its ObjectServer dies, and be the first that the gate misses.
            let confirmed_at = *since + OTHER_EYE;
            if now < confirmed_at {
                return Reading::Doubtful {
                    until: Some(confirmed_at),
                };
            }
            return proved(Cause::ProxyUnreachable, *since, message.clone());
        }
        Upstream::Unreachable { since, message } => {
            if evidence.direct != Link::Answering || evidence.has_just_returned(*since, now) {
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

    if let Link::Failed {
        since,
        fault: Fault::WrongServer,
        message,
    } = &evidence.direct
    {
        return proved(Cause::WrongObjectServer, *since, message.clone());
    }
    let is_direct_silent = evidence.direct.silent_since().is_some();
    match &evidence.path {
        Link::Untried => Reading::Unknown,
        Link::Answering => Reading::Good,
        Link::Silent { since } if is_direct_silent => {
            silent(Cause::ObjectServerUnresponsive, *since, "the ObjectServer")
        }
        Link::Silent { since } => silent(Cause::PathBroken, *since, "the ObjectServer through the gate"),
        Link::Failed {
            since,
            fault: Fault::Connection,
            ..
        } if report.at <= *since || now < *since + OTHER_EYE => Reading::Doubtful {
            until: Some(*since + OTHER_EYE).filter(|until| *until > now),
        },
        Link::Failed { since, fault, message } => {
            let cause = match fault {
                Fault::Tls => Cause::TlsRejected,
                Fault::Login => Cause::LoginRefused,
                Fault::WrongServer => Cause::WrongObjectServer,
                Fault::Connection => match &evidence.direct {
                    Link::Failed {
                        fault: Fault::Connection,
                        ..
                    } => Cause::ObjectServerUnreachable,
                    _ if evidence.has_just_returned(*since, now) => Cause::ObjectServerUnreachable,
                    _ => Cause::PathBroken,
                },
            };
            proved(cause, *since, message.clone())
        }
    }
}

impl Evidence {
    /// Whether the ObjectServer has come back so lately, after a failure at `since`, that the gate need not have seen it yet.
    fn has_just_returned(&self, since: Instant, now: Instant) -> bool {
        self.direct_since
            .is_some_and(|returned| returned > since && now < returned + GATE_DIALS_AGAIN)
    }

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
