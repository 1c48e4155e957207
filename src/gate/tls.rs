//! Mutual TLS for the control and the check port.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::files::{Current, read};
use crate::dial::prepare;
use crate::tls::BundleError;

/// The authority that signed every client that may connect, PEM.
pub const CA: &str = "ca.crt";
/// The gate's own certificate and its intermediates, PEM.
pub const CERTIFICATE: &str = "tls.crt";
/// The key of the certificate, PEM.
pub const KEY: &str = "tls.key";

/// Time a client has for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connections served at the same time on one port.
const AT_MOST: usize = 8;

/// Handshakes under way at the same time on one port.
const HANDSHAKES_AT_MOST: usize = 32;

/// Time from an accept that failed for want of resources to the next.
const RETRY: Duration = Duration::from_millis(250);

/// Silence after which a connection is taken for lost.
const SILENCE: Duration = Duration::from_secs(15);

/// Why a set of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is not PEM, or holds nothing of its kind.
    #[error("{file} holds no usable PEM: {source}")]
    Pem {
        /// The file's name.
        file: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The authority cannot be used to verify clients.
    #[error("{CA} cannot verify clients: {0}")]
    Authority(#[source] rustls::server::VerifierBuilderError),
    /// Key and certificate do not belong together, or rustls does not know their kind.
    #[error("{CERTIFICATE} and {KEY} cannot be used: {0}")]
    Certificate(#[source] rustls::Error),
    /// The authorities for ObjectServers cannot be used.
    #[error("{path}: {source}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BundleError,
    },
}

/// A certificate and its key as they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    /// Reads [`CERTIFICATE`] and [`KEY`] in a directory.
    ///
    /// # Errors
    ///
    /// [`TlsError::Read`].
    pub fn read(directory: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&directory.join(CERTIFICATE))?,
            key: read(&directory.join(KEY))?,
        })
    }

    /// What is in the files; the gate's own certificate comes first.
    ///
    /// # Errors
    ///
    /// [`TlsError::Pem`].
    pub fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem { file: KEY, source })?;
        Ok((certificates(CERTIFICATE, &self.certificate)?, key))
    }
}

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.map_err(|source| TlsError::Pem { file, source })
}

/// The files of the two ports as they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    ca: Vec<u8>,
    identity: Identity,
}

impl Files {
    /// Reads the three files in a directory.
    ///
    /// # Errors
    ///
    /// [`TlsError::Read`].
    pub fn read(directory: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            ca: read(&directory.join(CA))?,
            identity: Identity::read(directory)?,
        })
    }

    /// TLS 1.3 with clients that the authority knows.
    ///
    /// # Errors
    ///
    /// [`TlsError`] when the files are not what they should be, or do not fit together.
    pub fn configuration(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(CA, &self.ca)? {
            roots.add(authority).map_err(TlsError::Certificate)?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .map_err(TlsError::Authority)?;
        let (chain, key) = self.identity.parse()?;
        let config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(TlsError::Certificate)?;
        Ok(Arc::new(config))
    }
}

/// Accepts mutually authenticated connections for ever and hands each to `serve`: eight at most at the same time, others are closed.
/// Handshakes have a limit of their own, so that strangers cannot take the places of those who hold a certificate.
pub async fn accept<F>(
    port: &'static str,
    listener: TcpListener,
    configuration: watch::Receiver<Current<Arc<ServerConfig>>>,
    connections: TaskTracker,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_MOST));
    let slots = Arc::new(Semaphore::new(AT_MOST));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(port, %error, "failed to accept a connection");
                sleep(RETRY).await;
                continue;
            }
        };
        let Ok(handshaking) = Arc::clone(&handshakes).try_acquire_owned() else {
            debug!(port, %peer, limit = HANDSHAKES_AT_MOST, "refused a connection: too many handshakes are under way");
            continue;
        };
        let Ok(configuration) = configuration.borrow().clone() else {
            debug!(port, %peer, "refused a connection: there are no certificates yet");
            continue;
        };
        let slots = Arc::clone(&slots);
        let serve = serve.clone();
        connections.spawn(async move {
            let stream = match handshake(stream, configuration).await {
                Ok(stream) => stream,
                Err(error) => {
                    debug!(port, %peer, %error, "a connection failed its handshake");
                    return;
                }
            };
            drop(handshaking);
            let Ok(_slot) = slots.try_acquire() else {
                warn!(port, %peer, limit = AT_MOST, "refused a connection: there are as many as allowed");
                return;
            };
            serve(stream).await;
        });
    }
}

async fn handshake(stream: TcpStream, configuration: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    prepare(&stream, SILENCE)?;
    timeout(HANDSHAKE, TlsAcceptor::from(configuration).accept(stream)).await?
}
