//! Where the traffic goes: state, health of both sides, policy and the time in; one [`Decision`] out.

use std::time::{Duration, Instant};

use super::{health::SideHealth, resync::Missing};
use crate::api::{Cause, FailbackMode, FailbackSpec, Health, Side, Sides, SwitchKind};

/// Where the virtual Service points, and where it is to point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Fact.
    pub serving: Side,
    /// Intent: differs from `serving` while a switch is under way.
    pub target: Side,
    /// Since when `serving` is as it is; `None` until a side has served for the first time.
    pub since: Option<Instant>,
}

impl Routing {
    /// A pair that has never served: it begins with the primary.
    pub const NEW: Self = Self {
        serving: Side::Primary,
        target: Side::Primary,
        since: None,
    };
}

/// `spec.failback`, and how long a new pair may take to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the primary is restored.
    pub failback: FailbackMode,
    /// How long the primary must be up before.
    pub stable_for: Duration,
    /// How long the backup serves at the least.
    pub minimum_on_backup: Duration,
    /// How long the primary of a new pair may be down before the backup serves in its place.
    pub first_start: Duration,
}

impl Policy {
    /// The policy that `spec` declares.
    pub fn new(spec: &FailbackSpec, first_start: Duration) -> Self {
        Self {
            failback: spec.mode,
            stable_for: spec.stable_for.get(),
            minimum_on_backup: spec.minimum_on_backup.get(),
            first_start,
        }
    }
}

/// What a failback waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The primary is not up.
    PrimaryUp,
    /// The primary has not been up for `stable_for`.
    PrimaryStable,
    /// The backup has not served for `minimum_on_backup`.
    MinimumOnBackup,
    /// `failback.mode` is Never.
    ModeNever,
    /// The ObjectServers are not resynchronised.
    Resync(Missing),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay {
        /// What a failback waits for, while the backup serves.
        waiting: Vec<Waiting>,
        /// When the outcome may change without anything new being seen.
        look_again: Option<Instant>,
    },
    /// Begin a switch.
    Begin {
        /// The side to go to.
        to: Side,
        /// What it is.
        kind: SwitchKind,
        /// The failure it answers.
        cause: Option<Cause>,
    },
    /// Finish the switch that is under way.
    Finish,
    /// Give up the switch that is under way: its target cannot serve, and the side it leaves can.
    Withdraw,
}

impl Decision {
    /// Nothing, until something new is observed.
    pub const STAY: Self = Self::Stay {
        waiting: Vec::new(),
        look_again: None,
    };
}

/// Decides where the traffic goes.
///
/// 1. [`under_way`]: a switch is finished if its target can serve, withdrawn if only the side it leaves can.
/// 2. [`leave`]: a serving side that is down is left as soon as the other one can serve; with both down nothing moves.
/// 3. [`restore`]: the primary is restored when it has been up for `stable_for`, the backup has served for `minimum_on_backup`, and nothing
///    is `missing` until the ObjectServers are resynchronised.
///
/// Only a side that [`SideHealth::may_serve`] ever receives the traffic.
#[must_use]
pub fn decide(
    routing: &Routing,
    sides: Sides<&SideHealth>,
    missing: &[Missing],
    policy: &Policy,
    now: Instant,
) -> Decision {
    under_way(routing, sides)
        .or_else(|| leave(routing, sides, policy, now))
        .or_else(|| restore(routing, sides.primary, missing, policy, now))
        .unwrap_or(Decision::STAY)
}

/// Rule 1. `None` when no switch is under way.
fn under_way(routing: &Routing, sides: Sides<&SideHealth>) -> Option<Decision> {
    if routing.target == routing.serving {
        return None;
    }
    Some(
        match (sides[routing.target].may_serve(), sides[routing.serving].may_serve()) {
            (true, _) => Decision::Finish,
            (false, true) => Decision::Withdraw,
            (false, false) => Decision::STAY,
        },
    )
}

/// Rule 2. `None` when there is no reason to leave the serving side.
fn leave(routing: &Routing, sides: Sides<&SideHealth>, policy: &Policy, now: Instant) -> Option<Decision> {
    let (serving, idle) = (sides[routing.serving], sides[routing.serving.other()]);
    let cause = serving.cause.filter(|cause| cause.leaves_side());
    if serving.health != Health::Down || (cause.is_none() && serving.cause.is_some()) {
        return None;
    }
    let leave_at = match routing.since {
        Some(_) => serving.since,
        None => serving.since + policy.first_start,
    };
    if now < leave_at {
        return Some(Decision::Stay {
            waiting: Vec::new(),
            look_again: Some(leave_at),
        });
    }
    if !idle.may_serve() {
        return Some(Decision::STAY);
    }
    Some(Decision::Begin {
        to: routing.serving.other(),
        kind: cause.map_or(SwitchKind::Failover, Cause::switch_kind),
        cause,
    })
}

/// Rule 3. `None` when the primary serves.
fn restore(
    routing: &Routing,
    primary: &SideHealth,
    missing: &[Missing],
    policy: &Policy,
    now: Instant,
) -> Option<Decision> {
    if routing.serving == Side::Primary {
        return None;
    }
    match policy.failback {
        FailbackMode::Never => {
            return Some(Decision::Stay {
                waiting: vec![Waiting::ModeNever],
                look_again: None,
            });
        }
        FailbackMode::Automatic => {}
    }
    let mut waiting = Vec::new();
    let mut look_again = None;
    let mut until = |moment: Instant, what| {
        if now < moment {
            waiting.push(what);
            look_again = look_again.max(Some(moment));
        }
    };
    if primary.health == Health::Up {
        until(primary.since + policy.stable_for, Waiting::PrimaryStable);
    }
    if let Some(since) = routing.since {
        until(since + policy.minimum_on_backup, Waiting::MinimumOnBackup);
    }
    if !primary.may_serve() {
        waiting.insert(0, Waiting::PrimaryUp);
        look_again = None;
    } else if !missing.is_empty() {
        waiting.extend(missing.iter().cloned().map(Waiting::Resync));
        look_again = None;
    }
    Some(if waiting.is_empty() {
        Decision::Begin {
            to: Side::Primary,
            kind: SwitchKind::Failback,
            cause: None,
        }
    } else {
        Decision::Stay { waiting, look_again }
    })
}

#[cfg(test)]
mod tests;
