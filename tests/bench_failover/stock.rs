//! What Kubernetes does about a lost node by itself: how long its endpoint stays among the ready ones of a plain Service.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::ListParams;
use serde_json::json;
use testkit::{stand_ins, wait::eventually};

use crate::stage::{CUT, OTHER, Stage};

/// How long to wait for it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Cuts the node, and gives the time until its endpoint has left.
pub async fn lost_node(stage: &Stage) -> Result<Duration> {
    let namespace = &stage.namespace;
    let labels = json!({"app": "stock"});
    namespace
        .apply::<Service>(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "stock"},
            "spec": {"selector": labels, "ports": [{"name": "api", "port": 8080}]},
        }))
        .await?;
    for node in [CUT, OTHER] {
        let name = format!("stock-{node}");
        let container = json!({
            "name": "objectserver",
            "command": ["/objectserver"],
            "args": ["--name=STOCK", "--listen=0.0.0.0:4100", "--data=/data", "--agent-listen=0.0.0.0:8080"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        });
        let pod = stand_ins::pod(&name, labels.clone(), Some(node), container);
        namespace.apply::<Pod>(pod).await?;
        namespace.until_ready(&name).await?;
    }
    until_ready_on(stage, &[CUT, OTHER]).await?;
    let cut = namespace.cluster.cut_node(CUT).await?;
    let began = Instant::now();
    let left = until_ready_on(stage, &[OTHER]).await;
    let took = began.elapsed();
    tokio::task::spawn_blocking(move || drop(cut)).await?;
    left?;
    stage.until_home(PATIENCE).await?;
    Ok(took)
}

/// Waits until the Service has ready endpoints on just these nodes.
async fn until_ready_on(stage: &Stage, wanted: &[&str]) -> Result<()> {
    let slices = stage.namespace.api::<EndpointSlice>();
    let ours = ListParams::default().labels("kubernetes.io/service-name=stock");
    eventually(PATIENCE, format!("ready endpoints on {wanted:?}"), async || {
        let mut nodes = Vec::new();
        for endpoint in slices.list(&ours).await?.into_iter().flat_map(|slice| slice.endpoints) {
            let ready = endpoint.conditions.and_then(|conditions| conditions.ready) == Some(true);
            nodes.extend(endpoint.node_name.filter(|_| ready));
        }
        ensure!(
            nodes.len() == wanted.len() && wanted.iter().all(|node| nodes.iter().any(|found| found == node)),
            "ready on {nodes:?}"
        );
        Ok(())
    })
    .await
}
