//! What is done beside the routing: status kept up to date, gates that answer nothing replaced, certificates announced.

use std::time::{Duration, Instant};

use super::{
    Machine,
    gate::Gate,
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
/// Shortest time between two deletions of the same pod.
const DELETE_EVERY: Duration = Duration::from_secs(60);
/// Time from a deletion that failed to the next attempt; it doubles with each.
const DELETE_AGAIN: Duration = Duration::from_secs(1);
/// Longest time from a deletion that failed to the next attempt.
const LONGEST_DELETE_AGAIN: Duration = Duration::from_secs(30);
/// What a gate that does not answer gets to end: as good as nothing, because it takes no command to end its sessions.
const FROZEN_GRACE: Duration = Duration::from_secs(1);
/// How long after the end of the grace period a kubelet that lives may take until it takes the pod away.
pub(super) const KUBELET_MARGIN: Duration = Duration::from_secs(2);
/// Longest time until certificates are looked at again.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What is remembered of the deletion of a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deletion {
    /// When it may be tried again.
    next: Instant,
    failures: u32,
}

/// A pod whose deletion was called for.
pub(super) struct DeletedPod {
    pub name: String,
    pub uid: String,
    pub grace: Duration,
}

impl Machine {
    /// Makes the call that is due when the routing needs none. Returns when one will be.
    pub(super) fn maintain(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<Instant> {
        // While a switch goes on, its next write must not wait for another.
        if !self.is_idle() || !matches!(self.decision, Decision::Stay { .. }) {
            return None;
        }
        let delete_at = self.delete_pods(now, effects);
        let write_at = self.keep_status(now, effects);
        [delete_at, write_at].into_iter().flatten().min()
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
        let has_status = self.api.status.serving.is_some() && self.problem.is_none() && self.defects.ready.is_empty();
        let is_unobserved = self.sides.iter().any(|(_, side)| side.is_unobserved());
        (has_status && is_unobserved).then(|| self.started_at + self.timing.unresponsive_after)
    }

    /// Deletes a pod that holds sessions or endpoints which nobody serves:
    ///
    /// - one whose gate is declared lost, and without grace if kubelet does not end it: until it is gone it is an endpoint of its side;
    /// - one whose gate does not answer, on the idle side or taken out of the one that serves: kubelet alone can still end its sessions;
    /// - without grace, one that kubelet has not ended in time, as on a lost node: it stays an endpoint of its side. A gate has no state that
    ///   a second one could damage. On the side that serves only if another pod is there beside it.
    ///
    /// Returns when it is to be tried again.
    fn delete_pods(&mut self, now: Now, effects: &mut Vec<Effect>) -> Option<Instant> {
        let Phase::Settled { serving, .. } = self.phase else {
            return None;
        };
        let mut next = None;
        for side in Side::BOTH {
            let Some((gate, grace)) = self.deletable(side, serving, now.monotonic) else {
                continue;
            };
            let (name, uid) = (gate.pod.name.clone(), gate.pod.uid.clone());
            let key = (uid.clone(), grace.is_zero());
            let known = self.memory.deletions.get(&key).copied();
            match known.filter(|known| known.next > now.monotonic) {
                Some(known) => next = [next, Some(known.next)].into_iter().flatten().min(),
                None if self.is_idle() => {
                    if grace.is_zero() {
                        self.note_forced_deletion(&name, true);
                    }
                    self.call(Call::DeletePod { side, name, uid, grace }, effects);
                }
                None => {}
            }
        }
        next
    }

    /// A pod of `side` that is to be deleted, and what it gets to end.
    fn deletable(&self, side: Side, serving: Side, now: Instant) -> Option<(&Gate, Duration)> {
        let state = &self.sides[side];
        let is_idle = side != serving;
        let has_been_left = |gate: &&Gate| is_idle || self.is_replaced(side, gate);
        if let Some(gate) = state
            .gates
            .iter()
            .filter(has_been_left)
            .find(|gate| self.is_declared_lost(gate))
        {
            // A kubelet that lives ends the process, and takes the pod away: then the sessions are known to have ended. For a pod that is gone
            // it would take the whole grace period.
            let is_overdue = gate.ends_at.is_some_and(|ends_at| ends_at + KUBELET_MARGIN <= now);
            return Some((gate, if is_overdue { Duration::ZERO } else { FROZEN_GRACE }));
        }
        if let Some(gate) = state.overdue(!is_idle, now) {
            return Some((gate, Duration::ZERO));
        }
        let is_frozen =
            |gate: &&Gate| gate.health.health == Health::Down && gate.health.cause.is_some_and(Cause::replaces_pod);
        let is_taken_over =
            |gate: &&Gate| self.is_replaced(side, gate) || is_idle && self.sides[serving].health.may_serve();
        let gate = state.gates.iter().filter(is_frozen).find(is_taken_over)?;
        Some((gate, FROZEN_GRACE))
    }

    pub(super) fn pod_deleted(
        &mut self,
        pod: DeletedPod,
        outcome: &Result<CallDone, CallError>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let is_without_grace = pod.grace.is_zero();
        if is_without_grace && matches!(outcome, Ok(CallDone::AlreadyGone)) {
            self.note_forced_deletion(&pod.name, false);
        }
        let known = self
            .memory
            .deletions
            .entry((pod.uid, is_without_grace))
            .or_insert(Deletion {
                next: now.monotonic,
                failures: 0,
            });
        let wait = match outcome {
            Ok(_) => DELETE_EVERY,
            Err(error) => {
                let wait = DELETE_AGAIN
                    .saturating_mul(1 << known.failures.min(8))
                    .min(LONGEST_DELETE_AGAIN);
                known.failures += 1;
                error
                    .retry_after()
                    .map_or(wait, |wanted| wanted.min(LONGEST_DELETE_AGAIN).max(wait))
            }
        };
        known.next = now.monotonic + wait;
        if outcome.is_ok() {
            known.failures = 0;
        }
        if matches!(outcome, Ok(CallDone::Written)) {
            effects.push(Effect::Publish(Notice::PodDeleted {
                pod: pod.name,
                is_lost: is_without_grace,
            }));
        }
    }

    /// Forgets deletions of pods that are gone.
    pub(super) fn forget_deletions(&mut self) {
        let sides = &self.sides;
        let is_there = |uid: &String| {
            sides
                .iter()
                .any(|(_, side)| side.gates.iter().any(|gate| gate.pod.uid == *uid))
        };
        self.memory.deletions.retain(|(uid, _), _| is_there(uid));
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
