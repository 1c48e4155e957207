//! The authorities of a pair: the one that issues, the one that will issue next, and former ones that are still trusted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{
    CA_CRT, CA_KEY, NEXT_CA_CRT, NEXT_CA_KEY, SecretData, TLS_CRT, TLS_KEY,
    inspect::{Validity, certificates, fits},
};

/// How often the lifetime of a certificate fits into that of its authority.
const AUTHORITY_LIFETIMES: i32 = 4;
/// Certificates are valid from so long before they are made, for clocks that differ.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
/// Longest time until kubelet has updated the bundle in each pod, as far as certificates of a short lifetime can wait for it.
const PUBLICATION: SignedDuration = SignedDuration::from_mins(10);
/// How many former authorities stay trusted at most.
const FORMER: usize = 2;

/// An authority.
struct Authority {
    /// In PEM.
    certificate: String,
    key: KeyPair,
    validity: Validity,
}

/// The authorities of a pair.
pub(super) struct Authorities {
    current: Authority,
    next: Option<Authority>,
    /// Certificates of former authorities, in PEM.
    former: Vec<String>,
}

impl Authorities {
    /// The authorities that are to be used at `now`, given what the operator's Secret holds.
    pub fn due(
        operator: &SecretData,
        dns_name: &str,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Self, rcgen::Error> {
        let bundle = certificates(operator.get(CA_CRT).map_or("", String::as_str));
        let outlives = |authority: &Authority| authority.validity.ends >= now + lifetime;
        let current = bundle
            .first()
            .and_then(|first| Authority::read(first, operator.get(CA_KEY)?))
            .filter(outlives);
        let next = operator
            .get(NEXT_CA_CRT)
            .and_then(|next| Authority::read(next, operator.get(NEXT_CA_KEY)?))
            .filter(outlives);
        // Without an authority of which all is whole nothing that the bundle holds is known to be the pair's.
        let bundle = match (&current, &next) {
            (None, None) => Vec::new(),
            _ => bundle,
        };
        let (current, next) = match (current, next) {
            (Some(current), Some(next)) if next.certificate == current.certificate => (current, None),
            (None, Some(next)) => (next, None),
            (Some(_), Some(next)) if next.is_published(lifetime, now) => (next, None),
            (Some(current), Some(next)) => (current, Some(next)),
            (Some(current), None) => {
                let ends_before_the_next_renewal = current.validity.ends < now + lifetime * 2;
                let next = ends_before_the_next_renewal.then(|| Authority::new(dns_name, lifetime, now));
                (current, next.transpose()?)
            }
            (None, None) => (Authority::new(dns_name, lifetime, now)?, None),
        };
        let is_former = |certificate: &String| {
            *certificate != current.certificate
                && next.as_ref().is_none_or(|next| next.certificate != *certificate)
                && Validity::of(certificate).is_some_and(|validity| validity.ends > now)
        };
        let former = bundle.into_iter().filter(is_former).take(FORMER).collect();
        Ok(Self { current, next, former })
    }

    /// What the operator's Secret keeps of the authorities beside the bundle.
    pub fn keys(&self) -> SecretData {
        let mut keys = SecretData::from([(CA_KEY.to_owned(), self.current.key.serialize_pem())]);
        if let Some(next) = &self.next {
            keys.insert(NEXT_CA_CRT.to_owned(), next.certificate.clone());
            keys.insert(NEXT_CA_KEY.to_owned(), next.key.serialize_pem());
        }
        keys
    }

    /// A certificate for `name`, with its key and the bundle.
    pub fn issue(
        &self,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<SecretData, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, lifetime);
        let issuer = Issuer::from_ca_cert_pem(&self.current.certificate, &self.current.key)?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(SecretData::from([
            (CA_CRT.to_owned(), self.bundle()),
            (TLS_CRT.to_owned(), certificate.pem()),
            (TLS_KEY.to_owned(), key.serialize_pem()),
        ]))
    }

    fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| &next.certificate);
        let all = [&self.current.certificate].into_iter().chain(next).chain(&self.former);
        all.map(String::as_str).collect()
    }
}

impl Authority {
    fn new(dns_name: &str, lifetime: SignedDuration, now: Timestamp) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("{dns_name} {}", now.as_second());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, lifetime * AUTHORITY_LIFETIMES);
        let made = params.self_signed(&key)?;
        // Read back from its text, so that it is compared with what a Secret holds.
        let certificate = certificates(&made.pem()).into_iter().next();
        let certificate = certificate.ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Self::read(&certificate, &key.serialize_pem()).ok_or(rcgen::Error::CouldNotParseCertificate)
    }

    /// An authority in PEM; `None` if certificate or key cannot be read, or they do not belong together.
    fn read(certificate: &str, key: &str) -> Option<Self> {
        let key = KeyPair::from_pem(key).ok()?;
        fits(certificate, key.public_key_raw()).then_some(())?;
        let certificate = certificates(certificate).into_iter().next()?;
        let validity = Validity::of(&certificate)?;
        Some(Self {
            certificate,
            key,
            validity,
        })
    }

    /// Whether all pods can have its certificate in their bundles.
    fn is_published(&self, lifetime: SignedDuration, now: Timestamp) -> bool {
        now >= self.validity.begins + BACKDATED + PUBLICATION.min(lifetime / 3)
    }
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: SignedDuration) {
    let day_zero = rcgen::date_time_ymd(1970, 1, 1);
    let at = |moment: Timestamp| day_zero + Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or_default());
    params.not_before = at(now - BACKDATED);
    params.not_after = at(now + lifetime);
}
