//! When a reconciliation that failed is tried again.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// After a conflict, which the next pass resolves unless somebody goes on writing.
const CONFLICT: Duration = Duration::from_millis(50);
/// The longest wait that is chosen here. A user who has removed the cause should not wait for much longer.
const LONGEST: Duration = Duration::from_secs(60);

/// How often the reconciliations of one pair have failed in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// `metadata.generation` of the ProxyPair.
    generation: i64,
    count: u32,
}

impl Failures {
    /// One more. The count starts again when the user has changed the spec.
    #[must_use]
    pub const fn and_one_more(self, generation: i64) -> Self {
        let count = if self.generation == generation { self.count } else { 0 };
        Self {
            generation,
            count: count.saturating_add(1),
        }
    }

    /// The wait doubles with each failure. `jitter`, from 0 to 1, shortens it by up to a quarter, so that pairs which failed together are not
    /// tried again together. What the API server demands in `retry_after` is never shortened.
    #[must_use]
    pub fn wait(self, is_conflict: bool, retry_after: Option<Duration>, jitter: f64) -> Duration {
        let first = if is_conflict { CONFLICT } else { FIRST };
        let doubled = first.saturating_mul(2_u32.saturating_pow(self.count.saturating_sub(1)));
        let wait = doubled.min(LONGEST).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0);
        wait.max(retry_after.unwrap_or_default())
    }
}

/// A random number from 0 to 1.
#[must_use]
pub fn jitter() -> f64 {
    // Each state has random keys.
    f64::from(u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(count: usize, is_conflict: bool, retry_after: Option<Duration>, jitter: f64) -> Vec<Duration> {
        let failures = std::iter::successors(Some(Failures::default()), |failures| Some(failures.and_one_more(1)));
        let waits = failures
            .skip(1)
            .map(|failures| failures.wait(is_conflict, retry_after, jitter));
        waits.take(count).collect()
    }

    #[test]
    fn each_wait_is_twice_as_long_up_to_a_minute() {
        let seconds: Vec<_> = waits(9, false, None, 0.0).iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(waits(100, false, None, 0.0)[99], LONGEST);
    }

    #[test]
    fn a_conflict_is_resolved_at_once_and_one_that_lasts_is_not_hurried() {
        let millis: Vec<_> = waits(4, true, None, 0.0).iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [50, 100, 200, 400]);
        assert_eq!(waits(50, true, None, 0.0)[49], LONGEST);
    }

    #[test]
    fn the_api_server_is_obeyed_and_a_longer_wait_of_our_own_stays() {
        let asked = Duration::from_secs(5);
        let waits = waits(5, false, Some(asked), 1.0);
        assert_eq!(waits[0], asked);
        assert_eq!(waits[4], Duration::from_secs(12));
    }

    #[test]
    fn pairs_that_failed_together_are_tried_again_at_different_times() {
        assert_eq!(waits(1, false, None, 1.0)[0], Duration::from_millis(750));
        let jitters: std::collections::BTreeSet<_> = (0..100).map(|_| jitter().to_bits()).collect();
        assert!(jitters.len() > 50);
        assert!((0..100).all(|_| (0.0..=1.0).contains(&jitter())));
    }

    #[test]
    fn a_changed_spec_begins_anew() {
        let failed = (0..10).fold(Failures::default(), |failures, _| failures.and_one_more(1));
        assert_eq!(failed.and_one_more(2).wait(false, None, 0.0), FIRST);
    }
}
