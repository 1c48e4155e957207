//! Whether a connection that was made is proof that the server is there; pure. For checks that send nothing.
//!
//! Something on the way, such as a sidecar, a load balancer or a tunnel, may accept a connection, dial the server later, and close when that
//! fails. To the one who dials that is a connection that works for a while. So connections that are lost again and again, without proof in between,
//! add up. Proof is a connection that has stayed open for `unresponsive_after`, a TLS handshake, or a byte that the server has sent on a
//! session or a check.

use std::time::Duration;

use tokio::time::Instant;

/// Losses in a row that are no accident.
const LOSSES: u32 = 2;

/// The losses since the last proof.
#[derive(Debug)]
pub struct Trust {
    unresponsive_after: Duration,
    losses: u32,
    /// When the connection was made that was lost first.
    unproved_since: Option<Instant>,
    is_lost: bool,
}

impl Trust {
    /// No losses yet.
    #[must_use]
    pub const fn new(unresponsive_after: Duration) -> Self {
        Self {
            unresponsive_after,
            losses: 0,
            unproved_since: None,
            is_lost: false,
        }
    }

    /// When the connection was made that was lost first; `None` without a loss since the last proof.
    #[must_use]
    pub const fn unproved_since(&self) -> Option<Instant> {
        self.unproved_since
    }

    /// Whether a new connection is no proof any more.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// The server is there.
    pub const fn proved(&mut self) {
        *self = Self::new(self.unresponsive_after);
    }

    /// The other end closed a connection that was made at `made`. `is_proved` if the server has shown meanwhile that it is there. Returns
    /// whether a new connection is no proof any more.
    pub fn lost(&mut self, made: Instant, is_proved: bool, now: Instant) -> bool {
        if is_proved || now >= made + self.unresponsive_after {
            self.proved();
            return false;
        }
        self.losses = self.losses.saturating_add(1);
        let since = *self.unproved_since.get_or_insert(made);
        self.is_lost |= self.losses >= LOSSES && now >= since + self.unresponsive_after;
        self.is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After how many seconds trust is lost in a server that closes each connection after `held`, if within ten minutes.
    fn lost_after(held: Duration) -> Option<u64> {
        let mut trust = Trust::new(15 * SECOND);
        let start = Instant::now();
        let mut now = start;
        while now < start + 600 * SECOND {
            let made = now;
            now += held;
            if trust.lost(made, false, now) {
                return Some((now - start).as_secs());
            }
        }
        None
    }

    #[test]
    fn losses_without_proof_add_up_within_twice_the_time() {
        assert_eq!(lost_after(SECOND), Some(15));
        assert_eq!(lost_after(10 * SECOND), Some(20));
        assert_eq!(lost_after(14 * SECOND), Some(28));
    }

    #[test]
    fn a_server_that_closes_connections_without_a_login_after_a_long_time_is_there() {
        assert_eq!(lost_after(15 * SECOND), None);
        assert_eq!(lost_after(60 * SECOND), None);
    }

    #[test]
    fn a_proof_between_two_losses_starts_over() {
        let mut trust = Trust::new(15 * SECOND);
        let start = Instant::now();
        for round in 0..100 {
            let made = start + 10 * SECOND * round;
            assert!(!trust.lost(made, round % 2 == 1, made + 10 * SECOND));
        }
    }

    #[test]
    fn one_loss_is_an_accident() {
        let mut trust = Trust::new(15 * SECOND);
        let start = Instant::now();
        assert!(!trust.lost(start, false, start + 14 * SECOND));
        assert!(trust.lost(start + 14 * SECOND, false, start + 16 * SECOND));
        assert!(trust.is_lost());
        trust.proved();
        assert!(!trust.is_lost());
    }
}
