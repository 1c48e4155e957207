//! What becomes of the sessions of probes.

use std::{net::IpAddr, time::Duration};

use proxypair::api::Side;

use super::{
    super::{
        faults::{Fault, Link},
        touches::{How, Touch},
        world::World,
    },
    AFTERMATH, SLOW,
};

/// How soon a gate closes its port when its ObjectServer is gone.
const CLOSES_WITHIN: Duration = Duration::from_millis(1500);
/// How long after a switch nodes may lead to the other side, and stragglers be drained.
const SETTLED: Duration = Duration::from_secs(5);

/// Which gate a probe is connected to, and since when.
pub type Session = (Option<IpAddr>, Duration);

impl World {
    pub(super) fn check_sessions(&mut self) -> Result<(), String> {
        let now = self.now();
        self.sessions.resize(self.probes.len(), (None, Duration::ZERO));
        for number in 0..self.probes.len() {
            let gate = self.probes[number].borrow().connected.map(|gate| gate.ip());
            let before = self.sessions[number];
            if before.0 == gate {
                continue;
            }
            self.sessions[number] = (gate, now);
            if let (Some(lost), since) = before {
                self.guarantee_13_the_serving_side_keeps_its_sessions(number, lost, since)?;
            }
            if let Some(gate) = gate {
                self.guarantee_03_refuses_without_its_objectserver(number, gate)?;
            }
        }
        Ok(())
    }

    /// 3: a gate accepts no probe while it cannot reach its ObjectServer.
    fn guarantee_03_refuses_without_its_objectserver(&self, probe: usize, gate: IpAddr) -> Result<(), String> {
        let Some(side) = self.kubernetes.side_of(gate) else {
            return Ok(());
        };
        let Some(since) = self.down[side] else { return Ok(()) };
        let is_felt = |touch: &&Touch| {
            let is_on_its_way = matches!(
                self.plan.faults[touch.fault].2,
                Fault::NodeLost(..) | Fault::Cut(Link::GateServer(..) | Link::ProbeGate(..), _)
            );
            touch.side == side && is_on_its_way && touch.is_felt_by(gate) && touch.lasts_since(since)
        };
        let mut allowed = CLOSES_WITHIN;
        for touch in self.touches.iter().filter(is_felt) {
            allowed += match touch.probe {
                Some(felt) if felt == probe => SLOW,
                Some(_) => Duration::ZERO,
                // The gate meets silence, and learns of the end when that is over.
                None => Duration::from_millis(self.plan.timing.unresponsive_after) + SLOW,
            };
        }
        // One that has just started asks first.
        let lasts = self.now().saturating_sub(since);
        if lasts > allowed {
            return Err(format!(
                "guarantee 3, a gate accepts no probe while it cannot reach its ObjectServer: {gate} of the {} accepts probe {probe} {lasts:?} after that went down",
                side.label()
            ));
        }
        Ok(())
    }

    /// 13: sessions on the side that serves stay, whatever becomes of the operators and the API server.
    fn guarantee_13_the_serving_side_keeps_its_sessions(
        &self,
        probe: usize,
        gate: IpAddr,
        since: Duration,
    ) -> Result<(), String> {
        let now = self.now();
        let Some((switched, serving)) = self.selected.last().copied() else {
            return Ok(());
        };
        let gates = self.kubernetes.gates();
        let Some(found) = gates.iter().find(|found| found.address == gate) else {
            return Ok(());
        };
        // One that is taken out or ends is emptied into the others.
        let keeps = found.side == serving && found.stays && found.is_routed && switched + SETTLED < since;
        let is_felt = |touch: &Touch| self.is_felt_by_sessions(touch, found.side, gate, probe, now);
        if !keeps || self.touches.iter().any(is_felt) {
            return Ok(());
        }
        Err(format!(
            "guarantee 13, traffic continues to the side that serves: the session of probe {probe} on {} of the {}, which began at {since:?}, ends without a cause",
            found.pod,
            found.side.label()
        ))
    }

    fn is_felt_by_sessions(&self, touch: &Touch, side: Side, gate: IpAddr, probe: usize, now: Duration) -> bool {
        let silence = match touch.how {
            How::Silences => Duration::from_millis(self.plan.timing.unresponsive_after),
            How::Hides | How::Breaks | How::Leaves => Duration::ZERO,
        };
        let is_nothing = matches!(
            self.plan.faults[touch.fault].2,
            Fault::LoginRefused(_)
                | Fault::LoginDeleted
                | Fault::LoginDamaged
                | Fault::Cut(Link::OperatorServer(..), _)
        );
        !is_nothing
            && touch.side == side
            && touch.probe.is_none_or(|felt| felt == probe)
            && touch.is_felt_by(gate)
            && touch.lasts_since(now.saturating_sub(silence + AFTERMATH))
    }
}
