//! A way is cut while both ends live: that between a proxy and its ObjectServer, or that between the leader and a proxy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use kube::ResourceExt;
use proxypair::api::{Cause, Health, ProxyPairStatus, Side};
use testkit::{
    pair::expect_there_and_back,
    site::Site,
    stage::{SOON, Scene, Setting},
};

/// Silence between the primary's proxy and AGG_P, which the operator still reaches: fails over after `unresponsiveAfter` and says what it is.
/// When packets pass again all come home.
pub async fn fails_over(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site::default()),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    let address = stage.agg_p.address().await?;
    stage.fleet.mark("failover").await?;
    let cluster = &scene.namespace.cluster;
    let cut = cluster.cut_path(&scene.namespace.name, &pod, &address).await?;
    let gap = stage.until_moved(Side::Backup, "failover").await?;
    ensure!(
        gap >= Duration::from_secs(3),
        "moved before unresponsiveAfter of 3 s: {gap:?}"
    );
    let status = stage.pair.until_health(Side::Primary, Health::Down, SOON).await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(cause == Some(Cause::PathBroken), "the cause is {cause:?}: {status:?}");
    let cause = status.primary.as_ref().and_then(|side| side.cause);
    ensure!(
        cause == Some(Cause::PathBroken),
        "the cause is {cause:?} now: {status:?}"
    );

    // What had no answer when it was cut was sent to the backup too, and may still arrive.
    stage.fleet.mark("failback").await?;
    drop(cut);
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?;
    Ok(())
}

/// Silence between the leader and the primary's proxy, which the backup's proxy sees serve: nothing moves, however long that lasts, and status
/// says how the views differ.
pub async fn to_the_leader_moves_nothing(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let leader = stage.operator.leader().await?.pod;
    let gate = stage.pair.pod(Side::Primary).await?;
    let address = gate.status.and_then(|status| status.pod_ip).unwrap_or_default();
    let differ = |status: &ProxyPairStatus| {
        let protected = status.conditions.iter().find(|known| known.type_ == "Protected");
        protected.is_some_and(|protected| protected.status == "False" && protected.reason == "ViewsDiffer")
    };
    let cluster = &scene.namespace.cluster;
    let cut = cluster.cut_path(&scene.namespace.name, &leader, &address).await?;
    stage.pair.until("the views differ", SOON, differ).await?;
    // Several times unresponsiveAfter.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let status = stage.pair.status().await?;
    ensure!(differ(&status), "the views differ no more: {status:?}");
    ensure!(
        status.serving == Some(Side::Primary) && status.history.is_empty() && status.lost_gates.is_empty(),
        "something has moved: {status:?}"
    );
    drop(cut);
    stage.pair.until_protected(SOON).await?;
    let status = stage.pair.status().await?;
    ensure!(status.history.is_empty(), "something has moved: {status:?}");
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}
