//! What users declare, and how they change it.

use fake_api_server::ApiServer;
use k8s_openapi::api::core::v1::Secret;
use proxypair::api::{AUTH_PASSWORD, AUTH_USER_NAME, ProxyPair, Side};
use serde_json::{Value, json};

use super::{
    faults::Edit,
    kubernetes::NAMESPACE,
    object_server,
    places::{host_of, server_name},
    plan::Plan,
    world::PAIR,
};

/// The Secret with the login of the checks.
pub const LOGIN: &str = "check";

fn millis(millis: u64) -> String {
    format!("{millis}ms")
}

/// The pair that a plan begins with.
fn pair(plan: &Plan) -> Value {
    let timing = plan.timing;
    let side = |name: &str, side| {
        json!({
            "serverName": name,
            "objectServer": {"name": server_name(side), "host": host_of(side), "port": object_server::PORT},
        })
    };
    let mut manifest = json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": PAIR, "namespace": NAMESPACE},
        "spec": {
            "serverName": "PROXY_V",
            "proxy": {"replicas": plan.replicas},
            "primary": side("PROXY_P", Side::Primary),
            "backup": side("PROXY_B", Side::Backup),
            "healthCheck": {
                "interval": millis(timing.interval),
                "unreachableAfter": millis(timing.unreachable_after),
                "unresponsiveAfter": millis(timing.unresponsive_after),
                "healthyAfter": millis(timing.healthy_after),
            },
            "failback": {
                "stableFor": millis(timing.stable_for),
                // There is no gateway.
                "resync": {"policy": "Ignored"},
                "drain": {"gracePeriod": "10s"},
            },
        },
    });
    if plan.has_login {
        manifest["spec"]["healthCheck"]["login"] = json!({"secretName": LOGIN, "allowPlaintextLogin": true});
    }
    manifest
}

/// Creates the pair.
pub fn declare(api: &ApiServer, plan: &Plan) {
    api.put::<ProxyPair>(&serde_json::from_value(pair(plan)).expect("a ProxyPair"));
}

/// Creates the Secret with the login of the checks, or writes it anew.
pub fn declare_login(api: &ApiServer, password: &str) {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": LOGIN, "namespace": NAMESPACE},
    });
    let mut secret: Secret = serde_json::from_value(secret).expect("a Secret");
    let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    secret.data = Some(
        [
            (AUTH_USER_NAME.to_owned(), bytes(object_server::USER)),
            (AUTH_PASSWORD.to_owned(), bytes(password)),
        ]
        .into(),
    );
    api.put(&secret);
}

/// Changes the pair, or changes back what may not stay. `number` makes edits differ from each other. Whether there is a pair.
pub fn edit(api: &ApiServer, plan: &Plan, edit: Edit, number: usize, back: bool) -> bool {
    if api.json::<ProxyPair>(NAMESPACE, PAIR).is_none() {
        return false;
    }
    let timing = plan.timing;
    let nth = u64::try_from(number).unwrap_or_default();
    let spec = match (edit, back) {
        (Edit::Interval, false) => json!({"healthCheck": {"interval": millis(timing.interval + 1 + nth)}}),
        (Edit::Timings, false) => json!({
            "healthCheck": {"healthyAfter": millis(timing.healthy_after / 2 + nth)},
            "failback": {"stableFor": millis(timing.stable_for / 2 + nth)},
        }),
        (Edit::NeverFailsBack, _) => json!({"failback": {"mode": if back { "Automatic" } else { "Never" }}}),
        (Edit::Replicas(replicas), false) => json!({"proxy": {"replicas": replicas}}),
        (Edit::Labels, false) => json!({"commonMetadata": {"labels": {"edit": nth.to_string()}}}),
        (Edit::Illegal, false) => json!({"healthCheck": {"unresponsiveAfter": "100ms"}}),
        (Edit::Unreadable, false) => json!({"healthCheck": {"unresponsiveAfter": {"never": true}}}),
        (Edit::Illegal | Edit::Unreadable, true) => {
            json!({"healthCheck": {"unresponsiveAfter": millis(timing.unresponsive_after)}})
        }
        (Edit::Interval | Edit::Timings | Edit::Replicas(_) | Edit::Labels, true) => return true,
    };
    api.merge::<ProxyPair>(NAMESPACE, PAIR, &json!({"spec": spec}));
    true
}
