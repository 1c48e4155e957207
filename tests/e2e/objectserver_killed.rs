//! The primary's ObjectServer is killed.

use std::sync::Arc;

use anyhow::Result;
use proxypair::api::{Cause, Health, Side, SwitchKind};
use testkit::{
    pair::expect_history,
    stage::{SOON, Scene},
};

/// Every probe goes on with the backup, and stays there while the primary is dead.
pub async fn fails_over(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;

    let status = stage.pair.until_health(Side::Primary, Health::Down, SOON).await?;
    let cause = status.primary.and_then(|side| side.cause);
    anyhow::ensure!(cause == Some(Cause::ObjectServerUnreachable), "the cause is {cause:?}");
    let status = stage.pair.status().await?;
    expect_history(&status, &[(SwitchKind::Failover, Side::Backup)])?;
    stage.finish().await?;
    Ok(())
}
