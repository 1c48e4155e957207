//! What the evidence about one gate and its ObjectServer means.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::{ADMITS_WITHIN, Fault, GateEvidence, GateReport, Link, PodState, Reading, ServerEvidence, Timing};
use crate::{
    api::Cause,
    protocol::{UnreachableCause, Upstream},
};

/// How much later than the first check the others may notice that the same ObjectServer died.
pub(super) const CONFIRMED_AFTER: Duration = Duration::from_millis(50);
/// How long a gate that has started may take until its first dial has shown something.
pub(super) const GATE_DIALS_WITHIN: Duration = Duration::from_secs(1);
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

fn unseen<T>(what: &str, why: &str) -> Layer<T> {
    Layer::Break(Reading::Unseen {
        message: format!("the operator cannot look at {what}: {why}"),
    })
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
                    Fault::Connection | Fault::Unroutable | Fault::Login | Fault::WrongServer | Fault::Protocol => {
                        Cause::ProxyUnreachable
                    }
                };
                self.proved(cause, *since, message.clone())
            }
            Link::Silent { since } => self.silent_gate(*since),
            Link::Untried => Layer::Break(Reading::Unknown),
            Link::Unseen { message } => unseen("the gate", message),
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
            // It has just started.
            UnreachableCause::Untried if self.now < since + GATE_DIALS_WITHIN => Layer::Break(Reading::Doubtful {
                until: Some(since + GATE_DIALS_WITHIN),
            }),
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
            Link::Unseen { message } => unseen("the ObjectServer through the gate", message),
            Link::Answering => Layer::Continue(()),
            Link::Silent { since } => {
                // While the gate itself was not heard, the way to it may have been what was silent.
                let since = self.gate.heard_since.map_or(*since, |heard| heard.max(*since));
                match self.server.direct.silent_since() {
                    Some(_) => self.silent(Cause::ObjectServerUnresponsive, since, "the ObjectServer"),
                    None => self.silent(Cause::PathBroken, since, "the ObjectServer through the gate"),
                }
            }
            Link::Failed {
                since,
                fault: Fault::Connection | Fault::Unroutable,
                ..
            } if gate.at <= *since || self.now < *since + CONFIRMED_AFTER => Layer::Break(Reading::Doubtful {
                until: Some(*since + CONFIRMED_AFTER).filter(|until| *until > self.now),
            }),
            Link::Failed { since, fault, message } => {
                let cause = match fault {
                    Fault::Tls => Cause::TlsRejected,
                    Fault::Login => Cause::LoginRefused,
                    Fault::WrongServer => Cause::WrongObjectServer,
                    Fault::Protocol => Cause::ProtocolError,
                    Fault::Connection | Fault::Unroutable if self.is_server_gone(*since) => {
                        Cause::ObjectServerUnreachable
                    }
                    Fault::Connection | Fault::Unroutable => Cause::PathBroken,
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
                fault: Fault::Connection | Fault::Unroutable,
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

    /// Nothing has come back from the gate since `since`.
    fn silent_gate(self, since: Instant) -> Layer {
        let is_lost = self.gate.looks.is_lost();
        let doubtful_until = since + self.timing.doubtful_after();
        if self.now < doubtful_until && !is_lost {
            // The newest report counts until its successor is overdue.
            return match self.gate.report {
                Some(_) => Layer::Continue(()),
                None => Layer::Break(Reading::Doubtful {
                    until: Some(doubtful_until),
                }),
            };
        }
        let message = match is_lost {
            true => "nothing comes back from the machine of the gate, neither to the operator nor to another gate",
            false => "no answer from the gate",
        };
        Layer::Break(match self.gate.silence_counts_at(since, self.timing) {
            Some(down_at) => Reading::Bad {
                cause: Cause::ProxyUnresponsive,
                message: message.to_owned(),
                down_at,
            },
            None => Reading::Doubtful { until: None },
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
