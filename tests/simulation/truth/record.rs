//! What an operator could see of one side, over time.

use std::time::Duration;

use proxypair::domain::evidence::Timing;

use super::{super::clock::Time, solid_after};

/// A side as an operator could see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Everything answers.
    Good,
    /// Something is slow, on its way, or says nothing about events.
    Doubtful,
    /// Something answers nothing.
    Silent,
    /// A kernel, a certificate or a server says that it does not work.
    Broken,
    /// A pod of it is being deleted.
    Leaving,
}

/// A sight over time.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub sight: Sight,
    pub since: Time,
    /// Since when it was neither good nor doubtful.
    pub ill_since: Option<Time>,
    /// The last moment at which it had been good for so long that every check must have noticed.
    pub solid_until: Time,
    /// The last moment before anything failed at which it was good: not before `solid_until`.
    pub good_until: Time,
    /// Since `solid_until` nothing of it was worse than silent.
    pub only_silent: bool,
    /// Since then a pod of it was being deleted, and no other one could take its place.
    pub was_leaving: bool,
    /// Since then something failed, whether or not this operator could look.
    pub was_ill: bool,
    /// The last moment at which something failed.
    pub ill_until: Time,
    /// The last moment at which it had failed for so long that it was down.
    pub down_until: Time,
    /// It may have been down since `solid_until`.
    may_be_down: bool,
}

/// What there is to see at one moment.
pub struct Glance {
    pub sight: Sight,
    /// A pod is being deleted, and no other one takes its place.
    pub is_leaving: bool,
    /// Something says that it does not work, although another gate may work.
    pub is_broken: bool,
    /// Something does not answer, although another gate may.
    pub is_silent: bool,
}

/// How long a side must be good so that every question that was under way is answered.
const GLIMPSED: Duration = Duration::from_millis(1200);

/// How long after a failure has lasted long enough the operator knows.
const SURELY: Duration = Duration::from_secs(3);

impl Record {
    /// Of a side that does not exist yet.
    pub const fn new() -> Self {
        Self {
            sight: Sight::Broken,
            since: Time::ZERO,
            ill_since: Some(Time::ZERO),
            solid_until: Time::ZERO,
            good_until: Time::ZERO,
            only_silent: false,
            was_leaving: true,
            was_ill: true,
            ill_until: Time::ZERO,
            down_until: Time::ZERO,
            may_be_down: true,
        }
    }

    pub(super) fn see(&mut self, glance: &Glance, timing: &Timing, now: Time) {
        self.was_good(timing, now);
        let sight = glance.sight;
        if self.sight != sight {
            // What is seen of a pod that leaves says nothing about its successor, whose silence begins to be noticed now.
            if self.sight == Sight::Leaving && sight == Sight::Silent {
                self.ill_since = None;
            }
            self.sight = sight;
            self.since = now;
        }
        match sight {
            Sight::Good | Sight::Doubtful => self.ill_since = None,
            Sight::Silent | Sight::Broken | Sight::Leaving => {
                self.ill_since.get_or_insert(now);
            }
        }
        let lasts = self.ill_since.map_or(Duration::ZERO, |since| now.after(since));
        self.may_be_down |= glance.is_broken || lasts + GLIMPSED >= timing.unresponsive_after;
        if glance.is_broken || glance.is_silent || self.ill_since.is_some() {
            self.was_ill = true;
            self.ill_until = now;
        }
        let counts_after = timing.unresponsive_after.max(timing.unreachable_after);
        if lasts > counts_after + timing.interval * 2 + SURELY {
            self.down_until = now;
        }
        self.only_silent &= !glance.is_broken && !matches!(sight, Sight::Broken | Sight::Leaving);
        self.was_leaving |= glance.is_leaving || sight == Sight::Leaving;
    }

    /// Until this moment it was as it was last seen.
    fn was_good(&mut self, timing: &Timing, now: Time) {
        if self.sight != Sight::Good {
            return;
        }
        let lasts = now.after(self.since);
        // A side that was down stays so until then.
        let recovers = match self.may_be_down {
            true => timing.healthy_after,
            false => Duration::ZERO,
        };
        if lasts >= solid_after(timing) + recovers {
            self.solid_until = now;
            self.only_silent = true;
            self.was_leaving = false;
            self.was_ill = false;
            self.may_be_down = false;
        }
        if lasts >= GLIMPSED && !self.was_ill {
            self.good_until = now;
        }
    }
}
