//! An authority whose certificates are like those of OMNIbus: a Common Name and no alternative names.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};

/// The authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Files of one server.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no parameters");
        params.distinguished_name = name("Authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("no key");
        Self(CertifiedIssuer::self_signed(params, key).expect("not signed"))
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate as a root of trust.
    pub fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("no root");
        Arc::new(roots)
    }

    /// Writes a certificate for `common_name` and its key into `directory`, and the authority's as `ca.crt`.
    pub fn install(&self, directory: &Path, common_name: &str) -> Files {
        let mut params = CertificateParams::new(Vec::new()).expect("no parameters");
        params.distinguished_name = name(common_name);
        let key = KeyPair::generate().expect("no key");
        let certificate = params.signed_by(&key, &self.0).expect("not signed");
        let files = Files {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        };
        fs::write(&files.certificate, certificate.pem()).expect("failed to write a certificate");
        fs::write(&files.key, key.serialize_pem()).expect("failed to write a key");
        fs::write(directory.join("ca.crt"), self.pem()).expect("failed to write a certificate");
        files
    }
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

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
