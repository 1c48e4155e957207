//! `omni.dat`: where the server of a name is, and its backup.

/// Where a server listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// HOST:PORT.
    pub address: String,
    /// The port speaks TLS.
    pub ssl: bool,
}

/// The servers under `name`, the primary first.
pub fn servers(text: &str, name: &str) -> Result<Vec<Server>, String> {
    let mut found = Vec::new();
    let mut entry = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(begun) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            entry = begun;
        }
        let address = line.strip_prefix("Primary:").or_else(|| line.strip_prefix("Backup:"));
        let Some(address) = address.filter(|_| entry == name) else {
            continue;
        };
        let words: Vec<&str> = address.split_whitespace().collect();
        let (host, port, ssl) = match words[..] {
            [host, port] => (host, port, false),
            [host, "ssl", port] => (host, port, true),
            _ => return Err(format!("line {}: {line:?} is no address", number + 1)),
        };
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        found.push(Server { address, ssl });
    }
    if found.is_empty() {
        return Err(format!("there is no server {name}"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# PROXY_V is the pair\n[PROXY_V]\n{\n\tPrimary: proxy-v.netcool.svc 4400\n\tBackup: 2001:db8::1 4400\n}\n\
                        [PROXY_P]\n{\n\tPrimary: proxy-v-primary.netcool.svc ssl 4400\n}\n";

    fn server(address: &str, ssl: bool) -> Server {
        Server {
            address: address.to_owned(),
            ssl,
        }
    }

    #[test]
    fn a_virtual_pair_has_two_addresses() {
        let wanted = [
            server("proxy-v.netcool.svc:4400", false),
            server("[2001:db8::1]:4400", false),
        ];
        assert_eq!(servers(TEXT, "PROXY_V").unwrap(), wanted);
    }

    #[test]
    fn ssl_marks_a_port_that_speaks_tls() {
        let wanted = [server("proxy-v-primary.netcool.svc:4400", true)];
        assert_eq!(servers(TEXT, "PROXY_P").unwrap(), wanted);
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(servers(TEXT, "PROXY_B").unwrap_err(), "there is no server PROXY_B");
        let refused = servers("[A]\n{\n\tPrimary: a tls 4100\n}\n", "A").unwrap_err();
        assert_eq!(refused, "line 3: \"Primary: a tls 4100\" is no address");
    }
}
