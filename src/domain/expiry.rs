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

/// State of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Valid, and not about to expire.
    Valid {
        /// When the warning is due.
        until: Timestamp,
    },
    /// It expires within [`WARN_BEFORE`].
    Expiring {
        /// Whole days until it expires.
        days: i64,
    },
    /// It has expired.
    Expired,
}

/// State at `now` of a certificate that expires at `expires`.
pub fn stage(expires: Timestamp, now: Timestamp) -> Stage {
    let left = expires.duration_since(now);
    if left <= SignedDuration::ZERO {
        Stage::Expired
    } else if left <= WARN_BEFORE {
        Stage::Expiring {
            days: left.as_hours() / 24,
        }
    } else {
        Stage::Valid {
            until: expires - WARN_BEFORE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_from_thirty_days_before_the_expiry_on() {
        let end: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let at = |text: &str| stage(end, text.parse().unwrap());
        assert_eq!(
            at("2026-11-30T00:00:00Z"),
            Stage::Valid {
                until: "2026-12-01T00:00:00Z".parse().unwrap()
            }
        );
        assert_eq!(at("2026-12-01T00:00:00Z"), Stage::Expiring { days: 30 });
        assert_eq!(at("2026-12-30T12:00:00Z"), Stage::Expiring { days: 0 });
        assert_eq!(at("2026-12-31T00:00:00Z"), Stage::Expired);
    }
}
