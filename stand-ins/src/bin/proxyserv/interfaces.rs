//! Where servers are: `omni.dat`, which people write, and the interfaces file that `nco_igen` makes of it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, bail, ensure};

const NAME_MAX: usize = 29;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS.
    pub ssl: bool,
}

impl Entry {
    /// As HOST:PORT.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        let (host, port, ssl) = match words.as_slice() {
            [host, port] => (host, port, false),
            [host, "ssl", port] => (host, port, true),
            _ => bail!("\"{text}\" is not HOST [ssl] PORT"),
        };
        let port = port.parse().with_context(|| format!("\"{port}\" is no port"))?;
        Ok(Self {
            host: (*host).to_owned(),
            port,
            ssl,
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ssl = if self.ssl { " ssl" } else { "" };
        write!(f, "{}{ssl} {}", self.host, self.port)
    }
}

/// All servers, each with its primary address and perhaps backups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces(BTreeMap<String, Vec<Entry>>);

impl Interfaces {
    /// The primary address of a server.
    pub fn find(&self, name: &str) -> anyhow::Result<&Entry> {
        let found = self.0.get(name).and_then(|entries| entries.first());
        found.with_context(|| format!("{name} is not in the interfaces file"))
    }

    /// Reads `omni.dat`.
    pub fn from_omni_dat(text: &str) -> anyhow::Result<Self> {
        let mut servers = Self::default();
        let mut name: Option<String> = None;
        let mut inside = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            servers
                .take_line(line, &mut name, &mut inside)
                .with_context(|| format!("line {}", number + 1))?;
        }
        ensure!(!inside, "the last entry has no end");
        Ok(servers)
    }

    fn take_line(&mut self, line: &str, name: &mut Option<String>, inside: &mut bool) -> anyhow::Result<()> {
        match line {
            "" => {}
            "{" => {
                ensure!(name.is_some() && !*inside, "'{{' without a name before it");
                *inside = true;
            }
            "}" => {
                ensure!(*inside, "'}}' without a '{{'");
                *inside = false;
                *name = None;
            }
            _ if *inside => {
                let (kind, address) = line.split_once(':').context("no ':'")?;
                ensure!(kind == "Primary" || kind.starts_with("Backup"), "unknown word {kind}");
                let entry = Entry::parse(address.trim())?;
                let name = name.clone().unwrap_or_default();
                let entries = self.0.entry(name).or_default();
                ensure!(entries.is_empty() == (kind == "Primary"), "one Primary comes first");
                entries.push(entry);
            }
            _ => {
                let inner = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let found = inner.with_context(|| format!("\"{line}\" is no [NAME]"))?;
                let is_name = found
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
                let starts_well = !found.starts_with(|c: char| c.is_ascii_digit());
                ensure!(
                    is_name && starts_well && (1..=NAME_MAX).contains(&found.len()),
                    "{found} is no server's name"
                );
                ensure!(!self.0.contains_key(found), "{found} is there twice");
                *name = Some(found.to_owned());
            }
        }
        Ok(())
    }

    /// Reads the interfaces file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut servers = Self::default();
        let mut name = String::new();
        for line in text.lines() {
            match line.strip_prefix("\tquery tcp ether ") {
                Some(address) => servers.0.entry(name.clone()).or_default().push(Entry::parse(address)?),
                None => line.clone_into(&mut name),
            }
        }
        Ok(servers)
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, entries) in &self.0 {
            writeln!(f, "{name}")?;
            for entry in entries {
                writeln!(f, "\tquery tcp ether {entry}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OMNI_DAT: &str = "# made by hand\n[AGG_P]\n{\n\tPrimary: aggp.example.com 4100\n}\n\
                            [PROXY_V]\n{\n\tPrimary: p.example.com ssl 4401\n\tBackup: b.example.com ssl 4402\n}\n";

    #[test]
    fn what_is_compiled_is_read() {
        let servers = Interfaces::from_omni_dat(OMNI_DAT).unwrap();
        assert_eq!(servers.find("AGG_P").unwrap().address(), "aggp.example.com:4100");
        assert!(servers.find("PROXY_V").unwrap().ssl);
        assert!(servers.find("AGG_B").is_err());
        assert_eq!(Interfaces::parse(&servers.to_string()).unwrap(), servers);
    }

    #[test]
    fn refuses_what_is_no_omni_dat() {
        for text in [
            "Primary: a 1",
            "[AGG_P]\n{\nPrimary: a 1",
            "[agg]\n{\n}",
            "[1AGG]\n{\n}",
            "[A]\n{\nPrimary: a\n}",
            "[A]\n{\nPrimary: a 70000\n}",
            "[A]\n{\nBackup: a 1\n}",
            "[A]\n{\nSecondary: a 1\n}",
            "[A]\n{\nPrimary: a 1\n}\n[A]\n{\n}",
            "}",
        ] {
            assert!(Interfaces::from_omni_dat(text).is_err(), "{text}");
        }
    }
}
