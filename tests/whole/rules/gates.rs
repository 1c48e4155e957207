//! What happens to one of several gates of a side.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use proxypair::api::{LABEL_ROUTED, LABEL_SIDE, ROUTED, Side};

use super::super::world::World;

/// How long a gate that cannot serve may stay an endpoint: the label of its pod is written, and written again.
const TAKEN_OUT_WITHIN: Duration = Duration::from_secs(12);
/// How soon after a check's interval its news counts: a failed login is followed by the next after a second.
const SOLID: Duration = Duration::from_millis(3500);

/// Which side a pod is of, and whether the virtual Service may lead to it.
pub type Routed = BTreeMap<String, (String, bool)>;

impl World {
    /// How long a gate must be good until every operator must have noticed, and what was wrong before is forgotten.
    pub fn known_after(&self) -> Duration {
        let timing = self.plan.timing;
        let millis = 2 * timing.interval + timing.unreachable_after + timing.unresponsive_after + timing.healthy_after;
        Duration::from_millis(millis) + SOLID + TAKEN_OUT_WITHIN
    }

    /// 18: the last gate that the virtual Service leads to is never taken out.
    pub(super) fn guarantee_18_the_last_gate_stays(&mut self) -> Result<(), String> {
        let version = self.api.version_of::<Pod>();
        if version == self.routed_at {
            return Ok(());
        }
        self.routed_at = version;
        let with_address = self.kubernetes.pods().values().filter(|pod| {
            let status = pod.status.as_ref();
            status.is_some_and(|status| status.pod_ip.is_some())
        });
        let routed: Routed = with_address
            .map(|pod| {
                let label = |label| pod.labels().get(label).cloned().unwrap_or_default();
                (pod.name_any(), (label(LABEL_SIDE), label(LABEL_ROUTED) == ROUTED))
            })
            .collect();
        let before = std::mem::replace(&mut self.routed, routed);
        for (name, (side, is_routed)) in &self.routed {
            let was_routed = before.get(name).is_some_and(|(_, was_routed)| *was_routed);
            if *is_routed || !was_routed {
                continue;
            }
            *self.struck.entry("~taken-out").or_default() += 1;
            if !self.routed.values().any(|(of, is_routed)| of == side && *is_routed) {
                return Err(format!(
                    "guarantee 18, the last gate of a side is not taken out: {name} is, and no other one of the {side} is led to"
                ));
            }
        }
        Ok(())
    }

    /// 18: while one gate of a side serves, the traffic stays.
    pub(super) fn guarantee_18_one_gate_moves_nothing(&self, to: Side) -> Result<(), String> {
        // A failback leaves a side that is good.
        let (from, now, known_after) = (to.other(), self.now(), self.known_after());
        if to == Side::Primary || self.untroubled_since() + known_after > now {
            return Ok(());
        }
        let since = now.saturating_sub(known_after);
        let is_good = |gate: &super::super::kubernetes::Gate| {
            let touches = || self.touches.iter().filter(|touch| touch.side == from);
            gate.side == from
                && gate.stays
                && gate.is_routed
                && !gate.is_lost
                && gate.runs_since.is_some_and(|runs| runs <= since)
                && !touches().any(|touch| touch.is_felt_by(gate.address) && touch.lasts_since(since))
        };
        match self.kubernetes.gates().into_iter().find(is_good) {
            None => Ok(()),
            Some(gate) => Err(format!(
                "guarantee 18, what happens to one gate of a side moves no traffic to the other: the {} is left, and {} has been good for {known_after:?}",
                from.label(),
                gate.pod
            )),
        }
    }
}
