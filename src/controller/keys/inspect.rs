//! Whether gates and operator can authenticate each other with what the Secrets hold: the same checks that they make.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use x509_parser::certificate::X509Certificate;

use super::{CA_CRT, CA_KEY, SecretData, TLS_CRT, TLS_KEY};

/// Until when both certificates are valid; `None` if one of the peers would reject the other, or the authority's key is missing or another's.
pub(super) fn usable_until(
    gate: &SecretData,
    operator: &SecretData,
    dns_name: &str,
    now: Timestamp,
) -> Option<Timestamp> {
    let bundle = gate.get(CA_CRT).filter(|bundle| operator.get(CA_CRT) == Some(bundle))?;
    let authority = certificates(bundle).into_iter().next()?;
    let key = rcgen::KeyPair::from_pem(operator.get(CA_KEY)?).ok()?;
    fits(&authority, key.public_key_raw()).then_some(())?;

    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(roots(bundle)?);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).ok()?));
    let name = ServerName::try_from(dns_name.to_owned()).ok()?;
    let of_gates = own_certificate(gate, &provider)?;
    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .ok()?
        .verify_server_cert(&of_gates, &[], &name, &[], now)
        .ok()?;
    let of_operator = own_certificate(operator, &provider)?;
    WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .ok()?
        .verify_client_cert(&of_operator, &[], now)
        .ok()?;
    let ends = |data: &SecretData| Some(Validity::of(data.get(TLS_CRT)?)?.ends);
    Some(ends(gate)?.min(ends(operator)?))
}

/// All certificates of a bundle as roots; `None` if one of them cannot be read.
fn roots(bundle: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    Some(roots)
}

/// The certificate of a Secret; `None` if it or its key cannot be read, or they do not belong together.
fn own_certificate(data: &SecretData, provider: &CryptoProvider) -> Option<CertificateDer<'static>> {
    let certificate = CertificateDer::from_pem_slice(data.get(TLS_CRT)?.as_bytes()).ok()?;
    let key = PrivateKeyDer::from_pem_slice(data.get(TLS_KEY)?.as_bytes()).ok()?;
    CertifiedKey::from_der(vec![certificate.clone()], key, provider).ok()?;
    Some(certificate)
}

/// The certificates of a bundle, each in PEM as this program writes it. What is not a certificate is left out.
pub(super) fn certificates(bundle: &str) -> Vec<String> {
    let blocks = pem::parse_many(bundle).unwrap_or_default();
    let certificates = blocks.iter().filter(|block| block.tag() == "CERTIFICATE");
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    certificates.map(|block| pem::encode_config(block, config)).collect()
}

/// Whether a public key is that of a certificate in PEM.
pub(super) fn fits(certificate: &str, public_key: &[u8]) -> bool {
    let key_of = |certificate: &X509Certificate<'_>| {
        Some(certificate.public_key().subject_public_key.data.as_ref() == public_key)
    };
    with_certificate(certificate, key_of).unwrap_or_default()
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub begins: Timestamp,
    pub ends: Timestamp,
}

impl Validity {
    /// Of a certificate in PEM; `None` if it cannot be read.
    pub fn of(certificate: &str) -> Option<Self> {
        with_certificate(certificate, |certificate| {
            let validity = certificate.validity();
            Some(Self {
                begins: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
                ends: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
            })
        })
    }
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    read(&block.parse_x509().ok()?)
}
