//! `status` as a function of what is known. It changes only when something has changed: an idle fleet writes nothing.

mod unwatched;

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

pub use self::unwatched::refused;
use super::{
    defect::{Defect, Defects},
    expiry::Expiry,
    failover::{Decision, Routing, Waiting},
    health::SideHealth,
    now::Now,
    pair::Pair,
    resync::Missing,
};
use crate::{
    api::{
        CONDITION_BACKUP_HEALTHY, CONDITION_LOGIN_PROTECTED, CONDITION_PRIMARY_HEALTHY, CONDITION_PRIMARY_SERVING,
        CONDITION_PROTECTED, CONDITION_READY, FailbackStatus, GateStatus, Health, LostGate, ProxyPairStatus, Reason,
        STATUS_MESSAGE_MAX, Side, SideStatus, Sides, Switch, Switching,
    },
    foreign::cut,
};

/// How many switches `status.history` keeps.
const HISTORY: usize = 10;
/// A moment that is computed anew differs by less than this from what it was: it is the same moment.
const SAME_MOMENT: SignedDuration = SignedDuration::from_secs(2);

/// Why the pair is not as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The condition's reason.
    pub reason: Reason,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// What is known of one side.
#[derive(Clone, Debug)]
pub struct SideKnown<'a> {
    /// Up, down or unknown.
    pub health: &'a SideHealth,
    /// Probe sessions on all its gates.
    pub sessions: u32,
    /// Its gates.
    pub gates: Vec<GateStatus>,
    /// The ObjectServer's property `ActingPrimary`.
    pub acting_primary: Option<bool>,
    /// Certificate expiry times.
    pub expiry: Expiry,
    /// Why the operator cannot ask the ObjectServer about itself.
    pub unasked: Option<&'a str>,
}

/// Everything that status is made of.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// What the user declares.
    pub pair: &'a Pair,
    /// Where the traffic goes.
    pub routing: Routing,
    /// The switch under way.
    pub switching: Option<Switching>,
    /// Both sides.
    pub sides: Sides<SideKnown<'a>>,
    /// The newest decision.
    pub decision: &'a Decision,
    /// Why the pair is not as declared.
    pub problem: Option<&'a Problem>,
    /// What is wrong beside the health of the sides.
    pub defects: &'a Defects,
    /// Gates that are lost.
    pub lost_gates: Vec<LostGate>,
    /// A switch that has just been finished.
    pub finished: Option<&'a Switch>,
}

/// The status that says what is known, with as little changed from `before` as is true.
#[must_use]
pub fn render(known: &Known<'_>, before: &ProxyPairStatus, now: Now) -> ProxyPairStatus {
    let Known {
        pair,
        routing,
        switching,
        sides,
        decision: _,
        problem: _,
        defects: _,
        lost_gates,
        finished,
    } = known;
    let moments = Moments { now };
    let serving = &sides[routing.serving];
    let mut history = before.history.clone();
    if let Some(finished) = *finished {
        history.insert(0, finished.clone());
        history.truncate(HISTORY);
    }
    ProxyPairStatus {
        serving: Some(routing.serving),
        target: Some(routing.target),
        switching: switching.clone(),
        object_server: Some(pair.spec.side(routing.serving).object_server.name.clone()),
        since: routing.since.map(|since| {
            let is_same = before.serving == Some(routing.serving);
            moments.kept(before.since.as_ref().filter(|_| is_same), since)
        }),
        failing_since: (serving.health.health == Health::Down).then(|| {
            let known = before.failing_since.clone();
            known.unwrap_or_else(|| moments.wall(serving.health.since))
        }),
        observed_generation: Some(pair.generation),
        connections: count(sides.primary.sessions.saturating_add(sides.backup.sessions)),
        primary: Some(side_status(known, Side::Primary, before, moments)),
        backup: Some(side_status(known, Side::Backup, before, moments)),
        failback: failback_status(known, before, moments),
        lost_gates: lost_gates.clone(),
        history,
        conditions: conditions(known, &before.conditions, now.wall),
    }
}

/// Turns moments into times of status.
#[derive(Clone, Copy)]
struct Moments {
    now: Now,
}

impl Moments {
    fn wall(self, moment: Instant) -> Time {
        Time(whole_seconds(self.now.wall_of(moment)))
    }

    /// `old`, if `moment` is the same one.
    fn kept(self, old: Option<&Time>, moment: Instant) -> Time {
        let new = self.wall(moment);
        match old {
            Some(old) if old.0.duration_since(new.0).abs() < SAME_MOMENT => old.clone(),
            _ => new,
        }
    }
}

fn side_status(known: &Known<'_>, side: Side, before: &ProxyPairStatus, moments: Moments) -> SideStatus {
    let SideKnown {
        health,
        sessions,
        gates,
        acting_primary,
        expiry,
        unasked: _,
    } = &known.sides[side];
    let unchanged = before.side(side).filter(|old| old.health == health.health);
    SideStatus {
        health: health.health,
        cause: health.cause,
        message: health
            .message
            .as_ref()
            .filter(|_| health.health != Health::Up)
            .map(|message| cut(message, STATUS_MESSAGE_MAX)),
        since: unchanged
            .and_then(|old| old.since.clone())
            .or_else(|| Some(moments.wall(health.since))),
        connections: count(*sessions),
        gates: gates.clone(),
        object_server: known.pair.spec.side(side).object_server.name.clone(),
        acting_primary: *acting_primary,
        listener_certificate_expires: expiry.listener.map(Time),
        object_server_certificate_expires: expiry.object_server.map(Time),
    }
}

/// `None` while the primary serves and no session is left on the idle side.
fn failback_status(known: &Known<'_>, before: &ProxyPairStatus, moments: Moments) -> Option<FailbackStatus> {
    let routing = &known.routing;
    let remaining = known.sides[routing.serving.other()].sessions;
    let is_settled = routing.target == routing.serving;
    if routing.serving == Side::Primary && !(is_settled && remaining > 0) {
        return None;
    }
    let (waiting, look_again) = match known.decision {
        Decision::Stay { waiting, look_again } if routing.serving == Side::Backup => (waiting.as_slice(), *look_again),
        _ => (&[][..], None),
    };
    let old = before.failback.as_ref().and_then(|old| old.not_before.as_ref());
    Some(FailbackStatus {
        waiting_for: waiting.iter().map(|what| waiting_line(what, known)).collect(),
        not_before: look_again.map(|moment| moments.kept(old, moment)),
        connections_remaining: count(remaining),
    })
}

/// A line of `status.failback.waitingFor`, with why an answer does not come if that is known.
fn waiting_line(waiting: &Waiting, known: &Known<'_>) -> String {
    let line = waiting_for(waiting, known.pair);
    let why = match waiting {
        Waiting::Resync(Missing::Answer(side)) => known.sides[*side].unasked,
        _ => None,
    };
    let line = match why {
        Some(why) => format!("{line} ({why})"),
        None => line,
    };
    cut(&line, STATUS_MESSAGE_MAX)
}

fn conditions(known: &Known<'_>, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let writer = ConditionWriter {
        before,
        generation: Some(known.pair.generation),
        now,
    };
    let mut conditions = vec![
        ready(known, writer),
        protected(known, writer),
        primary_serving(known, writer),
        healthy(CONDITION_PRIMARY_HEALTHY, known.sides.primary.health, writer),
        healthy(CONDITION_BACKUP_HEALTHY, known.sides.backup.health, writer),
    ];
    conditions.extend(login_protected(known.pair, writer));
    conditions
}

/// Whether nobody on the way to an ObjectServer can obtain the password of the checks; `None` without a login.
fn login_protected(pair: &Pair, writer: ConditionWriter<'_>) -> Option<Condition> {
    let login = pair.spec.health_check.login.as_ref()?;
    let servers = Side::BOTH.map(|side| &pair.spec.side(side).object_server);
    let plain = servers.iter().filter(|server| server.tls.is_none());
    let plain: Vec<_> = plain.map(|server| server.name.as_str()).collect();
    if plain.is_empty() {
        return Some(writer.write(CONDITION_LOGIN_PROTECTED, Truth::True, Reason::LoginOverTls, ""));
    }
    let how = match login.allow_plaintext_login {
        true => "in the clear: anyone on the way can read it",
        false => {
            "encrypted with a key that nothing certifies: anyone on the way who answers in the server's place obtains it"
        }
    };
    let message = format!(
        "the password of healthCheck.login goes to {} without TLS, {how}; declare objectServer.tls",
        plain.join(" and ")
    );
    Some(writer.write(
        CONDITION_LOGIN_PROTECTED,
        Truth::False,
        Reason::LoginUnprotected,
        &message,
    ))
}

fn ready(known: &Known<'_>, writer: ConditionWriter<'_>) -> Condition {
    let write = |truth, reason, message: &str| writer.write(CONDITION_READY, truth, reason, message);
    let Routing { serving, target, .. } = known.routing;
    let waiting = known.problem.filter(|problem| problem.reason == Reason::UpdateWaiting);
    if let Some(problem) = known.problem.filter(|_| waiting.is_none()) {
        return write(Truth::False, problem.reason, &problem.message);
    }
    if target != serving {
        let message = format!("a switch to the {} side is under way", target.label());
        return write(
            Truth::False,
            Reason::Switching,
            &joined([message.as_str()], &known.defects.ready),
        );
    }
    let health = known.sides[serving].health;
    let defects = &known.defects.ready;
    match (health.health, defects.first()) {
        (Health::Down, _) => {
            let reason = health.cause.map_or(Reason::NotObserved, Reason::Down);
            let messages = health.message.iter().map(String::as_str);
            write(Truth::False, reason, &joined(messages, defects))
        }
        (_, Some(defect)) => write(Truth::False, defect.reason, &joined([], defects)),
        (Health::Up, None) => {
            let serves = format!("the {} side serves", serving.label());
            match waiting {
                // It lacks nothing meanwhile.
                Some(Problem { reason, message }) => write(Truth::True, *reason, &format!("{serves}; {message}")),
                None => write(Truth::True, Reason::Serving, &serves),
            }
        }
        (Health::Unknown, None) => write(
            Truth::Unknown,
            Reason::NotObserved,
            health
                .message
                .as_deref()
                .unwrap_or("the serving side has not been checked yet"),
        ),
    }
}

/// Messages in one line.
fn joined<'a>(first: impl IntoIterator<Item = &'a str>, defects: &'a [Defect]) -> String {
    let defects = defects.iter().map(|defect| defect.message.as_str());
    first.into_iter().chain(defects).collect::<Vec<_>>().join("; ")
}

fn protected(known: &Known<'_>, writer: ConditionWriter<'_>) -> Condition {
    let up = known.sides.iter().filter(|(_, side)| side.health.health == Health::Up);
    let defects = &known.defects.protected;
    let (reason, message) = match (up.count(), defects.first()) {
        (2, None) => return writer.write(CONDITION_PROTECTED, Truth::True, Reason::BothUp, ""),
        (2, Some(defect)) => (defect.reason, joined([], defects)),
        (1, _) => {
            let budget = &known.pair.name;
            let message = format!(
                "only one side is up: its failure would stop the traffic; while the other pod is not ready, \
                 PodDisruptionBudget {budget} lets a drain of the node wait"
            );
            (Reason::OneSideOnly, joined([message.as_str()], defects))
        }
        _ => (Reason::OneSideOnly, joined(["neither side is up"], defects)),
    };
    writer.write(CONDITION_PROTECTED, Truth::False, reason, &message)
}

fn primary_serving(known: &Known<'_>, writer: ConditionWriter<'_>) -> Condition {
    let serving = known.routing.serving;
    let (truth, reason) = match serving {
        Side::Primary => (Truth::True, Reason::Primary),
        Side::Backup => (Truth::False, Reason::Backup),
    };
    writer.write(CONDITION_PRIMARY_SERVING, truth, reason, "")
}

fn healthy(type_: &str, health: &SideHealth, writer: ConditionWriter<'_>) -> Condition {
    let truth = match health.health {
        Health::Up => return writer.write(type_, Truth::True, Reason::Up, ""),
        Health::Down => Truth::False,
        Health::Unknown => Truth::Unknown,
    };
    let reason = health.cause.map_or(Reason::NotObserved, Reason::Down);
    writer.write(type_, truth, reason, health.message.as_deref().unwrap_or_default())
}

#[derive(Clone, Copy)]
enum Truth {
    True,
    False,
    Unknown,
}

/// Writes conditions whose transition time stays while their status does.
#[derive(Clone, Copy)]
struct ConditionWriter<'a> {
    before: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
}

impl ConditionWriter<'_> {
    fn write(self, type_: &str, truth: Truth, reason: Reason, message: &str) -> Condition {
        let status = match truth {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        };
        let unchanged = self
            .before
            .iter()
            .find(|old| old.type_ == type_ && old.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_string(),
            message: cut(message, STATUS_MESSAGE_MAX),
            observed_generation: self.generation,
            last_transition_time: unchanged
                .map_or_else(|| Time(whole_seconds(self.now)), |old| old.last_transition_time.clone()),
        }
    }
}

/// One line of `status.failback.waitingFor`.
#[must_use]
pub fn waiting_for(waiting: &Waiting, pair: &Pair) -> String {
    let failback = &pair.spec.failback;
    match waiting {
        Waiting::PrimaryUp => "the primary side to be up".to_owned(),
        Waiting::PrimaryStable => format!("the primary side to stay up for {}", failback.stable_for),
        Waiting::MinimumOnBackup => format!("the backup side to have served for {}", failback.minimum_on_backup),
        Waiting::ModeNever => "nothing: failback is disabled (failback.mode: Never)".to_owned(),
        Waiting::Resync(missing) => waiting_for_resync(missing, pair),
    }
}

/// What the resync waits for, in words.
#[must_use]
pub fn waiting_for_resync(missing: &Missing, pair: &Pair) -> String {
    let name = |side| &pair.spec.side(side).object_server.name;
    let wanted = pair.spec.resync().unwrap_or_default().gateway_description;
    match missing {
        Missing::Answer(side) => format!("an answer from {} about its gateways", name(*side)),
        Missing::Sight(side, why) => {
            let name = name(*side);
            format!("permission to read catalog.connections on {name} ({name} answers: {why})")
        }
        Missing::Gateway(side) => format!("the gateway {wanted} to attach to {}", name(*side)),
        Missing::Description(side, others) => format!(
            "the gateway {wanted} to attach to {}; the descriptions of the attached gateways are: {}",
            name(*side),
            others.join(", ")
        ),
        Missing::Property => format!("{} to report its property ActingPrimary", name(Side::Backup)),
        Missing::ActingPrimary => {
            let name = name(Side::Backup);
            format!("the resync to finish: ActingPrimary is TRUE on {name}")
        }
        Missing::Confirmation => format!("{} to confirm that the resync has finished", name(Side::Backup)),
    }
}

/// A number of sessions as status has it.
pub(super) fn count(sessions: u32) -> i32 {
    i32::try_from(sessions).unwrap_or(i32::MAX)
}

/// A moment as `Time` keeps it.
pub(super) fn whole_seconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

/// A status whose numbers of sessions are taken out, to tell whether it differs from another in more than those. `failback` is one of them
/// while it says nothing but the number of sessions.
#[must_use]
pub fn without_counts(status: &ProxyPairStatus) -> ProxyPairStatus {
    let mut status = status.clone();
    status.connections = 0;
    for side in [&mut status.primary, &mut status.backup].into_iter().flatten() {
        side.connections = 0;
        for gate in &mut side.gates {
            gate.connections = 0;
        }
    }
    let failback = status.failback.take().map(|failback| FailbackStatus {
        connections_remaining: 0,
        ..failback
    });
    status.failback = failback.filter(|failback| *failback != FailbackStatus::default());
    status
}

#[cfg(test)]
mod tests;
