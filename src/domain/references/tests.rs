use serde_json::{Value, json};

use super::*;
use crate::domain::pair::fixture::pair;

fn content(keys: &[&str]) -> Option<Content> {
    Some(Content {
        version: "1".to_owned(),
        data: keys.iter().map(|key| ((*key).to_owned(), b"x".to_vec())).collect(),
    })
}

fn messages(pair: &Pair, contents: &Contents) -> Vec<String> {
    let needs = needs(pair);
    needs
        .iter()
        .filter_map(|need| lacking(need, contents))
        .map(|problem| format!("{}: {}", problem.reason, problem.message))
        .collect()
}

fn proxyserv() -> Value {
    json!({
        "primary": {
            "objectServer": {"tls": {"caBundle": {"configMapName": "netcool-ca"}}},
            "proxy": {"tls": {"mode": "PassThrough"}},
        },
        "proxy": {"engine": "Proxyserv", "image": "example.com/nco", "secretName": "netcool-proxy"},
        "backup": {"proxy": {"tls": {"secretName": "proxy-b-tls"}}},
    })
}

#[test]
fn a_pair_that_names_nothing_needs_nothing() {
    assert_eq!(needs(&pair(json!({}))), []);
}

#[test]
fn says_which_object_is_missing_and_which_field_names_it() {
    assert_eq!(
        messages(&pair(proxyserv()), &Contents::new()),
        [
            "ConfigMapMissing: there is no ConfigMap netcool-ca, which spec.primary.objectServer.tls.caBundle.configMapName names: \
             create it, or change the field",
            "SecretMissing: there is no Secret netcool-proxy, which spec.proxy.secretName names: create it, or change the field",
            "SecretMissing: there is no Secret proxy-b-tls, which spec.backup.proxy.tls.secretName names: create it, or change the field",
            "SecretMissing: there is no Secret netcool-proxy, which spec.proxy.secretName names: create it, or change the field",
        ]
    );
}

#[test]
fn says_which_key_is_missing() {
    let mut contents = Contents::from([
        (Reference::config_map("netcool-ca"), content(&["bundle.pem"])),
        (
            Reference::secret("netcool-proxy"),
            content(&[AUTH_USER_NAME, AUTH_PASSWORD]),
        ),
        (Reference::secret("proxy-b-tls"), content(&["tls.crt"])),
    ]);
    let primary = "which spec.primary.objectServer.tls.caBundle.configMapName names";
    assert_eq!(
        messages(&pair(proxyserv()), &contents),
        [
            format!("ConfigMapIncomplete: ConfigMap netcool-ca, {primary}, has nothing under the key ca.crt: add it"),
            "SecretIncomplete: Secret netcool-proxy, which spec.proxy.secretName names, has nothing under the key omni.kdb: add it"
                .to_owned(),
            "SecretIncomplete: Secret proxy-b-tls, which spec.backup.proxy.tls.secretName names, has nothing under the key tls.key: add it"
                .to_owned(),
        ]
    );
    contents.insert(Reference::config_map("netcool-ca"), content(&["ca.crt"]));
    contents.insert(Reference::secret("netcool-proxy"), content(&[OMNI_KDB, OMNI_STH]));
    contents.insert(Reference::secret("proxy-b-tls"), content(&["tls.crt", "tls.key"]));
    assert_eq!(messages(&pair(proxyserv()), &contents), [""; 0]);
}

#[test]
fn a_user_without_a_password_is_a_mistake() {
    let spec = json!({"proxy": {"engine": "Proxyserv", "image": "example.com/nco", "secretName": "netcool-proxy"}});
    let contents = Contents::from([(Reference::secret("netcool-proxy"), content(&[AUTH_USER_NAME]))]);
    let said = messages(&pair(spec), &contents);
    assert!(said[0].contains("has nothing under the key AuthPassword"), "{said:?}");
}

#[test]
fn an_empty_key_is_a_missing_one() {
    let spec = json!({"proxy": {"tls": {"secretName": "proxy-tls"}}});
    let mut tls = content(&["tls.crt", "tls.key"]);
    tls.as_mut().unwrap().data.insert("tls.crt".to_owned(), Vec::new());
    let contents = Contents::from([(Reference::secret("proxy-tls"), tls)]);
    assert!(messages(&pair(spec), &contents)[0].contains("under the key tls.crt"));
}

#[test]
fn what_is_read_is_not_shown() {
    let shown = format!("{:?}", content(&[AUTH_PASSWORD]));
    assert!(shown.contains(AUTH_PASSWORD) && !shown.contains("120"), "{shown}");
}
