//! The keys with which gates and operator authenticate each other: an authority of its own for each pair, one certificate for both gates,
//! one for the operator. Made and renewed here; two Secrets hold them.
//!
//! Rules:
//! - Secrets that are damaged in any way are made anew: a certificate by the authority that there is, an authority if that is damaged.
//! - An authority is replaced in two renewals. The first adds the new one to the bundles, and the old one still issues the certificates. The
//!   next one issues with the new authority, when kubelet has updated the bundles in the pods. Peers therefore accept each other throughout.
//! - Deleting both Secrets revokes everything: the new authority is the only one in the bundles.
//!
//! | module | owns |
//! |---|---|
//! | `authority` | the authorities, and which of them issues |
//! | `inspect` | whether what the Secrets hold can be used |

mod authority;
mod inspect;

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::ExtendedKeyUsagePurpose;

use self::authority::Authorities;

/// Key of the authorities' certificates in both Secrets. The first is that of the authority that issues.
pub const CA_CRT: &str = "ca.crt";
/// Key of the certificate in both Secrets.
pub const TLS_CRT: &str = "tls.crt";
/// Key of the private key in both Secrets.
pub const TLS_KEY: &str = "tls.key";
/// Key of the authority's private key, in the operator's Secret alone.
const CA_KEY: &str = "ca.key";
/// Key of the certificate of the authority that will issue next, in the operator's Secret alone.
const NEXT_CA_CRT: &str = "next-ca.crt";
/// Key of its private key.
const NEXT_CA_KEY: &str = "next-ca.key";

/// The content of a Secret.
pub type SecretData = BTreeMap<String, String>;

/// Both Secrets of a pair.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySet {
    /// For the gates: `ca.crt`, `tls.crt`, `tls.key`.
    pub gate: SecretData,
    /// For the operator: the same, and the keys of the authorities.
    pub operator: SecretData,
    /// When they are to be renewed.
    pub renew_at: Timestamp,
}

/// Without the values, which are secret.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("gate", &self.gate.keys())
            .field("operator", &self.operator.keys())
            .field("renew_at", &self.renew_at)
            .finish()
    }
}

/// Making keys failed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The library refused.
    #[error("failed to make the gates' keys: {0}")]
    Make(#[from] rcgen::Error),
}

/// The keys as they are to be at `now`: `current` if it can be used, is for `dns_name` and has more than a third of `lifetime` left;
/// otherwise new ones.
pub fn renewed(
    current: Option<(SecretData, SecretData)>,
    dns_name: &str,
    lifetime: Duration,
    now: Timestamp,
) -> Result<KeySet, KeysError> {
    let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::from_hours(2160));
    if let Some((gate, operator)) = &current
        && let Some(ends) = inspect::usable_until(gate, operator, dns_name, now)
        && ends - lifetime / 3 > now
    {
        return Ok(KeySet {
            gate: gate.clone(),
            operator: operator.clone(),
            renew_at: ends - lifetime / 3,
        });
    }
    let operator = current.map(|(_, operator)| operator).unwrap_or_default();
    let authorities = Authorities::due(&operator, dns_name, lifetime, now)?;
    let name_of_operator = format!("operator.{dns_name}");
    let gate = authorities.issue(dns_name, ExtendedKeyUsagePurpose::ServerAuth, lifetime, now)?;
    let mut operator = authorities.issue(&name_of_operator, ExtendedKeyUsagePurpose::ClientAuth, lifetime, now)?;
    operator.extend(authorities.keys());
    Ok(KeySet {
        gate,
        operator,
        renew_at: now + lifetime * 2 / 3,
    })
}

#[cfg(test)]
mod tests;
