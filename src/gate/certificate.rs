//! The proxy's own certificate on the port for probes, and the handshake with it.
//!
//! A renewed certificate is used for new sessions; existing sessions keep the one that they began with.

use std::{io, sync::Arc};

use jiff::Timestamp;
use rustls::ServerConfig;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::tls::{CertificateFilesError, KeyPairFiles};
use crate::{
    net::{TcpStream, peek},
    tds::packet::PacketType,
    tls::certificate,
};

/// Why the handshake with a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeHandshakeError {
    /// The probe closed the connection without sending anything.
    #[error("it closed the connection")]
    Gone,
    /// The probe speaks plain TDS.
    #[error("it speaks plain TDS, and this port speaks TLS")]
    Plain,
    /// The probe speaks no TLS, shares no version or cipher with this port, or rejects the certificate.
    #[error("its TLS handshake failed: {0}")]
    Failed(#[source] io::Error),
}

/// The certificate in use.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    config: Arc<ServerConfig>,
    /// When it expires.
    pub expires: Option<Timestamp>,
}

impl ListenerTls {
    /// TLS 1.2 and 1.3 with this certificate; clients need none.
    ///
    /// # Errors
    ///
    /// [`CertificateFilesError`] if the files cannot be used, or do not fit together.
    pub fn load(files: &KeyPairFiles) -> Result<Self, CertificateFilesError> {
        let (chain, key) = files.parse()?;
        let expires = chain.first().and_then(|own| certificate::expires(own));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(CertificateFilesError::Certificate)?;
        Ok(Self {
            config: Arc::new(config),
            expires,
        })
    }

    /// Completes the handshake with a probe, without a deadline.
    ///
    /// # Errors
    ///
    /// [`ProbeHandshakeError`].
    pub async fn handshake(&self, mut client: TcpStream) -> Result<TlsStream<TcpStream>, ProbeHandshakeError> {
        let mut first = [0];
        match peek(&mut client, &mut first).await {
            Ok(1..) if first[0] == PacketType::LOGIN.0 => return Err(ProbeHandshakeError::Plain),
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(ProbeHandshakeError::Gone),
        }
        let accepted = TlsAcceptor::from(Arc::clone(&self.config)).accept(client).await;
        accepted.map_err(ProbeHandshakeError::Failed)
    }
}
