//! The one source of chance of a history. The same seed gives the same history.

use std::time::Duration;

pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A number from 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end.max(1))
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// A time span between the two, in whole microseconds.
    pub fn span(&mut self, from: Duration, to: Duration) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.0.u64(micros(from)..=micros(to).max(micros(from))))
    }

    /// A time span up to `to` that is short most of the time: each order of magnitude from a millisecond on is as likely as the others.
    pub fn mostly_short(&mut self, to: Duration) -> Duration {
        let magnitudes = (to.as_secs_f64() * 1000.0).max(1.0).ln();
        Duration::from_secs_f64((self.0.f64() * magnitudes).exp() / 1000.0).min(to)
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        self.span(Duration::from_millis(from), Duration::from_millis(to))
    }
}
