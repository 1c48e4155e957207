//! The operator is killed in the middle of a failover, held at each of its writes in turn.

use std::sync::Arc;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Service;
use proxypair::api::{LABEL_SIDE, ProxyPairStatus, Side, SwitchKind};
use testkit::{
    hold::{Hold, Write},
    pair::{condition, expect_history},
    stage::{SOON, Scene, Stage},
};

/// Before the first write: the successor finds nothing but a dead primary, and decides anew.
pub async fn before_the_intent(scene: Arc<Scene>) -> Result<()> {
    killed_at(&scene, Write::Intent, (Side::Primary, Side::Primary), Side::Primary).await
}

/// Between the two: the successor finds the intent, and acts on it.
pub async fn between_intent_and_patch(scene: Arc<Scene>) -> Result<()> {
    killed_at(&scene, Write::Patch, (Side::Primary, Side::Backup), Side::Primary).await
}

/// After the second: the traffic flows already, and the successor writes it down.
pub async fn between_patch_and_fact(scene: Arc<Scene>) -> Result<()> {
    killed_at(&scene, Write::Fact, (Side::Primary, Side::Backup), Side::Backup).await
}

/// `status` is serving and target while the operator is held, `selected` what the Service selects.
async fn killed_at(scene: &Scene, write: Write, status: (Side, Side), selected: Side) -> Result<()> {
    let stage = scene.set().await?;
    let hold = Hold::place(&scene.namespace, &stage.operator, &stage.pair, write).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    hold.until_felt(SOON).await?;
    expect_standstill(&stage, status, selected).await?;

    let killed = stage.operator.kill_leader().await?;
    stage.operator.until_led_by_another_than(&killed, SOON).await?;
    hold.lift().await?;
    scene.say(format_args!("killed at {write:?}, a successor leads"));

    stage.until_moved(Side::Backup, "failover").await?;
    expect_history(&stage.pair.status().await?, &[(SwitchKind::Failover, Side::Backup)])?;
    stage.operator.until_complete(SOON).await?;
    stage.finish().await.map(drop)
}

async fn expect_standstill(stage: &Stage<'_>, (serving, target): (Side, Side), selected: Side) -> Result<()> {
    let status = stage.pair.status().await?;
    let found = (status.serving, status.target);
    ensure!(
        found == (Some(serving), Some(target)),
        "held with serving and target {found:?}"
    );
    let service = stage.pair.namespace().api::<Service>().get(&stage.pair.name).await?;
    let side = service
        .spec
        .and_then(|spec| spec.selector)
        .and_then(|mut selector| selector.remove(LABEL_SIDE));
    ensure!(
        side.as_deref() == Some(selected.label()),
        "held with a Service that selects {side:?}"
    );
    Ok(())
}

/// While a policy refuses one of the children, which no switch needs: the successor watches the pair all the same.
pub async fn while_a_child_is_refused(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let hold = Hold::place(&scene.namespace, &stage.operator, &stage.pair, Write::Budget).await?;
    let killed = stage.operator.kill_leader().await?;
    stage.operator.until_led_by_another_than(&killed, SOON).await?;
    hold.until_felt(SOON).await?;
    let refused = |status: &ProxyPairStatus| condition(status, "Ready") == "False";
    stage.pair.until("says that a child is refused", SOON, refused).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.fleet.until_all_on("AGG_B", SOON).await?;
    hold.lift().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage.finish().await.map(drop)
}
