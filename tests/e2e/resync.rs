//! The primary's ObjectServer comes back without what it missed: the gateway has to bring it in step before the probes return to it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use proxypair::api::{ProxyPairStatus, Side};
use testkit::{
    pair::expect_there_and_back,
    site::Site,
    stage::{SOON, Scene, Setting, Stage},
    stand_ins::Gateway,
};

/// Far longer than everything else that a failback waits for in these tests.
const LONG: &str = "8s";
/// Far shorter: between the end of a resync, as the operator sees it, and the gateway's own note of it.
const MOMENT: SignedDuration = SignedDuration::from_secs(2);

/// The primary is up and stable long before, and nothing moves until the resync has finished. Then all come home, and each ObjectServer
/// holds every event.
pub async fn is_waited_for(scene: Arc<Scene>) -> Result<()> {
    let stage = with_gateway(&scene).await?;
    let gateway = stage.gateway.clone().context("the site has a gateway")?;
    gateway.ask("POST", &format!("resync-at-least?time={LONG}")).await?;
    let resyncs = resyncs(&gateway).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let status = stage
        .pair
        .until("the backup acts as primary", SOON, acting(true))
        .await?;
    ensure!(status.serving == Some(Side::Backup), "{status:?}");

    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    waits_only_for(&stage, &["the resync to finish: ActingPrimary is TRUE on AGG_B"]).await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let finished = gateway.ask("GET", "status").await?;
    ensure!(
        finished["resyncs"].as_u64() > Some(resyncs),
        "no resync has finished: {finished}"
    );
    let copying_since: Timestamp = serde_json::from_value(finished["since"].clone())?;

    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    let begun = status.history[0].started_at.0;
    let early = copying_since.duration_since(begun);
    ensure!(
        early < MOMENT,
        "the failback began {early:?} before the resync had finished at {copying_since}"
    );
    stage.finish().await?;
    Ok(())
}

/// A gateway that does not come back keeps the pair on the backup, and status says on which side it is missed. One side is not enough.
pub async fn a_gateway_that_is_away_keeps_the_pair_on_the_backup(scene: Arc<Scene>) -> Result<()> {
    let stage = with_gateway(&scene).await?;
    let gateway = stage.gateway.clone().context("the site has a gateway")?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage
        .pair
        .until("the backup acts as primary", SOON, acting(true))
        .await?;
    gateway.ask("POST", "detach").await?;
    stage.agg_p.restart().await?;
    let missing = |name| format!("the gateway failover_gate to attach to {name}");
    waits_only_for(&stage, &[&missing("AGG_P"), &missing("AGG_B")]).await?;

    // On a backup whose gateway is away ActingPrimary says nothing, whatever it says.
    stage
        .agg_b
        .agent("POST", "property?name=ActingPrimary&value=FALSE")
        .await?;
    gateway.ask("POST", "attach?to=AGG_B").await?;
    waits_only_for(&stage, &[&missing("AGG_P")]).await?;

    stage.fleet.mark("failback").await?;
    gateway.ask("POST", "attach?to=AGG_P").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    stage.pair.until_protected(SOON).await?;
    stage.finish().await?;
    Ok(())
}

async fn with_gateway(scene: &Scene) -> Result<Stage<'_>> {
    let setting = Setting {
        site: Some(Site {
            has_gateway: true,
            ..Site::default()
        }),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    stage
        .pair
        .until("the backup does not act as primary", SOON, acting(false))
        .await?;
    Ok(stage)
}

async fn resyncs(gateway: &Gateway) -> Result<u64> {
    gateway.ask("GET", "status").await?["resyncs"]
        .as_u64()
        .context("the gateway does not count its resyncs")
}

fn acting(wanted: bool) -> impl Fn(&ProxyPairStatus) -> bool {
    move |status| status.backup.as_ref().and_then(|backup| backup.acting_primary) == Some(wanted)
}

/// Waits until a failback waits for just this. Everything else is fulfilled then: what is seen is that it does not happen.
async fn waits_only_for(stage: &Stage<'_>, wanted: &[&str]) -> Result<()> {
    let what = format!("the failback waits for just {wanted:?}");
    stage
        .pair
        .until(&what, Duration::from_secs(20), |status| {
            status.serving == Some(Side::Backup)
                && status
                    .failback
                    .as_ref()
                    .is_some_and(|failback| failback.waiting_for == wanted)
        })
        .await
        .map(drop)
}
