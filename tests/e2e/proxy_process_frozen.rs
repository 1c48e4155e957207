//! The process of the proxy that serves is frozen: it accepts, and says nothing.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kube::ResourceExt;
use proxypair::api::{Cause, Side};
use testkit::{
    pair::expect_there_and_back,
    stage::{SOON, Scene},
};

/// Silence is believed after `unresponsiveAfter`. The operator has the frozen pod replaced, so that probes that wait for ever for an answer,
/// as they do out of the box, lose their sessions and go on.
pub async fn fails_over(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    stage.fleet.mark("failover").await?;
    scene
        .namespace
        .cluster
        .signal(&scene.namespace.name, &pod, "STOP")
        .await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let status = stage.pair.status().await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(cause == Some(Cause::ProxyUnresponsive), "the cause is {cause:?}");
    let before = stage.duplicates().await?;

    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}
