//! The primary's ObjectServer stalls: it keeps its connections open and answers nothing. Only a session with a login can tell.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::{Cause, Health, Side};
use serde_json::json;
use testkit::{
    pair::expect_there_and_back,
    site::Site,
    stage::{SOON, Scene, Setting},
    stand_ins::FleetOptions,
};

/// A busy ObjectServer is not a dead one: ten seconds of silence, as long locks make them, move nothing, and nothing is lost.
pub async fn for_a_while(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting("30s")).await?;
    let before = stage.pair.status().await?;
    stage.fleet.mark("stall").await?;
    stage.agg_p.agent("POST", "stall?for=10s").await?;
    stage.fleet.until_acknowledged_by("AGG_P", 500, SOON).await?;
    let gap = stage.fleet.longest_gap("stall").await?;
    scene.say(format_args!("the longest gap was {} ms", gap.as_millis()));
    ensure!(gap >= Duration::from_secs(9), "the ObjectServer did not stall: {gap:?}");

    let status = stage.pair.until_protected(SOON).await?;
    ensure!(status.history.is_empty(), "it moved: {:?}", status.history);
    let since = |status: &proxypair::api::ProxyPairStatus| status.primary.clone().and_then(|side| side.since);
    ensure!(since(&status) == since(&before), "the primary was down: {status:?}");
    stage.finish().await?;
    Ok(())
}

/// One that never answers again is left after `unresponsiveAfter`, by its TDS silence alone: its port is open and its kernel answers. The
/// probes, which wait for ever by themselves, are cut off by the gate and go on with the backup. When it answers again all come home.
pub async fn for_ever(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting("4s")).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.agent("POST", "stall").await?;
    let gap = stage.until_moved(Side::Backup, "failover").await?;
    ensure!(gap >= Duration::from_secs(4), "moved before unresponsiveAfter: {gap:?}");
    let status = stage.pair.until_health(Side::Primary, Health::Down, SOON).await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(
        cause == Some(Cause::ObjectServerUnresponsive),
        "the cause is {cause:?}: {status:?}"
    );

    stage.fleet.mark("failback").await?;
    stage.agg_p.agent("POST", "resume").await?;
    stage.pair.until_health(Side::Primary, Health::Up, SOON).await?;
    // What had no answer when it stalled was sent to the backup too, and is worked off only now.
    let before = stage.duplicates().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}

fn setting(unresponsive_after: &str) -> Setting {
    Setting {
        spec: json!({"healthCheck": {"unresponsiveAfter": unresponsive_after}}),
        site: Some(Site::default()),
        fleet: FleetOptions {
            connect_timeout: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        ..Setting::default()
    }
}
