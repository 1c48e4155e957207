//! Both ObjectServers are killed, and one comes back.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::{Health, Side, SwitchKind};
use testkit::{
    pair::{condition, expect_history, serves},
    stage::{SOON, Scene, Stage},
};

async fn lose_both<'a>(scene: &'a Scene) -> Result<Stage<'a>> {
    let stage = scene.set().await?;
    stage.agg_p.kill().await?;
    stage.fleet.until_all_on("AGG_B", SOON).await?;
    stage.pair.until_serving(Side::Backup, SOON).await?;
    stage.agg_b.kill().await?;
    let status = stage.pair.until_health(Side::Backup, Health::Down, SOON).await?;
    ensure!(
        serves(&status, Side::Backup),
        "it moved although there is nowhere to go: {:?}",
        status.history
    );
    ensure!(
        condition(&status, "Ready") == "False" && status.failing_since.is_some(),
        "it does not say that nobody serves"
    );
    Ok(stage)
}

/// The traffic goes to the side that comes back first, although it was left before.
pub async fn the_other_returns(scene: Arc<Scene>) -> Result<()> {
    let stage = lose_both(&scene).await?;
    stage.fleet.mark("primary_returns").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "primary_returns").await?;
    let status = stage.pair.status().await?;
    expect_history(
        &status,
        &[
            (SwitchKind::Failover, Side::Backup),
            (SwitchKind::Failover, Side::Primary),
        ],
    )?;
    ensure!(status.failing_since.is_none(), "it still says that nobody serves");
    stage.finish().await.map(drop)
}

/// The traffic stays where it was when that side comes back first.
pub async fn the_serving_one_returns(scene: Arc<Scene>) -> Result<()> {
    let stage = lose_both(&scene).await?;
    stage.fleet.mark("backup_returns").await?;
    stage.agg_b.restart().await?;
    let gap = stage.until_moved(Side::Backup, "backup_returns").await?;
    ensure!(gap < Duration::from_secs(10), "the probes needed {gap:?} to find it");
    expect_history(&stage.pair.status().await?, &[(SwitchKind::Failover, Side::Backup)])?;
    stage.finish().await.map(drop)
}
