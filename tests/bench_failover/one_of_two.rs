//! Runs of a fault of one gate of two on the side that serves: break, measure, wait until both are back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::EvictParams};
use proxypair::api::{Health, Side};
use testkit::{
    cluster::Fault as Undo,
    outage::{Micros, Reading, now},
};
use tokio::time::sleep;

use crate::{
    quiet::Quiet,
    series::{Run, Runs},
    stage::{CUT, Stage},
    steps::Steps,
};

/// How long anything that is waited for may take.
const SOON: Duration = Duration::from_secs(120);

/// What is done to one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Killed,
    /// Its pod is evicted, as by the drain of a node.
    Evicted,
    /// Its node loses its network.
    NodeCut,
}

impl Fault {
    /// In the tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Killed => "one gate of two killed",
            Self::Evicted => "one gate of two evicted",
            Self::NodeCut => "node of one of two cut",
        }
    }

    /// Where there is little room.
    pub fn short(self) -> &'static str {
        match self {
            Self::Killed => "1 of 2 killed",
            Self::Evicted => "1 of 2 evicted",
            Self::NodeCut => "1 of 2 cut",
        }
    }
}

/// Makes so many runs. What was measured until one fails is kept; one with a switch has failed.
pub async fn series(stage: &Stage, quiet: &Quiet, fault: Fault, runs: usize) -> Runs {
    let mut made = Runs::default();
    for number in 1..=runs {
        match run(stage, quiet, fault, number).await {
            Ok(run) => {
                println!(
                    "  {:<24} {number:>3} of {runs}  {:>6.0} ms",
                    fault.title(),
                    run.outage_ms
                );
                made.away.push(run);
            }
            Err(error) => {
                println!("  {}: run {number} failed: {error:#}", fault.title());
                made.failed.push(format!("{error:#}"));
                if let Err(error) = until_both_serve(stage).await {
                    println!("  the gates do not come back, so that is the end of it: {error:#}");
                    break;
                }
            }
        }
    }
    made
}

async fn run(stage: &Stage, quiet: &Quiet, fault: Fault, number: usize) -> Result<Run> {
    until_both_serve(stage).await?;
    let calm = quiet.wait().await;
    let switches = stage.pair.status().await?.history.len();
    let mark = format!("one-{number}");
    stage.fleet.mark(&mark).await?;
    sleep(Duration::from_millis(100)).await;
    let (at, undo) = break_it(stage, fault).await?;
    // Nobody looks meanwhile: looking disturbs.
    sleep(Duration::from_secs(5)).await;
    stage.fleet.until_all_on("AGG_P", SOON).await?;
    let reading = Reading::of(&stage.fleet).await?;
    let worst = reading.window(&mark)?.worst()?;
    tokio::task::spawn_blocking(move || drop(undo)).await?;
    until_both_serve(stage).await?;
    let history = stage.pair.status().await?.history;
    ensure!(
        history.len() == switches,
        "the traffic was switched: {:?}",
        history.first()
    );
    Ok(Run {
        outage_ms: worst.millis(),
        steps: Steps([None; 7]),
        cause: None,
        undisturbed: calm && quiet.disturbances(at, worst.end_us) == 0,
    })
}

async fn break_it(stage: &Stage, fault: Fault) -> Result<(Micros, Option<Undo>)> {
    let namespace = &stage.namespace;
    let pods = stage.pair.pods(Side::Primary).await?;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    match fault {
        Fault::Killed => {
            let pod = pods.first().context("no gate")?.name_any();
            let at = now();
            namespace.cluster.signal(&namespace.name, &pod, "KILL").await?;
            Ok((at, None))
        }
        Fault::Evicted => {
            let pod = pods.first().context("no gate")?.name_any();
            let at = now();
            namespace.api::<Pod>().evict(&pod, &EvictParams::default()).await?;
            Ok((at, None))
        }
        Fault::NodeCut => {
            ensure!(
                pods.iter().any(|pod| node(pod).as_deref() == Some(CUT)),
                "no gate is there"
            );
            let undo = namespace.cluster.cut_node(CUT).await?;
            Ok((now(), Some(undo)))
        }
    }
}

/// Two gates of the primary serve and have sessions.
async fn until_both_serve(stage: &Stage) -> Result<()> {
    stage.until_home(SOON).await?;
    let good = |status: &proxypair::api::ProxyPairStatus| {
        let gates = status.side(Side::Primary).map_or(&[][..], |side| &side.gates);
        gates.len() == 2 && gates.iter().all(|gate| gate.routed && gate.health == Health::Up)
    };
    stage.pair.until("two gates of the primary serve", SOON, good).await?;
    Ok(())
}
