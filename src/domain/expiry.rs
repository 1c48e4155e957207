//! When certificates end to be valid, and from when on that is to be told.

use jiff::{SignedDuration, Timestamp};

/// How long before the end it is told.
pub const WARNED_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The ends of validity of what one side shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// The proxy's certificate, to probes.
    pub listener: Option<Timestamp>,
    /// The ObjectServer's certificate.
    pub object_server: Option<Timestamp>,
}

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certificate {
    /// The proxy's.
    Listener,
    /// The ObjectServer's.
    ObjectServer,
}

impl Certificate {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Listener, Self::ObjectServer];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::ObjectServer => "objectserver",
        }
    }
}

impl Expiry {
    /// The end of validity of one certificate.
    pub fn of(&self, certificate: Certificate) -> Option<Timestamp> {
        match certificate {
            Certificate::Listener => self.listener,
            Certificate::ObjectServer => self.object_server,
        }
    }
}

/// How far it is with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing to tell before that moment.
    Valid {
        /// When there will be.
        until: Timestamp,
    },
    /// It ends soon, in so many whole days.
    Ending {
        /// Days.
        days: i64,
    },
    /// It has ended.
    Ended,
}

/// How far it is at `now` with a certificate that ends at `expires`.
pub fn stage(expires: Timestamp, now: Timestamp) -> Stage {
    let left = expires.duration_since(now);
    if left <= SignedDuration::ZERO {
        Stage::Ended
    } else if left <= WARNED_BEFORE {
        Stage::Ending {
            days: left.as_hours() / 24,
        }
    } else {
        Stage::Valid {
            until: expires - WARNED_BEFORE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_told_from_thirty_days_before_the_end_on() {
        let end: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let at = |text: &str| stage(end, text.parse().unwrap());
        assert_eq!(
            at("2026-11-30T00:00:00Z"),
            Stage::Valid {
                until: "2026-12-01T00:00:00Z".parse().unwrap()
            }
        );
        assert_eq!(at("2026-12-01T00:00:00Z"), Stage::Ending { days: 30 });
        assert_eq!(at("2026-12-30T12:00:00Z"), Stage::Ending { days: 0 });
        assert_eq!(at("2026-12-31T00:00:00Z"), Stage::Ended);
    }
}
