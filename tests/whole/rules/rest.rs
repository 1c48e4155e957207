//! What must come true once the faults are over: the pair serves from its primary, every probe is on it, status says so, and nothing is written any
//! more.

use std::time::Duration;

use proxypair::api::{Health, Side, Sides};

use super::super::{faults::Fault, world::World};

/// How long a pair must be at rest after the faults.
pub const REST: Duration = Duration::from_secs(6);
/// How long a successor of a leader that vanished may take, besides three leases in a row that are lost.
const LEADS_WITHIN: Duration = Duration::from_secs(15);
/// Time for pods to come back, for probes to try again, and for what waits with growing pauses.
const SLACK: Duration = Duration::from_secs(60);
/// A leader that came later may still have something to write.
const TAKES_OVER: Duration = Duration::from_secs(8);
/// Each side is replaced, its pods one by one, and the other one waited for.
const ROLLS_WITHIN: Duration = Duration::from_secs(90);
/// A refused login is tried again after that, and then after twice as long.
const LOGS_IN_AGAIN: Duration = Duration::from_secs(61);

impl World {
    /// How long after the last fault the pair may take until it serves from its primary with every probe on it.
    pub fn comes_to_rest_within(&self) -> Duration {
        let timing = self.plan.timing;
        let millis =
            timing.unreachable_after + 3 * timing.unresponsive_after + 2 * timing.healthy_after + 2 * timing.stable_for;
        let count = |is_one: fn(Fault) -> bool| {
            let faults = self.plan.faults.iter();
            u32::try_from(faults.filter(|(.., fault)| is_one(*fault)).count()).unwrap_or(u32::MAX)
        };
        let rolls = count(|fault| fault.moves_all_pods()) * ROLLS_WITHIN;
        let logins = LOGS_IN_AGAIN * (2_u32.pow(count(Fault::refuses_login)) - 1);
        Duration::from_millis(millis) + self.plan.lease * 3 + LEADS_WITHIN + SLACK + rolls + logins
    }

    /// Why the pair is not at rest; `None` if it is.
    pub fn unrest(&self) -> Option<String> {
        let now = self.now();
        let leads = self.leader.as_ref();
        if !leads.is_some_and(|(_, since, renewed)| *since + TAKES_OVER <= now && now <= *renewed + self.plan.lease) {
            return Some(format!("the Lease was acquired and renewed at {leads:?}"));
        }
        let status = self.status().unwrap_or_default();
        if let Some(why) = self.kubernetes.unfinished(self.operators.image.get()) {
            return Some(why);
        }
        if status.serving != Some(Side::Primary) || self.selects() != Some(Side::Primary) {
            return Some(format!(
                "status has {:?}, the Service selects {:?}",
                status.serving,
                self.selects()
            ));
        }
        for wanted in ["Ready", "Protected"] {
            let condition = status.conditions.iter().find(|condition| condition.type_ == wanted);
            let is_lost = |reason: &str| reason == "GateLost" && !status.lost_gates.is_empty();
            if condition.is_none_or(|condition| condition.status != "True" && !is_lost(&condition.reason)) {
                return Some(format!("{wanted} is {condition:?}"));
            }
        }
        for side in Side::BOTH {
            let shown = status.side(side).map(|side| side.gates.as_slice()).unwrap_or_default();
            let bad = shown.iter().find(|gate| gate.health != Health::Up || !gate.routed);
            let living = self.kubernetes.gates_of(side).len();
            if bad.is_some() || shown.len() != living {
                return Some(format!(
                    "status has {} gates of the {}, and there are {living}; one of them is {bad:?}",
                    shown.len(),
                    side.label()
                ));
            }
        }
        for (number, probe) in self.probes.iter().enumerate() {
            let probe = probe.borrow();
            let side = probe.connected.and_then(|gate| self.kubernetes.side_of(gate.ip()));
            let newest = probe.acknowledged.map_or(Duration::ZERO, |(_, at)| at);
            if side != Some(Side::Primary) || newest + Duration::from_secs(1) < self.now() {
                return Some(format!(
                    "probe {number} is on {side:?}, its newest event was acknowledged at {newest:?}"
                ));
            }
        }
        let counted = Sides::from_fn(|side| status.side(side).map(|side| side.connections));
        let probes = i32::try_from(self.probes.len()).ok();
        if counted.primary != probes || counted.backup != Some(0) {
            return Some(format!(
                "status counts {counted:?} sessions, there are {probes:?} probes"
            ));
        }
        None
    }

    /// What must hold when the pair has been at rest since `since`.
    ///
    /// # Errors
    ///
    /// What is violated.
    pub fn check_rest(&self, since: Duration) -> Result<(), String> {
        let settled = since + REST / 2;
        if let Some((at, write)) = self.writes.iter().find(|(at, _)| *at > settled) {
            return Err(format!("guarantee 14, an idle pair writes nothing: {write} at {at:?}"));
        }
        self.guarantee_09_no_event_is_lost()?;
        self.guarantee_09_none_is_sent_twice()
    }
}
