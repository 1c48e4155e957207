//! A stream that is plain TCP or TLS from the first byte, at either end.
//!
//! Files are read again for each connection, so that a renewed certificate counts from the next one on; sessions that exist stay.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const TLS12_ONLY: &[&SupportedProtocolVersion] = &[&TLS12];

/// The stream.
#[derive(Debug)]
pub enum Wire {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A server's certificate and key as PEM files.
#[derive(Debug)]
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    tls12_only: bool,
    current: Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    pem: (Vec<u8>, Vec<u8>),
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Reads the files once, so that a server with unusable ones does not start.
    pub fn load(certificate: PathBuf, key: PathBuf, tls12_only: bool) -> anyhow::Result<Self> {
        let identity = Self {
            certificate,
            key,
            tls12_only,
            current: Mutex::default(),
        };
        identity.refresh()?;
        Ok(identity)
    }

    /// The handshake of one connection. While the files are unusable, such as in the middle of a change, the last usable ones count.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Wire> {
        let config = match self.refresh() {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "failed to read the certificate again");
                let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                let last = current.as_ref().map(|loaded| Arc::clone(&loaded.config));
                last.ok_or_else(|| io::Error::other("no certificate"))?
            }
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Wire::Tls(Box::new(stream.into())))
    }

    fn refresh(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let pem = (fs::read(&self.certificate)?, fs::read(&self.key)?);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = current.as_ref().filter(|loaded| loaded.pem == pem) {
            return Ok(Arc::clone(&loaded.config));
        }
        let chain = CertificateDer::pem_slice_iter(&pem.0).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem.1)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(if self.tls12_only { TLS12_ONLY } else { BOTH })?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let config = Arc::new(config);
        *current = Some(Loaded {
            pem,
            config: Arc::clone(&config),
        });
        Ok(config)
    }
}
