//! Each rule twice: the CRD's CEL, evaluated as an API server does, and [`Pair::validate`] refuse the same objects with
//! the same words. A valid manifest, one thing in it broken, the rule that it breaks.

use std::{collections::BTreeSet, sync::LazyLock};

use kube::{CustomResourceExt, core::cel::Validator};
use serde_json::{Value, json};

use super::{
    fixture::{object, pair},
    *,
};
use crate::api::rules::SpecRule;

/// The messages with which the CRD refuses `object`.
fn refusals(object: &ProxyPair) -> Vec<String> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let crd = serde_json::to_value(ProxyPair::crd()).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    });
    let object = serde_json::to_value(object).unwrap();
    match Validator::new().validate(&SCHEMA, &object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|error| error.message.clone()).collect(),
    }
}

/// `changes` to the valid manifest break `rule`, at `field`, and no other.
#[track_caller]
fn breaks<T: ?Sized>(rule: &SpecRule<T>, field: &str, changes: Value) {
    let object = object(changes.clone());
    assert_eq!(refusals(&object), [rule.message], "{changes}");
    assert_eq!(
        Pair::validate(&object).unwrap_err(),
        InvalidPair::Rule(rule.broken(field)),
        "{changes}"
    );
}

/// `changes` to the valid manifest break no rule.
#[track_caller]
fn fits(changes: Value) {
    let object = object(changes.clone());
    assert_eq!(refusals(&object), [""; 0], "{changes}");
    assert_eq!(Pair::validate(&object).err(), None, "{changes}");
}

/// `value` at a path such as `spec.proxy.image`.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |value, key| json!({key: value}))
}

/// A manifest of engine Proxyserv with `proxy` and `spec` merged into it.
fn proxyserv(proxy: Value, spec: Value) -> Value {
    let mut whole = json!({"proxy": {"engine": "Proxyserv", "image": "registry.example.com/nco-proxyserv:8.1.0.31"}});
    for (key, value) in proxy.as_object().into_iter().flatten() {
        whole["proxy"][key] = value.clone();
    }
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({"spec": whole})
}

fn ca() -> Value {
    json!({"tls": {"caBundle": {"configMapName": "netcool-ca"}}})
}

#[test]
fn the_shortest_manifest_fits() {
    fits(json!({}));
}

#[test]
fn every_rule_of_the_crd_has_a_test_here() {
    fn messages(schema: &Value, found: &mut BTreeSet<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            found.insert(rule["message"].as_str().unwrap().to_owned());
        }
        match schema {
            Value::Object(fields) => fields.values().for_each(|field| messages(field, found)),
            Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
            _ => {}
        }
    }
    let crd = serde_json::to_value(ProxyPair::crd()).unwrap();
    let mut found = BTreeSet::new();
    messages(&crd, &mut found);
    let rules = include_str!("../../api/rules.rs").to_owned() + include_str!("../../api/rules/text.rs");
    let declared: BTreeSet<_> = rules
        .lines()
        .filter_map(|line| line.strip_prefix("pub fn ")?.split_once("() -> SpecRule<"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        found.len(),
        declared.len(),
        "a rule is in no attribute, or its message is another one's: {declared:?}"
    );
    let tests = include_str!("tests.rs");
    let checks = include_str!("checks.rs");
    for name in declared {
        assert!(
            checks.contains(&format!("rules::{name}()")),
            "Pair::validate does not check {name}"
        );
        assert!(tests.contains(&format!("&rules::{name}(),")), "no test breaks {name}");
    }
}

#[test]
fn an_object_without_a_namespace_is_incomplete() {
    let error = Pair::validate(&object(json!({"metadata": {"namespace": null}}))).unwrap_err();
    assert_eq!(error, InvalidPair::Incomplete("namespace"));
}

#[test]
fn an_object_without_a_uid_is_incomplete() {
    let error = Pair::validate(&object(json!({"metadata": {"uid": null}}))).unwrap_err();
    assert_eq!(error, InvalidPair::Incomplete("uid"));
}

#[test]
fn ports_are_those_of_tcp() {
    for field in [
        "spec.primary.objectServer.port",
        "spec.backup.objectServer.port",
        "spec.service.port",
    ] {
        for value in [-1, 0, 65536] {
            let error = Pair::validate(&object(at(field, json!(value)))).unwrap_err();
            let field = field.to_owned();
            assert_eq!(error, InvalidPair::Port { field, value });
        }
    }
    let service = json!({"spec": {"service": {"type": "NodePort", "nodePort": 0}}});
    let field = "spec.service.nodePort".to_owned();
    assert_eq!(
        Pair::validate(&object(service)).unwrap_err(),
        InvalidPair::Port { field, value: 0 }
    );
}

#[test]
fn an_error_names_the_field_and_says_what_to_write() {
    let error = Pair::validate(&object(at("spec.proxy.podLabels", json!({"proxypair.dev/x": ""})))).unwrap_err();
    let message = rules::labels().message;
    assert_eq!(error.to_string(), format!("spec.proxy.podLabels: {message}"));
}

// === metadata ===

#[test]
fn pair_name() {
    for name in [
        "1proxy",
        "proxy.v",
        "proxy-",
        "a-name-that-is-much-too-long-to-leave-room-for-the-children",
    ] {
        breaks(&rules::pair_name(), "metadata.name", at("metadata.name", json!(name)));
    }
}

// === spec ===

#[test]
fn two_object_servers() {
    let changes = at("spec.backup.objectServer.name", json!("AGG_P"));
    breaks(&rules::two_object_servers(), "spec", changes);
}

#[test]
fn two_addresses() {
    let changes = at("spec.backup.objectServer.host", json!("aggp.example.com"));
    breaks(&rules::two_addresses(), "spec", changes);
    fits(at(
        "spec.backup.objectServer",
        json!({"host": "aggp.example.com", "port": 4101}),
    ));
}

#[test]
fn two_addresses_are_one_whatever_their_case_and_with_a_dot_at_the_end() {
    let hosts = |primary: &str, backup: &str| {
        json!({"spec": {
            "primary": {"objectServer": {"host": primary}},
            "backup": {"objectServer": {"host": backup}},
        }})
    };
    for (primary, backup) in [
        ("aggp.example.com", "AGGP.Example.com"),
        ("aggp.example.com.", "aggp.example.com"),
        ("aggp.example.com", "aggp.example.com."),
        ("AggP.example.com.", "aggp.EXAMPLE.com"),
        ("aggp.example.com.", "aggp.example.com."),
        ("2001:DB8::1", "2001:db8::1"),
    ] {
        breaks(&rules::two_addresses(), "spec", hosts(primary, backup));
    }
    fits(hosts("aggp.example.com.", "aggb.example.com."));
}

#[test]
fn two_proxy_names() {
    breaks(
        &rules::two_proxy_names(),
        "spec",
        at("spec.backup.serverName", json!("PROXY_P")),
    );
}

#[test]
fn virtual_name() {
    for name in ["PROXY_P", "PROXY_B"] {
        breaks(&rules::virtual_name(), "spec", at("spec.serverName", json!(name)));
    }
}

#[test]
fn object_server_names() {
    for field in ["spec.serverName", "spec.primary.serverName", "spec.backup.serverName"] {
        for name in ["AGG_P", "AGG_B"] {
            breaks(&rules::object_server_names(), "spec", at(field, json!(name)));
        }
    }
}

#[test]
fn resync_needs_login() {
    let required = json!({"resync": {"policy": "Required"}});
    breaks(
        &rules::resync_needs_login(),
        "spec",
        at("spec.failback", required.clone()),
    );
    fits(at("spec.failback", json!({"resync": {"policy": "Ignored"}})));
    let login = json!({"login": {"secretName": "netcool-check"}});
    fits(json!({"spec": {"failback": required, "healthCheck": login}}));
}

/// The fields that only nco_proxyserv uses.
fn proxyserv_fields() -> [(&'static str, Value); 7] {
    [
        ("image", json!("example.com/nco:1")),
        ("imagePullPolicy", json!("Always")),
        ("properties", json!({})),
        ("secretName", json!("netcool-proxy")),
        ("ncHome", json!("/opt/netcool")),
        ("gateResources", json!({})),
        ("initResources", json!({})),
    ]
}

#[test]
fn sides_without_proxyserv_fields() {
    for (key, value) in proxyserv_fields() {
        for side in ["primary", "backup"] {
            let changes = json!({"spec": {side: {"proxy": {key: value}}}});
            breaks(&rules::sides_without_proxyserv_fields(), "spec", changes);
        }
    }
}

#[test]
fn proxyserv_needs_image() {
    let engine = json!({"engine": "Proxyserv"});
    let one = json!({"proxy": {"image": "example.com/nco:1"}});
    let broken = [json!({"proxy": engine}), json!({"proxy": engine, "primary": one})];
    for spec in broken {
        breaks(&rules::proxyserv_needs_image(), "spec", json!({"spec": spec}));
    }
    fits(json!({"spec": {"proxy": engine, "primary": one, "backup": one}}));
    fits(proxyserv(json!({}), json!({})));
}

#[test]
fn proxyserv_needs_key_store() {
    let tls = json!({"backup": {"objectServer": ca()}});
    breaks(&rules::proxyserv_needs_key_store(), "spec", proxyserv(json!({}), tls));
    let other_side = json!({"backup": {"objectServer": ca()}, "primary": {"proxy": {"secretName": "netcool-proxy"}}});
    breaks(
        &rules::proxyserv_needs_key_store(),
        "spec",
        proxyserv(json!({}), other_side),
    );
    let with_secret = json!({"backup": {"objectServer": ca(), "proxy": {"secretName": "netcool-proxy"}}});
    fits(proxyserv(json!({}), with_secret));
}

#[test]
fn pass_through_needs_relay() {
    let pass_through = json!({"mode": "PassThrough"});
    let changes = proxyserv(json!({"tls": pass_through}), json!({}));
    breaks(&rules::pass_through_needs_relay(), "spec", changes);
    let terminate = json!({"tls": {"secretName": "proxy-tls"}});
    fits(proxyserv(terminate.clone(), json!({})));
    let of_one_side = proxyserv(terminate, json!({"backup": {"proxy": {"tls": pass_through}}}));
    breaks(&rules::pass_through_needs_relay(), "spec", of_one_side);
}

#[test]
fn pass_through_needs_tls() {
    let pass_through = json!({"tls": {"mode": "PassThrough"}});
    let changes = json!({"spec": {"proxy": pass_through, "primary": {"objectServer": ca()}}});
    breaks(&rules::pass_through_needs_tls(), "spec", changes);
    let both = json!({"primary": {"objectServer": ca()}, "backup": {"objectServer": ca()}, "proxy": pass_through});
    fits(json!({"spec": both}));
    let terminate = json!({"proxy": {"tls": {"secretName": "proxy-b-tls"}}});
    fits(json!({"spec": {"primary": {"objectServer": ca(), "proxy": pass_through}, "backup": terminate}}));
}

#[test]
fn tls_on_both_sides() {
    let tls = json!({"proxy": {"tls": {"secretName": "proxy-tls"}}});
    for side in ["primary", "backup"] {
        breaks(&rules::tls_on_both_sides(), "spec", json!({"spec": {side: tls}}));
    }
    fits(json!({"spec": {"primary": tls, "backup": tls}}));
    fits(json!({"spec": tls}));
}

// === names and addresses ===

#[test]
fn server_name() {
    let fields = [
        "spec.serverName",
        "spec.primary.serverName",
        "spec.backup.serverName",
        "spec.primary.objectServer.name",
        "spec.backup.objectServer.name",
    ];
    for field in fields {
        for name in ["proxy_v", "1PROXY", "PROXY-V", "A_NAME_OF_MORE_THAN_29_LETTERS"] {
            breaks(&rules::server_name(), field, at(field, json!(name)));
        }
        fits(at(field, json!("_9")));
    }
}

#[test]
fn host() {
    let field = "spec.primary.objectServer.host";
    for host in [
        "aggp.example.com:4100",
        "http://aggp",
        "[::1]",
        "agg p",
        "-aggp",
        "aggp..",
        ".",
    ] {
        breaks(&rules::host(), field, at(field, json!(host)));
    }
    for host in [
        "aggp",
        "192.0.2.1",
        "2001:db8::1",
        "agg_p.example.com",
        "aggp.example.com.",
    ] {
        fits(at(field, json!(host)));
    }
}

#[test]
fn one_ca_bundle() {
    for bundle in [json!({}), json!({"configMapName": "a", "secretName": "b"})] {
        let field = "spec.primary.objectServer.tls.caBundle";
        breaks(&rules::one_ca_bundle(), field, at(field, bundle));
    }
}

#[test]
fn config_map_name() {
    let field = "spec.backup.objectServer.tls.caBundle.configMapName";
    breaks(&rules::config_map_name(), field, at(field, json!("Netcool_CA")));
}

#[test]
fn secret_name() {
    let field = "spec.backup.objectServer.tls.caBundle.secretName";
    breaks(&rules::secret_name(), field, at(field, json!("Netcool_CA")));
    let changes = proxyserv(json!({"secretName": "Netcool_Proxy"}), json!({}));
    breaks(&rules::secret_name(), "spec.proxy.secretName", changes);
    let field = "spec.proxy.tls.secretName";
    breaks(&rules::secret_name(), field, at(field, json!("-tls")));
}

#[test]
fn key() {
    let bundle = "spec.primary.objectServer.tls.caBundle";
    let changes = at(bundle, json!({"secretName": "ca", "key": "../ca"}));
    breaks(&rules::key(), &format!("{bundle}.key"), changes);
}

// === spec.service ===

#[test]
fn load_balancer_class() {
    let class = json!({"loadBalancerClass": "example.com/lb"});
    breaks(&rules::load_balancer_class(), "spec.service", at("spec.service", class));
    fits(at(
        "spec.service",
        json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb"}),
    ));
}

#[test]
fn node_port() {
    breaks(
        &rules::node_port(),
        "spec.service",
        at("spec.service", json!({"nodePort": 30440})),
    );
    fits(at("spec.service", json!({"type": "NodePort", "nodePort": 30440})));
}

// === spec.healthCheck and spec.failback ===

#[test]
fn interval() {
    for check in [
        json!({"interval": "99ms"}),
        json!({"interval": "61s", "unresponsiveAfter": "5m"}),
    ] {
        breaks(&rules::interval(), "spec.healthCheck", at("spec.healthCheck", check));
    }
    fits(at(
        "spec.healthCheck",
        json!({"interval": "1m", "unresponsiveAfter": "5m"}),
    ));
    fits(at("spec.healthCheck.interval", json!("100ms")));
}

#[test]
fn unreachable_after() {
    let changes = at("spec.healthCheck.unreachableAfter", json!("16s"));
    breaks(&rules::unreachable_after(), "spec.healthCheck", changes);
    fits(at("spec.healthCheck.unreachableAfter", json!("15s")));
}

#[test]
fn unresponsive_after() {
    for check in [
        json!({"interval": "10s"}),
        json!({"interval": "500ms", "unresponsiveAfter": "1s"}),
        json!({"unresponsiveAfter": "601s"}),
        json!({"unresponsiveAfter": "60h"}),
    ] {
        breaks(
            &rules::unresponsive_after(),
            "spec.healthCheck",
            at("spec.healthCheck", check),
        );
    }
    fits(at("spec.healthCheck", json!({"unresponsiveAfter": "2s"})));
    fits(at("spec.healthCheck", json!({"unresponsiveAfter": "10m"})));
}

#[test]
fn lost_after() {
    for check in [json!({"lostAfter": "499ms"}), json!({"lostAfter": "16s"})] {
        breaks(&rules::lost_after(), "spec.healthCheck", at("spec.healthCheck", check));
    }
    fits(at("spec.healthCheck.lostAfter", json!("500ms")));
    fits(at("spec.healthCheck.lostAfter", json!("15s")));
}

#[test]
fn healthy_after() {
    let changes = at("spec.healthCheck.healthyAfter", json!("61m"));
    breaks(&rules::healthy_after(), "spec.healthCheck", changes);
    fits(at("spec.healthCheck.healthyAfter", json!("1h")));
}

#[test]
fn stable_for() {
    let changes = at("spec.failback.stableFor", json!("1441m"));
    breaks(&rules::stable_for(), "spec.failback", changes);
    fits(at("spec.failback.stableFor", json!("24h")));
}

#[test]
fn minimum_on_backup() {
    let changes = at("spec.failback.minimumOnBackup", json!("169h"));
    breaks(&rules::minimum_on_backup(), "spec.failback", changes);
    fits(at("spec.failback.minimumOnBackup", json!("168h")));
}

#[test]
fn drain_delay() {
    let changes = at("spec.failback.drain.delay", json!("601s"));
    breaks(&rules::drain_delay(), "spec.failback.drain", changes);
    fits(at("spec.failback.drain.delay", json!("10m")));
}

#[test]
fn grace_period() {
    for period in ["999ms", "601s"] {
        let changes = at("spec.failback.drain.gracePeriod", json!(period));
        breaks(&rules::grace_period(), "spec.failback.drain", changes);
    }
    for period in ["1s", "10m"] {
        fits(at("spec.failback.drain.gracePeriod", json!(period)));
    }
}

#[test]
fn gateway_description() {
    let resync = json!({"policy": "Ignored", "gatewayDescription": "a'b"});
    let field = "spec.failback.resync.gatewayDescription";
    breaks(&rules::gateway_description(), field, at("spec.failback.resync", resync));
}

// === spec.proxy ===

#[test]
fn relay_without_proxyserv_fields() {
    for (key, value) in proxyserv_fields() {
        let changes = at("spec.proxy", json!({key: value}));
        breaks(&rules::relay_without_proxyserv_fields(), "spec.proxy", changes);
    }
}

#[test]
fn image() {
    for image in ["", "-x", "nco proxyserv", "nco\nproxyserv"] {
        let changes = proxyserv(json!({"image": image}), json!({}));
        breaks(&rules::image(), "spec.proxy.image", changes);
    }
}

#[test]
fn nc_home() {
    for path in [
        "opt/netcool",
        "/",
        "/opt/netcool/",
        "/opt/../etc",
        "/opt/net cool",
        "/opt//netcool",
    ] {
        let changes = proxyserv(json!({"ncHome": path}), json!({}));
        breaks(&rules::nc_home(), "spec.proxy.ncHome", changes);
    }
}

#[test]
fn terminate_needs_secret() {
    breaks(
        &rules::terminate_needs_secret(),
        "spec.proxy.tls",
        at("spec.proxy.tls", json!({})),
    );
}

#[test]
fn pass_through_without_secret() {
    let spec = json!({
        "primary": {"objectServer": ca()},
        "backup": {"objectServer": ca()},
        "proxy": {"tls": {"mode": "PassThrough", "secretName": "x"}},
    });
    breaks(
        &rules::pass_through_without_secret(),
        "spec.proxy.tls",
        json!({"spec": spec}),
    );
}

#[test]
fn pod_labels() {
    for field in [
        "spec.proxy.podLabels",
        "spec.primary.proxy.podLabels",
        "spec.commonMetadata.labels",
    ] {
        for label in [
            "proxypair.dev/side",
            "app.kubernetes.io/managed-by",
            "app.kubernetes.io/part-of",
        ] {
            breaks(&rules::labels(), field, at(field, json!({label: "x"})));
        }
        let own = json!({"app.kubernetes.io/name": "omnibus", "team": "noc"});
        Pair::validate(&object(at(field, own))).unwrap();
    }
}

#[test]
fn pod_annotations() {
    for field in [
        "spec.proxy.podAnnotations",
        "spec.primary.proxy.podAnnotations",
        "spec.commonMetadata.annotations",
    ] {
        breaks(
            &rules::annotations(),
            field,
            at(field, json!({"proxypair.dev/template": "x"})),
        );
    }
}

#[test]
fn login_secret_name() {
    let field = "spec.healthCheck.login.secretName";
    for name in ["Check", "check_user", "-check"] {
        breaks(&rules::secret_name(), field, at(field, json!(name)));
    }
}

// === spec.proxy.properties ===

/// The property breaks the rule in `spec.proxy` and in a side's `proxy`.
#[track_caller]
fn property_breaks(name: &str, value: Value, breaks: impl Fn(&str, Value)) {
    let properties = json!({"ConnectionRatio": 5, name: value});
    breaks(
        "spec.proxy.properties",
        proxyserv(json!({"properties": properties}), json!({})),
    );
    let side = json!({"backup": {"proxy": {"properties": properties}}});
    breaks("spec.backup.proxy.properties", proxyserv(json!({}), side));
}

#[test]
fn property_name() {
    property_breaks("Name", json!("PROXY_P"), |field, changes| {
        breaks(&rules::property_name(), field, changes);
    });
}

#[test]
fn property_remote_server() {
    property_breaks("RemoteServer", json!("AGG_P"), |field, changes| {
        breaks(&rules::property_remote_server(), field, changes);
    });
}

#[test]
fn property_auth_user_name() {
    property_breaks("AuthUserName", json!("root"), |field, changes| {
        breaks(&rules::property_auth_user_name(), field, changes);
    });
}

#[test]
fn property_auth_password() {
    property_breaks("AuthPassword", json!("secret"), |field, changes| {
        breaks(&rules::property_auth_password(), field, changes);
    });
}

#[test]
fn property_config_key_file() {
    property_breaks("ConfigKeyFile", json!("/key"), |field, changes| {
        breaks(&rules::property_config_key_file(), field, changes);
    });
}

#[test]
fn property_props_file() {
    property_breaks("PropsFile", json!("/props"), |field, changes| {
        breaks(&rules::property_props_file(), field, changes);
    });
}

#[test]
fn property_process_agent() {
    for (name, value) in [("PAAwareID", json!(1)), ("PAServerName", json!("NCO_PA"))] {
        property_breaks(name, value, |field, changes| {
            breaks(&rules::property_process_agent(), field, changes);
        });
    }
}

#[test]
fn property_help_and_version() {
    for name in ["Help", "Version"] {
        property_breaks(name, json!(false), |field, changes| {
            breaks(&rules::property_help_and_version(), field, changes);
        });
    }
}

#[test]
fn message_log() {
    for log in ["a'b", "a\\b", "a\nb", "a b", "a#b"] {
        let changes = proxyserv(json!({"properties": {"MessageLog": log}}), json!({}));
        breaks(&rules::message_log(), "spec.proxy.properties.MessageLog", changes);
    }
}

// === what is taken from a valid object ===

#[test]
fn takes_the_settings_of_each_side() {
    let pair = pair(json!({
        "proxy": {"engine": "Proxyserv", "image": "example.com/nco:1", "ncHome": "/opt/netcool"},
        "primary": {"proxy": {"tls": {"secretName": "p-tls"}}},
        "backup": {
            "proxy": {"image": "example.com/nco:2", "tls": {"secretName": "b-tls"}},
            "objectServer": {"port": 4101},
        },
    }));
    let images = pair
        .proxyservs
        .as_ref()
        .unwrap()
        .each_ref()
        .map(|proxyserv| proxyserv.image.as_str());
    assert_eq!(
        (images.primary, images.backup),
        ("example.com/nco:1", "example.com/nco:2")
    );
    assert_eq!(pair.proxyserv(Side::Backup).unwrap().nc_home, "/opt/netcool");
    let secret = |name: &str| Listener::Terminate {
        secret_name: name.to_owned(),
    };
    assert_eq!(pair.listener(Side::Primary), &secret("p-tls"));
    assert_eq!(pair.listener(Side::Backup), &secret("b-tls"));
    assert_eq!(pair.object_server(Side::Primary).to_string(), "aggp.example.com:4100");
    assert_eq!(pair.object_server(Side::Backup).to_string(), "aggb.example.com:4101");
    assert_eq!(pair.gate_name, "gate.proxy-v.netcool.proxypair.internal");
}
