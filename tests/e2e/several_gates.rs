//! One of two gates of the primary fails or is taken away: its probes go to the other one, on the same ObjectServer, and nothing is switched.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{EvictParams, Patch, PatchParams},
};
use proxypair::api::{GateStatus, Health, ProxyPair, ProxyPairStatus, Side};
use serde_json::{Value, json};
use testkit::{
    manifest::merge,
    pair::{expect_history, serves},
    site::{Site, WhenGone},
    stage::{SOON, Scene, Setting, Stage},
    wait::eventually,
};

/// The label with a node's name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Where everything is that is not cut off.
const SAFE: &str = "node1";
/// Where one gate of the primary is.
const CUT: &str = "node3";
/// How long a rollout of both sides may take: four pods, one after the other, each with its drain.
const ROLLED: Duration = Duration::from_secs(120);

fn setting(spec: Value) -> Setting {
    let mut with_two = json!({"proxy": {"replicas": 2}});
    merge(&mut with_two, &spec);
    Setting {
        spec: with_two,
        ..Setting::default()
    }
}

/// Its process killed, its probes connect to the other gate; when the container runs again, new connections lead to it.
pub async fn process_killed(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting(json!({}))).await?;
    let gate = busiest(&stage).await?;
    stage.fleet.mark("killed").await?;
    scene
        .namespace
        .cluster
        .signal(&scene.namespace.name, &gate, "KILL")
        .await?;
    until_taken_out(&stage, &gate).await?;
    stays(&scene, &stage, "killed").await?;
    let held = stage.held().await?;
    until_both_are_in(&stage).await?;
    stage.pair.until_protected(SOON).await?;
    expect_history(&stage.pair.status().await?, &[])?;
    stage.finish().await?.expect_no_duplicates_beside(&held)
}

/// Evicted, as by the drain of a node, it drains into the other one: nothing is lost, and nothing is sent twice.
pub async fn evicted(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting(json!({}))).await?;
    leaves_in_order(&scene, stage).await
}

/// With the user's proxy server in each, the same.
pub async fn evicted_with_proxyserv(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site::with_proxyserv(WhenGone::Stays)),
        ..setting(json!({}))
    };
    let stage = scene.set_with(&setting).await?;
    leaves_in_order(&scene, stage).await
}

async fn leaves_in_order(scene: &Scene, stage: Stage<'_>) -> Result<()> {
    let gate = busiest(&stage).await?;
    stage.fleet.mark("evicted").await?;
    scene
        .namespace
        .api::<Pod>()
        .evict(&gate, &EvictParams::default())
        .await?;
    until_taken_out(&stage, &gate).await?;
    eventually(SOON, format!("{gate} has drained and ended"), async || {
        let pods = stage.pair.pods(Side::Primary).await?;
        ensure!(!pods.iter().any(|pod| pod.name_any() == gate), "it is still there");
        Ok(())
    })
    .await?;
    stays(scene, &stage, "evicted").await?;
    stage.pair.until_protected(SOON).await?;
    expect_history(&stage.pair.status().await?, &[])?;
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}

/// A changed template replaces the gates of both sides one after the other, and no probe ever leaves its ObjectServer.
pub async fn rolled_out(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting(json!({}))).await?;
    let before: Vec<_> = names(&stage).await?;
    stage.fleet.mark("rolled").await?;
    let edit = json!({"spec": {"proxy": {"podAnnotations": {"example.com/rolled": "yes"}}}});
    scene
        .namespace
        .api::<ProxyPair>()
        .patch(&stage.pair.name, &PatchParams::default(), &Patch::Merge(&edit))
        .await?;
    eventually(ROLLED, "every pod is a new one", async || {
        let now = names(&stage).await?;
        ensure!(
            now.len() == 4 && !now.iter().any(|name| before.contains(name)),
            "{now:?}"
        );
        Ok(())
    })
    .await?;
    stays(&scene, &stage, "rolled").await?;
    stage.pair.until_protected(ROLLED).await?;
    expect_history(&stage.pair.status().await?, &[])?;
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}

/// The node of one gate loses its network. Probes that wait for ever by themselves are on the other gate soon, by the agents of their nodes, and
/// the dead address is no endpoint any more although its node never answers again.
pub async fn node_cut_off(scene: Arc<Scene>) -> Result<()> {
    let on = |nodes: Value| json!([{"key": HOSTNAME, "operator": "In", "values": nodes}]);
    let apart = json!({
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": on(json!([SAFE, CUT]))}],
        }},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"proxypair.dev/side": "primary"}},
            "topologyKey": HOSTNAME,
        }]},
    });
    let spec = json!({
        "primary": {"proxy": {"affinity": apart}},
        "backup": {"proxy": {"replicas": 1, "nodeSelector": {HOSTNAME: "node2"}}},
    });
    let stage = scene
        .set_with(&Setting {
            nodes: Some(SAFE),
            node_agents: true,
            operator: json!({"nodeSelector": {HOSTNAME: SAFE}}),
            ..setting(spec)
        })
        .await?;
    until_shared_out(&stage).await?;
    let on_cut = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(CUT);
    let pods = stage.pair.pods(Side::Primary).await?;
    let gate = pods
        .iter()
        .find(|pod| on_cut(pod))
        .context("no gate is there")?
        .name_any();
    stage.fleet.mark("cut").await?;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    until_taken_out(&stage, &gate).await?;
    stays(&scene, &stage, "cut").await?;
    expect_history(&stage.pair.status().await?, &[])?;
    let held = stage.held().await?;
    drop(cut);
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.pair.until_protected(SOON).await?;
    stage.finish().await?.expect_no_duplicates_beside(&held)
}

async fn names(stage: &Stage<'_>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for side in Side::BOTH {
        let living = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        let pods = stage.pair.pods(side).await?;
        names.extend(pods.iter().filter(|pod| living(pod)).map(ResourceExt::name_any));
    }
    Ok(names)
}

fn gates(status: &ProxyPairStatus) -> &[GateStatus] {
    status.side(Side::Primary).map_or(&[], |side| &side.gates)
}

/// The gate of the primary that has the most sessions. It may have all: the rules of a node follow the EndpointSlices a moment later, and probes that
/// connect in that moment meet the gate that was ready first.
async fn busiest(stage: &Stage<'_>) -> Result<String> {
    let has_sessions = |status: &ProxyPairStatus| gates(status).iter().any(|gate| gate.connections > 0);
    let status = stage
        .pair
        .until("a gate of the primary has sessions", SOON, has_sessions)
        .await?;
    let busiest = gates(&status).iter().max_by_key(|gate| gate.connections);
    Ok(busiest.map(|gate| gate.pod.clone()).unwrap_or_default())
}

/// Both gates of the primary have sessions.
async fn until_shared_out(stage: &Stage<'_>) -> Result<()> {
    let what = "both gates of the primary have sessions";
    stage
        .pair
        .until(what, SOON, |status| {
            let gates = gates(status);
            gates.len() == 2 && gates.iter().all(|gate| gate.connections > 0)
        })
        .await
        .map(drop)
}

async fn until_taken_out(stage: &Stage<'_>, gate: &str) -> Result<()> {
    let what = format!("{gate} is taken out");
    stage
        .pair
        .until(&what, SOON, |status| {
            let known = gates(status).iter().find(|known| known.pod == gate);
            known.is_none_or(|known| !known.routed)
        })
        .await
        .map(drop)
}

async fn until_both_are_in(stage: &Stage<'_>) -> Result<()> {
    let what = "both gates of the primary are up and led to";
    stage
        .pair
        .until(what, SOON, |status| {
            let is_in = |gate: &&GateStatus| gate.routed && gate.health == Health::Up;
            gates(status).iter().filter(is_in).count() == 2
        })
        .await
        .map(drop)
}

/// Every probe is on the primary's ObjectServer, which serves. Says how long the longest gap was.
async fn stays(scene: &Scene, stage: &Stage<'_>, mark: &str) -> Result<()> {
    stage
        .fleet
        .until_all_on(stage.met_by_probes(Side::Primary), SOON)
        .await?;
    let status = stage.pair.status().await?;
    ensure!(serves(&status, Side::Primary), "{}", serde_json::to_string(&status)?);
    let gap = stage.fleet.longest_gap(mark).await?;
    scene.say(format_args!("{mark}: the longest gap was {} ms", gap.as_millis()));
    Ok(())
}
