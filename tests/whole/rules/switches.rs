//! What is a reason for a switch, and how it goes.

use std::time::Duration;

use proxypair::api::Side;

use super::{
    super::{
        faults::{Fault, Link},
        places::identity,
        touches::{How, Touch},
        world::{TICK, World},
    },
    AFTERMATH, NOTICED, SLOW,
};

/// `healthCheck.lostAfter`, as it is by default.
const LOST_AFTER: Duration = Duration::from_secs(1);

impl World {
    /// Remembers since when a side has had no pod with an address.
    pub(super) fn look_at_pods(&mut self) {
        let now = self.now();
        for side in Side::BOTH {
            let has_one = self.routed.values().any(|(of, _)| of == side.label());
            match has_one {
                true => self.missing[side] = None,
                false => drop(self.missing[side].get_or_insert(now)),
            }
        }
    }

    /// 1: a switch never leaves the Service without an endpoint.
    pub(super) fn guarantee_01_a_switch_has_an_endpoint(&self, side: Side) -> Result<(), String> {
        let now = self.now();
        match self.missing[side] {
            Some(since) if since.max(self.untroubled_since()) + NOTICED < now => Err(format!(
                "guarantee 1, a switch never leaves the Service without an endpoint: the {} has had no pod since {since:?}",
                side.label()
            )),
            _ => Ok(()),
        }
    }

    /// 2: traffic is never switched to a side that may not serve.
    pub(super) fn guarantee_02_only_to_a_side_that_may_serve(&self, side: Side) -> Result<(), String> {
        let now = self.now();
        let interval = Duration::from_millis(self.plan.timing.interval);
        let is_hidden = |touch: &Touch| {
            let is_of_link = matches!(touch.how, How::Hides | How::Silences);
            touch.side == side && is_of_link && touch.lasts_since(now.saturating_sub(AFTERMATH))
        };
        // Over a link that is cut or slow nothing is seen but silence, which counts after one or two intervals.
        let late = match self.touches.iter().any(is_hidden) {
            true => interval * 4 + SLOW,
            false => Duration::ZERO,
        };
        let is_stalled = |touch: &&Touch| {
            let is_server = matches!(self.plan.faults[touch.fault].2, Fault::ServerStalled(_));
            self.plan.has_login && touch.side == side && is_server && touch.ends.is_none()
        };
        let lost_since = || {
            let gates = self.kubernetes.gates().into_iter().filter(|gate| gate.side == side);
            let since = gates.map(|gate| {
                let mut of_gate = self.touches.iter().filter(|touch| {
                    matches!(self.plan.faults[touch.fault].2, Fault::NodeLost(..)) && touch.is_felt_by(gate.address)
                });
                of_gate
                    .find(|touch| gate.is_lost && touch.ends.is_none())
                    .map(|touch| touch.begins)
            });
            since.collect::<Option<Vec<_>>>()?.into_iter().max()
        };
        let bad = [
            (self.down[side], "its ObjectServer is down"),
            (
                self.touches.iter().find(is_stalled).map(|touch| touch.begins),
                "its ObjectServer is stalled",
            ),
            (lost_since(), "its gates are lost"),
        ];
        let known = bad.into_iter().find_map(|(since, what)| {
            let lasts = now.saturating_sub(since?);
            (lasts > NOTICED + interval + late).then_some((what, lasts))
        });
        match known {
            None => Ok(()),
            Some((what, lasts)) => Err(format!(
                "guarantee 2, traffic is never switched to a side that may not serve: the {}, {what} for {lasts:?}",
                side.label()
            )),
        }
    }

    /// 5, 12: a side is left for a failure that its gates or their ObjectServer feel. A refused login is none, and silence must have lasted.
    pub(super) fn guarantee_05_silence_has_lasted(&self, to: Side) -> Result<(), String> {
        // A failback leaves a side that is good.
        if to == Side::Primary {
            return Ok(());
        }
        let (from, now) = (to.other(), self.now());
        let unresponsive = Duration::from_millis(self.plan.timing.unresponsive_after);
        let is_recent = |touch: &&Touch| {
            touch.side == from
                && touch.probe.is_none()
                && touch.lasts_since(now.saturating_sub(unresponsive + AFTERMATH))
        };
        let mut only_silent = false;
        for touch in self.touches.iter().filter(is_recent) {
            match self.plan.faults[touch.fault].2 {
                Fault::LoginRefused(_)
                | Fault::LoginDeleted
                | Fault::LoginDamaged
                | Fault::Cut(Link::OperatorServer(..), _) => {}
                // Nobody sees anything of a machine that is gone.
                Fault::NodeLost(..) if now < touch.begins + LOST_AFTER => only_silent = true,
                Fault::ServerStalled(_) | Fault::Cut(..) if now < touch.begins + unresponsive => only_silent = true,
                _ => return Ok(()),
            }
        }
        let why = match only_silent {
            true => "it has been silent for less than unresponsiveAfter",
            false => "nothing that counts has happened to it",
        };
        Err(format!(
            "guarantee 5, silence shorter than unresponsiveAfter causes no switch: the {} is left, and {why}",
            from.label()
        ))
    }

    /// 6: what the selector is changed to is in status first, so that a successor finds it.
    pub(super) fn guarantee_06_intent_comes_first(&self, side: Side) -> Result<(), String> {
        let status = self.status().unwrap_or_default();
        if status.serving.is_none() || [status.serving, status.target].contains(&Some(side)) {
            return Ok(());
        }
        Err(format!(
            "guarantee 6, the intent is written before the selector: the {} is selected, and status has serving {:?} and target {:?}",
            side.label(),
            status.serving,
            status.target
        ))
    }

    /// 6: a switch that is finished stands in the history.
    pub(super) fn guarantee_06_no_switch_is_lost(&mut self) -> Result<(), String> {
        let version = self.seen.0[3];
        if version == self.served_at {
            return Ok(());
        }
        self.served_at = version;
        let status = self.status().unwrap_or_default();
        let before = std::mem::replace(&mut self.serving, status.serving);
        let (Some(before), Some(serving)) = (before, status.serving) else {
            return Ok(());
        };
        if before != serving && status.history.first().is_none_or(|switch| switch.to != serving) {
            return Err(format!(
                "guarantee 6, a switch that is finished stands in the history: serving becomes the {}",
                serving.label()
            ));
        }
        Ok(())
    }

    /// 7: two operators never both write.
    pub(super) fn guarantee_07_one_leader(&self) -> Result<(), String> {
        match &self.usurper {
            Some(usurper) => Err(format!("guarantee 7, two operators never both write: {usurper}")),
            None => Ok(()),
        }
    }

    /// What is wrong with a write of that operator: another one has held the Lease. One whose Lease was deleted may write until its claim is over.
    pub fn usurper_of(&self, operator: usize, now: Duration) -> Option<String> {
        let (holder, since, _) = self.leader.as_ref()?;
        let was_deleted = self.plan.faults.iter().any(|(begins, _, fault)| {
            *fault == Fault::LeaseDeleted && *begins <= *since && *since <= *begins + self.plan.lease
        });
        let tolerated = if was_deleted { self.plan.lease } else { TICK * 2 };
        let is_late = *holder != identity(operator) && now > *since + tolerated;
        is_late
            .then(|| format!("operator {operator} writes at {now:?}, and {holder} has held the Lease since {since:?}"))
    }
}
