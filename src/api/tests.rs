//! Each CEL rule and each default, by the CRD's own evaluation: a valid manifest, one thing in it broken, the message expected.

mod documents;

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;

fn valid() -> Value {
    json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": "proxy-v", "namespace": "netcool"},
        "spec": {
            "serverName": "PROXY_V",
            "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com", "port": 4100}},
            "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com", "port": 4101}}
        }
    })
}

/// The messages with which the CRD refuses `manifest`.
fn refusals(manifest: &Value) -> Vec<String> {
    let pair: ProxyPair = serde_json::from_value(manifest.clone()).expect("the manifest has the types of a ProxyPair");
    match pair.validate_cel() {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|error| error.message.clone()).collect(),
    }
}

#[track_caller]
fn refused_with(path: &str, value: Value, message: &str) {
    let mut manifest = valid();
    let (parent, key) = path.rsplit_once('/').expect("a path");
    let mut at = &mut manifest;
    for step in parent.split('/').filter(|step| !step.is_empty()) {
        at = &mut at[step];
    }
    at[key] = value;
    let refusals = refusals(&manifest);
    assert!(
        refusals.iter().any(|refusal| refusal.contains(message)),
        "{path}: {refusals:?}"
    );
    assert_eq!(refusals.len(), 1, "{path} breaks more than one rule: {refusals:?}");
}

#[test]
fn accepts_the_shortest_manifest_and_fills_in_the_defaults() {
    assert_eq!(refusals(&valid()), Vec::<String>::new());
    let pair: ProxyPair = serde_json::from_value(valid()).unwrap();
    assert_eq!(pair.spec.service.port, 4400);
    assert_eq!(pair.spec.health_check, HealthCheckSpec::default());
    assert_eq!(pair.spec.health_check.interval.to_string(), "1s");
    assert_eq!(pair.spec.failback.stable_for.to_string(), "1m");
    assert_eq!(pair.spec.failback.drain.connections_per_second, 100);
}

#[test]
fn the_defaults_in_the_crd_are_those_of_the_types() {
    let crd = serde_json::to_value(ProxyPair::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(
        spec["healthCheck"]["default"],
        serde_json::to_value(HealthCheckSpec::default()).unwrap()
    );
    assert_eq!(
        spec["failback"]["default"],
        serde_json::to_value(FailbackSpec::default()).unwrap()
    );
    assert_eq!(spec["service"]["properties"]["port"]["default"], json!(4400));
}

#[test]
fn every_field_is_documented() {
    fn undocumented(schema: &Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().unwrap_or_default().is_empty() {
                found.push(path.clone());
            }
            undocumented(field, &path, found);
            undocumented(&field["items"], &path, found);
        }
    }
    let crd = serde_json::to_value(ProxyPair::crd()).unwrap();
    let mut found = Vec::new();
    undocumented(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut found);
    found.retain(|path| path != ".spec" || !crd["spec"].is_object());
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn refuses_a_name_that_cannot_be_a_service() {
    for name in [
        "1proxy",
        "proxy.v",
        "a-name-that-is-much-too-long-to-leave-room-for-the-children",
    ] {
        refused_with("/metadata/name", json!(name), "metadata.name becomes a Service");
    }
}

#[test]
fn refuses_server_names_that_omnibus_does_not_allow() {
    for path in [
        "/spec/serverName",
        "/spec/primary/serverName",
        "/spec/backup/serverName",
    ] {
        for name in ["proxy_v", "1PROXY", "PROXY-V", "A_NAME_OF_MORE_THAN_29_LETTERS"] {
            refused_with(path, json!(name), "write a server name as OMNIbus allows it");
        }
    }
    for path in ["/spec/primary/objectServer/name", "/spec/backup/objectServer/name"] {
        refused_with(path, json!("agg"), "write a server name as OMNIbus allows it");
    }
}

#[test]
fn refuses_a_host_that_is_no_host() {
    for host in ["aggp.example.com:4100", "http://aggp", "[::1]", "agg p", "-aggp"] {
        refused_with(
            "/spec/primary/objectServer/host",
            json!(host),
            "write a host name or an IP address",
        );
    }
    for host in ["aggp", "192.0.2.1", "2001:db8::1", "agg_p.example.com"] {
        let mut manifest = valid();
        manifest["spec"]["primary"]["objectServer"]["host"] = json!(host);
        assert_eq!(refusals(&manifest), Vec::<String>::new(), "{host}");
    }
}

#[test]
fn refuses_one_objectserver_on_both_sides() {
    refused_with(
        "/spec/backup/objectServer/name",
        json!("AGG_P"),
        "name the same ObjectServer",
    );
    refused_with(
        "/spec/backup/objectServer",
        json!({"name": "AGG_B", "host": "aggp.example.com", "port": 4100}),
        "have the same ObjectServer address",
    );
}

#[test]
fn refuses_names_that_stand_for_two_servers() {
    refused_with("/spec/backup/serverName", json!("PROXY_P"), "are the same");
    refused_with(
        "/spec/serverName",
        json!("PROXY_B"),
        "must differ from both proxies' names",
    );
    refused_with(
        "/spec/serverName",
        json!("AGG_P"),
        "an ObjectServer and a proxy have the same name",
    );
}

#[test]
fn refuses_timings_that_contradict_each_other() {
    refused_with(
        "/spec/healthCheck",
        json!({"interval": "50ms"}),
        "interval must lie between",
    );
    refused_with(
        "/spec/healthCheck",
        json!({"interval": "61s", "unresponsiveAfter": "5m"}),
        "interval must lie between",
    );
    refused_with(
        "/spec/healthCheck",
        json!({"unreachableAfter": "16s"}),
        "unreachableAfter must not exceed",
    );
    refused_with(
        "/spec/healthCheck",
        json!({"interval": "10s"}),
        "at least twice the interval",
    );
    refused_with(
        "/spec/healthCheck",
        json!({"interval": "500ms", "unresponsiveAfter": "1s"}),
        "at least 2s",
    );
    refused_with(
        "/spec/failback",
        json!({"drain": {"gracePeriod": "500ms"}}),
        "drain.gracePeriod must lie between",
    );
    refused_with(
        "/spec/failback",
        json!({"drain": {"gracePeriod": "11m"}}),
        "drain.gracePeriod must lie between",
    );
}

#[test]
fn refuses_to_wait_for_a_resync_without_a_user_that_can_ask() {
    refused_with(
        "/spec/failback",
        json!({"resync": {"policy": "Required"}}),
        "set healthCheck.login.secretName, or write policy: Ignored",
    );
    refused_with(
        "/spec/failback",
        json!({"resync": {"policy": "Ignored", "gatewayDescription": "a'b"}}),
        "gatewayDescription is compared with AppDescription",
    );
    let mut manifest = valid();
    manifest["spec"]["failback"] = json!({"resync": {"policy": "Ignored"}});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
    manifest["spec"]["healthCheck"] = json!({"login": {"secretName": "netcool-check"}});
    manifest["spec"]["failback"] = json!({"resync": {}});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
}

#[test]
fn a_failback_waits_for_the_resync_whenever_somebody_can_ask_unless_told_otherwise() {
    let resync = |spec: Value| {
        let mut manifest = valid();
        for (key, value) in spec.as_object().unwrap() {
            manifest["spec"][key] = value.clone();
        }
        let pair: ProxyPair = serde_json::from_value(manifest).unwrap();
        pair.spec.resync()
    };
    let login = json!({"login": {"secretName": "netcool-check"}});
    assert_eq!(resync(json!({})), None);
    assert_eq!(resync(json!({"healthCheck": login})), Some(ResyncSpec::default()));
    let ignored = json!({"healthCheck": login, "failback": {"resync": {"policy": "Ignored"}}});
    assert_eq!(resync(ignored), None);
}

#[test]
fn refuses_service_fields_that_do_not_fit_its_type() {
    refused_with(
        "/spec/service",
        json!({"loadBalancerClass": "example.com/lb"}),
        "loadBalancerClass goes with type LoadBalancer",
    );
    refused_with(
        "/spec/service",
        json!({"nodePort": 30440}),
        "nodePort goes with type NodePort or LoadBalancer",
    );
}

#[test]
fn refuses_labels_and_annotations_that_are_the_operators() {
    for path in ["/spec/proxy", "/spec/primary/proxy"] {
        for label in ["proxypair.dev/side", "app.kubernetes.io/managed-by"] {
            refused_with(path, json!({"podLabels": {label: "x"}}), "are the operator's");
        }
        refused_with(
            path,
            json!({"podAnnotations": {"proxypair.dev/template": "x"}}),
            "are the operator's",
        );
    }
}

/// A valid `spec.proxy` of engine Proxyserv, with `more` in it.
fn proxyserv(more: Value) -> Value {
    let mut proxy = json!({"engine": "Proxyserv", "image": "registry.example.com/nco-proxyserv:8.1.0.31"});
    for (key, value) in more.as_object().into_iter().flatten() {
        proxy[key] = value.clone();
    }
    proxy
}

#[track_caller]
fn accepted(changes: &[(&str, Value)]) {
    let mut manifest = valid();
    for (key, value) in changes {
        manifest["spec"][key] = value.clone();
    }
    assert_eq!(refusals(&manifest), Vec::<String>::new());
}

fn tls_side(name: &str) -> Value {
    let mut side = valid()["spec"][name].clone();
    side["objectServer"]["tls"] = json!({"caBundle": {"configMapName": "netcool-ca"}});
    side
}

#[test]
fn proxyserv_needs_an_image_on_both_sides() {
    let needed = "engine Proxyserv needs the image";
    refused_with("/spec/proxy", json!({"engine": "Proxyserv"}), needed);
    let mut manifest = valid();
    manifest["spec"]["proxy"] = json!({"engine": "Proxyserv"});
    manifest["spec"]["primary"]["proxy"] = json!({"image": "example.com/nco:1"});
    assert!(refusals(&manifest)[0].contains(needed));
    manifest["spec"]["backup"]["proxy"] = json!({"image": "example.com/nco:2"});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
    accepted(&[("proxy", proxyserv(json!({})))]);
}

#[test]
fn relay_refuses_what_is_for_nco_proxyserv() {
    for (key, value) in [
        ("image", json!("example.com/nco:1")),
        ("imagePullPolicy", json!("Always")),
        ("properties", json!({})),
        ("secretName", json!("netcool-proxy")),
        ("ncHome", json!("/opt/netcool")),
    ] {
        for path in ["/spec/proxy", "/spec/primary/proxy", "/spec/backup/proxy"] {
            refused_with(
                path,
                json!({key: value}),
                "for nco_proxyserv: set proxy.engine: Proxyserv",
            );
        }
    }
}

#[test]
fn refuses_images_and_paths_that_are_none() {
    for image in ["", "-x", "nco proxyserv", "nco\nproxyserv"] {
        refused_with("/spec/proxy", proxyserv(json!({"image": image})), "write an image as");
    }
    for path in [
        "opt/netcool",
        "/",
        "/opt/netcool/",
        "/opt/../etc",
        "/opt/net cool",
        "/opt//netcool",
    ] {
        refused_with(
            "/spec/proxy",
            proxyserv(json!({"ncHome": path})),
            "write ncHome as an absolute path",
        );
    }
    refused_with(
        "/spec/proxy",
        proxyserv(json!({"secretName": "Netcool_Proxy"})),
        "write the name of a Secret",
    );
}

#[test]
fn refuses_properties_that_are_the_operators_and_says_where_to_write_them() {
    for (name, value, message) in [
        ("Name", json!("PROXY_P"), "primary.serverName"),
        ("RemoteServer", json!("AGG_P"), "primary.objectServer"),
        ("AuthUserName", json!("root"), "the Secret that proxy.secretName names"),
        (
            "AuthPassword",
            json!("secret"),
            "the Secret that proxy.secretName names",
        ),
        ("ConfigKeyFile", json!("/key"), "under encryption.keyfile"),
        ("PropsFile", json!("/props"), "under proxy.properties"),
        ("PAAwareID", json!(1), "for the process agent"),
        ("PAServerName", json!("NCO_PA"), "for the process agent"),
        ("Help", json!(true), "print and end"),
        ("Version", json!(false), "print and end"),
    ] {
        let properties = json!({"ConnectionRatio": 5, name: value});
        refused_with("/spec/proxy", proxyserv(json!({"properties": properties})), message);
        let mut manifest = valid();
        manifest["spec"]["proxy"] = proxyserv(json!({}));
        manifest["spec"]["backup"]["proxy"] = json!({"properties": properties});
        assert!(
            refusals(&manifest).iter().any(|refusal| refusal.contains(message)),
            "{name}"
        );
    }
}

#[test]
fn takes_every_other_property_and_knows_all_25() {
    let properties = json!({
        "ClientHeartbeatRate": 10, "ConfigCryptoAlg": "AES_FIPS", "ConnectionRatio": 10, "Connections": 256, "DebugMode": false,
        "Ipc.SingleThreaded": false, "Ipc.Timeout": 60, "Ipc.TruncateVendorLogFile": true, "Ipc.VendorLogFileSize": 1024,
        "MaxLogFileSize": 1024, "MessageLevel": "warn", "MessageLog": "$OMNIHOME/log/proxy.log", "Props.CheckNames": true,
        "SecureMode": true, "UniqueLog": false,
    });
    accepted(&[("proxy", proxyserv(json!({"properties": properties})))]);
    let crd = serde_json::to_value(ProxyPair::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let known = spec["proxy"]["properties"]["properties"]["properties"]
        .as_object()
        .unwrap();
    assert_eq!(known.len(), 25);
    assert_eq!(properties.as_object().unwrap().len() + 10, known.len());
    let read: ProxyProperties = serde_json::from_value(properties.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), properties);
}

#[test]
fn refuses_properties_of_the_wrong_type_or_out_of_range() {
    let schema = serde_json::to_value(ProxyPair::crd()).unwrap();
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let of = |name: &str| spec["proxy"]["properties"]["properties"]["properties"][name].clone();
    assert_eq!(
        (
            of("ConnectionRatio")["type"].clone(),
            of("ConnectionRatio")["minimum"].clone()
        ),
        (json!("integer"), json!(1.0))
    );
    assert_eq!(of("SecureMode")["type"], "boolean");
    assert_eq!(
        of("MessageLevel")["enum"],
        json!(["debug", "info", "warn", "error", "fatal"])
    );
    for log in ["a'b", "a\\b", "a\nb", "a b", "a#b"] {
        let properties = json!({"MessageLog": log});
        refused_with(
            "/spec/proxy",
            proxyserv(json!({"properties": properties})),
            "write MessageLog as",
        );
    }
}

#[test]
fn a_ca_bundle_is_in_one_place() {
    let wrong = "write either caBundle.configMapName or caBundle.secretName";
    for bundle in [json!({}), json!({"configMapName": "a", "secretName": "b"})] {
        refused_with("/spec/primary/objectServer/tls", json!({"caBundle": bundle}), wrong);
    }
    refused_with(
        "/spec/primary/objectServer/tls",
        json!({"caBundle": {"secretName": "ca", "key": "../ca"}}),
        "write a key of a ConfigMap or Secret",
    );
    accepted(&[("primary", tls_side("primary"))]);
    let pair: ObjectServerTlsSpec = serde_json::from_value(json!({"caBundle": {"secretName": "ca"}})).unwrap();
    assert_eq!(pair.ca_bundle.key, "ca.crt");
}

#[test]
fn a_listener_certificate_goes_with_terminate() {
    refused_with(
        "/spec/proxy",
        json!({"tls": {}}),
        "tls.mode Terminate needs tls.secretName",
    );
    let mut manifest = valid();
    manifest["spec"]["primary"] = tls_side("primary");
    manifest["spec"]["backup"] = tls_side("backup");
    manifest["spec"]["proxy"] = json!({"tls": {"mode": "PassThrough", "secretName": "x"}});
    assert_eq!(refusals(&manifest).len(), 1);
    assert!(refusals(&manifest)[0].contains("tls.secretName goes with tls.mode Terminate"));
    manifest["spec"]["proxy"] = json!({"tls": {"mode": "PassThrough"}});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
    accepted(&[("proxy", json!({"tls": {"secretName": "proxy-tls"}}))]);
}

#[test]
fn both_sides_speak_tls_or_neither() {
    let tls = json!({"tls": {"secretName": "proxy-p-tls"}});
    refused_with("/spec/primary/proxy", tls.clone(), "give both sides tls");
    refused_with("/spec/backup/proxy", tls.clone(), "give both sides tls");
    let mut manifest = valid();
    manifest["spec"]["primary"]["proxy"] = tls.clone();
    manifest["spec"]["backup"]["proxy"] = json!({"tls": {"secretName": "proxy-b-tls"}});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
}

#[test]
fn pass_through_needs_somebody_who_ends_tls() {
    let pass_through = json!({"tls": {"mode": "PassThrough"}});
    refused_with("/spec/proxy", pass_through, "the ObjectServers end the probes' TLS");
    let mut manifest = valid();
    manifest["spec"]["primary"] = tls_side("primary");
    manifest["spec"]["primary"]["proxy"] = json!({"tls": {"mode": "PassThrough"}});
    manifest["spec"]["backup"]["proxy"] = json!({"tls": {"secretName": "proxy-b-tls"}});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
}

#[test]
fn nco_proxyserv_needs_a_key_store_for_tls() {
    let needed = "nco_proxyserv needs omni.kdb and omni.sth for TLS";
    let mut manifest = valid();
    manifest["spec"]["proxy"] = proxyserv(json!({}));
    manifest["spec"]["backup"] = tls_side("backup");
    assert_eq!(refusals(&manifest).len(), 1);
    assert!(refusals(&manifest)[0].contains(needed));
    manifest["spec"]["backup"]["proxy"] = json!({"secretName": "netcool-proxy"});
    assert_eq!(refusals(&manifest), Vec::<String>::new());
}

#[test]
fn nco_proxyserv_speaks_in_the_clear_behind_the_gate() {
    let refused = "tls.mode PassThrough goes with engine Relay";
    let pass_through = json!({"tls": {"mode": "PassThrough"}});
    refused_with("/spec/proxy", proxyserv(pass_through.clone()), refused);
    let mut manifest = valid();
    manifest["spec"]["proxy"] = proxyserv(json!({"tls": {"secretName": "proxy-tls"}}));
    assert_eq!(refusals(&manifest), Vec::<String>::new());
    manifest["spec"]["backup"]["proxy"] = pass_through;
    assert_eq!(refusals(&manifest).len(), 1);
    assert!(refusals(&manifest)[0].contains(refused));
}

#[test]
fn a_side_overrides_single_fields() {
    let mut manifest = valid();
    manifest["spec"]["proxy"] = proxyserv(json!({"secretName": "both", "ncHome": "/opt/netcool"}));
    manifest["spec"]["backup"]["proxy"] = json!({"secretName": "backup", "imagePullPolicy": "Always"});
    let pair: ProxyPair = serde_json::from_value(manifest).unwrap();
    let of = |side: Side| pair.spec.proxy.pod.overridden_by(pair.spec.side(side).proxy.as_ref());
    assert_eq!(of(Side::Primary).secret_name.as_deref(), Some("both"));
    assert_eq!(of(Side::Primary).image_pull_policy, None);
    assert_eq!(of(Side::Backup).secret_name.as_deref(), Some("backup"));
    assert_eq!(of(Side::Backup).nc_home.as_deref(), Some("/opt/netcool"));
    assert_eq!(of(Side::Backup).image_pull_policy, Some(PullPolicy::Always));
}

#[test]
fn the_committed_crd_is_the_one_the_types_make() {
    let committed = include_str!("../../crds/proxypairs.yaml");
    let made = serde_saphyr::to_string(&ProxyPair::crd()).unwrap();
    assert!(
        committed == made,
        "crds/proxypairs.yaml is out of date: run `make crds`"
    );
}
