//! What is written is read again by parsers that know only what omnibus.md says of the two files.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::select};
use serde_json::json;

use super::*;
use crate::api::ProxyProperties;

#[derive(Debug, PartialEq)]
enum Read {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// `Key: 'string'` or `Key: 10` or `Key: TRUE`; lines that begin with `#` are comments.
fn read_props(text: &str) -> BTreeMap<String, Read> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line
            .split_once(": ")
            .unwrap_or_else(|| panic!("{line:?} is no property"));
        let value = match value {
            "TRUE" => Read::Flag(true),
            "FALSE" => Read::Flag(false),
            quoted if quoted.starts_with('\'') => {
                let inner = quoted
                    .strip_prefix('\'')
                    .and_then(|rest| rest.strip_suffix('\''))
                    .expect("two quotation marks");
                assert!(!inner.contains(['\'', '\\']), "{line:?} depends on how it is unescaped");
                Read::Text(inner.to_owned())
            }
            number => Read::Number(number.parse().unwrap_or_else(|_| panic!("{line:?} has no value"))),
        };
        assert!(
            found.insert(key.to_owned(), value).is_none(),
            "{key} stands there twice"
        );
    }
    found
}

/// Name, and for Primary and Backup: host, ssl, port.
type Listed = (String, BTreeMap<String, (String, bool, u16)>);

fn read_omni_dat(text: &str) -> Vec<Listed> {
    let mut found: Vec<Listed> = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            found.push((name.to_owned(), BTreeMap::new()));
        } else if let Some((role, address)) = line.split_once(": ") {
            let words: Vec<&str> = address.split(' ').collect();
            let (host, ssl, port) = match words[..] {
                [host, "ssl", port] => (host, true, port),
                [host, port] => (host, false, port),
                _ => panic!("{line:?} is no address"),
            };
            let (_, servers) = found.last_mut().expect("an address stands in an entry");
            servers.insert(role.to_owned(), (host.to_owned(), ssl, port.parse().expect("a port")));
        } else {
            assert!(matches!(line, "{" | "}"), "{line:?} is nothing");
        }
    }
    found
}

fn properties() -> ProxyProperties {
    serde_json::from_value(
        json!({"ConnectionRatio": 5, "Ipc.Timeout": 30, "SecureMode": true, "MessageLevel": "debug"}),
    )
    .unwrap()
}

fn proxyserv<'a>(password: &'a str, properties: &'a ProxyProperties) -> Proxyserv<'a> {
    Proxyserv {
        name: "PROXY_P",
        remote_server: "AGG_P",
        credentials: Some(ProxyCredentials {
            user: "proxy",
            password,
        }),
        key_file: Some("/run/key"),
        properties,
    }
}

#[test]
fn writes_the_properties_of_a_proxy() {
    let text = proxyserv_props(&proxyserv("p#ss word", &properties())).unwrap();
    let text_of = |text: &str| Read::Text(text.to_owned());
    let expected = BTreeMap::from([
        ("AuthPassword", text_of("p#ss word")),
        ("AuthUserName", text_of("proxy")),
        ("ConfigKeyFile", text_of("/run/key")),
        ("ConnectionRatio", Read::Number(5)),
        ("Ipc.Timeout", Read::Number(30)),
        ("MessageLevel", text_of("debug")),
        ("MessageLog", text_of("stderr")),
        ("Name", text_of("PROXY_P")),
        ("RemoteServer", text_of("AGG_P")),
        ("SecureMode", Read::Flag(true)),
    ]);
    let read = read_props(&text);
    assert_eq!(
        read.iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect::<Vec<_>>(),
        expected.iter().map(|(key, value)| (*key, value)).collect::<Vec<_>>()
    );
}

#[test]
fn a_log_that_the_user_names_is_the_only_one() {
    let properties = serde_json::from_value(json!({"MessageLog": "stdout"})).unwrap();
    let read = read_props(&proxyserv_props(&proxyserv("x", &properties)).unwrap());
    assert_eq!(read["MessageLog"], Read::Text("stdout".to_owned()));
}

#[test]
fn refuses_a_password_that_cannot_be_written_safely_without_telling_it() {
    let properties = properties();
    for (password, character) in [
        ("pa'ss", "a single quotation mark"),
        ("pa\\ss", "a backslash"),
        ("pa\nss", "a line break"),
        ("pa\tss", "a control character"),
        ("påss", "a character beyond ASCII"),
    ] {
        let error = proxyserv_props(&proxyserv(password, &properties)).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("AuthPassword has {character}")),
            "{error}"
        );
        assert!(!format!("{error} {error:?}").contains("pa"), "{error:?}");
    }
}

#[test]
fn writes_servers_and_virtual_pairs() {
    let server = |host: &str, ssl| OmniDatServer::new(host, 4401, ssl).unwrap();
    let entries = [
        OmniDatEntry::new(
            "AGG_P",
            OmniDatServer::new("aggp.example.com", 4100, false).unwrap(),
            None,
        )
        .unwrap(),
        OmniDatEntry::new(
            "PROXY_V",
            server("proxy-p.example.com", true),
            Some(server("2001:db8::1", true)),
        )
        .unwrap(),
    ];
    assert_eq!(
        omni_dat(&entries),
        "[AGG_P]\n{\n\tPrimary: aggp.example.com 4100\n}\n\
         [PROXY_V]\n{\n\tPrimary: proxy-p.example.com ssl 4401\n\tBackup: 2001:db8::1 ssl 4401\n}\n"
    );
}

#[test]
fn refuses_names_and_hosts_that_would_break_the_file() {
    for host in ["", "a b", "a\nb", "a}", "ssl 1", "[::1]"] {
        assert_eq!(
            OmniDatServer::new(host, 1, false),
            Err(Unwritable::Host(host.to_owned()))
        );
    }
    for name in ["", "agg", "1AGG", "AGG]", "A_NAME_OF_MORE_THAN_29_LETTERS"] {
        let server = OmniDatServer::new("aggp", 4100, false).unwrap();
        assert_eq!(
            OmniDatEntry::new(name, server, None),
            Err(Unwritable::Name(name.to_owned()))
        );
    }
}

proptest! {
    #[test]
    fn a_property_reads_back_as_it_was_or_is_refused(text in any::<String>()) {
        match property("Key", PropertyValue::Text(&text)) {
            Ok(line) => prop_assert_eq!(read_props(&line), BTreeMap::from([("Key".to_owned(), Read::Text(text))])),
            Err(_) => prop_assert!(text.chars().any(|c| !(' '..='~').contains(&c) || c == '\'' || c == '\\')),
        }
    }

    #[test]
    fn printable_passwords_read_back(password in "[ -&(-\\[\\]-~]{0,40}") {
        let properties = ProxyProperties::default();
        let read = read_props(&proxyserv_props(&proxyserv(&password, &properties)).unwrap());
        prop_assert_eq!(&read["AuthPassword"], &Read::Text(password));
    }

    #[test]
    fn entries_read_back(
        servers in prop::collection::vec(("[A-Z_][A-Z0-9_]{0,28}", "[a-z0-9.:_-]{1,40}", 1u16.., any::<bool>(), any::<bool>()), 0..6)
    ) {
        let entries: Vec<OmniDatEntry> = servers
            .iter()
            .map(|(name, host, port, ssl, pair)| {
                let server = OmniDatServer::new(host, *port, *ssl).unwrap();
                OmniDatEntry::new(name, server.clone(), pair.then_some(server)).unwrap()
            })
            .collect();
        let read = read_omni_dat(&omni_dat(&entries));
        prop_assert_eq!(read.len(), servers.len());
        for ((name, host, port, ssl, pair), (found, addresses)) in servers.iter().zip(&read) {
            prop_assert_eq!(name, found);
            prop_assert_eq!(addresses.get("Primary"), Some(&(host.clone(), *ssl, *port)));
            prop_assert_eq!(addresses.get("Backup").is_some(), *pair);
        }
    }

    #[test]
    fn a_host_never_breaks_out_of_its_line(host in "[ -~\\n\\t]{0,30}", ssl in any::<bool>(), name in select(vec!["A", "B"])) {
        if let Ok(server) = OmniDatServer::new(&host, 4400, ssl) {
            let read = read_omni_dat(&omni_dat(&[OmniDatEntry::new(name, server, None).unwrap()]));
            prop_assert_eq!(&read[0].1["Primary"], &(host, ssl, 4400));
        }
    }
}
