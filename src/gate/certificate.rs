//! The proxy's own certificate on the port for probes, and the handshake with it.
//!
//! A renewed certificate is for new sessions; those that exist keep what they began with.

use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::{Identity, TlsError};
use crate::tds::packet::PacketType;
use crate::tls::certificate;

/// Why a probe's connection was not secured.
#[derive(Debug, thiserror::Error)]
pub enum NotSecured {
    /// It closed before it said anything.
    #[error("it closed the connection")]
    Gone,
    /// It speaks plain TDS.
    #[error("it speaks plain TDS, and this port speaks TLS")]
    Plain,
    /// It speaks no TLS, or none that this port can speak, or refuses the certificate.
    #[error("its TLS handshake failed: {0}")]
    Failed(#[source] io::Error),
}

/// The certificate in use.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    config: Arc<ServerConfig>,
    /// When it ends to be valid.
    pub expires: Option<Timestamp>,
}

impl ListenerTls {
    /// Reads the files in a directory.
    ///
    /// # Errors
    ///
    /// [`TlsError::Read`].
    pub fn read(directory: &Path) -> Result<Identity, TlsError> {
        Identity::read(directory)
    }

    /// TLS 1.2 and 1.3 with this certificate, for clients without one.
    ///
    /// # Errors
    ///
    /// [`TlsError`] when the files are not what they should be, or do not fit together.
    pub fn load(identity: &Identity) -> Result<Self, TlsError> {
        let (chain, key) = identity.parse()?;
        let expires = chain.first().and_then(|own| certificate::expires(own));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Certificate)?;
        Ok(Self {
            config: Arc::new(config),
            expires,
        })
    }

    /// Makes the handshake with a probe, without a deadline.
    ///
    /// # Errors
    ///
    /// [`NotSecured`].
    pub async fn handshake(&self, client: TcpStream) -> Result<TlsStream<TcpStream>, NotSecured> {
        let mut first = [0];
        match client.peek(&mut first).await {
            Ok(1..) if first[0] == PacketType::LOGIN.0 => return Err(NotSecured::Plain),
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(NotSecured::Gone),
        }
        let accepted = TlsAcceptor::from(Arc::clone(&self.config)).accept(client).await;
        accepted.map_err(NotSecured::Failed)
    }
}
