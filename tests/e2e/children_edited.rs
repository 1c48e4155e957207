//! Somebody changes or deletes what the operator made.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use proxypair::api::{Cause, LABEL_SIDE, Side};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::{
    stage::{SOON, Scene},
    wait::eventually,
};

/// How long kubelet may take to bring a changed Secret to a pod, with its stock settings, and the pair to be well after that.
const KUBELET: Duration = Duration::from_secs(150);

/// What was changed or deleted comes back, and the traffic does not notice.
pub async fn by_hand(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    stage.fleet.mark("edits").await?;
    comes_back::<Service>(
        &scene,
        "proxy-v-backup",
        json!({"spec": {"selector": {LABEL_SIDE: "primary"}}}),
        "/spec/selector",
    )
    .await?;
    comes_back::<Service>(
        &scene,
        "proxy-v",
        json!({"metadata": {"labels": {"proxypair.dev/role": "side"}}}),
        "/metadata/labels",
    )
    .await?;
    comes_back::<Deployment>(
        &scene,
        "proxy-v-backup",
        json!({"spec": {"replicas": 0}}),
        "/spec/replicas",
    )
    .await?;
    comes_back::<PodDisruptionBudget>(
        &scene,
        "proxy-v",
        json!({"spec": {"maxUnavailable": 2}}),
        "/spec/maxUnavailable",
    )
    .await?;
    let token = json!({"automountServiceAccountToken": true});
    comes_back::<ServiceAccount>(&scene, "proxy-v-proxy", token, "/automountServiceAccountToken").await?;
    comes_back::<ConfigMap>(
        &scene,
        "proxy-v-probes",
        json!({"data": {"omni.dat": "[NCOMS]"}}),
        "/data",
    )
    .await?;
    is_made_again::<ConfigMap>(&scene, "proxy-v-probes").await?;
    is_made_again::<PodDisruptionBudget>(&scene, "proxy-v").await?;
    is_made_again::<ServiceAccount>(&scene, "proxy-v-proxy").await?;
    is_made_again::<Service>(&scene, "proxy-v-primary").await?;
    is_made_again::<Deployment>(&scene, "proxy-v-backup").await?;
    stage.pair.until_protected(SOON).await?;
    is_made_again::<Secret>(&scene, "proxy-v-gate-tls").await?;
    let status = stage.pair.until_protected(SOON).await?;
    ensure!(status.history.is_empty(), "the traffic moved: {:?}", status.history);
    stage.fleet.until_acknowledged_by("AGG_P", 100, SOON).await?;
    stage.finish().await.map(drop)
}

/// The Secret with the pair's authority is deleted: keys of a new one reach the gates as fast as kubelet brings them, and all is well again.
/// Until then the operator cannot ask the gates, so the traffic may move; it loses nothing.
pub async fn keys_deleted(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    stage.fleet.mark("keys").await?;
    is_made_again::<Secret>(&scene, "proxy-v-operator-tls").await?;
    let no_longer_heard = stage.pair.until("a gate cannot be asked", SOON, |status| {
        Side::BOTH.into_iter().any(|side| {
            status
                .side(side)
                .is_some_and(|side| side.cause == Some(Cause::TlsRejected))
        })
    });
    no_longer_heard.await?;
    stage.pair.until_protected(KUBELET).await?;
    stage.fleet.until_all_on("AGG_P", SOON).await?;
    let gap = stage.fleet.longest_gap("keys").await?;
    scene.say(format_args!("keys: the longest gap was {} ms", gap.as_millis()));
    stage.finish().await.map(drop)
}

/// A virtual Service whose selector was changed, or that was deleted, comes back and serves again. The auditor would rightly call both a
/// violation, so it closes its books before.
pub async fn virtual_service_broken_by_hand(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let (fleet, pair) = (stage.fleet.clone(), stage.pair.clone());
    stage.finish_watching().await?;
    comes_back::<Service>(
        &scene,
        "proxy-v",
        json!({"spec": {"selector": {LABEL_SIDE: null}}}),
        "/spec/selector",
    )
    .await?;
    comes_back::<Service>(
        &scene,
        "proxy-v",
        json!({"spec": {"selector": {LABEL_SIDE: "backup"}}}),
        "/spec/selector",
    )
    .await?;
    is_made_again::<Service>(&scene, "proxy-v").await?;
    let status = pair.until_protected(SOON).await?;
    ensure!(status.history.is_empty(), "the traffic moved: {:?}", status.history);
    // Whatever an edit did to sessions, the probes find their way back.
    fleet.until_all_on("AGG_P", SOON).await
}

async fn value_at<K>(api: &Api<K>, name: &str, pointer: &str) -> Result<Value>
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object = serde_json::to_value(api.get(name).await?)?;
    Ok(object.pointer(pointer).cloned().unwrap_or(Value::Null))
}

async fn comes_back<K>(scene: &Scene, name: &str, edit: Value, pointer: &str) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let api = scene.namespace.api::<K>();
    let before = value_at(&api, name, pointer).await?;
    let edited = api.patch(name, &PatchParams::default(), &Patch::Merge(&edit)).await?;
    let edited = serde_json::to_value(edited)?
        .pointer(pointer)
        .cloned()
        .unwrap_or(Value::Null);
    ensure!(edited != before, "{edit} changes nothing");
    let kind = K::kind(&());
    eventually(SOON, format!("{kind} {name} is as it was after {edit}"), async || {
        let now = value_at(&api, name, pointer).await?;
        ensure!(now == before, "{now}");
        Ok(())
    })
    .await
}

async fn is_made_again<K>(scene: &Scene, name: &str) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = scene.namespace.api::<K>();
    let before = api.get(name).await?.uid().context("an object without a uid")?;
    api.delete(name, &DeleteParams::default()).await?;
    let kind = K::kind(&());
    eventually(SOON, format!("{kind} {name} is made again"), async || {
        let now = api.get(name).await?;
        ensure!(now.uid().as_ref() != Some(&before), "it is still there");
        Ok(())
    })
    .await
}
