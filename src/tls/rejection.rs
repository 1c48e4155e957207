//! Why a certificate is rejected, and why a handshake fails: typed errors, also inside the errors of rustls.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, OtherError};

use super::certificate::Presented;

/// Which part of OMNIbus's rule a certificate breaks, what was presented and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRejection {
    /// The certificate cannot be parsed.
    #[error("the certificate cannot be parsed: {0}")]
    Unreadable(String),
    /// The chain is not valid.
    #[error(
        "certificate chain rejected: {fault}; presented: {presented}; expected: an issuer in the CA bundle ({trusted})"
    )]
    Chain {
        /// What is wrong with it.
        fault: ChainFault,
        /// The server's own certificate.
        presented: Box<Presented>,
        /// The subjects in the CA bundle.
        trusted: String,
    },
    /// The chain is valid, the name is wrong.
    #[error("certificate Common Name rejected: {fault}; presented: {presented}; expected: Common Name \"{expected}\"")]
    CommonName {
        /// What is wrong with it.
        fault: NameFault,
        /// The server's own certificate.
        presented: Box<Presented>,
        /// The server's name; several are joined by `" or "`.
        expected: String,
    },
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// It leads to no CA of the bundle.
    #[error("it leads to no CA in the CA bundle")]
    UnknownIssuer,
    /// The bundle has a CA with the issuer's name but another key.
    #[error("its signature does not match the CA of the same name in the CA bundle")]
    BadSignature,
    /// The server's certificate has expired.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// The server's certificate is not valid yet, or the clock is wrong.
    #[error("it is not valid before {0}")]
    NotYetValid(Timestamp),
    /// A certificate above the server's has expired.
    #[error("a certificate above it expired at {0}")]
    IssuerExpired(Timestamp),
    /// A certificate above the server's is not valid yet.
    #[error("a certificate above it is not valid before {0}")]
    IssuerNotYetValid(Timestamp),
    /// The certificate is not of version 3.
    #[error(
        "it is of X.509 version {0}, but only version 3 is supported: issue it again with an extension, such as basicConstraints"
    )]
    Version(u32),
    /// The certificate is that of a CA, and not in the bundle.
    #[error(
        "it is a CA certificate (basicConstraints CA:TRUE): a server can use one only if it is self-signed and itself in the CA bundle"
    )]
    Authority,
    /// An algorithm or a key is too weak, or unknown.
    #[error(
        "its signature algorithm is not supported: expected SHA-256 or better, with RSA of at least 2048 bits or with ECDSA"
    )]
    Algorithm,
    /// The extended key usage lacks server authentication.
    #[error("its extended key usage does not include server authentication")]
    Purpose,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What is wrong with a Common Name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It is another name.
    #[error("it is \"{0}\"")]
    Other(String),
    /// There is none that can be compared.
    #[error("{0}")]
    None(#[from] super::certificate::CommonNameError),
}

impl From<CertificateRejection> for rustls::Error {
    fn from(rejection: CertificateRejection) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
    }
}

impl CertificateRejection {
    /// The rejection inside an error of rustls, if it is one.
    #[must_use]
    pub fn within(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }

    /// The rejection inside an error of a stream, if it is one.
    #[must_use]
    pub fn within_io(error: &io::Error) -> Option<&Self> {
        Self::within(error.get_ref()?.downcast_ref()?)
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The certificate breaks OMNIbus's rule.
    #[error("{0}")]
    Rejected(CertificateRejection),
    /// The answer is not TLS.
    #[error("the answer to the TLS handshake is not TLS: this port speaks plain TDS, or another protocol")]
    NotTls,
    /// The connection was closed during the handshake: the server is going down, or speaks no TLS on this port.
    #[error(
        "the connection was closed during the TLS handshake ({0}): the server is going down, or this port speaks plain TDS"
    )]
    Closed(#[source] io::Error),
    /// No version or cipher in common.
    #[error(
        "no TLS version or cipher in common: offered are TLS 1.3, and TLS 1.2 with ECDHE and AES-GCM or ChaCha20 ({0})"
    )]
    NothingInCommon(#[source] io::Error),
    /// Anything else in TLS itself.
    #[error("the TLS handshake failed: {0}")]
    Failed(#[source] io::Error),
    /// No CA bundle is loaded.
    #[error("TLS needs a CA bundle: {0}")]
    NoBundle(String),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(rejection) = CertificateRejection::within_io(&error) {
            return Self::Rejected(rejection.clone());
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => Self::NotTls,
            Some(rustls::Error::AlertReceived(
                AlertDescription::HandshakeFailure
                | AlertDescription::ProtocolVersion
                | AlertDescription::InsufficientSecurity,
            )) => Self::NothingInCommon(error),
            Some(_) => Self::Failed(error),
            None => match error.kind() {
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe => Self::Closed(error),
                _ => Self::Failed(error),
            },
        }
    }
}
