//! What must not stay as it is. These rules are asked twice a second, whatever happens.

use std::time::Duration;

use proxypair::{
    api::Side,
    domain::{evidence::Timing, machine::Selects},
    gate::mode::Mode,
};

use super::{
    super::{
        clock::Time,
        gate::Gate,
        pod::Pod,
        truth::{Sight, solid_after},
        world::World,
    },
    NOTICED,
};

/// How often these rules are asked.
const EVERY: Duration = Duration::from_millis(500);
/// What a few calls to the API server may take, with one that has failed before.
const CALLS: Duration = Duration::from_secs(5);
/// How long a gate that has failed may stay an endpoint, and how long a good one may be none.
const PLACED_WITHIN: Duration = Duration::from_secs(13);
/// How long a command may take to a gate that can be reached.
const COMMANDED_WITHIN: Duration = Duration::from_secs(2);

impl World {
    /// Asks all of them, if it is time.
    pub fn patrol(&mut self) {
        if self.now < self.watchdog.next_patrol {
            return;
        }
        self.watchdog.next_patrol = self.now + EVERY;
        self.look_at_the_truth();
        for pair in 0..self.pairs.len() {
            self.guarantee_01_the_service_has_an_endpoint(pair);
            self.a_side_that_fails_is_left(pair);
            self.guarantee_11_a_drain_is_stopped(pair);
            self.guarantee_17_a_gate_that_answers_is_not_lost(pair);
        }
    }

    /// An operator that has led and heard of everything for so long.
    fn informed_leader(&self, lasts: Duration) -> Option<usize> {
        (0..self.operators.len()).find(|operator| {
            let since = self.watchdog.truth.informed_since[*operator];
            self.is_longer(since, lasts) && self.claims(*operator).is_some()
        })
    }

    pub(super) fn is_longer(&self, since: Option<Time>, lasts: Duration) -> bool {
        since.is_some_and(|since| self.now.after(since) > lasts)
    }

    /// The operator that leads has heard of everything and has reached that gate for so long, which has not been stopped.
    pub(super) fn is_reached(&self, pair: usize, id: u64, lasts: Duration) -> bool {
        let told_within = NOTICED + COMMANDED_WITHIN;
        let Some((_, pod)) = self.pod(id) else { return false };
        let Some(leader) = self.informed_leader(told_within).filter(|_| lasts > told_within) else {
            return false;
        };
        let links = &self.watchdog.truth.links_free_since[leader][pair][pod.side];
        let is_awake = |gate: &Gate| !gate.is_frozen && self.now.after(gate.thawed) > told_within;
        self.is_longer(*links, told_within) && pod.gate.as_ref().is_some_and(is_awake) && !self.network.is_lost(id)
    }

    /// A login was rejected there, and the next one, which would show that the side is good, may not have been tried yet.
    fn is_tried_late(&self, operator: usize, pair: usize, lasts: Duration) -> bool {
        let worker = self.worker(operator, pair);
        worker.is_none_or(|worker| {
            Side::BOTH
                .into_iter()
                .any(|side| self.now < worker.refused_until[side] + lasts)
        })
    }

    /// How long a side may fail, while the other one may serve, until it has been left.
    fn left_within(&self, pair: usize, sight: Sight, gates: usize) -> Duration {
        let timing = self.timing(pair);
        let counts_after = match sight {
            Sight::Silent => timing.unresponsive_after.max(timing.unreachable_after),
            Sight::Broken | Sight::Doubtful | Sight::Good => timing.unreachable_after,
            Sight::Leaving => Duration::ZERO,
        };
        let placed = if gates > 1 { PLACED_WITHIN } else { Duration::ZERO };
        counts_after + timing.healthy_after + solid_after(&timing) + CALLS + placed
    }

    /// A side that fails is left as soon as the other one may serve.
    fn a_side_that_fails_is_left(&mut self, pair: usize) {
        let status = &self.api.objects[pair].status;
        let (Some(serving), Some(_)) = (status.serving, &status.since) else {
            return;
        };
        let other = serving.other();
        let gates = Side::BOTH.map(|side| self.plan.pairs[pair].pair.replicas(side));
        let gates = usize::try_from(gates.into_iter().max().unwrap_or(1)).unwrap_or(1);
        let longest = self.left_within(pair, Sight::Silent, gates);
        let Some(leader) = self.informed_leader(longest) else {
            return;
        };
        let truth = &self.watchdog.truth;
        let (left, target) = (truth.of(leader, pair, serving), truth.of(leader, pair, other));
        let needed = self.left_within(pair, left.sight, gates);
        let fails = matches!(left.sight, Sight::Silent | Sight::Broken | Sight::Leaving);
        let may_serve = target.sight == Sight::Good && self.now.after(target.since) > needed;
        let is_free = self.is_longer(truth.links_free_since[leader][pair][other], needed);
        if !fails || !may_serve || !is_free || self.now.after(left.since) <= needed {
            return;
        }
        // Others see that it serves.
        let is_hidden = !self.is_longer(truth.links_free_since[leader][pair][serving], needed);
        if left.sight == Sight::Silent && is_hidden && self.is_seen_serving(pair, serving) {
            return;
        }
        if self.selected(pair) == Selects::Side(other) || self.is_tried_late(leader, pair, needed) {
            return;
        }
        let text = format!(
            "pair {pair}: the {} serves and has been {:?} for {:?}, and the other side has been good for {:?}",
            serving.label(),
            left.sight,
            self.now.after(left.since),
            self.now.after(target.since)
        );
        self.violate("a side that fails is left as soon as the other one may serve", text);
    }

    /// Whether a gate of that side accepts probes, and can be seen to.
    fn is_seen_serving(&self, pair: usize, side: Side) -> bool {
        let is_seen = |pod: &Pod| {
            let accepts = |gate: &Gate| gate.accepts() && !gate.is_frozen;
            pod.gate.as_ref().is_some_and(accepts) && !self.network.is_lost(pod.id)
        };
        self.pods_of(pair, side).any(is_seen)
    }

    /// 1: the Service has an endpoint while there is a gate that it could lead to.
    fn guarantee_01_the_service_has_an_endpoint(&mut self, pair: usize) {
        let truth = &self.watchdog.truth;
        let Selects::Side(side) = self.selected(pair) else {
            return;
        };
        let lasts = solid_after(&self.timing(pair)) + PLACED_WITHIN;
        let Some(leader) = self.informed_leader(lasts) else {
            return;
        };
        if !self.is_longer(truth.endpointless_since[pair], lasts) {
            return;
        }
        let is_good = |pod: &&Pod| self.is_longer(truth.gate(leader, pod.id).good_since, lasts);
        let found = self.pods_of(pair, side).find(is_good).map(|pod| pod.id);
        if let Some(pod) = found {
            let text =
                format!("pair {pair}: pod {pod} is good, and the Service has led nowhere for more than {lasts:?}");
            self.violate(
                "guarantee 1: the Service has an endpoint while there could be one",
                text,
            );
        }
    }

    /// 11: a drain that goes on is stopped when nobody else can serve the probes any more.
    fn guarantee_11_a_drain_is_stopped(&mut self, pair: usize) {
        let lasts = self.tolerance(pair, true) + COMMANDED_WITHIN;
        let Some(leader) = self.informed_leader(lasts) else {
            return;
        };
        let truth = &self.watchdog.truth;
        let drains = |pod: &&Pod| {
            let gate = pod.gate.as_ref();
            let is_draining = gate.is_some_and(|gate| {
                let is_awake = !gate.is_frozen && self.now.after(gate.thawed) > lasts;
                matches!(gate.mode, Mode::Draining { .. }) && gate.inputs.termination.is_none() && is_awake
            });
            is_draining && pod.terminating.is_none() && !self.network.is_lost(pod.id) && self.sessions_on(pod.id) > 0
        };
        for side in Side::BOTH {
            let other = truth.of(leader, pair, side.other());
            let is_known = other.sight != Sight::Leaving && self.is_longer(other.ill_since, lasts);
            let is_free = self.is_longer(truth.links_free_since[leader][pair][side], lasts);
            if !is_known || !is_free || self.known_ill(leader, pair, side.other()).is_none() {
                continue;
            }
            let Some(draining) = self.pods_of(pair, side).find(drains).map(|pod| pod.id) else {
                continue;
            };
            let is_sibling = |pod: &&Pod| pod.routed && pod.ip.is_some() && pod.id != draining;
            let may_serve = |pod| matches!(self.sight_of_pod(leader, pair, pod), Sight::Good | Sight::Doubtful);
            if self.pods_of(pair, side).filter(is_sibling).any(may_serve) {
                continue;
            }
            let text = format!(
                "pair {pair}: pod {draining} of the {} goes on draining, and the other side has been {:?} for {:?}",
                side.label(),
                other.sight,
                other.ill_since.map(|since| self.now.after(since))
            );
            return self.violate("guarantee 11: a drain is stopped if no other side could serve", text);
        }
    }

    /// 17: a gate that answers is not declared lost, nor is the address of one.
    fn guarantee_17_a_gate_that_answers_is_not_lost(&mut self, pair: usize) {
        let timing = Timing::from(&self.plan.pairs[pair].pair.spec.health_check);
        let lasts = solid_after(&timing) + CALLS + NOTICED;
        let Some(leader) = self.informed_leader(lasts) else {
            return;
        };
        let truth = &self.watchdog.truth;
        let lost = &self.api.objects[pair].status.lost_gates;
        let is_lost = |pod: &&Pod| {
            let address = pod.ip.map(|ip| ip.to_string());
            lost.iter()
                .any(|gate| gate.pod == pod.uid() || Some(&gate.address) == address.as_ref())
        };
        let answers = |pod: &&Pod| self.is_longer(truth.gate(leader, pod.id).good_since, lasts);
        if let Some(pod) = self.pairs[pair].pods.iter().filter(is_lost).find(answers) {
            let text = format!("pair {pair}: pod {} has been good for more than {lasts:?}", pod.id);
            self.violate("guarantee 17: a gate that answers is not declared lost", text);
        }
    }
}
