//! How long a drain may take, and when a request is cut although it need not have been.

use std::time::Duration;

use proxypair::{
    api::Side,
    domain::{gate_mode::drain_delay, machine::Selects, pair::Pair},
};

use super::{
    super::{network::Link, probe::Session, truth::solid_after, world::World},
    NOTICED,
};

/// What is kept of the grace period of a pod that gets less than its own.
const MARGIN: Duration = Duration::from_secs(2);
/// A request that is younger does not outlast any drain.
const YOUNG: Duration = Duration::from_millis(1200);

impl World {
    /// How long the drain of that pod lasts: of one that was deleted with less than its own grace period, what that leaves.
    pub(super) fn drain_lasts(&self, pair: usize, id: u64) -> Duration {
        let planned = &self.plan.pairs[pair];
        let grace = |pair: &Pair| pair.spec.failback.drain.grace_period.get();
        let declared = grace(&planned.pair).min(grace(&planned.edited));
        let terminating = self.pod(id).and_then(|(_, pod)| pod.terminating);
        let Some(known) = terminating.filter(|known| known.grace < self.grace(pair)) else {
            return declared;
        };
        let delay = drain_delay(&planned.pair.spec.failback.drain);
        declared.min((known.until - MARGIN).after(known.since + delay))
    }

    /// Whoever leads has seen for long that the gate in that pod is good.
    pub(super) fn is_known_good(&self, pair: usize, id: u64) -> bool {
        let timing = self.timing(pair);
        let lasts = solid_after(&timing) + timing.healthy_after + NOTICED;
        let leader = (0..self.operators.len()).find(|operator| self.claims(*operator).is_some());
        leader.is_some_and(|leader| {
            let since = self.watchdog.truth.gate(leader, id).good_since;
            self.is_longer(since, lasts) && self.is_reached(pair, id, lasts)
        })
    }

    /// 9: a pod that was deleted with its whole grace period, and whose gate could go on, has ended its sessions before kubelet does.
    pub fn guarantee_09_kubelet_cuts_nothing(&mut self, pair: usize, id: u64) {
        let Some((_, pod)) = self.pod(id) else { return };
        let (Some(known), Some(gate)) = (pod.terminating, &pod.gate) else {
            return;
        };
        if known.grace < self.grace(pair) || gate.is_frozen || gate.thawed > known.since {
            return;
        }
        let is_answered = |session: &&Session| {
            let link = Link::GateServer(pair, session.side);
            let is_stalled = self.pairs[pair].servers[session.side].is_stalled;
            !session.was_held_up(self.now) && !is_stalled && self.network.at_pod(id, link, false).is_free()
        };
        let mut sessions = self.pairs[pair].sessions.iter().filter(|session| session.pod == id);
        let cut = sessions.find(|session| {
            let is_young = |(_, since)| self.now.after(since) < YOUNG;
            session.outstanding.is_some_and(is_young) && is_answered(session)
        });
        if let Some((event, _)) = cut.and_then(|session| session.outstanding) {
            let text = format!("pair {pair}: kubelet ends pod {id} with event {event} outstanding");
            self.violate("guarantee 9: a drain cuts no request that does not outlast it", text);
        }
    }

    /// 2: the target's gates have been commanded to admit for long, and none has opened: it may not serve.
    pub fn guarantee_02_only_to_open_gates(&mut self, pair: usize, side: Side) {
        // A selector that leads nowhere is repaired in any case.
        let Some((target, since)) = self.watchdog.target_since[pair].filter(|_| self.selected(pair) != Selects::Other)
        else {
            return;
        };
        let lasts = Duration::from_secs(1) + NOTICED;
        let closed_since = self.watchdog.truth.closed_since[pair][side];
        if target == side && self.now.after(since) > lasts && self.is_longer(closed_since, lasts) {
            let text = format!(
                "pair {pair}: no gate of the {} has been open for {lasts:?}",
                side.label()
            );
            self.violate(
                "guarantee 2: traffic is never switched to a side that may not serve",
                text,
            );
        }
    }
}
