//! The primary's ObjectServer is killed, and comes back.

use std::sync::Arc;

use anyhow::{Result, ensure};
use proxypair::api::Side;
use testkit::{
    pair::expect_there_and_back,
    stage::{SOON, Scene},
};

/// Every probe comes home: none is left on the backup, and the way home costs no event and sends none twice.
pub async fn every_probe_comes_home(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    stage.agg_p.kill().await?;
    stage.fleet.until_all_on("AGG_B", SOON).await?;
    let before = stage.duplicates().await?;

    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.until_no_session_is_left().await?;
    ensure!(stage.agg_b.sessions().await? == 0, "sessions are left on the backup");
    stage.finish().await?.expect_no_duplicates_since(&before)
}
