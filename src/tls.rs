//! TLS towards ObjectServers by OMNIbus's rule: the chain leads to a given authority **and** the Common Name is the ObjectServer's name.
//!
//! | module | owns |
//! |---|---|
//! | [`certificate`] | what is read from a certificate: Common Name, names, validity |
//! | [`refusal`] | why a certificate is refused, and why a handshake fails |
//! | [`rule`] | the rule itself, as a verifier for rustls |

pub mod certificate;
pub mod refusal;
mod rule;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, pem};
use rustls::{ClientConfig, CommonState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use certificate::common_name_of;
pub use refusal::{HandshakeError, Refusal};

/// Why a CA bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not PEM.
    #[error("the CA bundle is no PEM: {0}")]
    Pem(#[source] pem::Error),
    /// It is PEM without a certificate in it.
    #[error("the CA bundle holds no certificate")]
    Empty,
    /// One of its certificates is none.
    #[error("certificate {position} of the CA bundle cannot be used: {source}")]
    Certificate {
        /// Counted from 1.
        position: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// rustls refuses its own protocol versions.
    #[error("TLS cannot be used: {0}")]
    Configuration(#[source] rustls::Error),
}

/// How to speak TLS to one ObjectServer. Clones share the configuration.
#[derive(Debug, Clone)]
pub struct ObjectServerTls {
    config: Arc<ClientConfig>,
}

impl ObjectServerTls {
    /// TLS 1.2 and 1.3 to the ObjectServer that is called `server_name`, such as `AGG_P`, whose certificate was issued below one of the
    /// authorities in `ca_pem` or is self-signed and stands there itself.
    ///
    /// Sessions are not resumed, because a resumed session shows no certificate.
    ///
    /// # Errors
    ///
    /// [`BundleError`] when `ca_pem` cannot be used.
    pub fn new(ca_pem: &[u8], server_name: &str) -> Result<Self, BundleError> {
        Self::any_of(ca_pem, &[server_name])
    }

    /// The same, to a server that may have any of several names, as a probe's `SSLServerCommonName` lists them: behind the name of a
    /// virtual pair there is now one proxy and now the other.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn any_of(ca_pem: &[u8], server_names: &[&str]) -> Result<Self, BundleError> {
        let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca_pem).collect();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let rule = rule::CommonNameRule::new(
            authorities.map_err(BundleError::Pem)?,
            server_names,
            provider.signature_verification_algorithms,
        )?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(BundleError::Configuration)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(rule))
            .with_no_client_auth();
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The configuration, for those who drive rustls themselves. The server name given to rustls does not matter.
    #[must_use]
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Makes the handshake, without a deadline.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; [`HandshakeError::Refused`] says which part of the rule is broken.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, HandshakeError> {
        // An ObjectServer's name is no DNS name, and rustls wants one or an address: it is neither sent nor looked at.
        let nameless = ServerName::from(Ipv4Addr::UNSPECIFIED);
        let connected = TlsConnector::from(Arc::clone(&self.config)).connect(nameless, stream);
        connected.await.map_err(HandshakeError::from)
    }
}

/// The end of validity of the certificate that the other end of a connection has shown.
#[must_use]
pub fn peer_expires(connection: &CommonState) -> Option<Timestamp> {
    certificate::expires(connection.peer_certificates()?.first()?)
}
