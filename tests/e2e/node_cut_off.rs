//! The node with the primary's proxy loses its network, and perhaps the operator's leader with it.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use proxypair::api::{Cause, Side};
use serde_json::{Value, json};
use testkit::{
    pair::expect_there_and_back,
    stage::{SOON, Scene, Setting, Stage},
    stand_ins::FleetOptions,
};
use tokio::time::Instant;

/// The label with a node's name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Where everything is that is not cut off.
const SAFE: &str = "node1";
/// Where the primary's proxy is.
const CUT: &str = "node3";
/// How long the probes of these tests wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

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

/// Probes as they are out of the box, which wait for ever for an answer: the agents of their nodes end their sessions, as soon as the Service has
/// been switched. The node is given back only when every probe is on the backup.
pub async fn fails_over_with_agents(scene: Arc<Scene>) -> Result<()> {
    let stage = scene
        .set_with(&Setting {
            node_agents: true,
            fleet: FleetOptions::default(),
            ..setting(json!({"nodeSelector": {HOSTNAME: SAFE}}))
        })
        .await?;
    stage.fleet.mark("failover").await?;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    stage.pair.until_serving(Side::Backup, SOON).await?;
    let switched = Instant::now();
    stage.until_moved(Side::Backup, "failover").await?;
    scene.say(format_args!(
        "every probe is on the backup {} ms after status has said that the backup serves",
        switched.elapsed().as_millis()
    ));
    let lost = stage.pair.status().await?.lost_gates;
    ensure!(
        matches!(lost.as_slice(), [gate] if gate.side == Side::Primary && gate.node.as_deref() == Some(CUT)),
        "declared lost: {lost:?}"
    );
    let held = stage.held().await?;
    drop(cut);
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    expect_there_and_back(&stage.pair.until_protected(SOON).await?)?;
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.finish().await?.expect_no_duplicates_beside(&held)
}

/// With the timings of the shortest manifest: a machine of which neither the operator nor the backup's gate sees anything is not waited for as long as
/// for a server that is slow.
pub async fn fails_over_long_before_unresponsive_after(scene: Arc<Scene>) -> Result<()> {
    let mut setting = Setting {
        node_agents: true,
        fleet: FleetOptions::default(),
        ..setting(json!({"nodeSelector": {HOSTNAME: SAFE}}))
    };
    setting.spec["healthCheck"] = json!({
        "interval": "1s", "unreachableAfter": "1s", "unresponsiveAfter": "15s", "healthyAfter": "5s",
    });
    let stage = scene.set_with(&setting).await?;
    stage.fleet.mark("failover").await?;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    stage.pair.until_serving(Side::Backup, Duration::from_secs(10)).await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let held = stage.held().await?;
    drop(cut);
    stage.fleet.mark("failback").await?;
    stage.until_moved_within(Side::Primary, "failback", 2 * SOON).await?;
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.finish().await?.expect_no_duplicates_beside(&held)
}

/// Without agents they stay on the lost gate, and status says so, until the node is back.
pub async fn strands_probes_without_agents(scene: Arc<Scene>) -> Result<()> {
    let stage = scene
        .set_with(&Setting {
            fleet: FleetOptions::default(),
            ..setting(json!({"nodeSelector": {HOSTNAME: SAFE}}))
        })
        .await?;
    let probes = stage.fleet.report().await?.totals.sessions;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    stage.pair.until_serving(Side::Backup, SOON).await?;
    stage
        .pair
        .until("it is said that sessions hang", SOON, |status| {
            let ready = status.conditions.iter().find(|known| known.type_ == "Ready");
            ready.is_some_and(|ready| ready.status == "False" && ready.reason == "GateLost")
        })
        .await?;
    let lost = stage.pair.status().await?.lost_gates;
    let hanging = u64::try_from(lost.first().map_or(0, |gate| gate.connections))?;
    ensure!(
        probes.values().sum::<u64>() == hanging,
        "the probes had {probes:?} sessions, declared lost are {lost:?}"
    );
    stage.fleet.mark("failback").await?;
    drop(cut);
    stage.until_moved(Side::Primary, "failback").await?;
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.finish().await.map(drop)
}

/// The node is not given back: the primary's pod stays as an endpoint until the operator deletes it without grace, and the failback goes to its
/// successor on another node. No connection goes to the dead address meanwhile.
pub async fn fails_back_without_it(scene: Arc<Scene>) -> Result<()> {
    let nodes: Api<Node> = Api::all(scene.namespace.cluster.client.clone());
    let mut setting = setting(json!({"nodeSelector": {HOSTNAME: SAFE}}));
    // At first there, and elsewhere when that node takes no pod.
    let on = |operator: &str, nodes: Value| json!([{"key": HOSTNAME, "operator": operator, "values": nodes}]);
    setting.spec["primary"] = json!({"proxy": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": on("In", json!([SAFE, CUT]))}],
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchExpressions": on("In", json!([CUT]))}},
        ],
    }}}});
    let stage = scene.set_with(&setting).await?;
    // The scheduler learns only after 40 s that the node is lost.
    set_unschedulable(&nodes, true).await?;
    let outcome = there_and_back_elsewhere(&scene, stage).await;
    set_unschedulable(&nodes, false).await?;
    outcome
}

async fn set_unschedulable(nodes: &Api<Node>, unschedulable: bool) -> Result<()> {
    let patch = json!({"spec": {"unschedulable": unschedulable}});
    nodes.patch(CUT, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn there_and_back_elsewhere(scene: &Scene, stage: Stage<'_>) -> Result<()> {
    stage.fleet.mark("failover").await?;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let held = stage.held().await?;
    stage.fleet.mark("failback").await?;
    let gap = stage.until_moved(Side::Primary, "failback").await?;
    // A probe that is routed to the dead address waits for its connect timeout at the least.
    ensure!(
        gap < CONNECT_TIMEOUT,
        "a probe waited for {gap:?}: connections went to the dead address"
    );
    expect_there_and_back(&stage.pair.until_protected(SOON).await?)?;
    drop(cut);
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.finish().await?.expect_no_duplicates_beside(&held)
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
            connect_timeout: CONNECT_TIMEOUT,
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
