//! The address of a server: a host name or an IP address, and a TCP port.

use std::{fmt, str::FromStr};

/// Where a server is: `host:port`, `192.0.2.1:4100` or `[2001:db8::1]:4100`. A host name is resolved by whoever
/// connects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// The text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not HOST:PORT")]
pub struct NotAnAddress(String);

impl Address {
    /// `host` is a name or an IP address without brackets.
    #[must_use]
    pub const fn new(host: String, port: u16) -> Self {
        Self { host, port }
    }

    /// The name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            if host.is_empty() || bare.is_none() && host.contains(':') {
                return None;
            }
            let port = port.parse().ok().filter(|port| *port != 0)?;
            Some(Self {
                host: bare.unwrap_or(host).to_owned(),
                port,
            })
        };
        parse().ok_or_else(|| NotAnAddress(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_host_and_port() {
        for (text, host, port) in [
            ("aggp.example.com:4100", "aggp.example.com", 4100),
            ("192.0.2.1:4100", "192.0.2.1", 4100),
            ("[2001:db8::1]:4100", "2001:db8::1", 4100),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address, Address::new(host.to_owned(), port));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn refuses_what_has_no_host_or_no_port() {
        for text in ["aggp", "aggp:", ":4100", "aggp:0", "aggp:70000", "2001:db8::1:4100", ""] {
            assert_eq!(text.parse::<Address>(), Err(NotAnAddress(text.to_owned())));
        }
    }
}
