//! A session with an ObjectServer, in plain TCP or in TLS by OMNIbus's rule.

use std::path::Path;

use anyhow::Context;
use proxypair::tds::client::{Client, PasswordPolicy};
use proxypair::tds::login::LoginRecord;
use proxypair::tls::ObjectServerTls;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::wire::Wire;

/// Where an ObjectServer is and how to log in there.
#[derive(Debug, Clone)]
pub struct Target {
    /// HOST:PORT.
    pub address: String,
    /// TLS, where there is any.
    pub tls: Option<ObjectServerTls>,
    /// The login.
    pub login: LoginRecord,
    /// Largest answer in bytes.
    pub answer_max: usize,
}

/// TLS to the ObjectServer of this name, trusting the authorities in a PEM file.
pub fn tls_from(ca: &Path, server_name: &str) -> anyhow::Result<ObjectServerTls> {
    let pem = std::fs::read(ca).with_context(|| format!("failed to read {}", ca.display()))?;
    ObjectServerTls::new(&pem, server_name).with_context(|| format!("{} is no use", ca.display()))
}

impl Target {
    /// A session, without a deadline.
    pub async fn log_in(&self) -> anyhow::Result<Client<Wire>> {
        let address = &self.address;
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("failed to connect to {address}"))?;
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Wire::Plain(stream),
            Some(tls) => {
                let stream = tls.handshake(stream).await;
                let stream = stream.with_context(|| format!("no TLS with {address}"))?;
                Wire::Tls(Box::new(TlsStream::Client(stream)))
            }
        };
        let client = Client::with_policy(stream, &self.login, PasswordPolicy::Plain, self.answer_max).await;
        client.with_context(|| format!("no login at {address}"))
    }
}
