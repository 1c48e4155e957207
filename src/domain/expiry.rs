//! Expiry times of certificates, and from when on to warn.

use jiff::{SignedDuration, Timestamp};

/// How long before the expiry time to warn.
pub const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Expiry times of the certificates of one side; `None` for one that does not exist or has not been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Of the certificate that the proxy presents to probes.
    pub listener: Option<Timestamp>,
    /// Of the ObjectServer's certificate.
    pub object_server: Option<Timestamp>,
}

/// A certificate of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certificate {
    /// The one that the proxy presents to probes.
    Listener,
    /// The ObjectServer's.
    ObjectServer,
}

impl Certificate {
    /// Both certificates of a side.
    pub const BOTH: [Self; 2] = [Self::Listener, Self::ObjectServer];

    /// The value of the metric label `certificate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::ObjectServer => "objectserver",
        }
    }
}

impl Expiry {
    /// Expiry time of one certificate.
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
    Expiring {
        /// Days.
        days: i64,
    },
    /// It has expired.
    Expired,
}

/// The stage at `now` of a certificate that expires at `expires`.
///
/// # Errors
///
/// Until 30 days before, the moment from which on it is to be told.
pub fn stage(expires: Timestamp, now: Timestamp) -> Result<Stage, Timestamp> {
    let left = expires.duration_since(now);
    if left <= SignedDuration::ZERO {
        Ok(Stage::Expired)
    } else if left <= WARN_BEFORE {
        Ok(Stage::Expiring {
            days: left.as_hours() / 24,
        })
    } else {
        Err(expires - WARN_BEFORE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_from_thirty_days_before_the_expiry_on() {
        let end: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let at = |text: &str| stage(end, text.parse().unwrap());
        assert_eq!(at("2026-11-30T00:00:00Z"), Err("2026-12-01T00:00:00Z".parse().unwrap()));
        assert_eq!(at("2026-12-01T00:00:00Z"), Ok(Stage::Expiring { days: 30 }));
        assert_eq!(at("2026-12-30T12:00:00Z"), Ok(Stage::Expiring { days: 0 }));
        assert_eq!(at("2026-12-31T00:00:00Z"), Ok(Stage::Expired));
    }
}
