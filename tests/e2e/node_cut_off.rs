//! The node with the primary's proxy loses its network.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::{Cause, Side, SwitchKind};
use serde_json::json;

use crate::support::{
    pair::expect_history,
    stage::{SOON, Scene, Setting},
    stand_ins::FleetOptions,
};

/// Where everything is that is not cut off.
const SAFE: &str = "node1";
/// Where the primary's proxy is.
const CUT: &str = "node3";

/// The probes, which must give up a silent session by themselves, go on with the backup; when the node is back, all come home.
pub async fn fails_over(scene: Arc<Scene>) -> Result<()> {
    let on = |node: &str| json!({"proxy": {"nodeSelector": {"kubernetes.io/hostname": node}}});
    let stage = scene
        .set_with(&Setting {
            spec: json!({"primary": on(CUT), "backup": on("node2")}),
            nodes: Some(SAFE),
            operator_values: vec![format!(r"nodeSelector.kubernetes\.io/hostname={SAFE}")],
            fleet: FleetOptions {
                network_timeout: Duration::from_secs(1),
                connect_timeout: Duration::from_millis(500),
                ..FleetOptions::default()
            },
        })
        .await?;
    stage.fleet.mark("failover").await?;
    let cut = scene.namespace.cluster.cut_node(CUT).await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let status = stage.pair.status().await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(cause == Some(Cause::ProxyUnresponsive), "the cause is {cause:?}");
    let before = stage.duplicates().await?;

    drop(cut);
    stage.fleet.mark("failback").await?;
    stage.until_moved(Side::Primary, "failback").await?;
    let status = stage.pair.until_protected(SOON).await?;
    expect_history(
        &status,
        &[
            (SwitchKind::Failover, Side::Backup),
            (SwitchKind::Failback, Side::Primary),
        ],
    )?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}
