//! What is done beside the routing: status kept up to date, gates that answer nothing replaced, certificates announced.

use std::time::{Duration, Instant};

use super::{
    Machine,
    input::{Call, CallDone, CallError, Effect},
    phase::Phase,
};
use crate::{
    api::{Cause, Health, Side},
    domain::{
        expiry::{Certificate, Stage, stage},
        failover::Decision,
        notice::Notice,
        now::Now,
        status::without_counts,
    },
};

/// Shortest time between two status writes in which only session counts changed.
const COUNTS_EVERY: Duration = Duration::from_secs(2);
/// Shortest time between two evictions on the same side.
const EVICT_EVERY: Duration = Duration::from_secs(60);
/// Time from an eviction that failed to the next attempt.
const EVICT_AGAIN: Duration = Duration::from_secs(1);
/// Longest time until certificates are looked at again.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(24 * 3600);

impl Machine {
    /// Makes the call that is due when the routing needs none. Returns when one will be.
    pub(super) fn maintain(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<Instant> {
        // While a switch goes on, its next write must not wait for another.
        if !self.is_idle() || !matches!(self.decision, Decision::Stay { .. }) {
            return None;
        }
        let evict_at = self.evict(now, effects);
        let write_at = self.keep_status(now, effects);
        [evict_at, write_at].into_iter().flatten().min()
    }

    /// Writes the status if it has changed; session counts alone not too often. Returns when those are due.
    fn keep_status(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<Instant> {
        if !self.is_idle() {
            return None;
        }
        let next = self.rendered(None, &self.phase, now);
        if *next == self.api.status {
            return None;
        }
        if let Some(until) = self.unobserved_until().filter(|until| *until > now.monotonic) {
            return Some(until);
        }
        let due = self
            .memory
            .written_at
            .map(|at| at + COUNTS_EVERY)
            .filter(|due| *due > now.monotonic)
            .filter(|_| without_counts(&next) == without_counts(&self.api.status));
        if due.is_none() {
            self.call(Call::WriteStatus(next), effects);
        }
        due
    }

    /// Until then the status of an earlier operator is better than that nothing was observed yet. A problem is said at once.
    fn unobserved_until(&self) -> Option<Instant> {
        let has_status = self.api.status.serving.is_some() && self.problem.is_none();
        let is_unobserved = self.sides.iter().any(|(_, side)| side.is_unobserved());
        (has_status && is_unobserved).then(|| self.started_at + self.timing.unresponsive_after)
    }

    /// Deletes the pod of an idle side whose gate does not answer: kubelet alone can still end the sessions on it. Returns when it is to
    /// be tried again.
    fn evict(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<Instant> {
        let Phase::Settled { serving, .. } = self.phase else {
            return None;
        };
        let side = serving.other();
        let idle = &self.sides[side];
        let is_frozen = idle.health.health == Health::Down && idle.health.cause.is_some_and(Cause::replaces_pod);
        if !is_frozen || !self.sides[serving].health.may_serve() {
            return None;
        }
        let next = self.memory.next_eviction[side].filter(|at| *at > now.monotonic);
        if next.is_none()
            && let Some(gate) = idle.standing()
        {
            let (name, uid) = (gate.pod.name.clone(), gate.pod.uid.clone());
            self.call(Call::DeletePod { side, name, uid }, effects);
        }
        next
    }

    pub(super) fn pod_deleted(
        &mut self,
        side: Side,
        name: String,
        outcome: &Result<CallDone, CallError>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let again = if outcome.is_ok() { EVICT_EVERY } else { EVICT_AGAIN };
        self.memory.next_eviction[side] = Some(now.monotonic + again);
        if outcome.is_ok() {
            effects.push(Effect::Publish(Notice::PodDeleted(name)));
        }
    }

    /// Announces each certificate once when it begins to expire, and once when it has expired. Returns when the next is due.
    pub(super) fn announce_certificates(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<Instant> {
        let mut next = None;
        for side in Side::BOTH {
            let expiry = self.sides[side].expiry();
            for certificate in Certificate::BOTH {
                let Some(expires) = expiry.of(certificate) else {
                    continue;
                };
                let due = match stage(expires, now.wall) {
                    Err(from) => from,
                    Ok(stage) => {
                        let key = (expires, stage == Stage::Expired);
                        if self.memory.announced.insert((side, certificate), key) != Some(key) {
                            effects.push(Effect::Publish(Notice::Certificate {
                                side,
                                certificate,
                                expires,
                                stage,
                            }));
                        }
                        expires
                    }
                };
                if due > now.wall {
                    let at = now.instant_ahead(due).min(now.monotonic + CERTIFICATES_EVERY);
                    next = Some(next.map_or(at, |earlier: Instant| earlier.min(at)));
                }
            }
        }
        next
    }
}
