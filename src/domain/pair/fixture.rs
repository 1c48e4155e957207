//! A valid pair for tests, with what the test is about merged into its spec.

use serde_json::{Value, json};

use super::Pair;
use crate::api::ProxyPair;

/// The shortest valid manifest, as an API server stores it, with `changes` merged into it.
pub fn manifest(changes: Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": "proxy-v", "namespace": "netcool", "uid": "1"},
        "spec": {
            "serverName": "PROXY_V",
            "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com"}},
            "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}},
        }
    });
    merge(&mut manifest, changes);
    manifest
}

/// The object of that manifest.
pub fn object(changes: Value) -> ProxyPair {
    serde_json::from_value(manifest(changes)).unwrap()
}

/// The shortest valid pair, with `spec` merged into its spec.
pub fn pair(spec: Value) -> Pair {
    Pair::validate(&object(json!({"spec": spec}))).unwrap()
}

/// Merges `from` into `into`, key by key (RFC 7386 without deletions).
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
