//! The operator's side of the mutual TLS with the gates.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem, pem::PemObject},
    version::TLS13,
};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::link::{ATTEMPT, Failure};
use crate::{
    dial::prepare,
    domain::evidence::{Fault, Timing},
    net::{self, ConnectError, TcpStream},
};

/// After this time an unanswered handshake is given up: longer than an attempt to connect, because a busy machine answers it later.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The operator's keys for a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or without a certificate or key.
    #[error("failed to read the operator's keys: {0}")]
    Pem(#[from] pem::Error),
    /// Private key and certificate do not belong together, or their kind is not supported.
    #[error("failed to use the operator's keys: {0}")]
    Keys(#[from] rustls::Error),
    /// The name in the gates' certificate is not a DNS name.
    #[error("failed to use the gates' name {0}: {1}")]
    Name(String, InvalidDnsNameError),
}

/// The name that the certificate of a pair's gates must have, as rustls wants it; `gate_name` is
/// [`Pair::gate_name`](crate::domain::pair::Pair::gate_name).
///
/// # Errors
///
/// [`TlsError::Name`] if it is not a DNS name.
pub fn server_name(gate_name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(gate_name.to_owned()).map_err(|error| TlsError::Name(gate_name.to_owned(), error))
}

/// The client side of TLS 1.3 with the gates of one pair: `ca` are the authorities to trust, `certificate` and `key` the client's identity,
/// all in PEM.
///
/// # Errors
///
/// [`TlsError`].
pub fn client_config(ca: &str, certificate: &str, key: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(root?)?;
    }
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// Connects to a port of the gate at `address`, whose certificate must be for `name`.
pub(super) async fn connect(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    timing: &Timing,
) -> Result<TlsStream<TcpStream>, Failure> {
    let failed = |error: io::Error| {
        let message = format!("{address}: {error}");
        match error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            true => Failure::fault(Fault::Tls, message),
            false => Failure::io(&error, message),
        }
    };
    let connected = timeout(ATTEMPT, net::connect(address)).await;
    let stream = connected.map_err(|_| Failure::NoAnswer)?.map_err(|error| match error {
        ConnectError::Local(error) => Failure::unseen(format!("{address}: {error}")),
        ConnectError::Remote(error) => failed(error),
    })?;
    prepare(&stream, timing.unresponsive_after).map_err(failed)?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    let limit = HANDSHAKE.min(timing.unresponsive_after);
    timeout(limit, handshake)
        .await
        .map_err(|_| Failure::NoAnswer)?
        .map_err(failed)
}
