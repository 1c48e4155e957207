//! ProxyPairs that cannot be acted on stand beside a healthy one.
//!
//! The definition lets nothing through that the operator cannot read, but for one hole in the API server's own check of times: it takes
//! `23:59:59+99:99` for a time with an offset. An object with such a time in its status is stored, and no client that knows what a time is
//! can read it: that is the malformed pair here. It needs no change of the definition, which all tests on a cluster share.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use proxypair::api::{ProxyPair, Side};
use serde_json::{Value, json};
use testkit::{
    pair::{self, Pair, condition},
    stage::{SOON, Scene, Stage},
    wait::eventually,
};

fn manifest(stage: &Stage<'_>, name: &str) -> Value {
    pair::manifest(name, &stage.agg_p, &stage.agg_b)
}

/// An operator that starts with a pair that it cannot read looks after the others, and takes up that one when it can be read again.
pub async fn unreadable(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let broken = Pair::apply(&scene.namespace, manifest(&stage, "broken")).await?;
    broken.until_protected(Duration::from_secs(60)).await?;
    let kind = ApiResource::erase::<ProxyPair>(&());
    let raw: Api<DynamicObject> =
        Api::namespaced_with(scene.namespace.cluster.client.clone(), &scene.namespace.name, &kind);
    let set_since = async |since: &str| {
        let patch = Patch::Merge(json!({"status": {"since": since}}));
        raw.patch_status("broken", &PatchParams::default(), &patch).await
    };
    // The operator may write the status once more with what it had read before.
    eventually(SOON, "the pair can no longer be read", async || {
        set_since("2024-06-30T23:59:59+99:99").await?;
        let read = broken.api().get("broken").await;
        ensure!(read.is_err(), "it is as if nothing had happened");
        Ok(())
    })
    .await?;
    stage.operator.kill_leader().await?;
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    ensure!(
        broken.api().get("broken").await.is_err(),
        "the operator has written what it could not read"
    );

    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;

    set_since("2024-06-30T23:59:59Z").await?;
    broken.until_serving(Side::Backup, SOON).await?;
    stage.finish().await.map(drop)
}

/// A pair whose children's names are taken says so, touches nothing, and works when the name is free; one whose ObjectServers have no
/// address says so too. The healthy one notices nothing.
pub async fn name_taken_or_no_address(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let foreign = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken", "labels": {"whose": "somebody-else"}},
        "spec": {"selector": {"app": "other"}, "ports": [{"name": "http", "port": 80}]},
    });
    let before: Service = scene.namespace.apply(foreign).await?;
    let taken = Pair::apply(&scene.namespace, manifest(&stage, "taken")).await?;
    let mut nowhere = manifest(&stage, "nowhere");
    nowhere["spec"]["primary"]["objectServer"]["host"] = json!("aggp.nowhere.invalid");
    nowhere["spec"]["backup"]["objectServer"]["host"] = json!("aggb.nowhere.invalid");
    let nowhere = Pair::apply(&scene.namespace, nowhere).await?;

    taken
        .until("says that the name is taken", SOON, |status| {
            status
                .conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.reason == "NameTaken")
        })
        .await?;
    let services: Api<Service> = scene.namespace.api();
    let now = services.get("taken").await?;
    ensure!(
        now.spec == before.spec && now.metadata.labels == before.metadata.labels,
        "somebody else's Service was changed"
    );
    let status = nowhere
        .until("is not ready", SOON, |status| condition(status, "Ready") == "False")
        .await?;
    scene.say(format_args!(
        "nowhere: {:?}",
        status.primary.and_then(|side| side.message)
    ));

    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;

    services.delete("taken", &kube::api::DeleteParams::default()).await?;
    taken.until_serving(Side::Backup, Duration::from_secs(60)).await?;
    stage.finish().await.map(drop)
}
