//! What happens to one of several gates of a side.

use std::time::Duration;

use proxypair::domain::{evidence::Timing, machine::PendingSwitch};

use super::{
    super::{clock::Time, pod::Pod, truth::solid_after, world::World},
    NOTICED,
};

/// How long a gate that cannot serve may stay an endpoint: the label of its pod is written, and written again.
const TAKEN_OUT_WITHIN: Duration = Duration::from_secs(12);

impl World {
    /// 18: the last gate that the virtual Service leads to is never taken out.
    pub fn guarantee_18_the_last_gate_stays(&mut self, pair: usize, id: u64) {
        let Some(side) = self.pod(id).map(|(_, pod)| pod.side) else {
            return;
        };
        let is_led_to = |pod: &Pod| pod.id != id && pod.routed && pod.ip.is_some();
        if !self.pods_of(pair, side).any(is_led_to) {
            let text = format!("pair {pair}: pod {id} is taken out, and no other one of its side is led to");
            self.violate("guarantee 18: the last gate of a side is not taken out", text);
        }
    }

    /// Whether a gate cannot serve, if the operator must have noticed.
    pub(super) fn is_known_ill(&self, operator: usize, pair: usize, pod: &Pod) -> bool {
        let known = self.watchdog.truth.gate(operator, pod.id);
        let ends = pod
            .terminating
            .is_some_and(|known| self.now.after(known.since) > NOTICED);
        self.is_longer(known.silent_since, self.tolerance(pair, true))
            || self.is_longer(known.broken_since, self.tolerance(pair, false))
            || ends
    }

    /// 18: a gate is taken out only if a sibling is left that is not known to have failed.
    pub fn guarantee_18_a_good_gate_stays(&mut self, operator: usize, pair: usize, id: u64) {
        let Some(side) = self.pod(id).map(|(_, pod)| pod.side) else {
            return;
        };
        let stays =
            |pod: &&Pod| pod.id != id && pod.routed && pod.ip.is_some() && !self.is_known_ill(operator, pair, pod);
        if self.pods_of(pair, side).find(stays).is_none() {
            let text = format!("pair {pair}: pod {id} is to be taken out, and no other one of its side can serve");
            self.violate("guarantee 18: the last good gate of a side is not taken out", text);
        }
    }

    /// 18: while one gate of a side serves, the traffic stays.
    pub fn guarantee_18_one_gate_moves_nothing(&mut self, operator: usize, pair: usize, switch: &PendingSwitch) {
        let check = &self.plan.pairs[pair].pair.spec.health_check;
        let known_after = solid_after(&Timing::from(check))
            + check.unresponsive_after.get()
            + check.healthy_after.get()
            + TAKEN_OUT_WITHIN;
        let truth = &self.watchdog.truth;
        let is_old = |since| self.now.after(since) > known_after;
        let from = switch.to.other();
        // One that has been good since before its siblings failed is known to be.
        let solid_until = truth.of(operator, pair, from).solid_until;
        let is_known = |since: Time| is_old(since) || since + solid_after(&Timing::from(check)) <= solid_until;
        let is_informed = |since: Time| is_old(since) || since + NOTICED <= solid_until;
        if !truth.informed_since[operator].is_some_and(is_informed) {
            return;
        }
        let serves = self
            .pods_of(pair, from)
            .filter(|pod| pod.routed)
            .find(|pod| truth.gate(operator, pod.id).good_since.is_some_and(is_known));
        if let Some(pod) = serves.map(|pod| pod.id) {
            let text = format!(
                "pair {pair}: the {} is left, {:?}, and its pod {pod} has been good since before that",
                from.label(),
                switch.cause
            );
            self.violate(
                "guarantee 18: what happens to one gate of a side moves no traffic to the other",
                text,
            );
        }
    }
}
