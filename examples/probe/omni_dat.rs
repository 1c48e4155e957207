//! `omni.dat`: where the server of a name is, and its backup.

/// The addresses under `name`, as HOST:PORT, the primary first.
pub fn addresses(text: &str, name: &str) -> Result<Vec<String>, String> {
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
        match words[..] {
            [host, port] if host.contains(':') => found.push(format!("[{host}]:{port}")),
            [host, port] => found.push(format!("{host}:{port}")),
            [_, "ssl", _] => return Err(format!("line {}: this probe speaks no TLS", number + 1)),
            _ => return Err(format!("line {}: {line:?} is no address", number + 1)),
        }
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

    #[test]
    fn a_virtual_pair_has_two_addresses() {
        assert_eq!(
            addresses(TEXT, "PROXY_V").unwrap(),
            ["proxy-v.netcool.svc:4400", "[2001:db8::1]:4400"]
        );
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(addresses(TEXT, "PROXY_B").unwrap_err(), "there is no server PROXY_B");
        assert_eq!(
            addresses(TEXT, "PROXY_P").unwrap_err(),
            "line 9: this probe speaks no TLS"
        );
        assert!(addresses("[A]\n{\n\tPrimary: a\n}\n", "A").is_err());
    }
}
