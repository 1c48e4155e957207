//! What was observed of a gate and its ObjectServer, and what it means: [`classify`] turns evidence into a [`Reading`].
//!
//! *Refused* and *closed* are proofs: the other machine's kernel said so. *Silence* is not, and has its own, longer deadline.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::resync::ServerState;
use crate::{
    api::{Cause, HealthCheckSpec},
    protocol::{Report, UnreachableCause, Upstream},
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
    /// The newest report on that connection.
    pub report: Option<GateReport>,
    /// Since when it accepts no probes, by its reports, although it is commanded to admit them.
    pub refusing_since: Option<Instant>,
    /// The check session through the gate to the ObjectServer.
    pub path: Link,
}

impl GateEvidence {
    /// Nothing was observed of the gate in a pod in this state.
    #[must_use]
    pub const fn none(pod: PodState, pod_failure: Option<String>) -> Self {
        Self {
            pod,
            pod_failure,
            control: Link::Untried,
            report: None,
            refusing_since: None,
            path: Link::Untried,
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
            healthy_after: spec.healthy_after.get(),
        }
    }
}

/// What the evidence says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Too little was observed.
    Unknown,
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

/// How much later than the first check the others may notice that the same ObjectServer died.
const CONFIRMED_AFTER: Duration = Duration::from_millis(50);
/// How much later than the operator the gate may notice that the same ObjectServer is back: it dials again every 250 ms.
const GATE_DIALS_AGAIN: Duration = Duration::from_secs(1);

/// How long a gate may take to open its port for probes once it is commanded to.
pub const ADMITS_WITHIN: Duration = Duration::from_secs(1);

/// The evidence about one gate, seen as one question at one moment.
#[derive(Clone, Copy)]
struct Case<'a> {
    gate: &'a GateEvidence,
    server: &'a ServerEvidence,
    timing: &'a Timing,
    now: Instant,
}

/// What one layer of the evidence says: the reading, or that the next layer decides.
type Layer<T = ()> = ControlFlow<Reading, T>;

/// Says what the evidence about one gate and its ObjectServer means, from the outside in: pod, control connection, report, upstream,
/// ObjectServer, path.
///
/// The direct connection never brings a side down by its silence or failure: while the path through the gate is proved, events arrive. It
/// tells *the ObjectServer is dead* from *the way to it is broken*. Only its answer that another server is there is believed alone, because
/// a proxy server may hide that name on the path.
#[must_use]
pub fn classify(gate: &GateEvidence, server: &ServerEvidence, timing: &Timing, now: Instant) -> Reading {
    let case = Case {
        gate,
        server,
        timing,
        now,
    };
    match case.read() {
        ControlFlow::Break(reading) => case.explained(reading),
        ControlFlow::Continue(()) => Reading::Good,
    }
}

/// The reading of a side that has had no pod since `since`.
#[must_use]
pub fn without_pod(since: Instant, timing: &Timing) -> Reading {
    Reading::Bad {
        cause: Cause::ProxyMissing,
        message: "there is no proxy pod".to_owned(),
        down_at: since + timing.unreachable_after,
    }
}

impl<'a> Case<'a> {
    fn read(self) -> Layer {
        self.pod()?;
        self.control()?;
        let gate = self.report()?;
        self.upstream(gate)?;
        self.admission(gate)?;
        self.direct()?;
        self.path(gate)
    }

    /// Adds to the message why the pod does not run, where that is the explanation.
    fn explained(self, reading: Reading) -> Reading {
        match (reading, &self.gate.pod_failure) {
            (
                Reading::Bad {
                    cause,
                    message,
                    down_at,
                },
                Some(failure),
            ) if cause.is_explained_by_pod() => Reading::Bad {
                cause,
                message: format!("{message}: {failure}"),
                down_at,
            },
            (reading, _) => reading,
        }
    }

    fn pod(self) -> Layer {
        match self.gate.pod {
            PodState::Starting { since } => {
                self.proved(Cause::ProxyMissing, since, "the proxy pod has not started".to_owned())
            }
            PodState::Terminating => self.at_once(Cause::ProxyTerminating, "the proxy pod is being deleted".to_owned()),
            PodState::Running => Layer::Continue(()),
        }
    }

    fn control(self) -> Layer {
        match &self.gate.control {
            Link::Failed { since, fault, message } => {
                let cause = match fault {
                    Fault::Tls => Cause::TlsRejected,
                    Fault::Connection | Fault::Login | Fault::WrongServer => Cause::ProxyUnreachable,
                };
                self.proved(cause, *since, message.clone())
            }
            Link::Silent { since } => match self.silent(Cause::ProxyUnresponsive, *since, "the gate") {
                // The newest report counts until its successor is overdue.
                Layer::Break(Reading::Doubtful { .. }) if self.gate.report.is_some() => Layer::Continue(()),
                layer => layer,
            },
            Link::Untried => Layer::Break(Reading::Unknown),
            Link::Answering => Layer::Continue(()),
        }
    }

    fn report(self) -> Layer<&'a GateReport> {
        let Some(gate) = &self.gate.report else {
            return Layer::Break(Reading::Unknown);
        };
        if gate.report.terminating {
            self.at_once::<()>(Cause::ProxyTerminating, "the gate received SIGTERM".to_owned())?;
        }
        Layer::Continue(gate)
    }

    fn upstream(self, gate: &GateReport) -> Layer {
        let since = gate.failing_since.unwrap_or(gate.at);
        let Upstream::Unreachable { cause, message } = &gate.report.upstream else {
            return match &gate.report.listen_error {
                Some(error) => self.proved(Cause::ProxyUnreachable, since, error.clone()),
                None => Layer::Continue(()),
            };
        };
        let confirmed_at = since + CONFIRMED_AFTER;
        let unconfirmed = Layer::Break(Reading::Doubtful {
            until: Some(confirmed_at),
        });
        match cause {
            UnreachableCause::TimedOut => {
                let cause = match self.server.direct {
                    Link::Answering => Cause::PathBroken,
                    _ => Cause::ObjectServerUnresponsive,
                };
                self.at_once(cause, message.clone())
            }
            UnreachableCause::TlsRejected => self.proved(Cause::TlsRejected, since, message.clone()),
            // A proxy server may exit because its ObjectServer dies, and be the first that the gate misses.
            UnreachableCause::ProxyUnreachable if self.now < confirmed_at => unconfirmed,
            UnreachableCause::ProxyUnreachable => self.proved(Cause::ProxyUnreachable, since, message.clone()),
            UnreachableCause::Untried
            | UnreachableCause::Refused
            | UnreachableCause::Closed
            | UnreachableCause::Unresolved
            | UnreachableCause::Unroutable
            | UnreachableCause::Other => {
                if self.server.direct != Link::Answering || self.server.has_just_returned(since, self.now) {
                    self.proved(Cause::ObjectServerUnreachable, since, message.clone())
                } else if self.now < confirmed_at {
                    // A dying ObjectServer closes one connection after the other: the direct one may be the last.
                    unconfirmed
                } else {
                    self.proved(Cause::PathBroken, since, message.clone())
                }
            }
        }
    }

    fn admission(self, gate: &GateReport) -> Layer {
        let Some(since) = self.gate.refusing_since.map(|since| since + ADMITS_WITHIN) else {
            return Layer::Continue(());
        };
        if self.now < since {
            return Layer::Continue(());
        }
        let why = match &gate.report.rejected_command {
            Some(why) => format!(": {why}"),
            None => String::new(),
        };
        let message = format!("the gate is commanded to admit probes and accepts none{why}");
        self.proved(Cause::ProxyUnreachable, since, message)
    }

    fn direct(self) -> Layer {
        match &self.server.direct {
            Link::Failed {
                since,
                fault: Fault::WrongServer,
                message,
            } => self.proved(Cause::WrongObjectServer, *since, message.clone()),
            _ => Layer::Continue(()),
        }
    }

    fn path(self, gate: &GateReport) -> Layer {
        match &self.gate.path {
            Link::Untried => Layer::Break(Reading::Unknown),
            Link::Answering => Layer::Continue(()),
            Link::Silent { since } if self.server.direct.silent_since().is_some() => {
                self.silent(Cause::ObjectServerUnresponsive, *since, "the ObjectServer")
            }
            Link::Silent { since } => self.silent(Cause::PathBroken, *since, "the ObjectServer through the gate"),
            Link::Failed {
                since,
                fault: Fault::Connection,
                ..
            } if gate.at <= *since || self.now < *since + CONFIRMED_AFTER => Layer::Break(Reading::Doubtful {
                until: Some(*since + CONFIRMED_AFTER).filter(|until| *until > self.now),
            }),
            Link::Failed { since, fault, message } => {
                let cause = match fault {
                    Fault::Tls => Cause::TlsRejected,
                    Fault::Login => Cause::LoginRefused,
                    Fault::WrongServer => Cause::WrongObjectServer,
                    Fault::Connection if self.is_server_gone(*since) => Cause::ObjectServerUnreachable,
                    Fault::Connection => Cause::PathBroken,
                };
                self.proved(cause, *since, message.clone())
            }
        }
    }

    /// Whether a path that failed at `since` failed because of the ObjectServer.
    fn is_server_gone(self, since: Instant) -> bool {
        let is_refused = matches!(
            self.server.direct,
            Link::Failed {
                fault: Fault::Connection,
                ..
            }
        );
        is_refused || self.server.has_just_returned(since, self.now)
    }

    /// A kernel or a certificate proves it; it counts when it has lasted for `unreachableAfter`.
    fn proved<T>(self, cause: Cause, since: Instant, message: String) -> Layer<T> {
        Layer::Break(Reading::Bad {
            cause,
            message,
            down_at: since + self.timing.unreachable_after,
        })
    }

    /// It counts at once.
    fn at_once<T>(self, cause: Cause, message: String) -> Layer<T> {
        Layer::Break(Reading::Bad {
            cause,
            message,
            down_at: self.now,
        })
    }

    /// Nothing has come back since `since`; it counts when that has lasted for `unresponsiveAfter`.
    fn silent(self, cause: Cause, since: Instant, what: &str) -> Layer {
        let doubtful_until = since + self.timing.doubtful_after();
        Layer::Break(if self.now < doubtful_until {
            Reading::Doubtful {
                until: Some(doubtful_until),
            }
        } else {
            Reading::Bad {
                cause,
                message: format!("no answer from {what}"),
                down_at: since + self.timing.unresponsive_after,
            }
        })
    }
}

/// The oldest silence on any of these connections.
pub fn oldest_silence<'a>(links: impl IntoIterator<Item = &'a Link>) -> Option<Instant> {
    links.into_iter().filter_map(Link::silent_since).min()
}

#[cfg(test)]
mod tests;
