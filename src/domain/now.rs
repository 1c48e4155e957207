//! One moment on two clocks. Whoever decides is given it; nothing in `domain` reads a clock.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// One moment on both clocks, so that a reading of one can be turned into one of the other.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For durations and deadlines.
    pub monotonic: Instant,
    /// For status.
    pub wall: Timestamp,
}

impl Now {
    /// The wall clock's reading of `moment`, past or future.
    #[must_use]
    pub fn wall_of(&self, moment: Instant) -> Timestamp {
        let span = |duration| SignedDuration::try_from(duration).unwrap_or_default();
        match moment.checked_duration_since(self.monotonic) {
            Some(ahead) => self.wall + span(ahead),
            None => self.wall - span(self.monotonic.saturating_duration_since(moment)),
        }
    }

    /// The monotonic clock's reading of a moment in the past; now for one in the future.
    #[must_use]
    pub fn instant_of(&self, moment: Timestamp) -> Instant {
        let age = self
            .wall
            .duration_since(moment)
            .max(SignedDuration::ZERO)
            .unsigned_abs();
        self.monotonic.checked_sub(age).unwrap_or(self.monotonic)
    }

    /// The monotonic clock's reading of a moment in the future; now for one in the past.
    #[must_use]
    pub fn instant_ahead(&self, moment: Timestamp) -> Instant {
        let ahead = moment
            .duration_since(self.wall)
            .max(SignedDuration::ZERO)
            .unsigned_abs();
        self.monotonic.checked_add(ahead).unwrap_or(self.monotonic)
    }

    /// The wall clock in microseconds, as Kubernetes' `MicroTime` keeps it.
    #[must_use]
    pub fn wall_micros(&self) -> Timestamp {
        Timestamp::from_microsecond(self.wall.as_microsecond()).unwrap_or(self.wall)
    }
}
