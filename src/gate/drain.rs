//! Paces the closing of sessions: permits at a steady rate, never a burst.
//!
//! A session that is drained and has no unanswered request waits here, in order of arrival, while it goes on forwarding. When it becomes busy
//! it leaves the queue and joins it again later. A permit that is not taken within a tick expires, so that a pause is not followed by a burst.
//!
//! The pace is the one that was commanded, or a faster one if not all sessions would be closed by then within [`PLANNED`] of the time. In the
//! rest of the time each session gets a permit at the first moment when no request is unanswered, so the deadline breaks only requests that
//! take longer than that.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::mode::Mode;

/// Time between two issues of permits.
const TICK: Duration = Duration::from_millis(10);

/// A drain is planned to finish within this fraction of its time.
const PLANNED: f64 = 0.75;

/// The queue in which sessions wait for permission to close.
#[derive(Debug)]
pub struct Pacer {
    permits: Semaphore,
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            permits: Semaphore::const_new(0),
        }
    }
}

impl Pacer {
    /// Waits until this session may be closed. Drop the future to leave the queue.
    pub async fn permit(&self) {
        // The semaphore is never closed.
        if let Ok(permit) = self.permits.acquire().await {
            SemaphorePermit::forget(permit);
        }
    }

    /// Issues permits during each drain, until the sender of the mode is dropped.
    pub async fn run(&self, mut mode: watch::Receiver<Mode>, sessions: watch::Receiver<u32>) {
        loop {
            let current = *mode.borrow_and_update();
            self.permits.forget_permits(usize::MAX);
            if let Mode::Draining { deadline, per_second } = current {
                let plan = Plan::new(per_second, deadline, Instant::now());
                tokio::select! {
                    changed = mode.changed() => if changed.is_err() { return },
                    () = self.issue(plan, &sessions) => {}
                }
            } else if mode.changed().await.is_err() {
                return;
            }
        }
    }

    async fn issue(&self, plan: Plan, sessions: &watch::Receiver<u32>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut credit = Credit::default();
        let mut last = ticks.tick().await;
        loop {
            let now = ticks.tick().await;
            self.permits.forget_permits(usize::MAX);
            let rate = plan.rate(*sessions.borrow(), now);
            self.permits.add_permits(credit.earn(rate, now - last));
            last = now;
        }
    }
}

/// When a drain is to be finished.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    per_second: u32,
    end: Instant,
}

impl Plan {
    /// A drain that begins now.
    #[must_use]
    pub fn new(per_second: u32, deadline: Instant, now: Instant) -> Self {
        let left = deadline.saturating_duration_since(now);
        Self {
            per_second,
            end: now + left.mul_f64(PLANNED),
        }
    }

    /// Sessions to close per second, if so many are left.
    #[must_use]
    pub fn rate(&self, sessions: u32, now: Instant) -> f64 {
        let left = self.end.saturating_duration_since(now).max(TICK);
        (f64::from(sessions) / left.as_secs_f64()).max(f64::from(self.per_second))
    }
}

/// Turns time into whole permits without losing fractions.
#[derive(Debug, Default)]
pub struct Credit {
    earned: f64,
}

impl Credit {
    /// The permits to issue after this much time at this rate. A process that was suspended does not catch up.
    pub fn earn(&mut self, per_second: f64, elapsed: Duration) -> usize {
        self.earned += per_second * elapsed.min(10 * TICK).as_secs_f64();
        let whole = self.earned.floor();
        self.earned -= whole;
        whole as usize
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn draining(per_second: u32) -> Mode {
        draining_for(60 * SECOND, per_second)
    }

    fn draining_for(time: Duration, per_second: u32) -> Mode {
        Mode::Draining {
            deadline: Instant::now() + time,
            per_second,
        }
    }

    struct Queue {
        mode: watch::Sender<Mode>,
        sessions: watch::Sender<u32>,
        pacer: Arc<Pacer>,
    }

    impl Queue {
        fn new(mode: Mode, sessions: u32) -> Self {
            let (mode, followed) = watch::channel(mode);
            let (sessions, counted) = watch::channel(sessions);
            let pacer = Arc::new(Pacer::default());
            let running = Arc::clone(&pacer);
            tokio::spawn(async move { running.run(followed, counted).await });
            Self { mode, sessions, pacer }
        }

        /// When each of `count` waiting sessions got its permit, counted from now.
        async fn served(&self, count: u32) -> Vec<Duration> {
            let start = Instant::now();
            let mut served = Vec::new();
            for _ in 0..count {
                self.pacer.permit().await;
                served.push(start.elapsed());
            }
            served
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spreads_the_closes_evenly_over_each_second() {
        let queue = Queue::new(draining(40), 120);
        let served = queue.served(120).await;
        for (index, at) in served.windows(2).enumerate() {
            let gap = at[1] - at[0];
            assert!(gap >= 2 * TICK && gap <= 3 * TICK, "gap {gap:?} after permit {index}");
        }
        assert!(
            served[119] >= 3 * SECOND - TICK && served[119] <= 3 * SECOND + 5 * TICK,
            "{:?}",
            served[119]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_followed_by_a_burst() {
        let queue = Queue::new(draining(10), 20);
        tokio::time::sleep(10 * SECOND).await;
        let served = queue.served(11).await;
        assert!(served[10] >= SECOND - TICK, "{served:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_closed_outside_a_drain() {
        let queue = Queue::new(Mode::Open, 1);
        tokio::select! {
            () = queue.pacer.permit() => panic!("a permit while open"),
            () = tokio::time::sleep(60 * SECOND) => {}
        }
        queue.mode.send_replace(draining(100));
        queue.pacer.permit().await;
        queue.mode.send_replace(Mode::Open);
        tokio::time::sleep(TICK).await;
        tokio::select! {
            () = queue.pacer.permit() => panic!("a permit of a drain that was stopped"),
            () = tokio::time::sleep(60 * SECOND) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_faster_than_commanded_if_the_deadline_needs_it() {
        let queue = Queue::new(draining(10), 45_000);
        assert_eq!(*queue.sessions.borrow(), 45_000);
        let served = queue.served(45_000).await;
        assert!(served[44_999] < 46 * SECOND, "{:?}", served[44_999]);
    }

    #[tokio::test(start_paused = true)]
    async fn finishes_in_time_with_more_sessions_than_the_pace_allows() {
        let queue = Queue::new(draining_for(4 * SECOND, 10), 1000);
        let start = Instant::now();
        for left in (0..1000).rev() {
            queue.pacer.permit().await;
            queue.sessions.send_replace(left);
        }
        let taken = start.elapsed();
        assert!(taken > 2 * SECOND && taken < 3 * SECOND + 5 * TICK, "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_was_busy_most_of_the_time_need_not_wait() {
        let queue = Queue::new(draining_for(4 * SECOND, 1), 100);
        tokio::time::sleep(3 * SECOND + 2 * TICK).await;
        let served = queue.served(100).await;
        assert!(served[99] <= 2 * TICK, "{:?}", served[99]);
    }

    proptest! {
        #[test]
        fn never_earns_more_than_its_rate_allows(rate in 1_u32..20_000, steps in prop::collection::vec(0_u64..50, 1..200)) {
            let mut credit = Credit::default();
            let mut permits = 0;
            for step in &steps {
                permits += credit.earn(f64::from(rate), Duration::from_millis(*step));
            }
            let seconds = steps.iter().sum::<u64>() as f64 / 1000.0;
            prop_assert!(permits as f64 <= f64::from(rate) * seconds + 1e-6);
            prop_assert!(permits as f64 >= f64::from(rate) * seconds - 1.0 - 1e-6);
        }
    }
}
