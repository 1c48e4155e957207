//! Virtual time: microseconds since the start of a history. No clock is read while a history runs.

use std::{
    fmt,
    ops::{Add, Sub},
    sync::LazyLock,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use proxypair::domain::now::Now;

/// A moment of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

/// What the monotonic clocks show at the start. Only differences count; a day before it there is room for what lies in the past.
static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_hours(24));

/// What correct wall clocks show at the start: 2026-11-01T12:00:00Z.
const WALL: i64 = 1_793_534_400;

impl Time {
    pub const ZERO: Self = Self(0);

    pub const fn since_start(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// The monotonic clock of a process.
    pub fn instant(self) -> Instant {
        *START + self.since_start()
    }

    /// The moment at which the monotonic clock shows `instant`.
    pub fn of(instant: Instant) -> Self {
        let micros = instant.saturating_duration_since(*START).as_nanos().div_ceil(1000);
        Self(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The same clock in the type that the gate uses.
    pub fn tokio(self) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.instant())
    }

    /// The wall clock of the API server.
    pub fn wall(self) -> Timestamp {
        let span = SignedDuration::try_from(self.since_start()).unwrap_or_default();
        Timestamp::from_second(WALL).unwrap_or_default() + span
    }

    /// Both clocks of a process whose wall clock is ahead by `skew`.
    pub fn now(self, skew: SignedDuration) -> Now {
        Now {
            monotonic: self.instant(),
            wall: self.wall() + skew,
        }
    }

    /// How long before this moment `earlier` was; zero if it was not.
    pub const fn after(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + u64::try_from(span.as_micros()).unwrap_or(u64::MAX / 4))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>11.3}", self.since_start().as_secs_f64())
    }
}
