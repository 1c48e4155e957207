//! Nothing happens.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{core::v1::Namespace, core::v1::Service, flowcontrol::v1::FlowSchema};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use testkit::{
    stage::{SOON, Scene},
    wait::eventually,
};
use tokio::time::sleep;

/// How long nothing is to be written: many intervals of checks, and longer than the pause between two counts of sessions.
const QUIET: Duration = Duration::from_secs(15);

/// While probes send and nothing fails, the operator writes nothing but its Lease.
pub async fn writes_nothing(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let client = &scene.namespace.cluster.client;
    let counter = count_writes(client, &scene.namespace.name).await?;

    // The counter counts: what somebody changes by hand is put back.
    let services: Api<Service> = scene.namespace.api();
    let edit = json!({"metadata": {"labels": {"proxypair.dev/role": "edited"}}});
    eventually(SOON, "the API server counts this operator's writes", async || {
        services
            .patch("proxy-v-backup", &PatchParams::default(), &Patch::Merge(&edit))
            .await?;
        let count = writes(client, &counter).await?;
        ensure!(count > 0, "{count} writes");
        Ok(())
    })
    .await?;

    // The last of them may be under way still; each look is one quiet time of its own.
    eventually(SOON + QUIET * 2, "a quiet time without a write", async || {
        let before = writes(client, &counter).await?;
        sleep(QUIET).await;
        let more = writes(client, &counter).await? - before;
        ensure!(more == 0, "{more} writes within {QUIET:?}");
        Ok(())
    })
    .await?;
    stage.finish().await?;
    Ok(())
}

/// Has the API server count the writes of the operator in `namespace`, all but those of its Lease. The count goes with the namespace.
async fn count_writes(client: &Client, namespace: &str) -> Result<String> {
    let owner = Api::<Namespace>::all(client.clone()).get(namespace).await?;
    let owner = owner.owner_ref(&()).context("the namespace has no uid")?;
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": namespace, "ownerReferences": [owner]},
        "spec": {
            "matchingPrecedence": 500,
            "priorityLevelConfiguration": {"name": "workload-low"},
            "rules": [{
                "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": "proxypair"}}],
                "resourceRules": [{
                    "verbs": ["create", "update", "patch", "delete"],
                    "apiGroups": ["", "apps", "events.k8s.io", "policy", "proxypair.dev"],
                    "resources": ["*"],
                    "namespaces": ["*"],
                }],
            }],
        },
    });
    let schema: FlowSchema = serde_json::from_value(schema)?;
    Api::all(client.clone()).create(&PostParams::default(), &schema).await?;
    Ok(namespace.to_owned())
}

/// What the API server has counted.
async fn writes(client: &Client, counter: &str) -> Result<u64> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let label = format!("flow_schema=\"{counter}\"");
    let line = text
        .lines()
        .find(|line| line.starts_with("apiserver_flowcontrol_dispatched_requests_total{") && line.contains(&label));
    let Some((_, count)) = line.and_then(|line| line.rsplit_once(' ')) else {
        return Ok(0);
    };
    Ok(count.parse::<f64>()? as u64)
}
