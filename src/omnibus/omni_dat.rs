//! `omni.dat`: one entry for each server, as nco_igen reads it.

use std::fmt::Write;

use super::Unwritable;
use crate::api::rules;

/// Address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmniDatServer {
    host: String,
    port: u16,
    ssl: bool,
}

/// A server, or a virtual pair of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmniDatEntry {
    name: String,
    primary: OmniDatServer,
    backup: Option<OmniDatServer>,
}

impl OmniDatServer {
    /// `host` is a name or an IP address without brackets; `ssl` marks a port that speaks TLS.
    ///
    /// # Errors
    ///
    /// [`Unwritable::Host`] if `host` is empty, longer than 253 characters, or has a character that no host name or
    /// address has.
    pub fn new(host: &str, port: u16, ssl: bool) -> Result<Self, Unwritable> {
        let of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(of_host) {
            return Err(Unwritable::Host(host.chars().take(253).collect()));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            ssl,
        })
    }
}

impl OmniDatEntry {
    /// An entry under `name`; with `backup` it is a virtual pair.
    ///
    /// # Errors
    ///
    /// [`Unwritable::Name`] if OMNIbus does not allow the name.
    pub fn new(name: &str, primary: OmniDatServer, backup: Option<OmniDatServer>) -> Result<Self, Unwritable> {
        rules::server_name()
            .check("name", name)
            .map_err(|_| Unwritable::Name(name.chars().take(40).collect()))?;
        Ok(Self {
            name: name.to_owned(),
            primary,
            backup,
        })
    }
}

/// The text of an `omni.dat` with these entries.
pub fn omni_dat(entries: &[OmniDatEntry]) -> String {
    let mut text = String::new();
    for OmniDatEntry { name, primary, backup } in entries {
        let _ = write!(text, "[{name}]\n{{\n\tPrimary: {}\n", written(primary));
        if let Some(backup) = backup {
            let _ = writeln!(text, "\tBackup: {}", written(backup));
        }
        text.push_str("}\n");
    }
    text
}

fn written(OmniDatServer { host, port, ssl }: &OmniDatServer) -> String {
    format!("{host} {}{port}", if *ssl { "ssl " } else { "" })
}
