//! The API server is slow, or frozen.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::{Side, SwitchKind};
use testkit::{
    hop,
    pair::{expect_history, expect_there_and_back},
    stage::{Scene, Setting, Timings},
};

/// Three writes of a switch at 1.5 s each, twice over, and what a loaded machine takes.
const SLOWLY: Duration = Duration::from_secs(60);
/// How long the API server is frozen.
const FROZEN: Duration = Duration::from_secs(20);
/// `stableFor` of 60 s beside that.
const HOME: Duration = Duration::from_secs(180);

/// Every request of the operator takes 1.5 s. It fails over and brings the probes home.
pub async fn each_write_takes_a_while(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        timings: Timings::Default,
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let delay = Duration::from_millis(1500);
    let (address, port) = hop::start(&scene.namespace, "slow-path", "kubernetes.default.svc:443", delay).await?;
    stage.operator.reach_api_through(&address, port).await?;
    stage.pair.until_protected(SLOWLY).await?;

    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved_within(Side::Backup, "failover", SLOWLY).await?;
    let before = stage.duplicates().await?;
    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved_within(Side::Primary, "failback", HOME).await?;
    let status = stage.pair.until_protected(SLOWLY).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}

/// It answers nobody for 20 s, and AGG_P dies in the middle of that: the failover comes as soon as it answers again.
pub async fn frozen_while_the_objectserver_dies(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill_after(FROZEN / 4).await?;
    let frozen = scene.namespace.cluster.freeze_api_server().await?;
    tokio::time::sleep(FROZEN).await;
    drop(frozen);
    ensure!(!stage.agg_p.is_running().await?, "AGG_P lives");
    stage.until_moved_within(Side::Backup, "failover", SLOWLY).await?;
    expect_history(&stage.pair.status().await?, &[(SwitchKind::Failover, Side::Backup)])?;
    stage.operator.until_complete(SLOWLY).await?;
    stage.finish().await.map(drop)
}
