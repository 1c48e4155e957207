//! The shortest manifest there is: every timing is the default.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use kube::ResourceExt;
use proxypair::api::{Cause, Side};
use serde_json::json;
use testkit::{
    pair::{PORT, expect_there_and_back},
    stage::{Scene, Setting, Stage, Timings},
    stand_ins::{Fleet, FleetOptions},
    wait::eventually,
};

/// `stableFor` of 60 s, the drain of 30 s, and what a loaded machine takes.
const HOME: Duration = Duration::from_secs(150);
/// `unresponsiveAfter` of 15 s for each of two that notice, and what a loaded machine takes.
const SILENCE: Duration = Duration::from_secs(75);

fn setting() -> Setting {
    Setting {
        timings: Timings::Default,
        ..Setting::default()
    }
}

/// Its ObjectServer is killed and started again: every probe goes to the backup and comes home, and the way home doubles nothing.
pub async fn fail_over_and_come_home(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting()).await?;
    there_and_back(stage).await
}

/// With 500 probes on one gate, at the pace that a drain has by default, in a container that may have 1,024 files open unless it asks for more.
pub async fn bring_five_hundred_probes_home(scene: Arc<Scene>) -> Result<()> {
    let setting = Setting {
        spec: json!({"proxy": {"replicas": 1}}),
        fleet: FleetOptions {
            probes: 500,
            rate: 1,
            connect_timeout: Duration::from_secs(20),
            ..FleetOptions::default()
        },
        ..setting()
    };
    let stage = scene.set_with(&setting).await?;
    there_and_back(stage).await
}

async fn there_and_back(stage: Stage<'_>) -> Result<()> {
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved_within(Side::Backup, "failover", SILENCE).await?;
    let before = stage.duplicates().await?;
    stage.fleet.mark("failback").await?;
    stage.agg_p.restart().await?;
    stage.until_moved_within(Side::Primary, "failback", HOME).await?;
    let status = stage.pair.until_protected(SILENCE).await?;
    expect_there_and_back(&status)?;
    stage.finish().await?.expect_no_duplicates_since(&before)
}

/// The machine of its ObjectServer answers nothing any more, to the gate and to the operator: it is left for that, not before
/// `unresponsiveAfter`, and the probes, which wait for ever by themselves, are cut off by the gate.
pub async fn leave_a_silent_objectserver(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set_with(&setting()).await?;
    let cluster = &scene.namespace.cluster;
    let address = stage.agg_p.address().await?;
    let mut pods = stage.pair.pods(Side::Primary).await?;
    pods.extend(scene.namespace.pods("app.kubernetes.io/component=operator").await?);
    stage.fleet.mark("failover").await?;
    let mut cuts = Vec::new();
    for pod in pods {
        cuts.push(
            cluster
                .cut_path(&scene.namespace.name, &pod.name_any(), &address)
                .await?,
        );
    }
    let gap = stage.until_moved_within(Side::Backup, "failover", SILENCE).await?;
    ensure!(
        gap >= Duration::from_secs(15),
        "moved before unresponsiveAfter: {gap:?}"
    );
    let status = stage.pair.status().await?;
    let cause = status.history.first().and_then(|switch| switch.cause);
    ensure!(
        cause == Some(Cause::ObjectServerUnresponsive),
        "the cause is {cause:?}: {status:?}"
    );
    stage.fleet.mark("failback").await?;
    drop(cuts);
    stage.until_moved_within(Side::Primary, "failback", HOME).await?;
    stage.finish().await.map(drop)
}

/// The name of its ObjectServer stops resolving, while the server lives and so do the sessions there. New probes, whose sessions the gate
/// cannot open, are served by the backup, and come home when the name is back.
pub async fn leave_a_name_that_does_not_resolve(scene: Arc<Scene>) -> Result<()> {
    // Absolute, so that DNS says that there is no such name. Where a search list leads to a server that does not answer, the
    // resolver cannot say so, and the gate goes on with the address that it knows.
    let host = format!("agg-p.{}.svc.cluster.local.", scene.namespace.name);
    let setting = Setting {
        spec: json!({"primary": {"objectServer": {"host": host}}}),
        ..setting()
    };
    let stage = scene.set_with(&setting).await?;
    let options = FleetOptions {
        probes: 2,
        connect_timeout: Duration::from_secs(20),
        ..FleetOptions::default()
    };
    let server = format!("{}:{}", stage.pair.name, PORT);
    stage.agg_p.set_resolvable(false).await?;
    let mut late = Vec::new();
    // The DNS server may know the address for a while: probes that come in that time are served by the primary.
    eventually(SILENCE, "a late probe is served by the backup", async || {
        let name = format!("late-{}", late.len() + 1);
        let fleet = Fleet::start(&scene.namespace, &name, &server, &options).await?;
        let sessions = eventually(SILENCE, format!("{name} is served"), async || {
            let sessions = fleet.report().await?.totals.sessions;
            ensure!(sessions.values().sum::<u64>() == options.probes, "{sessions:?}");
            Ok(sessions)
        })
        .await?;
        late.push(fleet);
        ensure!(sessions.contains_key("AGG_B"), "{name} is served: {sessions:?}");
        Ok(())
    })
    .await?;
    scene.say(format_args!("{} fleets came until one met the backup", late.len()));
    stage.agg_p.set_resolvable(true).await?;
    for fleet in late.iter().chain([&stage.fleet]) {
        fleet.until_all_on("AGG_P", HOME).await?;
    }
    stage.pair.until_protected(SILENCE).await?;
    for fleet in &late {
        fleet.stop().await?;
    }
    stage.finish().await.map(drop)
}
