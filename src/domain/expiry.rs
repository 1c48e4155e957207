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

/// How near the expiry of a certificate is, once that is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It expires after this many whole days, at most 30.
    Ending {
        /// Days.
        days: i64,
    },
    /// It has expired.
    Ended,
}

/// The stage at `now` of a certificate that expires at `expires`.
///
/// # Errors
///
/// Until 30 days before, the moment from which on it is to be told.
pub fn stage(expires: Timestamp, now: Timestamp) -> Result<Stage, Timestamp> {
    let left = expires.duration_since(now);
    if left <= SignedDuration::ZERO {
        Ok(Stage::Ended)
    } else if left <= WARNED_BEFORE {
        Ok(Stage::Ending {
            days: left.as_hours() / 24,
        })
    } else {
        Err(expires - WARNED_BEFORE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_told_from_thirty_days_before_the_end_on() {
        let end: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let at = |text: &str| stage(end, text.parse().unwrap());
        assert_eq!(at("2026-11-30T00:00:00Z"), Err("2026-12-01T00:00:00Z".parse().unwrap()));
        assert_eq!(at("2026-12-01T00:00:00Z"), Ok(Stage::Ending { days: 30 }));
        assert_eq!(at("2026-12-30T12:00:00Z"), Ok(Stage::Ending { days: 0 }));
        assert_eq!(at("2026-12-31T00:00:00Z"), Ok(Stage::Ended));
    }
}
