//! The process of the user's proxy server is killed or frozen behind a gate that lives, or its ObjectServer stalls: who is to blame is told apart.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail, ensure};
use kube::ResourceExt;
use proxypair::api::{Cause, Health, Side, SwitchKind};
use serde_json::{Value, json};
use testkit::{
    pair::expect_history,
    site::{Site, WhenGone},
    stage::{SOON, Scene, Setting, Stage},
    stand_ins::FleetOptions,
    wait::eventually,
};

/// What is killed and frozen.
const PROGRAM: &str = "nco_proxyserv";
/// Kubelet waits longer from one restart of a container to the next.
const RESTARTED: Duration = Duration::from_secs(90);
const THERE_AND_BACK: [(SwitchKind, Side); 2] = [
    (SwitchKind::Failover, Side::Backup),
    (SwitchKind::Failback, Side::Primary),
];

/// Kubelet restarts it. One that ends again and again is restarted later, and until then status has its last words.
pub async fn killed(scene: Arc<Scene>) -> Result<()> {
    // Long enough for the proxy server to be killed again before the probes come home.
    let stage = scene
        .set_with(&setting(json!({"failback": {"stableFor": "15s"}})))
        .await?;
    stage.fleet.mark("failover").await?;
    signal(&scene, &stage, "KILL").await?;
    stage.until_moved(Side::Backup, "failover").await?;
    let status = stage.pair.until_health(Side::Primary, Health::Up, RESTARTED).await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(
        cause == Some(Cause::ProxyUnreachable),
        "the cause is {cause:?}: {status:?}"
    );

    let message = eventually(
        SOON,
        "status says how the proxy server ended and what it said last",
        async || {
            let message = stage.pair.status().await?.primary.and_then(|side| side.message);
            let words = message.unwrap_or_default();
            if words.contains("container proxy exited with code 137: ") && words.contains("listening") {
                return Ok(words);
            }
            signal(&scene, &stage, "KILL").await?;
            bail!("it says {words:?}")
        },
    )
    .await?;
    scene.say(format_args!("primary: {message}"));

    stage.fleet.mark("failback").await?;
    stage.pair.until_health(Side::Primary, Health::Up, RESTARTED).await?;
    let before = stage.duplicates().await?;
    stage.pair.until_serving(Side::Primary, RESTARTED).await?;
    stage.until_moved(Side::Primary, "failback").await?;
    expect_history(&stage.pair.until_protected(SOON).await?, &THERE_AND_BACK)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}

/// Frozen, it accepts and says nothing, while its ObjectServer answers the operator: the path between them is broken.
pub async fn frozen(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting(Value::Null)).await?;
    stage.fleet.mark("failover").await?;
    signal(&scene, &stage, "STOP").await?;
    leave(&stage, Cause::PathBroken).await?;
    signal(&scene, &stage, "CONT").await?;
    come_home(stage).await
}

/// An ObjectServer that stalls answers neither the operator nor, through the proxy server, anybody else: it is not the path.
pub async fn its_objectserver_stalls(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting(Value::Null)).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.agent("POST", "stall").await?;
    leave(&stage, Cause::ObjectServerUnresponsive).await?;
    stage.agg_p.agent("POST", "resume").await?;
    come_home(stage).await
}

async fn leave(stage: &Stage<'_>, wanted: Cause) -> Result<()> {
    let gap = stage.until_moved(Side::Backup, "failover").await?;
    ensure!(gap >= Duration::from_secs(3), "moved before unresponsiveAfter: {gap:?}");
    let status = stage.pair.until_health(Side::Primary, Health::Down, SOON).await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(cause == Some(wanted), "the cause is {cause:?}: {status:?}");
    stage.until_no_session_is_left().await
}

async fn come_home(stage: Stage<'_>) -> Result<()> {
    stage.fleet.mark("failback").await?;
    stage.pair.until_health(Side::Primary, Health::Up, SOON).await?;
    // What had no answer was sent to the backup too, and is worked off only now.
    let before = stage.duplicates().await?;
    stage.until_moved(Side::Primary, "failback").await?;
    expect_history(&stage.pair.until_protected(SOON).await?, &THERE_AND_BACK)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}

/// Sends a signal to the primary's proxy server.
async fn signal(scene: &Scene, stage: &Stage<'_>, signal: &str) -> Result<()> {
    let pod = stage.pair.pod(Side::Primary).await?.name_any();
    let namespace = &scene.namespace;
    eventually(SOON, format!("{PROGRAM} is sent {signal}"), async || {
        namespace
            .cluster
            .signal_program(&namespace.name, &pod, PROGRAM, signal)
            .await
    })
    .await
}

fn setting(spec: Value) -> Setting {
    Setting {
        spec,
        site: Some(Site::with_proxyserv(WhenGone::Stays)),
        fleet: FleetOptions {
            connect_timeout: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        ..Setting::default()
    }
}
