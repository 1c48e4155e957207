//! The status of a pair that nothing watches.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{ConditionWriter, Problem, Truth, whole_seconds};
use crate::api::{
    CONDITION_BACKUP_HEALTHY, CONDITION_PRIMARY_HEALTHY, CONDITION_PROTECTED, CONDITION_READY, Health, ProxyPairStatus,
    Reason, SideStatus,
};

/// The status of a ProxyPair that nothing watches: `Ready` says what is wrong, and of the sides nothing is known. Where the Service points
/// stays as it was known.
#[must_use]
pub fn refused(
    problem: &Problem,
    generation: Option<i64>,
    before: &ProxyPairStatus,
    now: Timestamp,
) -> ProxyPairStatus {
    let writer = ConditionWriter {
        before: &before.conditions,
        generation,
        now,
    };
    let ready = writer.write(CONDITION_READY, Truth::False, problem.reason, &problem.message);
    let others = before.conditions.iter().filter(|known| known.type_ != CONDITION_READY);
    let others = others.map(|known| match known.type_.as_str() {
        CONDITION_PROTECTED | CONDITION_PRIMARY_HEALTHY | CONDITION_BACKUP_HEALTHY => writer.write(
            &known.type_,
            Truth::Unknown,
            Reason::NotWatched,
            "nothing watches the pair, for the reason in Ready",
        ),
        _ => known.clone(),
    });
    let unwatched = |side: &Option<SideStatus>| side.as_ref().map(|side| unwatched(side, now));
    ProxyPairStatus {
        observed_generation: generation,
        conditions: std::iter::once(ready).chain(others).collect(),
        primary: unwatched(&before.primary),
        backup: unwatched(&before.backup),
        ..before.clone()
    }
}

fn unwatched(side: &SideStatus, now: Timestamp) -> SideStatus {
    if side.health == Health::Unknown {
        return side.clone();
    }
    SideStatus {
        health: Health::Unknown,
        cause: None,
        message: None,
        since: Some(Time(whole_seconds(now))),
        ..side.clone()
    }
}
