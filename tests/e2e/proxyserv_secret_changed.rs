//! The Secret with the login of the user's proxy servers is changed while they work.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::{Side, SwitchKind};
use testkit::{
    pair::expect_history,
    site::{PROXY, PROXY_USERS, Site, WhenGone, set_proxy_user},
    stage::{SOON, Scene, Setting},
    stand_ins::ObjectServer,
};

/// How long both pods may take, one after the other.
const REPLACED: Duration = Duration::from_secs(90);

/// The idle side's pod is replaced first, then the traffic moves there, then the other pod is replaced and the traffic moves home: nothing is
/// lost and nothing is sent twice.
pub async fn the_pods_follow(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site::with_proxyserv(WhenGone::Stays)),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let [old, new] = PROXY_USERS;
    for server in [&stage.agg_p, &stage.agg_b] {
        expect_proxy_user(server, old).await?;
    }

    stage.fleet.mark("move").await?;
    set_proxy_user(&scene.namespace, PROXY, new).await?;
    stage.pair.until_serving(Side::Backup, REPLACED).await?;
    expect_proxy_user(&stage.agg_b, new).await?;
    stage.pair.until_serving(Side::Primary, REPLACED).await?;
    expect_proxy_user(&stage.agg_p, new).await?;
    stage.until_moved(Side::Primary, "move").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_history(
        &status,
        &[
            (SwitchKind::Switchover, Side::Backup),
            (SwitchKind::Failback, Side::Primary),
        ],
    )?;
    stage.finish().await?.expect_no_duplicates_since(&BTreeMap::new())
}

/// Fails unless there are sessions of proxy servers, and all are this user's.
async fn expect_proxy_user(server: &ObjectServer, user: &str) -> Result<()> {
    let sessions = server.connections().await?;
    let mut of_proxies = sessions
        .iter()
        .filter(|session| session["AppName"] == "PROXY")
        .peekable();
    ensure!(
        of_proxies.peek().is_some() && of_proxies.all(|session| session["LogName"] == user),
        "not all proxy servers of {} are {user}: {sessions:?}",
        server.name
    );
    Ok(())
}
