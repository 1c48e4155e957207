use std::sync::Arc;

use rustls::{
    ClientConnection, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::*;
use crate::check;

const NAME: &str = "gate.proxy-v.netcool.proxypair.internal";
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

fn days(days: i64) -> Timestamp {
    // Around today, because the handshakes use the clock of this machine.
    let today = Timestamp::now().as_second() / 86_400 * 86_400;
    Timestamp::from_second(today).unwrap() + SignedDuration::from_hours(24 * days)
}

fn pair(keys: &KeySet) -> Option<(SecretData, SecretData)> {
    Some((keys.gate.clone(), keys.operator.clone()))
}

fn made() -> KeySet {
    renewed(None, NAME, LIFETIME, days(-5)).unwrap()
}

fn at(keys: &KeySet, day: i64) -> KeySet {
    renewed(pair(keys), NAME, LIFETIME, days(day)).unwrap()
}

/// Whether gate and operator accept each other: a handshake, as the two make it.
fn accept_each_other(gate: &SecretData, operator: &SecretData) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(gate[CA_CRT].as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(gate[TLS_CRT].as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(gate[TLS_KEY].as_bytes()).unwrap(),
        )
        .unwrap();
    let client = check::client_config(&operator[CA_CRT], &operator[TLS_CRT], &operator[TLS_KEY]).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut client = ClientConnection::new(client, ServerName::try_from(NAME).unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        if !bytes.is_empty() {
            server.read_tls(&mut bytes.as_slice()).unwrap();
        }
        if server.process_new_packets().is_err() {
            return false;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        if !bytes.is_empty() {
            client.read_tls(&mut bytes.as_slice()).unwrap();
        }
        if client.process_new_packets().is_err() {
            return false;
        }
    }
    true
}

#[test]
fn keys_that_are_fresh_stay_as_they_are() {
    let keys = made();
    assert_eq!(keys.renew_at, days(55));
    assert!(accept_each_other(&keys.gate, &keys.operator));
    assert!(at(&keys, 54) == keys);
}

#[test]
fn keys_are_renewed_by_the_same_authority_before_they_expire() {
    let keys = renewed(None, NAME, LIFETIME, days(-61)).unwrap();
    let next = at(&keys, 0);
    assert_ne!(next.gate[TLS_CRT], keys.gate[TLS_CRT]);
    assert_eq!(next.gate[CA_CRT], keys.gate[CA_CRT]);
    assert_eq!(next.operator[CA_KEY], keys.operator[CA_KEY]);
    // The pods have the old files until kubelet has updated them.
    assert!(accept_each_other(&keys.gate, &next.operator));
}

/// Four years, renewed each time that it is due. The gates always have the files of one renewal before.
#[test]
fn a_new_authority_issues_nothing_before_the_gates_can_have_it() {
    for lifetime in [LIFETIME, Duration::from_secs(600)] {
        let mut keys = renewed(None, NAME, lifetime, days(0)).unwrap();
        let mut authorities = 1;
        for _ in 0..24 {
            let next = renewed(pair(&keys), NAME, lifetime, keys.renew_at).unwrap();
            let trusted = inspect::certificates(&keys.gate[CA_CRT]);
            let issuer = inspect::certificates(&next.gate[CA_CRT]).swap_remove(0);
            assert!(
                trusted.contains(&issuer),
                "{lifetime:?}: the gates cannot know the issuer yet"
            );
            authorities += usize::from(trusted[0] != issuer);
            assert!(inspect::certificates(&next.gate[CA_CRT]).len() <= 4);
            assert_eq!(next.gate[CA_CRT], next.operator[CA_CRT]);
            keys = next;
        }
        assert!(authorities > 4, "{lifetime:?}: {authorities}");
    }
}

#[test]
fn a_renewal_with_a_new_authority_is_accepted_by_gates_with_the_old_files() {
    let begun = Duration::from_secs(90 * 24 * 3600);
    let keys = renewed(None, NAME, begun, days(-200)).unwrap();
    let published = renewed(pair(&keys), NAME, begun, days(-10)).unwrap();
    assert_eq!(inspect::certificates(&published.gate[CA_CRT]).len(), 2);
    assert!(published.operator.contains_key(NEXT_CA_KEY));
    // A certificate that is made anew a minute later does not use the new authority yet.
    let mut damaged = published.clone();
    damaged.gate.remove(TLS_KEY);
    let soon = renewed(pair(&damaged), NAME, begun, days(-10) + SignedDuration::from_mins(1)).unwrap();
    assert_eq!(soon.gate[CA_CRT], published.gate[CA_CRT]);
    assert!(accept_each_other(&soon.gate, &published.operator));
    let used = renewed(pair(&damaged), NAME, begun, days(0)).unwrap();
    assert_ne!(used.operator[CA_KEY], published.operator[CA_KEY]);
    assert!(!used.operator.contains_key(NEXT_CA_KEY));
    assert!(accept_each_other(&published.gate, &used.operator));
    assert!(accept_each_other(&used.gate, &published.operator));
}

/// What may stand under a key of a Secret instead of what belongs there: nothing, an empty text, garbage, half, or that of another pair.
fn damages(right: &str, of_another: Option<&String>) -> Vec<Option<String>> {
    let half = right[..right.len() / 2].to_owned();
    let garbage = "-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n".to_owned();
    let mut damages = vec![
        None,
        Some(String::new()),
        Some("garbage".to_owned()),
        Some(garbage),
        Some(half),
    ];
    damages.extend(of_another.map(|other| Some(other.clone())));
    damages
}

#[test]
fn whatever_is_damaged_in_one_or_both_secrets_is_made_anew() {
    let (keys, other) = (made(), made());
    for key in [CA_CRT, TLS_CRT, TLS_KEY, CA_KEY] {
        for damage in damages(&keys.operator[key], other.operator.get(key)) {
            for (in_gate, in_operator) in [(true, false), (false, true), (true, true)] {
                let mut damaged = keys.clone();
                for (is_damaged, data) in [(in_gate, &mut damaged.gate), (in_operator, &mut damaged.operator)] {
                    match &damage {
                        _ if !is_damaged || !data.contains_key(key) => {}
                        Some(text) => drop(data.insert(key.to_owned(), text.clone())),
                        None => drop(data.remove(key)),
                    }
                }
                let is_whole = damaged == keys;
                let next = at(&damaged, 0);
                assert!(accept_each_other(&next.gate, &next.operator), "{key} {damage:?}");
                assert_eq!(at(&next, 0), next, "{key} {damage:?}: it is made anew again and again");
                assert_eq!(next == keys, is_whole, "{key} {damage:?} was not noticed");
            }
        }
    }
}

#[test]
fn a_damaged_certificate_does_not_cost_the_authority() {
    let keys = made();
    let mut damaged = keys.clone();
    damaged.gate.clear();
    damaged.operator.remove(TLS_CRT);
    let next = at(&damaged, 0);
    assert_eq!(next.operator[CA_KEY], keys.operator[CA_KEY]);
    assert!(accept_each_other(&keys.gate, &next.operator));
}

#[test]
fn a_certificate_of_another_pair_is_not_used() {
    let keys = made();
    let other = renewed(pair(&keys), "gate.other.netcool.proxypair.internal", LIFETIME, days(0)).unwrap();
    assert_ne!(other.gate[TLS_CRT], keys.gate[TLS_CRT]);
}

#[test]
fn the_authoritys_key_never_reaches_the_gates_and_no_value_reaches_a_log() {
    let keys = made();
    assert_eq!(keys.gate.keys().collect::<Vec<_>>(), [CA_CRT, TLS_CRT, TLS_KEY]);
    let shown = format!("{keys:?}");
    assert!(shown.contains(TLS_KEY) && !shown.contains("BEGIN"), "{shown}");
}
