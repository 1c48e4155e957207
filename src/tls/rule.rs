//! OMNIbus's rule as a verifier for rustls: chain, validity and Common Name. Subject alternative names are ignored.
//!
//! webpki verifies the chain, with two consequences:
//!
//! - A server's certificate must be of version 3. A CA in the bundle may be of version 1.
//! - webpki accepts no certificate with `CA:TRUE` for a server. This module accepts one that is self-signed and itself in the bundle, byte for
//!   byte: that can only mean that this server is trusted. Its validity and its name are still checked.

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, x509::X509Version};

use super::{
    BundleError,
    certificate::{Presented, common_name, moment, quoted, read, shown},
    rejection::{CertificateRejection, ChainFault, NameFault},
};

/// Maximum number of the bundle's subjects in a message.
const NAMED_AT_MOST: usize = 4;

/// The rule for one server.
#[derive(Debug)]
pub(super) struct CommonNameRule {
    /// The names of the server; the certificate must have one of them.
    server_names: Vec<String>,
    roots: RootCertStore,
    bundle: Vec<CertificateDer<'static>>,
    /// The subjects of the bundle, for messages.
    trusted: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CommonNameRule {
    pub(super) fn new(
        bundle: Vec<CertificateDer<'static>>,
        server_names: &[&str],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, BundleError> {
        let mut roots = RootCertStore::empty();
        for (index, authority) in bundle.iter().enumerate() {
            roots
                .add(authority.clone())
                .map_err(|source| BundleError::Certificate {
                    position: index + 1,
                    source,
                })?;
        }
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self {
            server_names: server_names.iter().map(|name| (*name).to_owned()).collect(),
            roots,
            trusted: subjects(&bundle),
            bundle,
            algorithms,
        })
    }

    fn check(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateRejection> {
        let certificate = read(der).map_err(|error| CertificateRejection::Unreadable(error.to_string()))?;
        self.check_chain(der, &certificate, intermediates, now)
            .map_err(|fault| CertificateRejection::Chain {
                fault,
                presented: Box::new(Presented::of(&certificate)),
                trusted: self.trusted.clone(),
            })?;
        let fault = match common_name(&certificate) {
            Ok(name) if self.server_names.contains(&name) => return Ok(()),
            Ok(name) => NameFault::Other(quoted(&name)),
            Err(error) => NameFault::None(error),
        };
        Err(CertificateRejection::CommonName {
            fault,
            presented: Box::new(Presented::of(&certificate)),
            expected: self.server_names.join("\" or \""),
        })
    }

    fn check_chain(
        &self,
        der: &CertificateDer<'_>,
        certificate: &X509Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ChainFault> {
        if certificate.version() != X509Version::V3 {
            return Err(ChainFault::Version(certificate.version().0 + 1));
        }
        let is_authority = certificate.is_ca();
        if is_authority && certificate.subject() == certificate.issuer() && self.bundle.contains(der) {
            return within_validity(certificate, now);
        }
        let signed = ParsedCertificate::try_from(der).and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
        });
        signed.map_err(|error| fault(certificate, is_authority, error))
    }
}

fn within_validity(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), ChainFault> {
    let (begin, end) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < begin {
        Err(ChainFault::NotYetValid(moment(begin)))
    } else if now > end {
        Err(ChainFault::Expired(moment(end)))
    } else {
        Ok(())
    }
}

/// Translates an error of webpki.
fn fault(certificate: &X509Certificate<'_>, is_authority: bool, error: rustls::Error) -> ChainFault {
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let rustls::Error::InvalidCertificate(error) = error else {
        return ChainFault::Other(error.to_string());
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            let end = seconds(not_after);
            if end == certificate.validity().not_after.timestamp() {
                ChainFault::Expired(moment(end))
            } else {
                ChainFault::IssuerExpired(moment(end))
            }
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let begin = seconds(not_before);
            if begin == certificate.validity().not_before.timestamp() {
                ChainFault::NotYetValid(moment(begin))
            } else {
                ChainFault::IssuerNotYetValid(moment(begin))
            }
        }
        CertificateError::UnknownIssuer => ChainFault::UnknownIssuer,
        CertificateError::BadSignature => ChainFault::BadSignature,
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => ChainFault::Algorithm,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => ChainFault::Purpose,
        _ if is_authority => ChainFault::Authority,
        other => ChainFault::Other(other.to_string()),
    }
}

fn subjects(bundle: &[CertificateDer<'_>]) -> String {
    let mut subjects: Vec<_> = bundle
        .iter()
        .take(NAMED_AT_MOST)
        .map(|authority| match read(authority) {
            Ok(authority) => format!("\"{}\"", shown(authority.subject())),
            Err(_) => "one with an invalid name".to_owned(),
        })
        .collect();
    if let Some(more) = bundle.len().checked_sub(NAMED_AT_MOST).filter(|more| *more > 0) {
        subjects.push(format!("{more} more"));
    }
    subjects.join(", ")
}

impl ServerCertVerifier for CommonNameRule {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
