//! `make bench-failover`: how long probes are without an acknowledgement when something breaks, over many runs, and where the time goes.
//!
//! RUNS and RUNS_NODE say how many; nothing fails because it is slow.

mod one_of_two;
mod quiet;
mod report;
mod series;
mod stage;
mod stats;
mod steps;
mod stock;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::cluster::Cluster;

use quiet::Quiet;
use report::{Row, Target};
use series::{Fault, series};
use stage::{Layout, Stage};

/// Runs of each fault unless RUNS or RUNS_NODE says otherwise.
const RUNS: usize = 20;
/// For what can be noticed at once.
const SWIFT: Target = Target::MedianAndP99(200.0, 500.0);

#[tokio::main]
async fn main() -> Result<()> {
    ensure!(
        Cluster::is_own(),
        "the benchmark kills processes and cuts nodes off, which needs the project's own cluster: unset CLUSTER"
    );
    let (runs, runs_node) = (setting("RUNS")?, setting("RUNS_NODE")?);
    let cluster = Cluster::connect().await?;
    let before = load();
    println!("load average: {before}\n");

    let mut rows = Vec::new();
    if runs > 0 {
        rows.append(&mut processes(&cluster, runs).await?);
    }
    let mut stock = None;
    if runs > 0 || runs_node > 0 {
        rows.append(&mut gates(&cluster, runs, runs_node).await?);
    }
    if runs_node > 0 {
        let (row, lost) = nodes(&cluster, runs_node).await?;
        rows.push(row);
        stock = lost;
    }
    report::print(&rows, stock, Duration::from_secs(1));
    let after = load();
    println!("\n  Load average before {before}, after {after}. All runs are in target/bench/failover.json.");
    report::write(&rows, stock, [before, after])
}

/// What breaks while all nodes are well.
async fn processes(cluster: &Cluster, runs: usize) -> Result<Vec<Row>> {
    let stage = Stage::set(cluster, "bench-failover", Layout::OneGate).await?;
    let quiet = Quiet::watch(cluster, &stage.namespace.name);
    let (mut rows, mut home) = (Vec::new(), Vec::new());
    for (fault, target) in [
        (Fault::ObjectServerKilled, SWIFT),
        (Fault::ProxyKilled, SWIFT),
        (Fault::PodDeleted, Target::None),
    ] {
        let mut made = series(&stage, &quiet, fault, runs).await;
        home.append(&mut made.home);
        rows.push(Row {
            title: fault.title(),
            short: fault.short(),
            target,
            runs: made.away,
            failed: made.failed,
        });
    }
    rows.push(Row {
        title: "failback",
        short: "failback",
        target: SWIFT,
        runs: home,
        failed: Vec::new(),
    });
    stage.strike().await?;
    Ok(rows)
}

/// One gate of two, with every timing at its default, and probes that wait for ever.
async fn gates(cluster: &Cluster, runs: usize, runs_node: usize) -> Result<Vec<Row>> {
    let stage = Stage::set(cluster, "bench-gates", Layout::TwoGates).await?;
    let quiet = Quiet::watch(cluster, &stage.namespace.name);
    let mut rows = Vec::new();
    for (fault, target, runs) in [
        (one_of_two::Fault::Killed, Target::Max(300.0), runs),
        (one_of_two::Fault::Evicted, Target::Max(300.0), runs),
        (
            one_of_two::Fault::NodeCut,
            Target::MedianAndP99(1_500.0, 2_500.0),
            runs_node,
        ),
    ] {
        let made = one_of_two::series(&stage, &quiet, fault, runs).await;
        rows.push(Row {
            title: fault.title(),
            short: fault.short(),
            target,
            runs: made.away,
            failed: made.failed,
        });
    }
    stage.strike().await?;
    Ok(rows)
}

/// A node that is cut off, and what stock Kubernetes does about one.
async fn nodes(cluster: &Cluster, runs: usize) -> Result<(Row, Option<Duration>)> {
    let stage = Stage::set(cluster, "bench-node", Layout::OneGateANode).await?;
    let quiet = Quiet::watch(cluster, &stage.namespace.name);
    let made = series(&stage, &quiet, Fault::NodeCut, runs).await;
    let row = Row {
        title: Fault::NodeCut.title(),
        short: Fault::NodeCut.short(),
        target: Target::Max(5_000.0),
        runs: made.away,
        failed: made.failed,
    };
    println!("  a lost node with stock Kubernetes, about a minute ...");
    let stock = match stock::lost_node(&stage).await {
        Ok(took) => Some(took),
        Err(error) => {
            println!("  it could not be measured: {error:#}");
            None
        }
    };
    stage.strike().await?;
    Ok((row, stock))
}

fn setting(name: &str) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name} is no number: {text}")),
        _ => Ok(RUNS),
    }
}

/// Of the last minute, five and fifteen.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
