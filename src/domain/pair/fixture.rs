//! A valid pair for tests, with what the test is about merged into its spec.

use serde_json::{Value, json};

use super::Pair;

/// The shortest valid pair, with `spec` over it.
pub fn pair(spec: Value) -> Pair {
    let mut object = json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": "proxy-v", "namespace": "netcool", "uid": "1"},
        "spec": {
            "serverName": "PROXY_V",
            "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com"}},
            "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}},
        }
    });
    merge(&mut object["spec"], spec);
    Pair::validate(&serde_json::from_value(object).unwrap()).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
