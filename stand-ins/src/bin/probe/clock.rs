//! One clock for all measurements: monotonic, and shown as wall-clock time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Microseconds since 1970, as the wall clock had them when the program started plus what the monotonic clock has counted since.
pub type Micros = u64;

/// A clock that no adjustment of the wall clock can disturb.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    unix_start: Duration,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            unix_start: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// The time now.
    pub fn now(&self) -> Micros {
        micros(self.unix_start + self.start.elapsed())
    }

    /// The instant at a time.
    pub fn instant(&self, time: Micros) -> Instant {
        self.start + Duration::from_micros(time).saturating_sub(self.unix_start)
    }
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
