//! The table in the end, and what to do next.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result};
use testkit::{cluster::Cluster, directory::repository};

use crate::{
    books::Report,
    install::{NAMESPACE, RELEASE, SYSTEM},
};

/// What the table says beyond the report.
pub struct Results {
    /// Times that an event was sent again.
    pub resent: u64,
    /// Events in each ObjectServer.
    pub by_server: BTreeMap<String, usize>,
    /// Events that came again by the failback.
    pub by_failback: usize,
    /// How many probes sent.
    pub probes: u64,
    /// Events per second of each.
    pub rate: u64,
}

/// Prints the table.
pub fn print(report: &Report, results: &Results) {
    let Report {
        failover_outage_ms,
        failback_outage_ms,
        events_sent,
        events_lost,
        events_lost_in,
        events_duplicated,
        resync_awaited_ms,
        sessions_left_on_backup,
    } = report;
    let row = |what: &str, number: String, remark: &str| {
        println!("  {what:<28} {number:>10}  {remark}");
    };
    let outage = format!(
        "the longest time that any of {} probes was without an acknowledgement",
        results.probes
    );
    let period = format!(
        "the same; {} ms of each are the pause between two events",
        1000 / results.rate.max(1)
    );
    let held: Vec<_> = results
        .by_server
        .iter()
        .map(|(server, events)| format!("{} in {server}", grouped(*events as u64)))
        .collect();
    println!("\nWhat the probes saw and the ObjectServers hold\n");
    row("failover, AGG_P killed", format!("{failover_outage_ms:.0} ms"), &outage);
    row(
        "failback, AGG_P is back",
        format!("{failback_outage_ms:.0} ms"),
        &period,
    );
    row(
        "the resync was waited for",
        format!("{:.1} s", resync_awaited_ms / 1000.0),
        "from the start of AGG_P; only then the probes were moved",
    );
    row("events sent", grouped(*events_sent), &held.join(", "));
    row(
        "events lost",
        grouped(*events_lost),
        "acknowledged to a probe, and in no ObjectServer",
    );
    for (server, lost) in events_lost_in {
        row(
            &format!("  by {server} alone"),
            grouped(*lost),
            "the gateway has copied all to the other",
        );
    }
    row(
        "events that came twice",
        grouped(*events_duplicated),
        &format!(
            "of {} that had no answer when AGG_P was killed, and had to be sent again",
            grouped(results.resent)
        ),
    );
    row("  of these by the failback", grouped(results.by_failback as u64), "");
    row("sessions left on the backup", grouped(*sessions_left_on_backup), "");
    println!();
}

/// Says how to look at what is left running, and how to take it down.
pub fn say_how_to_look() -> Result<()> {
    println!("\nThe pair is left running, and the probes send on. To look at it:\n");
    if Cluster::is_own() {
        println!("  export KUBECONFIG={}", ask("kubeconfig")?);
        println!("  export PATH={}:$PATH", ask("tools")?);
    }
    println!("  kubectl --namespace {NAMESPACE} get pp --watch");
    println!("  kubectl --namespace {NAMESPACE} describe pp proxy-v");
    println!("  kubectl --namespace {NAMESPACE} get events,pods,endpointslices");
    println!("  kubectl --namespace {SYSTEM} logs --selector app.kubernetes.io/name=proxypair");
    println!("\nTo kill AGG_P again, and to bring it back:\n");
    for act in ["kill", "start"] {
        println!(
            "  kubectl create --raw /api/v1/namespaces/{NAMESPACE}/pods/agg-p:8080/proxy/{act} --filename /dev/null"
        );
    }
    println!("\nTo take it down:\n");
    if Cluster::is_own() {
        println!("  make cluster-down");
    } else {
        println!("  kubectl delete namespace {NAMESPACE}");
        println!("  helm uninstall {RELEASE} --namespace {SYSTEM}");
    }
    println!();
    Ok(())
}

fn ask(what: &str) -> Result<String> {
    let output = Command::new(repository().join("tests/cluster/cluster"))
        .arg(what)
        .output();
    Ok(String::from_utf8(output.context("failed to ask the cluster")?.stdout)?
        .trim()
        .to_owned())
}

/// With a comma after each three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
