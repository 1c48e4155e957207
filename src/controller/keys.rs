//! The keys that gates and operator prove themselves with: an authority of its own for each pair, one certificate for both gates, one for
//! the operator. Made and renewed here; Secrets hold them.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Key of the authority's certificates in both Secrets.
pub const CA_CRT: &str = "ca.crt";
/// Key of the certificate in both Secrets.
pub const TLS_CRT: &str = "tls.crt";
/// Key of the private key in both Secrets.
pub const TLS_KEY: &str = "tls.key";
/// Key of the authority's private key, in the operator's Secret alone.
const CA_KEY: &str = "ca.key";
/// How often the lifetime of a certificate fits into that of its authority.
const AUTHORITY_LIFETIMES: u32 = 20;

/// The content of a Secret.
pub type SecretData = BTreeMap<String, String>;

/// Both Secrets of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// For the gates: `ca.crt`, `tls.crt`, `tls.key`.
    pub gate: SecretData,
    /// For the operator: the same, and `ca.key`.
    pub operator: SecretData,
    /// When they are to be renewed.
    pub renew_at: Timestamp,
}

/// Making keys failed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The library refused.
    #[error("failed to make the gates' keys")]
    Make(#[from] rcgen::Error),
}

/// The keys as they are to be at `now`: `current` if it is whole, fits `dns_name` and has more than a third of `lifetime` left; else new
/// ones, from the same authority while that lives, so that peers with the older certificate go on being trusted.
pub fn renewed(
    current: Option<(SecretData, SecretData)>,
    dns_name: &str,
    lifetime: Duration,
    now: Timestamp,
) -> Result<KeySet, KeysError> {
    let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::from_hours(2160));
    if let Some((gate, operator)) = &current {
        let due = [gate, operator]
            .into_iter()
            .filter_map(|data| renew_at(data, dns_name, lifetime))
            .min();
        let whole = [gate, operator]
            .iter()
            .all(|data| renew_at(data, dns_name, lifetime).is_some())
            && gate.get(CA_CRT) == operator.get(CA_CRT);
        if let Some(due) = due.filter(|due| whole && *due > now) {
            return Ok(KeySet {
                gate: gate.clone(),
                operator: operator.clone(),
                renew_at: due,
            });
        }
    }
    let authority = match current
        .as_ref()
        .and_then(|(_, operator)| Authority::kept(operator, now, lifetime))
    {
        Some(authority) => authority,
        None => Authority::new(
            current.as_ref().and_then(|(_, operator)| operator.get(CA_CRT)),
            dns_name,
            now,
            lifetime,
        )?,
    };
    let gate = authority.issue(dns_name, ExtendedKeyUsagePurpose::ServerAuth, now, lifetime)?;
    let mut operator = authority.issue(
        &format!("operator.{dns_name}"),
        ExtendedKeyUsagePurpose::ClientAuth,
        now,
        lifetime,
    )?;
    operator.insert(CA_KEY.to_owned(), authority.key.serialize_pem());
    Ok(KeySet {
        gate,
        operator,
        renew_at: now + lifetime * 2 / 3,
    })
}

struct Authority {
    /// The newest certificate first; older ones behind it are trusted until they end.
    bundle: String,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn kept(operator: &SecretData, now: Timestamp, lifetime: SignedDuration) -> Option<Self> {
        let bundle = operator.get(CA_CRT)?.clone();
        let key = KeyPair::from_pem(operator.get(CA_KEY)?).ok()?;
        let first = first_certificate(&bundle)?;
        if not_after(&first)? < now + lifetime {
            return None;
        }
        let issuer = Issuer::from_ca_cert_pem(&first, &key).ok()?;
        let params = authority_params(common_name(&first)?, now, lifetime);
        drop(issuer);
        Some(Self { bundle, params, key })
    }

    fn new(
        older: Option<&String>,
        dns_name: &str,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<Self, KeysError> {
        let key = KeyPair::generate()?;
        let params = authority_params(format!("{dns_name} {}", now.as_second()), now, lifetime);
        let mut bundle = params.self_signed(&key)?.pem();
        if let Some(first) = older.and_then(|bundle| first_certificate(bundle)) {
            bundle.push_str(&first);
        }
        Ok(Self { bundle, params, key })
    }

    fn issue(
        &self,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<SecretData, KeysError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, lifetime);
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        Ok(SecretData::from([
            (CA_CRT.to_owned(), self.bundle.clone()),
            (TLS_CRT.to_owned(), certificate.pem()),
            (TLS_KEY.to_owned(), key.serialize_pem()),
        ]))
    }
}

fn authority_params(name: String, now: Timestamp, lifetime: SignedDuration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(
        &mut params,
        now,
        lifetime * i32::try_from(AUTHORITY_LIFETIMES).unwrap_or(1),
    );
    params
}

/// Valid from an hour before, for clocks that differ.
fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: SignedDuration) {
    let day_zero = rcgen::date_time_ymd(1970, 1, 1);
    let at = |moment: Timestamp| day_zero + Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or_default());
    params.not_before = at(now - SignedDuration::from_hours(1));
    params.not_after = at(now + lifetime);
}

fn first_certificate(bundle: &str) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let end = bundle.find(END)? + END.len();
    Some(format!("{}\n", bundle[..end].trim()))
}

fn with_certificate<T>(
    pem: &str,
    read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Option<T>,
) -> Option<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    read(&block.parse_x509().ok()?)
}

fn not_after(pem: &str) -> Option<Timestamp> {
    with_certificate(pem, |certificate| {
        Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
    })
}

fn common_name(pem: &str) -> Option<String> {
    with_certificate(pem, |certificate| {
        certificate
            .subject()
            .iter_common_name()
            .next()?
            .as_str()
            .ok()
            .map(str::to_owned)
    })
}

fn renew_at(data: &SecretData, dns_name: &str, lifetime: SignedDuration) -> Option<Timestamp> {
    let certificate = data.get(TLS_CRT)?;
    KeyPair::from_pem(data.get(TLS_KEY)?).ok()?;
    common_name(certificate)?.ends_with(dns_name).then_some(())?;
    Some(not_after(certificate)? - lifetime / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "gate.proxy-v.netcool.proxypair.internal";
    const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

    fn days(days: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * (20_000 + days))
    }

    fn pair(keys: &KeySet) -> Option<(SecretData, SecretData)> {
        Some((keys.gate.clone(), keys.operator.clone()))
    }

    #[test]
    fn keys_that_are_fresh_stay_as_they_are() {
        let keys = renewed(None, NAME, LIFETIME, days(0)).unwrap();
        assert_eq!(keys.renew_at, days(60));
        assert_eq!(renewed(pair(&keys), NAME, LIFETIME, days(59)).unwrap().gate, keys.gate);
    }

    #[test]
    fn keys_are_renewed_by_the_same_authority_before_they_expire() {
        let keys = renewed(None, NAME, LIFETIME, days(0)).unwrap();
        let next = renewed(pair(&keys), NAME, LIFETIME, days(61)).unwrap();
        assert_ne!(next.gate[TLS_CRT], keys.gate[TLS_CRT]);
        assert_eq!(next.gate[CA_CRT], keys.gate[CA_CRT]);
        assert_eq!(next.operator[CA_KEY], keys.operator[CA_KEY]);
    }

    #[test]
    fn a_new_authority_leaves_the_old_one_trusted() {
        let keys = renewed(None, NAME, LIFETIME, days(0)).unwrap();
        let next = renewed(pair(&keys), NAME, LIFETIME, days(90 * 20 - 1)).unwrap();
        assert!(next.gate[CA_CRT].contains(keys.gate[CA_CRT].trim()));
        assert_ne!(next.gate[CA_CRT], keys.gate[CA_CRT]);
    }

    #[test]
    fn damaged_keys_are_made_anew() {
        let keys = renewed(None, NAME, LIFETIME, days(0)).unwrap();
        for damage in [TLS_CRT, TLS_KEY, CA_CRT] {
            let mut gate = keys.gate.clone();
            gate.insert(damage.to_owned(), "garbage".to_owned());
            let next = renewed(Some((gate, keys.operator.clone())), NAME, LIFETIME, days(1)).unwrap();
            assert!(next.gate[damage].starts_with("-----BEGIN"), "{damage}");
        }
    }

    #[test]
    fn the_authoritys_key_never_reaches_the_gates() {
        let keys = renewed(None, NAME, LIFETIME, days(0)).unwrap();
        assert!(!keys.gate.contains_key(CA_KEY));
    }
}
