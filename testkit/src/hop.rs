//! A stand-in for a hop of the network, in a pod of its own.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::{namespace::Namespace, stand_ins::pod};

/// The hop's port. Its readiness is a connection there, which it forwards.
const PORT: u16 = 8080;

/// What a client sends in a TLS handshake, and less than its first requests make of it.
const HANDSHAKE: usize = 2048;

/// Starts a hop that passes on what clients send after their handshake `delay` later; returns its address and port.
pub async fn start(namespace: &Namespace, name: &str, to: &str, delay: Duration) -> Result<(String, u16)> {
    let arguments = [
        format!("--listen=0.0.0.0:{PORT}"),
        format!("--to={to}"),
        format!("--delay={}ms", delay.as_millis()),
        format!("--undelayed={HANDSHAKE}"),
    ];
    let container = json!({"name": "hop", "command": ["/hop"], "args": arguments});
    namespace
        .apply::<Pod>(pod(name, json!({"app": name}), None, container))
        .await?;
    namespace.until_ready(name).await?;
    let pod = namespace.api::<Pod>().get(name).await?;
    let address = pod.status.and_then(|status| status.pod_ip);
    Ok((anyhow::Context::context(address, "the hop has no address")?, PORT))
}
