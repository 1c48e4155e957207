//! The ObjectServer behind the user's proxy server is killed, and comes back. What the proxy server does meanwhile is documented nowhere: it
//! exits, or it stays, accepts probes and lets their events wait.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::{Cause, Health, Side};
use testkit::{
    certificates::Issuer,
    pair::expect_there_and_back,
    site::{Site, WhenGone},
    stage::{SOON, Scene, Setting},
};

/// Kubelet waits longer from one restart of a container to the next.
const RESTARTED: Duration = Duration::from_secs(90);

/// The proxy server that exits.
pub async fn and_it_exits(scene: Arc<Scene>) -> Result<()> {
    there_and_back(&scene, Site::with_proxyserv(WhenGone::Exits)).await
}

/// The proxy server that stays and accepts.
pub async fn and_it_stays(scene: Arc<Scene>) -> Result<()> {
    there_and_back(&scene, Site::with_proxyserv(WhenGone::Stays)).await
}

/// The same with TLS from the probes to the gate, and from the proxy server, the gate and the operator to the ObjectServer.
pub async fn over_tls(scene: Arc<Scene>) -> Result<()> {
    let site = Site {
        authority: Some(Arc::new(Issuer::new("Netcool"))),
        ..Site::with_proxyserv(WhenGone::Stays)
    };
    there_and_back(&scene, site).await
}

/// Every probe goes on with the backup, none is behind the proxy server without an ObjectServer, and all come home.
async fn there_and_back(scene: &Scene, site: Site) -> Result<()> {
    let setting = Setting {
        site: Some(site),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage.until_no_session_is_left().await?;
    let status = stage.pair.until_health(Side::Primary, Health::Down, SOON).await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(
        cause == Some(Cause::ObjectServerUnreachable),
        "the cause is {cause:?}: {status:?}"
    );

    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.pair.until_health(Side::Primary, Health::Up, RESTARTED).await?;
    // What waited in the proxy server that stayed was sent to the backup too, and is worked off only now.
    let before = stage.duplicates().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}
