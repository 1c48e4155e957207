//! Runs of one fault: break, measure, mend, come home, measure.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proxypair::api::Side;
use serde::Serialize;
use testkit::{
    cluster::{self, Fault as Undo},
    evidence,
    outage::{Micros, Reading, now},
};
use tokio::time::{Instant, sleep};

use crate::{
    quiet::Quiet,
    stage::Stage,
    steps::{Steps, Switched},
};

/// How long anything that is waited for may take.
const SOON: Duration = Duration::from_secs(40);

/// What is done to the primary side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the ObjectServer.
    ObjectServerKilled,
    /// SIGKILL to the gate.
    ProxyKilled,
    /// The proxy's pod is deleted in order.
    PodDeleted,
    /// The node of the proxy loses its network.
    NodeCut,
}

impl Fault {
    /// In the tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::ObjectServerKilled => "ObjectServer killed",
            Self::ProxyKilled => "proxy killed",
            Self::PodDeleted => "proxy pod deleted",
            Self::NodeCut => "node cut off",
        }
    }

    /// Where there is little room.
    pub fn short(self) -> &'static str {
        match self {
            Self::ObjectServerKilled => "ObjectServer",
            Self::ProxyKilled => "proxy",
            Self::PodDeleted => "pod deleted",
            Self::NodeCut => "node",
        }
    }

    /// What the operator calls the switch.
    fn kind(self) -> &'static str {
        if self == Self::PodDeleted {
            "Switchover"
        } else {
            "Failover"
        }
    }

    /// How long nobody looks, so that looking does not disturb.
    fn hands_off(self) -> Duration {
        Duration::from_millis(if self == Self::NodeCut { 4_000 } else { 1_000 })
    }
}

/// What was measured once.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Longest time that any probe was without an acknowledgement.
    pub outage_ms: f64,
    /// Milliseconds of each step.
    pub steps: Steps,
    /// The cause that the operator found.
    pub cause: Option<String>,
    /// The cluster was quiet before, and nobody else changed a Service meanwhile.
    pub undisturbed: bool,
}

/// Runs with the same fault, and the ways home.
#[derive(Debug, Default)]
pub struct Runs {
    /// After the fault.
    pub away: Vec<Run>,
    /// After it was mended.
    pub home: Vec<Run>,
    /// Why there is nothing of the others.
    pub failed: Vec<String>,
}

/// Makes so many runs. What was measured until one fails is kept.
pub async fn series(stage: &Stage, quiet: &Quiet, fault: Fault, runs: usize) -> Runs {
    let mut made = Runs::default();
    let began = Instant::now();
    let terminal = std::io::stdout().is_terminal();
    for number in 1..=runs {
        match run(stage, quiet, fault, number).await {
            Ok((away, home)) => {
                let (again, end) = if terminal { ("\r", "") } else { ("", "\n") };
                print!(
                    "{again}  {:<20} {number:>3} of {runs}  away {:>6.0} ms  home {:>6.0} ms  {:>4} s {end}",
                    fault.title(),
                    away.outage_ms,
                    home.outage_ms,
                    began.elapsed().as_secs()
                );
                // Progress that cannot be shown is no failure.
                let _ = std::io::stdout().flush();
                made.away.push(away);
                made.home.push(home);
            }
            Err(error) => {
                println!(
                    "{}  {}: run {number} failed: {error:#}",
                    if terminal { "\n" } else { "" },
                    fault.title()
                );
                made.failed.push(format!("{error:#}"));
                let name = format!("bench-{}-{number}", fault.title().replace(' ', "-"));
                match evidence::collect(&stage.namespace, &name, Some(&format!("{error:?}\n")), None).await {
                    Ok(directory) => println!("  logs, objects and events are in {}", directory.display()),
                    Err(error) => println!("  the evidence could not be collected: {error:#}"),
                }
                // What failed may have failed before the ObjectServer was started again.
                let _ = stage.agg_p.restart().await;
                if let Err(error) = stage.until_home(SOON).await {
                    println!("  the pair does not come home, so that is the end of it: {error:#}");
                    break;
                }
            }
        }
    }
    if terminal {
        println!();
    }
    made
}

async fn run(stage: &Stage, quiet: &Quiet, fault: Fault, number: usize) -> Result<(Run, Run)> {
    let name = |way: &str| format!("{way}-{number}");
    let calm = quiet.wait().await;
    stage.fleet.mark(&name("away")).await?;
    sleep(Duration::from_millis(100)).await;
    let (at, undo) = break_it(stage, fault).await?;
    sleep(fault.hands_off()).await;
    stage.fleet.until_all_on("AGG_B", SOON).await?;
    stage.pair.until_serving(Side::Backup, SOON).await?;
    let reading = Reading::of(&stage.fleet).await?;
    let window = reading.window(&name("away"))?;
    let worst = window.worst()?;
    let switched = Switched::after(
        at.saturating_sub(1_000),
        fault.kind(),
        &stage.namespace,
        &stage.operator,
    )
    .await?;
    let away = Run {
        outage_ms: worst.millis(),
        steps: match fault {
            Fault::PodDeleted => Steps::of_move(&switched, at),
            _ => Steps::of_fault(&switched, at, worst, window.first_by("AGG_B")),
        },
        cause: switched.cause.clone(),
        undisturbed: calm && quiet.disturbances(at, worst.end_us) == 0,
    };

    // Some mend themselves, and may come home soon.
    let mended_at = now();
    stage.fleet.mark(&name("home")).await?;
    mend(stage, fault, undo).await?;
    stage.until_home(SOON).await?;
    // The drain and what follows it.
    sleep(Duration::from_millis(500)).await;
    let reading = Reading::of(&stage.fleet).await?;
    let worst = reading.window(&name("home"))?.worst()?;
    let switched = Switched::after(mended_at, "Failback", &stage.namespace, &stage.operator).await?;
    let home = Run {
        outage_ms: worst.millis(),
        steps: Steps::of_operator(&switched),
        cause: None,
        undisturbed: quiet.disturbances(worst.begin_us, worst.end_us) == 0,
    };
    Ok((away, home))
}

/// Does it, and says when it was done and what undoes it.
async fn break_it(stage: &Stage, fault: Fault) -> Result<(Micros, Option<Undo>)> {
    let namespace = &stage.namespace;
    match fault {
        Fault::ObjectServerKilled => {
            let status = stage.agg_p.agent("POST", "kill").await?;
            let since: Timestamp = status["since"].as_str().context("no time of death")?.parse()?;
            Ok((u64::try_from(since.as_microsecond())?, None))
        }
        Fault::ProxyKilled => {
            let pod = stage.pair.pod(Side::Primary).await?.name_any();
            let pids = cluster::run(&["pod-pids", &namespace.name, &pod]).await?;
            let pids: Vec<i32> = pids.lines().map(str::parse).collect::<Result<_, _>>()?;
            let at = now();
            for pid in pids {
                kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            }
            Ok((at, None))
        }
        Fault::PodDeleted => {
            let pod = stage.pair.pod(Side::Primary).await?.name_any();
            let at = now();
            namespace.api::<Pod>().delete(&pod, &DeleteParams::default()).await?;
            Ok((at, None))
        }
        Fault::NodeCut => {
            let pod = stage.pair.pod(Side::Primary).await?;
            let node = pod.spec.and_then(|spec| spec.node_name).context("on no node")?;
            let undo = namespace.cluster.cut_node(&node).await?;
            Ok((now(), Some(undo)))
        }
    }
}

async fn mend(stage: &Stage, fault: Fault, undo: Option<Undo>) -> Result<()> {
    if fault == Fault::ObjectServerKilled {
        stage.agg_p.restart().await?;
    }
    // The others mend themselves; a node gets its network back.
    tokio::task::spawn_blocking(move || drop(undo)).await?;
    Ok(())
}
