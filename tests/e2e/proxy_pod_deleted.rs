//! The proxy pod that serves is taken away: in order, as an eviction or a node drain does it, or by force.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use proxypair::api::{Side, SwitchKind};
use testkit::{
    pair::{expect_history, expect_there_and_back},
    site::{Site, WhenGone},
    stage::{SOON, Scene, Setting, Stage},
    wait::eventually,
};

/// Deleted in order, the Service moves first and then the gate drains: nothing is lost and nothing is sent twice, there and back.
pub async fn in_order(scene: Arc<Scene>) -> Result<()> {
    delete_in_order(&scene, scene.set().await?).await
}

/// With the user's proxy server in it, the same: it goes on until the gate has drained through it.
pub async fn in_order_with_proxyserv(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site::with_proxyserv(WhenGone::Stays)),
        ..Setting::default()
    };
    delete_in_order(&scene, scene.set_with(&setting).await?).await
}

async fn delete_in_order(scene: &Scene, stage: Stage<'_>) -> Result<()> {
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    stage.fleet.mark("move").await?;
    scene
        .namespace
        .api::<Pod>()
        .delete(&pod, &DeleteParams::default())
        .await?;
    stage.until_moved(Side::Backup, "move").await?;
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_history(
        &status,
        &[
            (SwitchKind::Switchover, Side::Backup),
            (SwitchKind::Failback, Side::Primary),
        ],
    )?;
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}

/// The pods of both sides deleted at once: whichever successor is up first takes the probes over before the serving gate leaves, and none is without
/// a proxy for as long as a gate waits without a command.
pub async fn both_at_once(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let pods = scene.namespace.api::<Pod>();
    let names = [
        stage.pair.pod(Side::Primary).await?.name_any(),
        stage.pair.pod(Side::Backup).await?.name_any(),
    ];
    stage.fleet.mark("move").await?;
    let params = DeleteParams::default();
    tokio::try_join!(pods.delete(&names[0], &params), pods.delete(&names[1], &params))?;
    eventually(SOON, "both pods are gone", async || {
        for (side, name) in Side::BOTH.into_iter().zip(&names) {
            let pods = stage.pair.pods(side).await?;
            ensure!(!pods.iter().any(|pod| pod.name_any() == *name), "{name} is still there");
        }
        Ok(())
    })
    .await?;
    let gap = stage.until_moved(Side::Primary, "move").await?;
    ensure!(gap < Duration::from_secs(5), "a probe was without a proxy for {gap:?}");
    stage.pair.until_protected(SOON).await?;
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}

/// Its process killed, the probes go on with the backup, and come home when the container runs again.
pub async fn process_killed(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    stage.fleet.mark("failover").await?;
    scene
        .namespace
        .cluster
        .signal(&scene.namespace.name, &pod, "KILL")
        .await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let before = stage.duplicates().await?;
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}

/// Deleted without a grace period, the same.
pub async fn by_force(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    stage.fleet.mark("failover").await?;
    scene
        .namespace
        .api::<Pod>()
        .delete(&pod, &DeleteParams::default().grace_period(0))
        .await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let before = stage.duplicates().await?;
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    stage.pair.until_protected(SOON).await?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}
