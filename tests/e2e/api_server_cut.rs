//! The operator that leads loses its way to the API server.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::Side;
use testkit::stage::{SOON, Scene};

/// The traffic flows on, the other replica leads, and a failover still happens. The one that was cut off comes back as a standby.
pub async fn from_the_leader(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let leader = stage.operator.leader().await?;
    stage.fleet.mark("cut").await?;
    let cut = scene
        .namespace
        .cluster
        .cut_api(&scene.namespace.name, &leader.pod)
        .await?;
    let successor = stage.operator.until_led_by_another_than(&leader, SOON).await?;
    ensure!(
        successor.pod != leader.pod,
        "{} leads although it is cut off",
        leader.pod
    );
    scene.say(format_args!("{} was cut off, {} leads", leader.pod, successor.pod));
    stage.fleet.until_acknowledged_by("AGG_P", 100, SOON).await?;
    let gap = stage.fleet.longest_gap("cut").await?;
    scene.say(format_args!("the longest gap was {} ms", gap.as_millis()));
    let totals = stage.fleet.report().await?.totals;
    ensure!(totals.reconnects == 0, "sessions were dropped: {totals:?}");
    let status = stage.pair.until_protected(SOON).await?;
    ensure!(status.history.is_empty(), "the traffic moved: {:?}", status.history);

    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    drop(cut);
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.finish().await.map(drop)
}
