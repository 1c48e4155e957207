//! Probes that know the pair from the `omni.dat` that the operator made for them: over TLS, with a second address.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use proxypair::{api::Side, domain::children::PROBE_PROPS};
use testkit::{
    certificates::Issuer,
    pair::expect_there_and_back,
    site::Site,
    stage::{SOON, Scene, Setting},
    stand_ins::FleetOptions,
};

/// The ConfigMap of the pair `proxy-v`.
const CONFIG_MAP: &str = "proxy-v-probes";

/// They fail over, perhaps by themselves before the Service moves, and all come home; the Common Names that they are told to take are those
/// that they meet.
pub async fn leads_probes_to_the_pair(scene: Arc<Scene>) -> Result<()> {
    let site = Site {
        authority: Some(Arc::new(Issuer::new("Netcool"))),
        ..Site::default()
    };
    let names = site.common_names();
    let setting = Setting {
        fleet: FleetOptions {
            omni_dat: Some((CONFIG_MAP.to_owned(), "PROXY_V".to_owned())),
            ..FleetOptions::default()
        },
        site: Some(site),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    let made = scene.namespace.api::<ConfigMap>().get(CONFIG_MAP).await?;
    let properties = made.data.and_then(|mut data| data.remove(PROBE_PROPS));
    let properties = properties.context("it has no properties")?;
    let wanted = format!("SSLServerCommonName: '{names}'");
    ensure!(
        properties.lines().any(|line| line == wanted),
        "no line {wanted}: {properties}"
    );

    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_there_and_back(&status)?;
    let failures = stage.fleet.report().await?.totals.connect_failures;
    ensure!(
        !failures.contains_key("tls_refused"),
        "probes refused certificates: {failures:?}"
    );
    stage.finish().await?;
    Ok(())
}
