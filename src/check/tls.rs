//! The operator's side of the mutual TLS with the gates.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem, pem::PemObject},
    version::TLS13,
};

/// The operator's keys for a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing of the kind in it.
    #[error("failed to read the operator's keys: {0}")]
    Pem(#[from] pem::Error),
    /// Key and certificate do not fit.
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

/// What the operator shows and trusts when it dials the gates of one pair.
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
