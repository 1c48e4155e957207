//! The node with the primary's proxy loses its network, and perhaps the operator's leader with it.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use proxypair::api::{Cause, Side};
use serde_json::{Value, json};
use testkit::{
    pair::expect_there_and_back,
    stage::{SOON, Scene, Setting, Stage},
    stand_ins::FleetOptions,
};

/// The label with a node's name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Where everything is that is not cut off.
const SAFE: &str = "node1";
/// Where the primary's proxy is.
const CUT: &str = "node3";

/// The probes, which must give up a silent session by themselves, go on with the backup; when the node is back, all come home.
pub async fn fails_over(scene: Arc<Scene>) -> Result<()> {
    let stage = scene
        .set_with(&setting(json!({"nodeSelector": {HOSTNAME: SAFE}})))
        .await?;
    there_and_back(&scene, stage).await
}

/// The same when the leader is lost with the node: the standby waits for the end of the lease, then gathers evidence of its own.
pub async fn fails_over_without_its_leader(scene: Arc<Scene>) -> Result<()> {
    let one_each = json!({"affinity": {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [SAFE, CUT]}]},
        ]}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}}, "topologyKey": HOSTNAME},
        ]},
    }});
    let stage = scene.set_with(&setting(one_each)).await?;
    let pods = scene.namespace.api::<Pod>();
    let leader = stage.operator.leader().await?;
    if pods
        .get(&leader.pod)
        .await?
        .spec
        .and_then(|spec| spec.node_name)
        .as_deref()
        != Some(CUT)
    {
        pods.delete(&leader.pod, &DeleteParams::default()).await?;
        stage.operator.until_led_by_another_than(&leader, SOON).await?;
        stage.operator.until_complete(SOON).await?;
        stage.pair.until_protected(SOON).await?;
    }
    let leader = stage.operator.leader().await?;
    let node = pods.get(&leader.pod).await?.spec.and_then(|spec| spec.node_name);
    ensure!(node.as_deref() == Some(CUT), "the leader is on {node:?}");
    there_and_back(&scene, stage).await
}

/// `operator` goes into the chart's values.
fn setting(operator: Value) -> Setting {
    let on = |node: &str| json!({"proxy": {"nodeSelector": {HOSTNAME: node}}});
    Setting {
        spec: json!({"primary": on(CUT), "backup": on("node2")}),
        nodes: Some(SAFE),
        operator,
        fleet: FleetOptions {
            network_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            ..FleetOptions::default()
        },
        ..Setting::default()
    }
}

async fn there_and_back(scene: &Scene, stage: Stage<'_>) -> Result<()> {
    stage.fleet.mark("failover").await?;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let status = stage.pair.status().await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(cause == Some(Cause::ProxyUnresponsive), "the cause is {cause:?}");
    let held = stage.held().await?;

    drop(cut);
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.finish().await?.expect_no_duplicates_beside(&held)
}
