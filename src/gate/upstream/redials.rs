//! How often the watch may dial; pure.

use std::time::Duration;

use tokio::time::Instant;

/// Re-dials after a closed connection that need not wait, if none was needed for a while. One would not be enough: a dying process may
/// accept the first.
const FREE_REDIALS: u32 = 4;

/// Time after which one more re-dial becomes free.
const REDIAL_EVERY: Duration = Duration::from_secs(1);

/// Limits the rate of re-dials to a server that closes each connection at once.
#[derive(Debug)]
pub struct Redials {
    free: u32,
    counted: Instant,
}

impl Redials {
    /// With all re-dials free.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            free: FREE_REDIALS,
            counted: now,
        }
    }

    /// How long to wait before the next re-dial.
    pub fn take(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.counted).as_millis() / REDIAL_EVERY.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.free = self.free.saturating_add(earned).min(FREE_REDIALS);
            self.counted = now;
        }
        if let Some(left) = self.free.checked_sub(1) {
            self.free = left;
            return Duration::ZERO;
        }
        // The next free re-dial is used up already.
        self.counted = now + REDIAL_EVERY;
        REDIAL_EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_closes_at_once_is_dialled_once_a_second() {
        let start = Instant::now();
        let mut redials = Redials::new(start);
        let mut now = start;
        let mut dials = 0;
        while now < start + Duration::from_secs(60) {
            now += redials.take(now) + Duration::from_millis(1);
            dials += 1;
        }
        assert!((55..=70).contains(&dials), "{dials} dials in a minute");
    }

    #[test]
    fn a_connection_lost_after_a_long_time_is_replaced_at_once() {
        let start = Instant::now();
        let mut redials = Redials::new(start);
        for minute in 1..10 {
            assert_eq!(redials.take(start + Duration::from_secs(60 * minute)), Duration::ZERO);
        }
    }
}
