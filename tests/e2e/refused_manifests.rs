//! Manifests that contradict themselves, on the real API server: each breaks one rule and is refused with the words that say what to write.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use proxypair::api::ProxyPair;
use serde_json::{Value, json};
use testkit::{namespace::TESTER, stage::Scene};

/// What is changed in a valid manifest (a JSON pointer and the value), and what the refusal says.
fn mistakes() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "/metadata/name",
            json!("proxy-v.with.dots"),
            "metadata.name becomes a Service",
        ),
        (
            "/spec/serverName",
            json!("proxy_v"),
            "write a server name as OMNIbus allows it",
        ),
        (
            "/spec/serverName",
            json!("PROXY_P"),
            "serverName is the virtual pair's name",
        ),
        (
            "/spec/backup/serverName",
            json!("PROXY_P"),
            "primary.serverName and backup.serverName are the same",
        ),
        (
            "/spec/primary/serverName",
            json!("9PROXY"),
            "write a server name as OMNIbus allows it",
        ),
        (
            "/spec/backup/objectServer/name",
            json!("AGG_P"),
            "primary and backup name the same ObjectServer",
        ),
        (
            "/spec/backup/objectServer/name",
            json!("PROXY_V"),
            "an ObjectServer and a proxy have the same name",
        ),
        (
            "/spec/backup/objectServer/host",
            json!("aggp.example.com"),
            "primary and backup have the same ObjectServer address",
        ),
        (
            "/spec/primary/objectServer/host",
            json!("aggp.example.com:4100"),
            "write a host name or an IP address without port",
        ),
        (
            "/spec/primary/objectServer/port",
            json!(65536),
            "spec.primary.objectServer.port",
        ),
        (
            "/spec/primary/objectServer/port",
            json!(0),
            "spec.primary.objectServer.port",
        ),
        (
            "/spec/service",
            json!({"loadBalancerClass": "example.com/lb"}),
            "loadBalancerClass goes with type LoadBalancer",
        ),
        (
            "/spec/service",
            json!({"nodePort": 30000}),
            "nodePort goes with type NodePort or LoadBalancer",
        ),
        ("/spec/service", json!({"type": "ExternalName"}), "Unsupported value"),
        (
            "/spec/healthCheck",
            json!({"interval": "10ms"}),
            "interval must lie between 100ms and 1m",
        ),
        (
            "/spec/healthCheck",
            json!({"interval": "1 second"}),
            "spec.healthCheck.interval",
        ),
        (
            "/spec/healthCheck",
            json!({"unreachableAfter": "20s"}),
            "unreachableAfter must not exceed unresponsiveAfter",
        ),
        (
            "/spec/healthCheck",
            json!({"unresponsiveAfter": "1s"}),
            "unresponsiveAfter must be at least 2s and at least twice the interval",
        ),
        (
            "/spec/failback",
            json!({"drain": {"gracePeriod": "0s"}}),
            "drain.gracePeriod must lie between 1s and 10m",
        ),
        (
            "/spec/failback",
            json!({"drain": {"connectionsPerSecond": 0}}),
            "connectionsPerSecond",
        ),
        ("/spec/failback", json!({"mode": "Sometimes"}), "Unsupported value"),
        (
            "/spec/proxy",
            json!({"podLabels": {"proxypair.dev/side": "backup"}}),
            "are the operator's: use a prefix of your own",
        ),
        (
            "/spec/proxy",
            json!({"podAnnotations": {"proxypair.dev/template": "x"}}),
            "are the operator's: use a prefix of your own",
        ),
        ("/spec/proxy", json!({"engine": "Haproxy"}), "Unsupported value"),
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv"}),
            "engine Proxyserv needs the image",
        ),
        (
            "/spec/proxy",
            json!({"secretName": "netcool-proxy"}),
            "are for nco_proxyserv: set proxy.engine: Proxyserv or leave them out",
        ),
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv", "image": "example.com/nco", "properties": {"RemoteServer": "AGG_P"}}),
            "RemoteServer is the operator's",
        ),
        // The API server knows the names and types of all properties.
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv", "image": "example.com/nco", "properties": {"PollServer": 10}}),
            "PollServer",
        ),
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv", "image": "example.com/nco", "properties": {"Ipc.Timeout": "60"}}),
            "Ipc.Timeout",
        ),
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv", "image": "example.com/nco", "properties": {"ConnectionRatio": 0}}),
            "ConnectionRatio",
        ),
        (
            "/spec/proxy",
            json!({"tls": {}}),
            "tls.mode Terminate needs tls.secretName",
        ),
        (
            "/spec/primary/proxy",
            json!({"tls": {"secretName": "proxy-p-tls"}}),
            "give both sides tls",
        ),
        (
            "/spec/primary/objectServer/tls",
            json!({"caBundle": {}}),
            "write either caBundle.configMapName or caBundle.secretName",
        ),
        ("/spec/primary", Value::Null, "spec.primary"),
        // A field that does nothing is not taken in silence.
        ("/spec/proxy", json!({"nodeSelektor": {}}), "nodeSelektor"),
    ]
}

fn valid() -> Value {
    let side = |proxy: &str, server: &str, host: &str| {
        json!({
            "serverName": proxy,
            "objectServer": {"name": server, "host": host, "port": 4100},
        })
    };
    json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": "proxy-v"},
        "spec": {
            "serverName": "PROXY_V",
            "primary": side("PROXY_P", "AGG_P", "aggp.example.com"),
            "backup": side("PROXY_B", "AGG_B", "aggb.example.com"),
        },
    })
}

/// Each mistake alone is refused; the manifest without it is not.
pub async fn are_refused(scene: Arc<Scene>) -> Result<()> {
    let kind = ApiResource::erase::<ProxyPair>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(scene.namespace.cluster.client.clone(), &scene.namespace.name, &kind);
    let strict = PatchParams::apply(TESTER).dry_run().validation_strict();
    let apply = async |manifest: Value| {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        api.patch(&name, &strict, &Patch::Apply(manifest)).await
    };
    apply(valid()).await?;
    let mut wrong = Vec::new();
    let mistakes = mistakes();
    for (pointer, value, words) in &mistakes {
        let mut manifest = valid();
        set(&mut manifest, pointer, value.clone());
        match apply(manifest).await {
            Ok(_) => wrong.push(format!("{pointer} = {value} is accepted")),
            Err(error) if !format!("{error:#}").contains(words) => {
                wrong.push(format!("{pointer} = {value}: {error:#}"))
            }
            Err(_) => {}
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.say(format_args!("{} mistakes were refused", mistakes.len()));
    Ok(())
}

fn set(manifest: &mut Value, pointer: &str, value: Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(Value::Object(parent)) = manifest.pointer_mut(parent) {
        parent.insert(key.to_owned(), value);
    }
}
