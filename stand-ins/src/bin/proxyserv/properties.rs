//! The properties file: all that a proxy server knows, checked by name and type.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

/// The type of a property, with its default.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
}

/// What the proxy server goes by.
#[derive(Debug, Clone)]
pub struct Properties {
    /// `Name`.
    pub name: String,
    /// `RemoteServer`.
    pub remote: String,
    /// `AuthUserName`.
    pub user: String,
    /// `AuthPassword`.
    pub password: String,
    /// `SecureMode`.
    pub secure: bool,
    /// `ConnectionRatio`: clients for each session with the ObjectServer.
    pub ratio: usize,
    /// `Connections`: clients at most.
    pub connections: usize,
    /// `ConfigCryptoAlg`.
    pub crypto_alg: String,
    /// `ConfigKeyFile`.
    pub key_file: Option<String>,
}

fn defaults() -> BTreeMap<&'static str, Value> {
    let texts = [
        ("AuthPassword", ""),
        ("AuthUserName", ""),
        ("ConfigCryptoAlg", "AES"),
        ("ConfigKeyFile", ""),
        ("MessageLevel", "warn"),
        ("MessageLog", ""),
        ("Name", "NCO_PROXY"),
        ("PAServerName", ""),
        ("PropsFile", ""),
        ("RemoteServer", "NCOMS"),
    ];
    let numbers = [
        ("ClientHeartbeatRate", 10),
        ("ConnectionRatio", 10),
        ("Connections", 256),
        ("Ipc.Timeout", 60),
        ("Ipc.VendorLogFileSize", 1024),
        ("MaxLogFileSize", 1024),
        ("PAAwareID", 0),
    ];
    let truths = [
        ("DebugMode", false),
        ("Help", false),
        ("Ipc.SingleThreaded", false),
        ("Ipc.TruncateVendorLogFile", true),
        ("Props.CheckNames", true),
        ("SecureMode", false),
        ("UniqueLog", false),
        ("Version", false),
    ];
    let texts = texts.map(|(name, value)| (name, Value::Text(value.to_owned())));
    let numbers = numbers.map(|(name, value)| (name, Value::Number(value)));
    let truths = truths.map(|(name, value)| (name, Value::Truth(value)));
    texts.into_iter().chain(numbers).chain(truths).collect()
}

impl Properties {
    /// Reads lines `Key: 'text'`, `Key: 10`, `Key: TRUE` and comments after `#`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut values = defaults();
        let mut unknown = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line_number = || format!("line {}", number + 1);
            let Some((key, value)) = split(line).with_context(line_number)? else {
                continue;
            };
            match values.get_mut(key) {
                None => unknown.push(key.to_owned()),
                Some(slot) => {
                    let same_type = std::mem::discriminant(slot) == std::mem::discriminant(&value);
                    ensure!(same_type, "{}: {key} cannot be {value:?}", line_number());
                    *slot = value;
                }
            }
        }
        let truth = |name| values.get(name) == Some(&Value::Truth(true));
        if truth("Props.CheckNames") && !unknown.is_empty() {
            bail!("unknown property {}", unknown.join(", "));
        }
        let text = |name| match values.get(name) {
            Some(Value::Text(text)) => text.clone(),
            _ => String::new(),
        };
        let count = |name| match values.get(name) {
            Some(Value::Number(number)) => {
                let number = usize::try_from(*number).ok().filter(|number| *number > 0);
                number.with_context(|| format!("{name} must be at least 1"))
            }
            _ => Ok(1),
        };
        Ok(Self {
            name: text("Name"),
            remote: text("RemoteServer"),
            user: text("AuthUserName"),
            password: text("AuthPassword"),
            secure: truth("SecureMode"),
            ratio: count("ConnectionRatio")?,
            connections: count("Connections")?,
            crypto_alg: text("ConfigCryptoAlg"),
            key_file: Some(text("ConfigKeyFile")).filter(|file| !file.is_empty()),
        })
    }
}

fn split(line: &str) -> anyhow::Result<Option<(&str, Value)>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, rest) = line.split_once(':').context("no ':'")?;
    let rest = rest.trim();
    let without_comment = |rest: &'_ str| rest.split('#').next().unwrap_or_default().trim().to_owned();
    let value = if let Some(quoted) = rest.strip_prefix('\'') {
        let (text, after) = quoted.split_once('\'').context("a text without its end")?;
        ensure!(without_comment(after).is_empty(), "something after a text");
        Value::Text(text.to_owned())
    } else {
        match without_comment(rest).as_str() {
            "TRUE" => Value::Truth(true),
            "FALSE" => Value::Truth(false),
            other => Value::Number(other.parse().with_context(|| format!("\"{other}\" is no value"))?),
        }
    };
    Ok(Some((key.trim(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_the_25_properties_of_a_proxy_server() {
        assert_eq!(defaults().len(), 25);
    }

    #[test]
    fn reads_texts_numbers_and_truths_between_comments() {
        let text = "# a comment\nName: 'PROXY_P'\nRemoteServer : 'AGG_P' # theirs\nAuthPassword: 'a#b:c'\n\
                    ConnectionRatio: 3 # few\nSecureMode: TRUE\n\n";
        let properties = Properties::parse(text).unwrap();
        assert_eq!(
            (properties.name.as_str(), properties.remote.as_str()),
            ("PROXY_P", "AGG_P")
        );
        assert_eq!(properties.password, "a#b:c");
        assert_eq!(
            (properties.ratio, properties.connections, properties.secure),
            (3, 256, true)
        );
    }

    #[test]
    fn an_unknown_name_is_refused_unless_names_are_not_checked() {
        let error = Properties::parse("PollServer: 10\nNetworkTimeout: 1").unwrap_err();
        assert_eq!(error.to_string(), "unknown property PollServer, NetworkTimeout");
        Properties::parse("Props.CheckNames: FALSE\nPollServer: 10").unwrap();
    }

    #[test]
    fn wrong_types_and_broken_lines_are_refused() {
        for text in [
            "Name: 10",
            "ConnectionRatio: '10'",
            "ConnectionRatio: TRUE",
            "SecureMode: 1",
            "SecureMode: yes",
            "Name: 'PROXY",
            "Name: 'PRO'XY'",
            "Name 'PROXY'",
            "ConnectionRatio: 0",
            "Connections: -1",
        ] {
            assert!(Properties::parse(text).is_err(), "{text}");
        }
    }
}
