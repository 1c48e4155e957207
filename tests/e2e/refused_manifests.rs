//! Manifests with one mistake each: a real API server refuses them with the message of the rule, or names the field that
//! the schema refuses.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use proxypair::api::{ProxyPair, rules};
use serde_json::{Value, json};
use testkit::{namespace::TESTER, stage::Scene};

/// What is changed in a valid manifest (a JSON pointer and the value), and what the refusal says.
fn mistakes() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/metadata/name", json!("proxy-v.with.dots"), rules::pair_name().message),
        ("/spec/serverName", json!("proxy_v"), rules::server_name().message),
        ("/spec/serverName", json!("PROXY_P"), rules::virtual_name().message),
        (
            "/spec/backup/serverName",
            json!("PROXY_P"),
            rules::two_proxy_names().message,
        ),
        (
            "/spec/primary/serverName",
            json!("9PROXY"),
            rules::server_name().message,
        ),
        (
            "/spec/backup/objectServer/name",
            json!("AGG_P"),
            rules::two_object_servers().message,
        ),
        (
            "/spec/backup/objectServer/name",
            json!("PROXY_V"),
            rules::object_server_names().message,
        ),
        (
            "/spec/backup/objectServer/host",
            json!("aggp.example.com"),
            rules::two_addresses().message,
        ),
        (
            "/spec/primary/objectServer/host",
            json!("aggp.example.com:4100"),
            rules::host().message,
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
            rules::load_balancer_class().message,
        ),
        ("/spec/service", json!({"nodePort": 30000}), rules::node_port().message),
        ("/spec/service", json!({"type": "ExternalName"}), "Unsupported value"),
        (
            "/spec/healthCheck",
            json!({"interval": "10ms"}),
            rules::interval().message,
        ),
        (
            "/spec/healthCheck",
            json!({"interval": "1 second"}),
            "spec.healthCheck.interval",
        ),
        (
            "/spec/healthCheck",
            json!({"unreachableAfter": "20s"}),
            rules::unreachable_after().message,
        ),
        (
            "/spec/healthCheck",
            json!({"unresponsiveAfter": "1s"}),
            rules::unresponsive_after().message,
        ),
        (
            "/spec/failback",
            json!({"drain": {"gracePeriod": "0s"}}),
            rules::grace_period().message,
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
            rules::labels().message,
        ),
        (
            "/spec/proxy",
            json!({"podAnnotations": {"proxypair.dev/template": "x"}}),
            rules::annotations().message,
        ),
        ("/spec/proxy", json!({"engine": "Haproxy"}), "Unsupported value"),
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv"}),
            rules::proxyserv_needs_image().message,
        ),
        (
            "/spec/proxy",
            json!({"secretName": "netcool-proxy"}),
            rules::relay_without_proxyserv_fields().message,
        ),
        (
            "/spec/proxy",
            json!({"engine": "Proxyserv", "image": "example.com/nco", "properties": {"RemoteServer": "AGG_P"}}),
            rules::property_remote_server().message,
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
            rules::terminate_needs_secret().message,
        ),
        (
            "/spec/primary/proxy",
            json!({"tls": {"secretName": "proxy-p-tls"}}),
            rules::tls_on_both_sides().message,
        ),
        (
            "/spec/primary/objectServer/tls",
            json!({"caBundle": {}}),
            rules::one_ca_bundle().message,
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
                wrong.push(format!("{pointer} = {value}: {error:#}"));
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
