//! Mutual TLS for the control and the check port.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    files::{Current, ReadError, read},
    lobby::{Lobby, LobbyLimits},
};
use crate::{
    dial::prepare,
    net::{TcpListener, TcpStream},
    tls::BundleError,
};

/// The CA of the clients that may connect, PEM.
pub const CA: &str = "ca.crt";
/// The gate's own certificate and its intermediates, PEM.
pub const CERTIFICATE: &str = "tls.crt";
/// The key of the certificate, PEM.
pub const KEY: &str = "tls.key";

/// Time limit of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Connections served at the same time on one port.
const CONNECTION_LIMIT: usize = 8;

/// Handshakes in progress on one port. The operator's takes some milliseconds, two round trips and the signatures.
const HANDSHAKES: LobbyLimits = LobbyLimits {
    places: 32,
    per_source: 8,
    kept_for: Duration::from_millis(100),
};

/// Time from a failed accept to the next attempt: file descriptors may have run out.
const RETRY: Duration = Duration::from_millis(250);

/// Time without any packet of the peer after which a connection is closed.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(15);

/// Why a set of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFilesError {
    /// A file is not PEM, or contains no item of the expected kind.
    #[error("{file} contains no usable PEM: {source}")]
    Pem {
        /// The file's name.
        file: &'static str,
        /// The parser's error.
        source: pem::Error,
    },
    /// The CA cannot be used to verify clients.
    #[error("{CA} cannot verify clients: {0}")]
    Authority(#[source] rustls::server::VerifierBuilderError),
    /// Key and certificate do not belong together, or rustls does not support their kind.
    #[error("{CERTIFICATE} and {KEY} cannot be used: {0}")]
    Certificate(#[source] rustls::Error),
    /// The CA bundle for ObjectServers cannot be used.
    #[error("{path}: {source}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: BundleError,
    },
}

/// A certificate and its key as they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPairFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl KeyPairFiles {
    /// Reads [`CERTIFICATE`] and [`KEY`] in a directory.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(directory: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            certificate: read(&directory.join(CERTIFICATE))?,
            key: read(&directory.join(KEY))?,
        })
    }

    /// The certificate chain, the gate's own certificate first, and the key.
    ///
    /// # Errors
    ///
    /// [`CertificateFilesError::Pem`].
    pub fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateFilesError> {
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| CertificateFilesError::Pem { file: KEY, source })?;
        Ok((certificates(CERTIFICATE, &self.certificate)?, key))
    }
}

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFilesError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.map_err(|source| CertificateFilesError::Pem { file, source })
}

/// The files of the two ports as they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct MutualTlsFiles {
    ca: Vec<u8>,
    own: KeyPairFiles,
}

impl MutualTlsFiles {
    /// Reads the three files in a directory.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(directory: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            ca: read(&directory.join(CA))?,
            own: KeyPairFiles::read(directory)?,
        })
    }

    /// TLS 1.3, with clients that have a certificate of the CA.
    ///
    /// # Errors
    ///
    /// [`CertificateFilesError`] if the files cannot be used, or do not fit together.
    pub fn configuration(&self) -> Result<Arc<ServerConfig>, CertificateFilesError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(CA, &self.ca)? {
            roots.add(authority).map_err(CertificateFilesError::Certificate)?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .map_err(CertificateFilesError::Authority)?;
        let (chain, key) = self.own.parse()?;
        let config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(CertificateFilesError::Certificate)?;
        Ok(Arc::new(config))
    }
}

/// Accepts mutually authenticated connections for ever and passes each to `serve`. At most [`CONNECTION_LIMIT`] are served at the same time,
/// further ones are closed.
///
/// Handshakes have places of their own ([`HANDSHAKES`]). While all are taken by connections that have just come, nothing is accepted and
/// further ones wait in the kernel's backlog. So clients without a certificate cannot keep the operator out.
pub async fn accept<F>(
    port: &'static str,
    listener: TcpListener,
    configuration: watch::Receiver<Current<Arc<ServerConfig>>>,
    connections: TaskTracker,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let lobby = Arc::new(Lobby::new(HANDSHAKES));
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(port, %error, "failed to accept a connection");
                sleep(RETRY).await;
                continue;
            }
        };
        let guest = match lobby.enter_when_free(peer.ip()).await {
            Ok(guest) => guest,
            Err(full) => {
                debug!(port, %peer, "connection refused: {full}");
                continue;
            }
        };
        let Ok(configuration) = configuration.borrow().clone() else {
            debug!(port, %peer, "connection refused: no certificates loaded yet");
            continue;
        };
        let slots = Arc::clone(&slots);
        let serve = serve.clone();
        connections.spawn(async move {
            let shaken = tokio::select! {
                shaken = handshake(stream, configuration) => shaken,
                () = guest.evicted() => {
                    debug!(port, %peer, "connection closed in its TLS handshake to make room for another");
                    return;
                }
            };
            let stream = match shaken {
                Ok(stream) => stream,
                Err(error) => {
                    debug!(port, %peer, %error, "TLS handshake failed");
                    return;
                }
            };
            drop(guest);
            let Ok(_slot) = slots.try_acquire() else {
                warn!(port, %peer, limit = CONNECTION_LIMIT, "connection limit reached, connection refused");
                return;
            };
            serve(stream).await;
        });
    }
}

async fn handshake(stream: TcpStream, configuration: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    prepare(&stream, UNRESPONSIVE_AFTER)?;
    timeout(HANDSHAKE, TlsAcceptor::from(configuration).accept(stream)).await?
}
