//! What follows from the outcome of a call.

use std::time::Duration;

use super::{
    Call, CallDone, CallError, Effect, Machine, Now, Phase, Selects, Stored, Switched, Timeline, Traffic,
    placement::LabelledPod, settled::DeletedPod,
};
use crate::{api::Switch, domain::notice::Notice};

/// Time from a call that failed to the next; it doubles with each failure in a row.
const RETRY: Duration = Duration::from_millis(100);
/// Longest time from a call that failed to the next.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// Longest time that an API server may ask for before the next call. A switch must not wait for ever on its word.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

impl Machine {
    pub(super) fn take_outcome(&mut self, outcome: Result<CallDone, CallError>, now: Now, effects: &mut Vec<Effect>) {
        let Traffic::Calling(call) = std::mem::replace(&mut self.api.traffic, Traffic::Idle) else {
            return;
        };
        match (call, outcome) {
            (_, Err(CallError::Stop(reason))) => effects.push(Effect::Stop(reason)),
            (Call::DeletePod { name, uid, grace, .. }, outcome) => {
                self.pod_deleted(DeletedPod { name, uid, grace }, &outcome, now, effects);
            }
            (Call::LabelPod { uid, routed, .. }, outcome) => {
                self.pod_labelled(LabelledPod { uid, routed }, &outcome, now, effects);
            }
            (Call::PatchSelector(_), Err(CallError::Failed { retry_after, reason })) => {
                let times = self.api.unpatched.map_or(0, |(_, times)| times);
                self.api.unpatched = Some((reason, times.saturating_add(1)));
                self.read_later(retry_after, now);
            }
            (_, Err(CallError::Failed { retry_after, .. })) => self.read_later(retry_after, now),
            (_, Ok(CallDone::Read(stored))) => self.resync_with(*stored, now, effects),
            (Call::WriteStatus(status), Ok(CallDone::Written)) => {
                self.api.failures = 0;
                self.api.status = *status;
                self.memory.written_at = Some(now.monotonic);
                self.status_written(now, effects);
            }
            (Call::PatchSelector(side), Ok(CallDone::Written)) => {
                self.api.failures = 0;
                self.api.selects = Selects::Side(side);
                self.api.unpatched = None;
                self.selector_patched(side, now);
            }
            // No such answer belongs to these calls.
            (Call::Read, Ok(CallDone::Written)) | (_, Ok(CallDone::AlreadyGone)) => self.read_later(None, now),
        }
    }

    fn read_later(&mut self, retry_after: Option<Duration>, now: Now) {
        let wait = RETRY.saturating_mul(1 << self.api.failures.min(8)).min(LONGEST_RETRY);
        // The first look comes at once: a conflict is resolved by reading.
        let wait = if self.api.failures == 0 { Duration::ZERO } else { wait };
        let wait = retry_after.map_or(wait, |wanted| wanted.min(LONGEST_RETRY_AFTER).max(wait));
        self.api.failures += 1;
        self.api.traffic = Traffic::ReadAt(now.monotonic + wait);
    }

    /// Goes on from what the API server holds.
    fn resync_with(&mut self, stored: Stored, now: Now, effects: &mut Vec<Effect>) {
        let resumed = Phase::resumed(&stored.status, now);
        self.api.status = stored.status;
        self.api.selects = stored.selects;
        let before = std::mem::replace(&mut self.phase, resumed);
        let finished = self.phase.continue_from(before, &self.api.status);
        if let Some((switch, timeline)) = finished {
            effects.extend(self.finished(switch, timeline));
        }
    }

    /// Announces a switch that is finished.
    pub(super) fn finished(&self, switch: Switch, timeline: Timeline) -> [Effect; 2] {
        [
            Effect::Switched(Box::new(Switched {
                switch: switch.clone(),
                timeline,
            })),
            Effect::Publish(Notice::Switched(Box::new(switch))),
        ]
    }
}
