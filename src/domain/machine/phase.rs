//! Where a pair stands: settled on one side, or at one step of a switch. `status` persists it.

use std::time::Instant;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::{
    api::{Cause, ProxyPairStatus, Side, Switch, SwitchKind, Switching},
    domain::{failover::Routing, now::Now},
};

/// Where a pair stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// One side serves.
    Settled {
        /// Which one.
        serving: Side,
        /// Since when; `None` until a side has served for the first time.
        since: Option<Instant>,
    },
    /// The traffic is on its way.
    Switching {
        /// From where to where, and why.
        switch: PendingSwitch,
        /// How far it has come.
        step: Step,
    },
}

/// A switch under way.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingSwitch {
    /// The side that receives the traffic.
    pub to: Side,
    /// What it is.
    pub kind: SwitchKind,
    /// The failure that it answers.
    pub cause: Option<Cause>,
    /// When it was decided, in whole microseconds.
    pub started_at: MicroTime,
    /// Since when the side that it leaves has served.
    pub served_since: Option<Instant>,
    /// When each step was done, as far as this process did it.
    pub timeline: Timeline,
}

/// When each step of a switch was done. What another process did is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// It was decided.
    pub decided: Option<Instant>,
    /// `status.target` was written.
    pub intended: Option<Instant>,
    /// The selector was patched.
    pub patched: Option<Instant>,
    /// The EndpointSlices showed the new side.
    pub shown: Option<Instant>,
}

/// A step of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `status.target` is being written.
    Intent,
    /// The selector is to be patched, or is being patched.
    Patch,
    /// The EndpointSlices are to show the new side.
    Endpoints {
        /// When the switch goes on without that.
        until: Instant,
    },
    /// `status.serving` is being written.
    Fact,
    /// The target is given up; the selector is to be turned back, or is being turned back.
    Revert,
    /// The target is given up; `status.target` is being withdrawn.
    Retract,
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);

impl Phase {
    /// What `status` says. A `target` without `switching`, which no operator writes, counts as no switch.
    #[must_use]
    pub fn resumed(status: &ProxyPairStatus, now: Now) -> Self {
        let serving = status.serving.unwrap_or(Side::Primary);
        // Status keeps whole seconds. What waits for a time since then must not begin before it.
        let since = status.since.as_ref().map(|since| now.instant_of(since.0 + SECOND));
        match (&status.switching, status.target) {
            (Some(switching), Some(to)) if to != serving => Self::Switching {
                switch: PendingSwitch {
                    to,
                    kind: switching.kind,
                    cause: switching.cause,
                    started_at: switching.started_at.clone(),
                    served_since: since,
                    timeline: Timeline::default(),
                },
                step: Step::Patch,
            },
            _ => Self::Settled { serving, since },
        }
    }

    /// Keeps of `before` what `status` does not tell, where this is the same phase. Returns the switch that `before` was about to record,
    /// if `status` shows that it was recorded.
    pub(super) fn continue_from(&mut self, before: Self, status: &ProxyPairStatus) -> Option<(Switch, Timeline)> {
        match (self, before) {
            (
                Self::Settled { serving, since },
                Self::Settled {
                    serving: served,
                    since: known,
                },
            ) if *serving == served => *since = known.or(*since),
            (
                Self::Settled { serving, since },
                Self::Switching {
                    switch,
                    step: Step::Fact,
                },
            ) if *serving == switch.to => {
                let recorded = status.history.first()?;
                if recorded.started_at != switch.started_at {
                    return None;
                }
                *since = switch.timeline.shown.or(*since);
                return Some((recorded.clone(), switch.timeline));
            }
            (Self::Settled { serving, since }, Self::Switching { switch, .. }) if *serving != switch.to => {
                *since = switch.served_since.or(*since);
            }
            (Self::Switching { switch, .. }, Self::Switching { switch: known, .. })
                if switch.started_at == known.started_at =>
            {
                *switch = known;
            }
            _ => {}
        }
        None
    }

    /// The routing on which gates are commanded: as [`routing`](Self::routing), but a switch counts only when its intent is known to be
    /// written.
    #[must_use]
    pub const fn recorded(&self) -> Routing {
        match self {
            Self::Switching {
                switch,
                step: Step::Intent,
            } => Routing {
                serving: switch.to.other(),
                target: switch.to.other(),
                since: switch.served_since,
            },
            Self::Settled { .. } | Self::Switching { .. } => self.routing(),
        }
    }

    /// The side that serves, the one that is to serve, and since when.
    #[must_use]
    pub const fn routing(&self) -> Routing {
        match self {
            Self::Settled { serving, since } => Routing {
                serving: *serving,
                target: *serving,
                since: *since,
            },
            Self::Switching { switch, .. } => Routing {
                serving: switch.to.other(),
                target: switch.to,
                since: switch.served_since,
            },
        }
    }

    /// The side that the virtual Service is to select now.
    #[must_use]
    pub const fn selected(&self) -> Side {
        match self {
            Self::Settled { serving, .. } => *serving,
            Self::Switching { switch, step } => match step {
                Step::Intent | Step::Patch | Step::Revert | Step::Retract => switch.to.other(),
                Step::Endpoints { .. } | Step::Fact => switch.to,
            },
        }
    }

    /// `status.switching`.
    #[must_use]
    pub fn switching(&self) -> Option<Switching> {
        match self {
            Self::Settled { .. } => None,
            Self::Switching { switch, .. } => Some(Switching {
                kind: switch.kind,
                cause: switch.cause,
                started_at: switch.started_at.clone(),
            }),
        }
    }

    /// When the phase changes although nothing happens.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Switching {
                step: Step::Endpoints { until },
                ..
            } => Some(*until),
            Self::Settled { .. } | Self::Switching { .. } => None,
        }
    }
}
