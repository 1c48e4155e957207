//! What must hold.

mod gates;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proxypair::api::{Side, Sides};

pub use self::gates::Routed;
use super::{plan::Fault, probe::event, world::World};

/// How long a pair must be at rest after the faults.
pub const REST: Duration = Duration::from_secs(6);
/// How long a successor of a leader that vanished may take, with three leases in a row that are lost.
const LEADS_WITHIN: Duration = Duration::from_secs(30);
/// Time for pods to come back, for probes to try again, and for what waits with growing pauses.
const SLACK: Duration = Duration::from_secs(60);
/// A leader that came later may still have something to write.
const TAKES_OVER: Duration = Duration::from_secs(8);
/// A leader whose renewal is older may be gone.
const RENEWED_WITHIN: Duration = Duration::from_secs(2);
/// How much later than a fault its effect on a session may be seen.
const EFFECT: Duration = Duration::from_secs(2);

impl World {
    /// How long after the last fault the pair may take until it serves from its primary with every probe on it.
    pub fn comes_to_rest_within(&self) -> Duration {
        let timing = self.plan.timing;
        let millis =
            timing.unreachable_after + 3 * timing.unresponsive_after + 2 * timing.healthy_after + 2 * timing.stable_for;
        Duration::from_millis(millis) + LEADS_WITHIN + SLACK
    }

    /// What must hold after each step.
    ///
    /// # Errors
    ///
    /// What is violated.
    pub fn check(&mut self) -> Result<(), String> {
        self.guarantee_18_the_last_gate_stays()?;
        if let Some(usurper) = &self.usurper {
            return Err(format!("only the leader writes: {usurper}"));
        }
        let now = self.now();
        let Some((at, side)) = self
            .selected
            .last()
            .filter(|(at, _)| *at == now && self.selected.len() > 1)
        else {
            return Ok(());
        };
        self.guarantee_18_one_gate_moves_nothing(*side)?;
        // Its gate says within milliseconds that its ObjectServer is gone, unless something else is in the way.
        let limit = Duration::from_secs(3) + Duration::from_millis(self.plan.timing.interval);
        let is_disturbed = self.plan.faults.iter().any(|(begins, lasts, fault)| {
            matches!(fault, Fault::Silent(_)) && *begins <= now && now <= *begins + *lasts + EFFECT
        });
        match self.down[*side] {
            Some(since) if *at > since + limit && !is_disturbed => Err(format!(
                "the Service is switched to a side that can serve: the ObjectServer of the {} has been down since {since:?}",
                side.label()
            )),
            _ => Ok(()),
        }
    }

    /// Why the pair is not at rest; `None` if it is.
    pub fn unrest(&self) -> Option<String> {
        let now = self.now();
        let leads = self.leader.as_ref();
        if !leads.is_some_and(|(_, since, renewed)| *since + TAKES_OVER <= now && now <= *renewed + RENEWED_WITHIN) {
            return Some(format!("the Lease was acquired and renewed at {leads:?}"));
        }
        let status = self.pair()?.status.unwrap_or_default();
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
            return Err(format!("a pair at rest writes nothing: {write} at {at:?}"));
        }
        self.check_events()
    }

    fn check_events(&self) -> Result<(), String> {
        let mut stored: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        let servers = Sides::from_fn(|side| self.servers[side].borrow());
        for (_, server) in servers.iter() {
            for (event, at) in &server.events {
                stored.entry(event).or_default().push(*at);
            }
        }
        for (number, probe) in self.probes.iter().enumerate() {
            let acknowledged = probe.borrow().acknowledged.map_or(0, |(newest, _)| newest);
            let events: BTreeSet<_> = (1..=acknowledged).map(|newest| event(number, newest)).collect();
            if let Some(lost) = events.iter().find(|event| !stored.contains_key(event.as_str())) {
                return Err(format!("no acknowledged event is lost: {lost}"));
            }
        }
        for (event, times) in &stored {
            let [first, .., last] = times[..] else {
                continue;
            };
            let is_excused = self.plan.faults.iter().any(|(begins, lasts, _)| {
                *begins <= last
                    && first <= *begins + *lasts + EFFECT + Duration::from_millis(self.plan.timing.unresponsive_after)
            });
            if !is_excused {
                return Err(format!(
                    "no event is stored twice without a fault: {event} at {first:?} and {last:?}"
                ));
            }
        }
        Ok(())
    }
}
