//! What becomes of the events.

use std::collections::{BTreeMap, BTreeSet};

use proxypair::api::{Side, Sides};

use super::{
    super::{
        faults::{Fault, Link},
        object_server::Stored,
        probe::{PATIENCE, event},
        touches::{How, Touch},
        world::World,
    },
    AFTERMATH,
};

impl World {
    /// 9: every event that was acknowledged is in an ObjectServer.
    pub(super) fn guarantee_09_no_event_is_lost(&self) -> Result<(), String> {
        let servers = Sides::from_fn(|side| self.servers[side].borrow());
        let stored: BTreeSet<&str> = servers
            .iter()
            .flat_map(|(_, server)| server.events.iter().map(|stored| stored.event.as_str()))
            .collect();
        for (number, probe) in self.probes.iter().enumerate() {
            let acknowledged = probe.borrow().acknowledged.map_or(0, |(newest, _)| newest);
            let mut events = (1..=acknowledged).map(|newest| event(number, newest));
            if let Some(lost) = events.find(|event| !stored.contains(event.as_str())) {
                return Err(format!("guarantee 9, no acknowledged event is lost: {lost}"));
            }
        }
        Ok(())
    }

    /// 9: none is sent twice by a failback or a switchover. The acknowledgement of one that is stored twice was lost by a fault on its way: that of
    /// the ObjectServer, the gate or the links of that probe.
    pub(super) fn guarantee_09_none_is_sent_twice(&self) -> Result<(), String> {
        let mut stored: BTreeMap<String, Vec<(Side, Stored)>> = BTreeMap::new();
        for side in Side::BOTH {
            for event in &self.servers[side].borrow().events {
                stored
                    .entry(event.event.clone())
                    .or_default()
                    .push((side, event.clone()));
            }
        }
        for (number, probe) in self.probes.iter().enumerate() {
            for event in (1..=probe.borrow().sent).map(|sent| event(number, sent)) {
                let mut times = stored.remove(&event).unwrap_or_default();
                times.sort_by_key(|(_, stored)| stored.at);
                for pair in times.windows(2) {
                    let [(side, first), (other, again)] = pair else {
                        continue;
                    };
                    // What was held back on a link arrives when the probe has long sent it again.
                    let is_late = |touch: &Touch| {
                        touch.how == How::Silences
                            && touch.begins <= first.at
                            && self.explains(touch, number, *other, again)
                    };
                    let is_explained = |touch: &Touch| self.explains(touch, number, *side, first) || is_late(touch);
                    if !self.touches.iter().any(is_explained) {
                        return Err(format!(
                            "guarantee 9, no event is sent twice without a fault on its way: {event} is stored at {:?} by the {} through {:?}, and at {:?} by the {}",
                            first.at,
                            side.label(),
                            first.through,
                            again.at,
                            other.label()
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a fault may have lost the acknowledgement of an event.
    fn explains(&self, touch: &Touch, probe: usize, side: Side, stored: &Stored) -> bool {
        let breaks = match self.plan.faults[touch.fault].2 {
            // Pods that end in order, and what the direct check sees.
            Fault::PodDeleted(..)
            | Fault::PodEvicted(..)
            | Fault::Edited(_)
            | Fault::ImageRolled
            | Fault::LoginRefused(_)
            | Fault::LoginDeleted
            | Fault::LoginDamaged
            | Fault::Cut(Link::OperatorServer(..), _) => false,
            _ => true,
        };
        breaks
            && touch.side == side
            && touch.probe.is_none_or(|felt| felt == probe)
            && stored.through.is_none_or(|gate| touch.is_felt_by(gate))
            && touch.begins <= stored.at + PATIENCE
            && touch.lasts_since(stored.at.saturating_sub(AFTERMATH))
    }
}
