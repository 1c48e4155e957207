//! The Lease that orders the operators is lost, and the gates have heard commands of a high term.

use std::sync::Arc;

use anyhow::{Result, ensure};
use proxypair::api::Side;
use testkit::{
    pair::expect_there_and_back,
    stage::{SOON, Scene, Stage},
};

/// Somebody deletes it under the third leader. The gates go on accepting commands: every probe comes home.
pub async fn every_probe_comes_home(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    for _ in 0..2 {
        let killed = stage.operator.kill_leader().await?;
        stage.operator.until_led_by_another_than(&killed, SOON).await?;
        stage.operator.until_complete(SOON).await?;
    }
    let before = stage.operator.leader().await?;
    stage.operator.delete_lease(SOON).await?;
    let after = stage.operator.leader().await?;
    scene.say(format_args!("before the deletion {before:?} led, after it {after:?}"));
    there_and_home(&stage).await?;
    stage.finish().await.map(drop)
}

/// The operator is uninstalled, and installed in another namespace under another name, and so has another Lease.
pub async fn a_new_release_commands_the_gates(scene: Arc<Scene>) -> Result<()> {
    let mut stage = scene.set().await?;
    let killed = stage.operator.kill_leader().await?;
    stage.operator.until_led_by_another_than(&killed, SOON).await?;
    let elsewhere = scene.namespace.create_other().await?;
    stage.operator = stage.operator.replace_by_another_release(&elsewhere).await?;
    there_and_home(&stage).await?;
    stage.finish().await.map(drop)
}

async fn there_and_home(stage: &Stage<'_>) -> Result<()> {
    stage.agg_p.kill().await?;
    stage.fleet.until_all_on("AGG_B", SOON).await?;
    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.until_no_session_is_left().await?;
    ensure!(stage.agg_b.sessions().await? == 0, "sessions are left on the backup");
    Ok(())
}
