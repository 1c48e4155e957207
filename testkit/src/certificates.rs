//! Certificates as ObjectServers and proxies have them: a Common Name, and no alternative name unless it is asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxypair::tls::ObjectServerTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority of a user's own.
#[derive(Debug)]
pub struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate with this Common Name, valid for so many days from now on; or until so many days ago.
    pub fn issue_for(&self, name: &str, days: i32, alternative_names: &[&str]) -> Identity {
        let distance = days.unsigned_abs() * DAY;
        let now = SystemTime::now();
        let end = if days < 0 { now - distance } else { now + distance };
        self.issue_until(name, end, alternative_names)
    }

    /// A certificate with this Common Name that ends at a given time.
    pub fn issue_until(&self, name: &str, end: SystemTime, alternative_names: &[&str]) -> Identity {
        let names: Vec<_> = alternative_names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = named(name).distinguished_name;
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        Identity {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn issue(&self, name: &str) -> Identity {
        self.issue_for(name, 90, &[])
    }

    /// Writes a certificate for a Common Name and its key into a directory, and this authority's own as `ca.crt`.
    pub fn install(&self, directory: &Path, name: &str) -> Files {
        self.issue(name).install(directory);
        fs::write(directory.join("ca.crt"), self.pem()).unwrap();
        Files {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        }
    }

    /// A probe that knows this authority and goes by the Common Name of its proxy.
    pub fn probe(&self, proxy: &str) -> Arc<ClientConfig> {
        let tls = ObjectServerTls::new(self.pem().as_bytes(), proxy).unwrap();
        Arc::clone(tls.config())
    }

    /// A probe that speaks TLS 1.2 only and goes by alternative names.
    pub fn old_probe(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    /// A server with this certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_with(&[&TLS12, &TLS13])
    }

    pub fn server_with(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap(),
            )
            .unwrap();
        Arc::new(config)
    }

    /// Writes `tls.crt` and `tls.key`.
    pub fn install(&self, directory: &Path) {
        replace(&directory.join("tls.crt"), &self.certificate);
        replace(&directory.join("tls.key"), &self.key);
    }
}

/// Files of one server.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// The options with which a stand-in takes them.
    pub fn options(&self) -> [String; 2] {
        [
            format!("--tls-cert={}", self.certificate.display()),
            format!("--tls-key={}", self.key.display()),
        ]
    }
}

/// Replaces a file in one step.
pub fn replace(file: &Path, content: &str) {
    let fresh = file.with_extension("fresh");
    fs::write(&fresh, content).unwrap();
    fs::rename(fresh, file).unwrap();
}
