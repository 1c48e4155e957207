//! From the status of a ProxyPair to the kernel.

use std::thread;

use fake_api_server::ApiServer;
use k8s_openapi::api::core::v1::Service;
use proxypair::{
    agent::{
        metrics::{AgentMetrics, labels},
        reset,
        watch::{Known, follow},
    },
    api::ProxyPair,
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use crate::{
    is_reset,
    node::{DEADLINE, LIVING, LIVING_V6, LOST, SERVICE, connect, in_namespace, lead_to, listen, lose, node},
    runtime, target,
};

/// A pair that serves from the backup, and what it declares lost.
fn pair(lost: &Value) -> ProxyPair {
    serde_json::from_value(json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": "proxy-v", "namespace": "netcool"},
        "spec": {
            "serverName": "PROXY_V",
            "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com"}},
            "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}},
        },
        "status": {"serving": "Backup", "lostGates": lost},
    }))
    .unwrap()
}

fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": {
            "name": "proxy-v",
            "namespace": "netcool",
            "labels": {"app.kubernetes.io/managed-by": "proxypair", "proxypair.dev/pair": "proxy-v"},
        },
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 4100}]},
    }))
    .unwrap()
}

#[test]
fn sessions_stay_until_their_gate_is_declared_lost_and_end_then() {
    in_namespace(|| {
        node();
        let _listeners = [listen(LOST, 4400), listen(LIVING, 4400)];
        let (mut first, mut second) = (connect(SERVICE), connect(SERVICE));
        lose();
        lead_to(LIVING, LIVING_V6);
        runtime().block_on(async {
            let server = ApiServer::new();
            server.put(&pair(&json!([])));
            server.put(&service());
            let metrics = AgentMetrics::default();
            let (known_in, mut known) = watch::channel(Known::nothing(Instant::now()));
            let agent = tokio::spawn(reset::run(known.clone(), metrics.clone(), watch::Sender::new(None)));
            let watch = tokio::spawn(follow(server.client(), None, known_in, metrics.clone()));
            let seen = tokio::time::timeout(DEADLINE, known.wait_for(|known| known.blind.is_none())).await;
            assert!(seen.unwrap().unwrap().targets.is_empty());
            assert_eq!(metrics.dumps.get(), 0);

            server.put(&pair(&json!([{
                "side": "Primary", "pod": "proxy-v-primary-0", "address": LOST, "since": "2026-12-01T06:00:00Z",
            }])));
            let ends = tokio::task::spawn_blocking(move || {
                thread::scope(|threads| {
                    let first = threads.spawn(|| is_reset(&mut first));
                    is_reset(&mut second) && first.join().unwrap()
                })
            });
            assert!(ends.await.unwrap(), "a probe stayed");
            let reset = metrics.sessions_reset.get_or_create(&labels(&target().pair)).get();
            assert_eq!(reset, 2);

            server.put(&pair(&json!([])));
            let seen = tokio::time::timeout(DEADLINE, known.wait_for(|known| known.targets.is_empty())).await;
            seen.unwrap().unwrap();
            agent.abort();
            watch.abort();
        });
    });
}
