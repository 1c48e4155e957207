//! What the spec declares and docs/failover.md promises besides: when a failback, a drain and a deletion may come.

use std::time::Duration;

use proxypair::{
    api::{FailbackMode, Side, SwitchKind},
    domain::gate_mode::drain_delay,
    protocol::Request,
};

use super::{
    super::{
        clock::Time,
        gate::Gate,
        pod::Pod,
        truth::{Sight, solid_after},
        world::World,
    },
    SLACK,
};

/// A pod that is still there so long after its grace period is deleted without grace.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);
/// A pod is deleted once in that time.
const DELETED_EVERY: Duration = Duration::from_secs(60);

impl World {
    /// A failback is begun only with `mode: Automatic`, when the primary has been up for `stableFor` and the backup has served for
    /// `minimumOnBackup`, by the spec that the operator knows.
    pub fn a_failback_waits(&mut self, operator: usize, pair: usize) {
        let Some(declared) = self
            .worker(operator, pair)
            .map(|worker| worker.pair.spec.failback.clone())
        else {
            return;
        };
        if declared.mode == FailbackMode::Never {
            self.violate(
                "a failback needs failback.mode Automatic",
                format!("pair {pair}: it is Never"),
            );
            return;
        }
        if self.has_another_clock(operator, pair) {
            return;
        }
        let down_until = self.watchdog.truth.of(operator, pair, Side::Primary).down_until;
        let stable = self.now.after(down_until);
        if down_until > Time::ZERO && stable + SLACK < declared.stable_for.get() {
            let text = format!("pair {pair}: the primary was down {stable:?} ago");
            self.violate("a failback waits for failback.stableFor", text);
        }
        if let Some((Side::Backup, _)) = self.watchdog.serving_since[pair] {
            // It serves from when it is selected, which status has a little later.
            let served = self.now.after(self.watchdog.serving_from[pair]);
            if served + SLACK < declared.minimum_on_backup.get() {
                let text = format!("pair {pair}: the backup has served for {served:?}");
                self.violate("a failback waits for failback.minimumOnBackup", text);
            }
        }
    }

    /// Status has times by another clock than this operator's, which shows something else.
    fn has_another_clock(&self, operator: usize, pair: usize) -> bool {
        self.operators[operator].skew != self.watchdog.serving_skew[pair]
    }

    /// 8: the ObjectServers are in sync when the selector is patched, too.
    pub fn a_failback_is_still_due(&mut self, operator: usize, pair: usize, side: Side) {
        let status = &self.api.objects[pair].status;
        let is_pending = status
            .switching
            .as_ref()
            .is_some_and(|switching| switching.kind == SwitchKind::Failback);
        let is_due = status.target == Some(side) && status.serving == Some(Side::Backup);
        if side == Side::Primary && is_pending && is_due && !self.is_to_be_left(operator, pair, Side::Backup) {
            self.guarantee_08_no_failback_before_the_resync(operator, pair);
        }
    }

    /// That side has failed for as long as it takes to be left, whether or not the ObjectServers are in sync.
    fn is_to_be_left(&self, operator: usize, pair: usize, side: Side) -> bool {
        let timing = self.timing(pair);
        let record = self.watchdog.truth.of(operator, pair, side);
        let needed = match record.sight {
            Sight::Silent => timing.unresponsive_after,
            Sight::Good | Sight::Doubtful | Sight::Broken => timing.unreachable_after,
            Sight::Leaving => Duration::ZERO,
        };
        record
            .ill_since
            .is_some_and(|since| self.now.after(since) + SLACK >= needed)
    }

    /// A gate is not drained before the nodes have had `drain.delay` to learn that the Service does not lead to it any more.
    pub fn a_drain_waits(&mut self, operator: usize, pair: usize, gate: &str, request: &Request) {
        let Some(worker) = self.worker(operator, pair) else {
            return;
        };
        if !matches!(request, Request::Drain { .. }) {
            return;
        }
        let delay = drain_delay(&worker.pair.spec.failback.drain);
        let Some(pod) = self.pairs[pair].pods.iter().find(|pod| pod.uid() == gate) else {
            return;
        };
        // If both sides are being ended, the idle one goes at once, and is not in the slices.
        let Some(until) = self.watchdog.truth.endpoint_until.get(&pod.id) else {
            return;
        };
        let is_begun = pod.gate.as_ref().is_some_and(Gate::is_draining);
        let lasts = self.now.after(*until);
        let is_ending = |pod: &Pod| pod.terminating.is_some();
        let both = Side::BOTH
            .into_iter()
            .all(|side| self.pods_of(pair, side).any(is_ending));
        let is_known = !self.has_another_clock(operator, pair);
        if is_known && !is_begun && !both && lasts + SLACK < delay {
            let text =
                format!("pair {pair}: {gate} was in the EndpointSlices {lasts:?} ago, and the delay is {delay:?}");
            self.violate("a drain waits for drain.delay", text);
        }
    }

    /// A pod is deleted only if nothing has come back from its gate for `unresponsiveAfter`, or if it has not ended in time; on the side that
    /// serves only if there is another one.
    pub fn only_a_lost_pod_is_deleted(&mut self, operator: usize, pair: usize, id: u64, grace: Duration) {
        let Some((_, pod)) = self.pod(id) else { return };
        let side = pod.side;
        let truth = &self.watchdog.truth;
        let known_after = solid_after(&self.timing(pair));
        let was_mute = (0..self.operators.len()).any(|operator| {
            let until = truth.gate(operator, id).mute_until;
            until.is_some_and(|until| self.now.after(until) <= known_after)
        });
        let is_overdue = pod
            .terminating
            .is_some_and(|known| self.now + SLACK >= known.until + OVERDUE_AFTER);
        let rule = "a pod is deleted only if its gate is silent or it has not ended in time";
        if !was_mute && !is_overdue {
            let text = format!("pair {pair}: pod {id} is deleted by operator {operator} within {grace:?}");
            return self.violate(rule, text);
        }
        let status = &self.api.objects[pair].status;
        let serves = status.serving == Some(side) && status.target == Some(side);
        if serves && !self.pods_of(pair, side).any(|other| other.id != id) {
            let text = format!("pair {pair}: pod {id} is the only one of the side that serves");
            return self.violate(rule, text);
        }
        let Some(worker) = self.worker(operator, pair).map(|worker| worker.number) else {
            return;
        };
        let key = (worker, id, grace.is_zero());
        let before = self.watchdog.deleted.get(&key).map(|at| self.now.after(*at));
        if let Some(before) = before.filter(|before| *before + SLACK < DELETED_EVERY) {
            let text = format!("pair {pair}: pod {id} was deleted {before:?} ago");
            self.violate("a pod is deleted at most once a minute", text);
        }
    }

    /// The API server has taken the deletion.
    pub fn pod_was_deleted(&mut self, worker: u64, id: u64, grace: Duration) {
        self.watchdog.deleted.insert((worker, id, grace.is_zero()), self.now);
    }
}
