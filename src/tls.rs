//! TLS to ObjectServers, with OMNIbus's rule for their certificates: the chain leads to a given CA **and** the Common Name is the
//! ObjectServer's name.
//!
//! | module | owns |
//! |---|---|
//! | `certificate` | the fields of a certificate: Common Name, names, validity |
//! | `rejection` | why a certificate is rejected, and why a handshake fails |
//! | `rule` | the rule itself, as a verifier for rustls |

pub mod certificate;
pub mod rejection;
mod rule;
#[cfg(test)]
mod tests;

use std::{net::Ipv4Addr, sync::Arc};

use jiff::Timestamp;
use rustls::{
    ClientConfig, CommonState,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, ServerName,
        pem::{self, PemObject},
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use certificate::common_name_of;
pub use rejection::{CertificateRejection, HandshakeError};

/// Why a CA bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not PEM.
    #[error("the CA bundle is not PEM: {0}")]
    Pem(#[source] pem::Error),
    /// It is PEM without a certificate.
    #[error("the CA bundle contains no certificate")]
    Empty,
    /// One of its certificates is invalid.
    #[error("certificate {position} of the CA bundle cannot be used: {source}")]
    Certificate {
        /// Its position in the bundle, from 1.
        position: usize,
        /// The error of rustls.
        source: rustls::Error,
    },
    /// rustls rejects the protocol versions.
    #[error("TLS cannot be used: {0}")]
    Configuration(#[source] rustls::Error),
}

/// TLS to one ObjectServer. Clones share the configuration.
#[derive(Debug, Clone)]
pub struct ObjectServerTls {
    config: Arc<ClientConfig>,
}

impl ObjectServerTls {
    /// TLS 1.2 and 1.3 to the ObjectServer with the name `server_name`, such as `AGG_P`. Its certificate must have been issued below one of
    /// the CAs in `ca_pem`, or be self-signed and itself in `ca_pem`.
    ///
    /// Sessions are not resumed, because the server sends no certificate in a resumed session.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if `ca_pem` cannot be used.
    pub fn new(ca_pem: &[u8], server_name: &str) -> Result<Self, BundleError> {
        Self::any_of(ca_pem, &[server_name])
    }

    /// The same, to a server that may have any of several names, as listed in a probe's `SSLServerCommonName`: the name of a virtual pair
    /// leads to one or the other of two proxies.
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

    /// The configuration of rustls. It ignores the server name given to rustls.
    #[must_use]
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Completes the handshake, without a deadline.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; [`HandshakeError::Rejected`] names the part of the rule that the certificate breaks.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, HandshakeError> {
        // An ObjectServer's name is not a DNS name, but rustls needs one or an address. It is neither sent nor checked.
        let nameless = ServerName::from(Ipv4Addr::UNSPECIFIED);
        let connected = TlsConnector::from(Arc::clone(&self.config)).connect(nameless, stream);
        connected.await.map_err(HandshakeError::from)
    }
}

/// When the certificate of the connection's peer expires.
#[must_use]
pub fn peer_expires(connection: &CommonState) -> Option<Timestamp> {
    certificate::expires(connection.peer_certificates()?.first()?)
}
