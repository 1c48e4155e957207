//! The ObjectServers refuse the login of the operator's checks.

use std::sync::Arc;

use anyhow::{Result, ensure};
use proxypair::api::{Cause, Health, Side};
use testkit::{
    site::{CHECK_PASSWORD, Site, set_check_password},
    stage::{SOON, Scene, Setting},
};

/// It is said, it moves nothing, it is not tried again and again; and a Secret that is put right takes effect at once.
pub async fn and_repaired(scene: Arc<Scene>) -> Result<()> {
    let stage = scene
        .set_with(&Setting {
            site: Some(Site::default()),
            ..Setting::default()
        })
        .await?;
    let namespace = &scene.namespace;
    set_check_password(namespace, "not-the-one").await?;
    for side in Side::BOTH {
        let status = stage.pair.until_health(side, Health::Down, SOON).await?;
        let found = status.side(side).cloned();
        let cause = found.as_ref().and_then(|side| side.cause);
        ensure!(cause == Some(Cause::LoginRefused), "the cause is {cause:?}: {found:?}");
    }
    let refused = stage.agg_p.refused_logins().await?;
    ensure!(refused == 1, "{refused} logins were refused");
    stage.fleet.until_acknowledged_by("AGG_P", 500, SOON).await?;
    let again = stage.agg_p.refused_logins().await?;
    ensure!(again == refused, "{} more logins were tried", again - refused);
    let status = stage.pair.status().await?;
    ensure!(status.history.is_empty(), "it moved: {:?}", status.history);
    let logs = stage.operator.logs().await?;
    ensure!(!logs.contains("not-the-one"), "the password is in the log");

    set_check_password(namespace, CHECK_PASSWORD).await?;
    stage.pair.until_protected(SOON).await?;
    stage.finish().await?;
    Ok(())
}
