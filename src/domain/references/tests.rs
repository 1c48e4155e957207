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
            "proxy": {"tls": {"secretName": "proxy-p-tls"}},
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
            "ConfigMapMissing: ConfigMap netcool-ca does not exist: create it, or change spec.primary.objectServer.tls.caBundle.configMapName; what the operator read of it before stays in use until another operator leads",
            "SecretMissing: Secret proxy-p-tls does not exist: create it, or change spec.primary.proxy.tls.secretName",
            "SecretMissing: Secret netcool-proxy does not exist: create it, or change spec.proxy.secretName",
            "SecretMissing: Secret proxy-b-tls does not exist: create it, or change spec.backup.proxy.tls.secretName",
            "SecretMissing: Secret netcool-proxy does not exist: create it, or change spec.proxy.secretName",
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
        (Reference::secret("proxy-p-tls"), content(&["tls.crt", "tls.key"])),
    ]);
    let primary = "spec.primary.objectServer.tls.caBundle.configMapName";
    assert_eq!(
        messages(&pair(proxyserv()), &contents),
        [
            format!("ConfigMapIncomplete: ConfigMap netcool-ca ({primary}) has no key ca.crt, or it is empty: add it; what the operator \
             read of it before stays in use until another operator leads"),
            "SecretIncomplete: Secret netcool-proxy (spec.proxy.secretName) has no key omni.kdb, or it is empty: add it"
                .to_owned(),
            "SecretIncomplete: Secret proxy-b-tls (spec.backup.proxy.tls.secretName) has no key tls.key, or it is empty: add it"
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
    assert!(said[0].contains("has no key AuthPassword"), "{said:?}");
}

#[test]
fn an_empty_key_is_a_missing_one() {
    let spec = json!({"proxy": {"tls": {"secretName": "proxy-tls"}}});
    let mut tls = content(&["tls.crt", "tls.key"]);
    tls.as_mut().unwrap().data.insert("tls.crt".to_owned(), Vec::new());
    let contents = Contents::from([(Reference::secret("proxy-tls"), tls)]);
    assert!(messages(&pair(spec), &contents)[0].contains("has no key tls.crt"));
}

#[test]
fn the_data_is_not_printed() {
    let shown = format!("{:?}", content(&[AUTH_PASSWORD]));
    assert!(shown.contains(AUTH_PASSWORD) && !shown.contains("120"), "{shown}");
}

#[test]
fn a_password_that_no_properties_file_can_hold_is_refused_before_a_pod_starts() {
    let spec = json!({"proxy": {"engine": "Proxyserv", "image": "example.com/nco", "secretName": "netcool-proxy"}});
    let with = |password: &str| {
        let mut login = content(&[AUTH_USER_NAME, AUTH_PASSWORD]);
        let password = password.as_bytes().to_vec();
        login.as_mut().unwrap().data.insert(AUTH_PASSWORD.to_owned(), password);
        messages(
            &pair(spec.clone()),
            &Contents::from([(Reference::secret("netcool-proxy"), login)]),
        )
    };
    assert_eq!(with("s3cr#t\n"), [""; 0]);
    let said = with("s3cr't");
    let words =
        "SecretUnusable: Secret netcool-proxy (spec.proxy.secretName): AuthPassword has a single quotation mark";
    assert!(said[0].starts_with(words) && !said[0].contains("s3cr"), "{said:?}");
}

#[test]
fn secret_values_that_nobody_reads_are_dropped() {
    let mut pair_spec = proxyserv();
    pair_spec["healthCheck"] = json!({"login": {"secretName": "check"}});
    let pair = pair(pair_spec);
    let of = |keys: &[&str]| {
        Some(Content {
            version: "1".to_owned(),
            data: keys
                .iter()
                .map(|key| ((*key).to_owned(), format!("value of {key}").into_bytes()))
                .collect(),
        })
    };
    let all = [
        AUTH_USER_NAME,
        AUTH_PASSWORD,
        OMNI_KDB,
        OMNI_STH,
        "tls.crt",
        "tls.key",
        "ca.crt",
        "stranger",
    ];
    let names = ["netcool-proxy", "proxy-p-tls", "proxy-b-tls", "check"];
    let mut contents: Contents = names.iter().map(|name| (Reference::secret(name), of(&all))).collect();
    contents.insert(Reference::config_map("netcool-ca"), of(&all));
    contents.insert(Reference::secret("gone"), None);
    let needs = needs(&pair);
    drop_unread(&needs, &mut contents);
    let whole = |reference: &Reference| {
        let data = &contents[reference].as_ref().unwrap().data;
        let is_whole = |(key, value): &(&String, &Vec<u8>)| *value == format!("value of {key}").as_bytes();
        data.iter()
            .filter(is_whole)
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(whole(&Reference::secret("check")), [AUTH_PASSWORD, AUTH_USER_NAME]);
    assert_eq!(
        whole(&Reference::secret("netcool-proxy")),
        [AUTH_PASSWORD, AUTH_USER_NAME]
    );
    assert_eq!(whole(&Reference::secret("proxy-p-tls")), ["tls.crt", "tls.key"]);
    assert_eq!(whole(&Reference::config_map("netcool-ca")), ["ca.crt"]);
    let kept: Vec<_> = contents[&Reference::secret("netcool-proxy")]
        .as_ref()
        .unwrap()
        .data
        .keys()
        .collect();
    assert_eq!(kept, [AUTH_PASSWORD, AUTH_USER_NAME, OMNI_KDB, OMNI_STH]);
    // What is there is known all the same.
    assert_eq!(messages(&pair, &contents), [""; 0]);
}

#[test]
fn a_login_that_has_no_room_in_the_protocol_is_a_problem_of_the_secret_and_is_never_tried() {
    let pair = pair(json!({"healthCheck": {"login": {"secretName": "check"}}}));
    let with = |user: &[u8], password: &[u8]| {
        let content = Content {
            version: "1".to_owned(),
            data: [(AUTH_USER_NAME, user), (AUTH_PASSWORD, password)]
                .map(|(key, value)| (key.to_owned(), value.to_vec()))
                .into(),
        };
        let contents = Contents::from([(Reference::secret("check"), Some(content))]);
        (messages(&pair, &contents), login(&pair, &contents))
    };
    let (said, taken) = with(b"svc-netcool-proxypair-check@corp.example.com\n", b"secret");
    assert_eq!(
        said,
        [
            "SecretUnusable: Secret check (spec.healthCheck.login.secretName): AuthUserName is 44 bytes long, and a login to an \
             ObjectServer has room for 30: use a shorter one"
        ]
    );
    assert_eq!(taken, None);
    for (user, password, words) in [
        (
            "user".to_owned(),
            "p".repeat(254).into_bytes(),
            "AuthPassword is 254 bytes long",
        ),
        ("\u{e4}".repeat(16), b"secret".to_vec(), "AuthUserName is 32 bytes long"),
        ("user".to_owned(), vec![b'p', 0xff], "AuthPassword is not UTF-8 text"),
        (
            "us\ner".to_owned(),
            b"secret".to_vec(),
            "AuthUserName has a control character",
        ),
    ] {
        let (said, taken) = with(user.as_bytes(), &password);
        assert!(said[0].contains(words), "{said:?}");
        assert_eq!(taken, None, "{words}");
    }
    let (user, password) = ("u".repeat(30), "p".repeat(253));
    let (said, taken) = with(format!("{user}\r\n").as_bytes(), password.as_bytes());
    assert_eq!(said, [""; 0]);
    assert_eq!(taken, Some((user, password)));
}
