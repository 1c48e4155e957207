//! Where the traffic goes: state, health of both sides, policy and the time in; one [`Decision`] out.

use std::time::{Duration, Instant};

use super::{health::SideHealth, resync::Missing};
use crate::api::{Cause, FailbackMode, FailbackSpec, Health, Side, SwitchKind};

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
    /// The ObjectServers are not in step.
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

/// Decides where the traffic goes.
///
/// 1. A switch that is under way is finished if its target can serve, withdrawn if only the side it leaves can.
/// 2. A serving side that is down is left as soon as the other one can serve; with both down nothing moves. A refused login alone is no
///    reason to leave: it is the operator's own, and the probes' events arrive.
/// 3. The primary is restored when it has been up for `stable_for`, the backup has served for `minimum_on_backup`, and nothing is `missing`
///    until the ObjectServers are in step.
///
/// Only a side that [`SideHealth::may_serve`] ever receives the traffic.
pub fn decide(
    routing: &Routing,
    primary: &SideHealth,
    backup: &SideHealth,
    missing: &[Missing],
    policy: &Policy,
    now: Instant,
) -> Decision {
    let of = |side| if side == Side::Primary { primary } else { backup };
    let stay = |look_again| Decision::Stay {
        waiting: Vec::new(),
        look_again,
    };

    if routing.target != routing.serving {
        return match (of(routing.target).may_serve(), of(routing.serving).may_serve()) {
            (true, _) => Decision::Finish,
            (false, true) => Decision::Withdraw,
            (false, false) => stay(None),
        };
    }

    let (serving, idle) = (of(routing.serving), of(routing.serving.other()));
    if serving.health == Health::Down && serving.cause != Some(Cause::LoginRefused) {
        let leave_at = if routing.since.is_none() {
            serving.since + policy.first_start
        } else {
            serving.since
        };
        if !idle.may_serve() || now < leave_at {
            return stay((now < leave_at).then_some(leave_at));
        }
        let kind = if serving.cause == Some(Cause::ProxyTerminating) {
            SwitchKind::Switchover
        } else {
            SwitchKind::Failover
        };
        return Decision::Begin {
            to: routing.serving.other(),
            kind,
            cause: serving.cause,
        };
    }

    if routing.serving == Side::Primary {
        return stay(None);
    }
    if policy.failback == FailbackMode::Never {
        return Decision::Stay {
            waiting: vec![Waiting::ModeNever],
            look_again: None,
        };
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
    if waiting.is_empty() {
        Decision::Begin {
            to: Side::Primary,
            kind: SwitchKind::Failback,
            cause: None,
        }
    } else {
        Decision::Stay { waiting, look_again }
    }
}

#[cfg(test)]
mod tests;
