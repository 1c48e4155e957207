//! The CRD: its defaults, its documentation, and what it reads. The tests of its rules are in `domain::pair`.

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
            "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com"}},
            "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}}
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
fn a_failback_waits_for_the_resync_if_there_is_a_login_unless_the_policy_is_ignored() {
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

#[test]
fn takes_every_other_property_and_knows_all_25() {
    let properties = json!({
        "ClientHeartbeatRate": 10, "ConfigCryptoAlg": "AES_FIPS", "ConnectionRatio": 10, "Connections": 256,
        "DebugMode": false, "Ipc.SingleThreaded": false, "Ipc.Timeout": 60, "Ipc.TruncateVendorLogFile": true,
        "Ipc.VendorLogFileSize": 1024, "MaxLogFileSize": 1024, "MessageLevel": "warn",
        "MessageLog": "$OMNIHOME/log/proxy.log", "Props.CheckNames": true, "SecureMode": true, "UniqueLog": false,
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
}

#[test]
fn a_ca_bundle_is_under_ca_crt_by_default() {
    let tls: ObjectServerTlsSpec = serde_json::from_value(json!({"caBundle": {"secretName": "ca"}})).unwrap();
    assert_eq!(tls.ca_bundle.key, "ca.crt");
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

/// In it a planned switch is a `Move`, a terminating pod is `ProxyLeaving`, and the sessions on the side that no longer
/// serves are `connectionsLeft`.
#[test]
fn a_status_of_the_version_before_is_read() {
    let stored = json!({
        "serving": "Backup",
        "target": "Primary",
        "switching": {"kind": "Move", "cause": "ProxyLeaving", "startedAt": "2026-11-01T10:00:00.000000Z"},
        "objectServer": "AGG_B",
        "since": "2026-11-01T09:00:00Z",
        "connections": 12,
        "primary": {"health": "Up", "connections": 2, "objectServer": "AGG_P", "since": "2026-11-01T09:30:00Z"},
        "backup": {"health": "Down", "cause": "ProxyLeaving", "connections": 10, "objectServer": "AGG_B"},
        "failback": {"waitingFor": ["the primary to be up"], "connectionsLeft": 2},
        "history": [{
            "kind": "Move",
            "to": "Backup",
            "cause": "ProxyLeaving",
            "startedAt": "2026-11-01T08:59:59.000000Z",
            "finishedAt": "2026-11-01T09:00:00.000000Z",
            "duration": "1s",
        }],
    });
    let status: ProxyPairStatus = serde_json::from_value(stored).unwrap();
    let switching = status.switching.as_ref().unwrap();
    assert_eq!(
        (switching.kind, switching.cause),
        (SwitchKind::Switchover, Some(Cause::ProxyTerminating))
    );
    assert_eq!(status.backup.as_ref().unwrap().cause, Some(Cause::ProxyTerminating));
    assert_eq!(status.failback.as_ref().unwrap().connections_remaining, 2);
    assert_eq!(status.history[0].kind, SwitchKind::Switchover);

    let written = serde_json::to_value(&status).unwrap();
    assert_eq!(written["switching"]["kind"], "Switchover");
    assert_eq!(written["history"][0]["cause"], "ProxyTerminating");
    assert_eq!(written["failback"]["connectionsRemaining"], 2);
    assert_eq!(written["failback"].get("connectionsLeft"), None);
}

#[test]
fn the_committed_crd_is_the_one_the_types_make() {
    let committed = include_str!("../../crds/proxypairs.yaml");
    let made = serde_saphyr::to_string(&definition()).unwrap();
    assert!(
        committed == made,
        "crds/proxypairs.yaml is out of date: run `make crds`"
    );
}
