//! `status` as a function of what is known. It changes only when something has changed: an idle fleet writes nothing.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{
    expiry::Expiry,
    failover::{Decision, Routing, Waiting},
    health::SideHealth,
    pair::Pair,
    resync::Missing,
};
use crate::api::{
    CONDITION_BACKUP_HEALTHY, CONDITION_PRIMARY_HEALTHY, CONDITION_PRIMARY_SERVING, CONDITION_PROTECTED,
    CONDITION_READY, FailbackStatus, Health, ProxyPairStatus, Reason, Side, SideStatus, Switch, Switching,
};

/// How many switches `status.history` keeps.
const HISTORY: usize = 10;
/// A moment that is computed anew differs by less than this from what it was: it is the same moment.
const SAME_MOMENT: SignedDuration = SignedDuration::from_secs(2);

/// One moment on both clocks, so that one can be turned into the other.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For durations.
    pub monotonic: Instant,
    /// For status.
    pub wall: Timestamp,
}

impl Now {
    /// The wall clock's reading of `moment`, past or future.
    pub fn wall_of(&self, moment: Instant) -> Timestamp {
        let span = |duration| SignedDuration::try_from(duration).unwrap_or_default();
        match moment.checked_duration_since(self.monotonic) {
            Some(ahead) => self.wall + span(ahead),
            None => self.wall - span(self.monotonic.saturating_duration_since(moment)),
        }
    }

    /// The monotonic clock's reading of a moment in the past; now for one in the future.
    pub fn instant_of(&self, moment: Timestamp) -> Instant {
        let age = self
            .wall
            .duration_since(moment)
            .max(SignedDuration::ZERO)
            .unsigned_abs();
        self.monotonic.checked_sub(age).unwrap_or(self.monotonic)
    }
}

/// Why the pair is not as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one word.
    pub reason: Reason,
    /// In words, with what to do.
    pub message: String,
}

/// What is known of one side.
#[derive(Clone, Debug)]
pub struct SideKnown<'a> {
    /// Up, down or unknown.
    pub health: &'a SideHealth,
    /// Probe sessions.
    pub sessions: u32,
    /// What the ObjectServer says of its `ActingPrimary`.
    pub acting_primary: Option<bool>,
    /// When certificates end to be valid.
    pub expiry: Expiry,
}

/// Everything that status says.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// What the user declares.
    pub pair: &'a Pair,
    /// Where the traffic goes.
    pub routing: &'a Routing,
    /// The switch under way.
    pub switching: Option<&'a Switching>,
    /// Primary and backup.
    pub sides: [SideKnown<'a>; 2],
    /// What was decided last.
    pub decision: &'a Decision,
    /// Why the pair is not as declared.
    pub problem: Option<&'a Problem>,
    /// A switch that has just been finished.
    pub finished: Option<Switch>,
}

/// The status that says what is known, as little changed from `before` as is true.
pub fn render(known: &Known<'_>, before: &ProxyPairStatus, now: Now) -> ProxyPairStatus {
    let Known {
        pair,
        routing,
        switching,
        sides,
        decision,
        problem,
        finished,
    } = known;
    let wall = |moment: Instant| Time(whole_seconds(now.wall_of(moment)));
    let same_moment = |old: Option<&Time>, new: Time| match old {
        Some(old) if old.0.duration_since(new.0).abs() < SAME_MOMENT => old.clone(),
        _ => new,
    };
    let side_status = |side: Side, known: &SideKnown<'_>| {
        let old = before.side(side);
        let unchanged = old.filter(|old| old.health == known.health.health);
        SideStatus {
            health: known.health.health,
            cause: known.health.cause,
            message: known
                .health
                .message
                .clone()
                .filter(|_| known.health.health != Health::Up),
            since: unchanged
                .and_then(|old| old.since.clone())
                .or_else(|| Some(wall(known.health.since))),
            connections: count(known.sessions),
            object_server: pair.spec.side(side).object_server.name.clone(),
            acting_primary: known.acting_primary,
            listener_certificate_expires: known.expiry.listener.map(Time),
            object_server_certificate_expires: known.expiry.object_server.map(Time),
        }
    };
    let [primary, backup] = sides;
    let serving = if routing.serving == Side::Primary {
        primary
    } else {
        backup
    };
    let idle = if routing.serving == Side::Primary {
        backup
    } else {
        primary
    };
    let failback =
        (routing.serving == Side::Backup || (routing.target == routing.serving && idle.sessions > 0)).then(|| {
            let (waiting, look_again) = match decision {
                Decision::Stay { waiting, look_again } if routing.serving == Side::Backup => {
                    (waiting.as_slice(), *look_again)
                }
                _ => (&[][..], None),
            };
            let old = before.failback.as_ref().and_then(|old| old.not_before.as_ref());
            FailbackStatus {
                waiting_for: waiting.iter().map(|what| in_words(what, pair)).collect(),
                not_before: look_again.map(|moment| same_moment(old, wall(moment))),
                connections_remaining: count(idle.sessions),
            }
        });
    let mut history = before.history.clone();
    if let Some(finished) = finished {
        history.insert(0, finished.clone());
        history.truncate(HISTORY);
    }
    ProxyPairStatus {
        serving: Some(routing.serving),
        target: Some(routing.target),
        switching: switching.cloned(),
        object_server: Some(pair.spec.side(routing.serving).object_server.name.clone()),
        since: routing
            .since
            .map(|since| same_moment(before.since.as_ref(), wall(since))),
        failing_since: (serving.health.health == Health::Down).then(|| {
            before
                .failing_since
                .clone()
                .unwrap_or_else(|| wall(serving.health.since))
        }),
        observed_generation: Some(pair.generation),
        connections: count(primary.sessions.saturating_add(backup.sessions)),
        primary: Some(side_status(Side::Primary, primary)),
        backup: Some(side_status(Side::Backup, backup)),
        failback,
        history,
        conditions: conditions(pair, routing, [primary, backup], *problem, &before.conditions, now.wall),
    }
}

/// The status of a ProxyPair that cannot be acted on: what was known stays, Ready says what is wrong.
pub fn refused(
    problem: &Problem,
    generation: Option<i64>,
    before: &ProxyPairStatus,
    now: Timestamp,
) -> ProxyPairStatus {
    let ready = condition(
        CONDITION_READY,
        Truth::False,
        problem.reason,
        &problem.message,
        generation,
        &before.conditions,
        now,
    );
    let others = before
        .conditions
        .iter()
        .filter(|condition| condition.type_ != CONDITION_READY)
        .cloned();
    ProxyPairStatus {
        observed_generation: generation,
        conditions: std::iter::once(ready).chain(others).collect(),
        ..before.clone()
    }
}

fn conditions(
    pair: &Pair,
    routing: &Routing,
    [primary, backup]: [&SideKnown<'_>; 2],
    problem: Option<&Problem>,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let make = |type_, truth, reason: Reason, message: &str| {
        condition(type_, truth, reason, message, Some(pair.generation), before, now)
    };
    let healthy = |type_, known: &SideKnown<'_>| {
        let health = known.health;
        let reason = match (health.health, health.cause) {
            (Health::Up, _) => Reason::Up,
            (_, Some(cause)) => Reason::Down(cause),
            (_, None) => Reason::NotObserved,
        };
        let message = health.message.as_deref().unwrap_or_default();
        make(
            type_,
            Truth::of(health.health),
            reason,
            if health.health == Health::Up { "" } else { message },
        )
    };
    let serving = if routing.serving == Side::Primary {
        primary
    } else {
        backup
    };
    let ready = match problem {
        Some(problem) => make(CONDITION_READY, Truth::False, problem.reason, &problem.message),
        None if routing.target != routing.serving => make(
            CONDITION_READY,
            Truth::False,
            Reason::Switching,
            &format!("the Service is being moved to the {} side", routing.target.label()),
        ),
        None => match serving.health.health {
            Health::Up => make(
                CONDITION_READY,
                Truth::True,
                Reason::Serving,
                &format!("the {} side serves", routing.serving.label()),
            ),
            Health::Down => {
                let cause = serving.health.cause.map_or(Reason::NotObserved, Reason::Down);
                make(
                    CONDITION_READY,
                    Truth::False,
                    cause,
                    serving.health.message.as_deref().unwrap_or_default(),
                )
            }
            Health::Unknown => make(
                CONDITION_READY,
                Truth::Unknown,
                Reason::NotObserved,
                "the serving side has not been seen yet",
            ),
        },
    };
    let both_up = primary.health.health == Health::Up && backup.health.health == Health::Up;
    let protected = if both_up {
        (Truth::True, Reason::BothUp)
    } else {
        (Truth::False, Reason::OneSideOnly)
    };
    let home = if routing.serving == Side::Primary {
        (Truth::True, Reason::Primary)
    } else {
        (Truth::False, Reason::Backup)
    };
    vec![
        ready,
        make(
            CONDITION_PROTECTED,
            protected.0,
            protected.1,
            if both_up {
                ""
            } else {
                "one more failure would stop the traffic"
            },
        ),
        make(CONDITION_PRIMARY_SERVING, home.0, home.1, ""),
        healthy(CONDITION_PRIMARY_HEALTHY, primary),
        healthy(CONDITION_BACKUP_HEALTHY, backup),
    ]
}

#[derive(Clone, Copy)]
enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    fn of(health: Health) -> Self {
        match health {
            Health::Up => Self::True,
            Health::Down => Self::False,
            Health::Unknown => Self::Unknown,
        }
    }
}

fn condition(
    type_: &str,
    truth: Truth,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let status = match truth {
        Truth::True => "True",
        Truth::False => "False",
        Truth::Unknown => "Unknown",
    };
    let unchanged = before.iter().find(|old| old.type_ == type_ && old.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_string(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: unchanged
            .map_or_else(|| Time(whole_seconds(now)), |old| old.last_transition_time.clone()),
    }
}

fn in_words(waiting: &Waiting, pair: &Pair) -> String {
    let failback = &pair.spec.failback;
    match waiting {
        Waiting::PrimaryUp => "the primary to be up".to_owned(),
        Waiting::PrimaryStable => format!("the primary to be up for {} without a break", failback.stable_for),
        Waiting::MinimumOnBackup => format!("the backup to have served for {}", failback.minimum_on_backup),
        Waiting::ModeNever => "nobody: failback.mode is Never".to_owned(),
        Waiting::Resync(missing) => resync_in_words(missing, pair),
    }
}

fn resync_in_words(missing: &Missing, pair: &Pair) -> String {
    let name = |side| &pair.spec.side(side).object_server.name;
    let wanted = pair.spec.resync().unwrap_or_default().gateway_description;
    match missing {
        Missing::Answer(side) => format!("an answer of {} about its gateway", name(*side)),
        Missing::Sight(side, why) => {
            let name = name(*side);
            format!("leave to read catalog.connections on {name}, which says: {why}")
        }
        Missing::Gateway(side) => format!("the gateway {wanted} to be attached to {}", name(*side)),
        Missing::Description(side, others) => format!(
            "the gateway {wanted} to be attached to {}: those that are call themselves {}",
            name(*side),
            others.join(", ")
        ),
        Missing::Property => format!("{} to tell its property ActingPrimary", name(Side::Backup)),
        Missing::ActingPrimary => {
            let name = name(Side::Backup);
            format!("the resync to finish: ActingPrimary is TRUE on {name}")
        }
        Missing::Confirmation => format!("{} to confirm that the resync has finished", name(Side::Backup)),
    }
}

fn count(sessions: u32) -> i32 {
    i32::try_from(sessions).unwrap_or(i32::MAX)
}

fn whole_seconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

#[cfg(test)]
mod tests;
