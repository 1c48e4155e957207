//! Why a certificate is refused, and why a handshake fails: typed, and found again in the error that comes out of rustls.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, OtherError};

use super::certificate::Presented;

/// Which part of OMNIbus's rule a certificate breaks, what was presented and what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing that could be judged.
    #[error("the certificate presented cannot be read: {0}")]
    Unreadable(String),
    /// The chain.
    #[error(
        "the certificate's chain is refused: {fault}; presented: {presented}; wanted: an issuer in the CA bundle ({trusted})"
    )]
    Chain {
        /// What is wrong with it.
        fault: ChainFault,
        /// The server's own certificate.
        presented: Box<Presented>,
        /// The subjects in the CA bundle.
        trusted: String,
    },
    /// The chain is right, the name is not.
    #[error(
        "the certificate's Common Name is refused: {fault}; presented: {presented}; wanted: Common Name \"{wanted}\""
    )]
    CommonName {
        /// What is wrong with it.
        fault: NameFault,
        /// The server's own certificate.
        presented: Box<Presented>,
        /// The server's name; several with `" or "` between them.
        wanted: String,
    },
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// It leads to no authority of the bundle.
    #[error("it leads to no authority in the CA bundle")]
    UnknownIssuer,
    /// The name of an authority fits and the signature does not: another authority of the same name.
    #[error("its signature is not that of the authority of that name in the CA bundle")]
    BadSignature,
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// Its time has not come. A wrong clock looks the same.
    #[error("it is not valid before {0}")]
    NotYetValid(Timestamp),
    /// The server's certificate is fine, one above it is over.
    #[error("a certificate above it expired at {0}")]
    IssuerExpired(Timestamp),
    /// The server's certificate is fine, the time of one above it has not come.
    #[error("a certificate above it is not valid before {0}")]
    IssuerNotYetValid(Timestamp),
    /// Not version 3.
    #[error(
        "it is of X.509 version {0}, and TLS here takes version 3 only: issue it again with an extension, such as basicConstraints"
    )]
    Version(u32),
    /// An authority's own certificate, of no authority in the bundle.
    #[error(
        "it is an authority's (basicConstraints CA:TRUE): only one that is self-signed and stands in the CA bundle itself can be a server's"
    )]
    Authority,
    /// An algorithm or a key that is too weak, or unknown.
    #[error(
        "it is signed in a way that is not taken here: wanted is SHA-256 or better, with RSA of 2048 bits or more or with ECDSA"
    )]
    Algorithm,
    /// Extended key usage without server authentication.
    #[error("its extended key usage does not include server authentication")]
    Purpose,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What is wrong with a Common Name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It is another one.
    #[error("it is \"{0}\"")]
    Other(String),
    /// There is none that could be compared.
    #[error("{0}")]
    None(#[from] super::certificate::CommonNameError),
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

impl Refusal {
    /// The refusal inside an error of rustls, if it is one.
    #[must_use]
    pub fn within(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }

    /// The refusal inside an error of a stream, if it is one.
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
    Refused(Refusal),
    /// What came back is not TLS.
    #[error("the answer to the TLS handshake is not TLS: this port speaks plain TDS, or something else")]
    NotTls,
    /// The connection was closed in the middle of it: a server that is going down, or one that speaks no TLS here.
    #[error(
        "the connection was closed during the TLS handshake ({0}): the server is going down, or this port speaks plain TDS"
    )]
    Closed(#[source] io::Error),
    /// The two have no version or cipher in common.
    #[error(
        "the server takes nothing of what is offered: TLS 1.3, and TLS 1.2 with ECDHE and AES-GCM or ChaCha20 ({0})"
    )]
    NothingInCommon(#[source] io::Error),
    /// Anything else in TLS itself.
    #[error("the TLS handshake failed: {0}")]
    Failed(#[source] io::Error),
    /// There is no CA bundle to judge by.
    #[error("no TLS without a CA bundle: {0}")]
    NoBundle(String),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(refusal) = Refusal::within_io(&error) {
            return Self::Refused(refusal.clone());
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
