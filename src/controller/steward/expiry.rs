//! Telling of certificates that end: a metric always, an Event once for each certificate.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::events::{Event, EventType};

use super::actor::Actor;
use crate::{
    api::{Reason, Side},
    domain::expiry::{Certificate, Stage, stage},
    health::{Finding, index},
    metrics::CertificateLabels,
};

/// Longest time until certificates are looked at again.
const LOOK: Duration = Duration::from_secs(24 * 3600);

impl Actor {
    /// Tells what is to be told now. Returns when to come back.
    pub(super) fn tell_of_certificates(&mut self, finding: &Finding) -> Option<Instant> {
        let now = Timestamp::now();
        let mut look_again = None;
        for side in Side::BOTH {
            for certificate in Certificate::BOTH {
                let expires = finding.sides[index(side)].expiry.of(certificate);
                self.count_certificate(side, certificate, expires);
                let Some(expires) = expires else { continue };
                let stage = stage(expires, now);
                if let Stage::Valid { until } = stage {
                    let wait = until.duration_since(now).unsigned_abs().min(LOOK);
                    let at = Instant::now() + wait;
                    look_again = Some(look_again.map_or(at, |earlier: Instant| earlier.min(at)));
                } else if self.told.get(&(side, certificate)) != Some(&expires) {
                    self.told.insert((side, certificate), expires);
                    self.publish(self.ending(side, certificate, expires, stage));
                }
            }
        }
        look_again
    }

    fn count_certificate(&self, side: Side, certificate: Certificate, expires: Option<Timestamp>) {
        let labels = CertificateLabels {
            namespace: self.pair.namespace.clone(),
            pair: self.pair.name.clone(),
            side: side.label(),
            certificate: certificate.as_str(),
        };
        let family = &self.context.metrics.certificate_expires;
        match expires {
            Some(expires) => drop(family.get_or_create(&labels).set(expires.as_second())),
            None => drop(family.remove(&labels)),
        }
    }

    fn ending(&self, side: Side, certificate: Certificate, expires: Timestamp, stage: Stage) -> Event {
        let declared = self.pair.spec.side(side);
        let (whose, name) = match certificate {
            Certificate::Listener => ("proxy", &declared.server_name),
            Certificate::ObjectServer => ("ObjectServer", &declared.object_server.name),
        };
        let (reason, when) = match stage {
            Stage::Expired => (Reason::CertificateExpired, "has ended".to_owned()),
            Stage::Expiring { days: 0 } => (Reason::CertificateExpiring, "ends within a day".to_owned()),
            Stage::Expiring { days } => (Reason::CertificateExpiring, format!("ends in {days} days")),
            Stage::Valid { .. } => (Reason::CertificateExpiring, "is valid".to_owned()),
        };
        Event {
            type_: EventType::Warning,
            reason: reason.to_string(),
            note: Some(format!(
                "the certificate of {whose} {name} {when}, at {expires}: renew it"
            )),
            action: format!(
                "Renew{}{}",
                if side == Side::Primary { "Primary" } else { "Backup" },
                whose
            ),
            secondary: None,
        }
    }
}
