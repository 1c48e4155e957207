//! No operator runs, and the primary's ObjectServer is killed.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::Side;
use testkit::{
    pair::{expect_there_and_back, serves},
    site::{Site, WhenGone},
    stage::{SOON, Scene, Setting},
    stand_ins::FleetOptions,
};

/// Probes that take `PROXY_V` from the ConfigMap's `omni.dat` find the backup by themselves: the primary's gate refuses them, and the entry
/// has a second address. An operator that comes back moves the Service after them, and brings them home.
pub async fn probes_fail_over_by_themselves(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        site: Some(Site::with_proxyserv(WhenGone::Stays)),
        fleet: FleetOptions {
            omni_dat: Some(("proxy-v-probes".to_owned(), "PROXY_V".to_owned())),
            ..FleetOptions::default()
        },
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    stage.operator.scale(0).await?;
    stage.fleet.mark("alone").await?;
    stage.agg_p.kill().await?;
    let backup = stage.met_by_probes(Side::Backup);
    stage.fleet.until_all_on(backup, SOON).await?;
    let gap = stage.fleet.longest_gap("alone").await?;
    scene.say(format_args!(
        "without an operator every probe is on {backup}; the longest gap was {} ms",
        gap.as_millis()
    ));
    let status = stage.pair.status().await?;
    ensure!(
        serves(&status, Side::Primary),
        "somebody has moved the pair: {status:?}"
    );

    stage.operator.scale(2).await?;
    stage.operator.until_complete(Duration::from_secs(60)).await?;
    stage.pair.until_serving(Side::Backup, SOON).await?;
    stage.agg_p.restart().await?;
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    stage.finish().await.map(drop)
}
