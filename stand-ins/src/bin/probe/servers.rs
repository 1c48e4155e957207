//! The servers of a probe, and how it speaks TLS to them.

use anyhow::{Context, ensure};
use proxypair::tls::ObjectServerTls;

use crate::Options;
use crate::omni_dat::{self, Server};

/// Where a fleet connects to.
#[derive(Debug)]
pub struct Servers {
    /// In the order in which they are tried after a cut.
    pub all: Vec<Server>,
    tls: Option<ObjectServerTls>,
}

impl Servers {
    /// What the options say. Without `--omni-dat` the address has no name, and with `--tls-ca` each port speaks TLS.
    pub fn from(options: &Options) -> anyhow::Result<Self> {
        let Options {
            server,
            server_backup,
            omni_dat,
            tls_ca,
            ssl_server_common_name,
            ..
        } = options;
        let all = match omni_dat {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
                let found = omni_dat::servers(&text, server).map_err(anyhow::Error::msg);
                found.with_context(|| path.display().to_string())?
            }
            None => [Some(server), server_backup.as_ref()]
                .into_iter()
                .flatten()
                .map(|address| Server {
                    address: address.clone(),
                    ssl: tls_ca.is_some(),
                })
                .collect(),
        };
        let mut names: Vec<&str> = ssl_server_common_name.iter().map(String::as_str).collect();
        if names.is_empty() && omni_dat.is_some() {
            names.push(server);
        }
        let tls = match tls_ca {
            None => None,
            Some(ca) => {
                ensure!(
                    !names.is_empty(),
                    "--tls-ca without --omni-dat asks for --ssl-server-common-name"
                );
                let pem = std::fs::read(ca).with_context(|| format!("failed to read {}", ca.display()))?;
                let tls = ObjectServerTls::any_of(&pem, &names);
                Some(tls.with_context(|| format!("{} is no use", ca.display()))?)
            }
        };
        ensure!(
            tls.is_some() || all.iter().all(|server| !server.ssl),
            "{server} speaks TLS: name its authorities with --tls-ca"
        );
        Ok(Self { all, tls })
    }

    /// How to speak TLS to `server`, if it does.
    pub fn tls(&self, server: &Server) -> Option<&ObjectServerTls> {
        self.tls.as_ref().filter(|_| server.ssl)
    }
}
