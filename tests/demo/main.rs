//! `make demo`: a pair that fails over and comes home, before the eyes of whoever typed it.
//!
//! Two ObjectServers, a ProxyPair, and probes that send. AGG_P is killed and comes back. What the table in the end says is taken from the
//! probes' reports and the ObjectServers' own tables, nothing from the operator.

mod books;
mod install;
mod live;
mod table;

use std::{collections::BTreeSet, fs, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use proxypair::api::Side;
use serde_json::{Value, json};
use testkit::{
    auditor::Auditor,
    certificates::Issuer,
    cluster::Cluster,
    directory::repository,
    manifest::merge,
    outage::{Micros, Reading, millis, now},
    pair::{self, Pair},
    site::Site,
    stand_ins::{Fleet, FleetOptions, Gateway, ObjectServer},
    wait::eventually,
};
use tokio::time::{Instant, sleep};

use books::{Held, Report};
use install::NAMESPACE;
use live::{LOOK, Live, Who};
use table::Results;

/// How many probes send; few enough to leave two cores to those who do the work.
const PROBES: u64 = 20;
/// Events per second of each.
const RATE: u64 = 20;
/// How long one thing may take that is waited for; far more than it takes when it works.
const SOON: Duration = Duration::from_secs(45);
/// How long everything is left as it is, so that it can be watched.
const WATCH: Duration = Duration::from_secs(4);
/// How long the gateway takes to bring AGG_P in step: longer than all else that the failback waits for.
const RESYNC: &str = "10s";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => {
            for promise in broken {
                eprintln!("demo: not as promised: {promise}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\ndemo: failed: {error:#}");
            eprintln!(
                "demo: namespaces {NAMESPACE} and {} are left as they are",
                install::SYSTEM
            );
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo, and gives the promises that were broken.
async fn run() -> Result<Vec<String>> {
    let began = Instant::now();
    let file = repository().join("target/demo/report.json");
    if file.exists() {
        fs::remove_file(&file)?;
    }
    let cluster = Cluster::connect().await?;
    let live = Live::start();
    let outcome = play(&cluster, &live).await;
    live.finish().await;
    let (report, results, broken) = outcome?;

    fs::create_dir_all(repository().join("target/demo"))?;
    fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    table::print(&report, &results);
    println!(
        "  All of it is in target/demo/report.json. It took {} s.",
        began.elapsed().as_secs()
    );
    table::say_how_to_look()?;
    Ok(broken)
}

async fn play(cluster: &Cluster, live: &Live) -> Result<(Report, Results, Vec<String>)> {
    let stage = Stage::set(cluster, live).await?;
    let failover_ms = stage.fail_over(live).await?;
    let duplicated = stage.duplicated().await?;
    let (failback_ms, resync_ms) = stage.fail_back(live).await?;
    let times = Times {
        failover_ms,
        failback_ms,
        resync_ms,
    };
    stage.judge(live, times, &duplicated).await
}

struct Stage {
    agg_p: ObjectServer,
    agg_b: ObjectServer,
    gateway: Gateway,
    pair: Pair,
    fleet: Fleet,
    auditor: Auditor,
}

impl Stage {
    /// Operator, ObjectServers, pair and probes, from nothing.
    async fn set(cluster: &Cluster, live: &Live) -> Result<Self> {
        live.title("Setting the stage").await;
        let namespace = install::fresh_namespace(cluster).await?;
        live.say(Who::You, format!("namespace {NAMESPACE} is made"));
        let site = Site {
            has_gateway: true,
            authority: Some(Arc::new(Issuer::new("Netcool"))),
            ..Site::default()
        };
        site.found(&namespace).await?;
        let operator = async {
            let operator = install::operator(&namespace).await?;
            let leader = operator.leader().await?.pod;
            live.say(Who::Cluster, format!("the operator runs: two replicas, {leader} leads"));
            anyhow::Ok(())
        };
        let server = async |name| {
            let server = ObjectServer::start(&namespace, name, &site.server(name)).await?;
            live.say(Who::Cluster, format!("ObjectServer {name} runs"));
            anyhow::Ok(server)
        };
        let ((), agg_p, agg_b) = tokio::try_join!(operator, server("AGG_P"), server("AGG_B"))?;
        let gateway = site.gateway(&namespace, &agg_p, &agg_b).await?.context("no gateway")?;
        gateway.ask("POST", &format!("resync-at-least?time={RESYNC}")).await?;
        live.say(Who::Cluster, "the gateway copies between them");
        let auditor = Auditor::start(&namespace, "proxy-v").await?;
        let pair = Pair::apply(&namespace, manifest(&site, &agg_p, &agg_b)).await?;
        live.say(Who::You, "ProxyPair proxy-v is applied");
        live.watch_routing(&namespace, &pair);
        pair.until_protected(SOON).await?;
        let options = FleetOptions {
            probes: PROBES,
            rate: RATE,
            ..FleetOptions::default()
        };
        let options = site.fleet(&options);
        let fleet = Fleet::start(&namespace, "load", &format!("{}:{}", pair.name, pair::PORT), &options).await?;
        fleet.until_all_on("AGG_P", SOON).await?;
        live.say(
            Who::Probes,
            format!("{PROBES} on AGG_P, each sends {RATE} events a second"),
        );
        live.watch_probes(&fleet);
        sleep(WATCH).await;
        Ok(Self {
            agg_p,
            agg_b,
            gateway,
            pair,
            fleet,
            auditor,
        })
    }

    /// Kills AGG_P, and waits until every probe is on the backup. Gives the outage.
    async fn fail_over(&self, live: &Live) -> Result<f64> {
        live.title("The primary ObjectServer is lost").await;
        self.fleet.mark("failover").await?;
        let at = now();
        self.agg_p.kill().await?;
        live.say_zero(at, Who::You, "AGG_P is killed (SIGKILL)");
        self.fleet
            .until_all_on("AGG_B", SOON)
            .await
            .context("there was no failover")?;
        self.pair.until_serving(Side::Backup, SOON).await?;
        let outage = self.outage("failover").await?;
        live.say(
            Who::Probes,
            format!("the longest time that any was without an acknowledgement: {outage:.0} ms"),
        );
        sleep(WATCH).await;
        Ok(outage)
    }

    /// Brings AGG_P back, and waits until nobody is left on the backup. Gives the outage, and how long the resync was waited for.
    async fn fail_back(&self, live: &Live) -> Result<(f64, f64)> {
        live.title("The primary ObjectServer is back").await;
        self.fleet.mark("failback").await?;
        let at = now();
        self.agg_p.restart().await?;
        live.say_zero(at, Who::You, "AGG_P is started");
        let in_step = self.until_in_step(at).await?;
        live.say_at(in_step, Who::Cluster, "the gateway has brought AGG_P in step");
        self.fleet
            .until_all_on("AGG_P", SOON)
            .await
            .context("there was no failback")?;
        self.pair.until_protected(SOON).await?;
        let outage = self.outage("failback").await?;
        live.say(
            Who::Probes,
            format!("the longest time that any was without an acknowledgement: {outage:.0} ms"),
        );
        sleep(WATCH / 2).await;
        Ok((outage, millis(at, in_step)))
    }

    /// Waits until the gateway has brought AGG_P in step, and fails if AGG_P acknowledges an event before. Gives when that was.
    async fn until_in_step(&self, started: Micros) -> Result<Micros> {
        let by_agg_p = async || {
            let totals = Reading::of(&self.fleet).await?.totals;
            anyhow::Ok(totals.answered_by.get("AGG_P").copied().unwrap_or_default())
        };
        let before = by_agg_p().await?;
        eventually(SOON, "the gateway has brought AGG_P in step", async || {
            let acknowledged = by_agg_p().await?;
            // Asked after: while this says that the resync goes on, all that was acknowledged came before its end.
            let status = self.gateway.ask("GET", "status").await?;
            let since: Timestamp = serde_json::from_value(status["since"].clone())?;
            let since = Micros::try_from(since.as_microsecond())?;
            if status["copying"] == true && since > started {
                return Ok(Ok(since));
            }
            if acknowledged > before {
                return Ok(Err(anyhow::anyhow!("AGG_P got events before it was in step: {status}")));
            }
            anyhow::bail!("{status}")
        })
        .await?
    }

    async fn outage(&self, window: &str) -> Result<f64> {
        // What is told of the probes comes first.
        sleep(LOOK * 2).await;
        Ok(Reading::of(&self.fleet).await?.window(window)?.worst()?.millis())
    }

    async fn duplicated(&self) -> Result<BTreeSet<String>> {
        let held = Held::by(&[&self.agg_p, &self.agg_b]).await?;
        Ok(held.duplicated().into_iter().map(str::to_owned).collect())
    }

    /// Lets the probes rest until all that they sent is acknowledged, and closes the books; then they go on.
    async fn judge(
        self,
        live: &Live,
        times: Times,
        before_failback: &BTreeSet<String>,
    ) -> Result<(Report, Results, Vec<String>)> {
        live.title("Closing the books").await;
        self.fleet.request::<Value>("POST", "pause").await?;
        let reading = eventually(SOON, "all that was sent is acknowledged", async || {
            let reading = Reading::of(&self.fleet).await?;
            ensure!(reading.totals.kept == 0, "{} events are not", reading.totals.kept);
            Ok(reading)
        })
        .await?;
        live.say(
            Who::Probes,
            format!("rest; all {} events are acknowledged", reading.totals.acknowledged),
        );
        let left = self.until_home().await?;
        let copied = eventually(SOON, "each ObjectServer holds every event by itself", async || {
            let held = Held::by(&[&self.agg_p, &self.agg_b]).await?;
            let lost = held.lost_alone(&self.fleet, &reading);
            ensure!(lost.values().all(|lost| *lost == 0), "{lost:?} are missing");
            Ok(())
        });
        // What is there in the end is what is judged.
        let _ = copied.await;
        let held = Held::by(&[&self.agg_p, &self.agg_b]).await?;
        let lost = held.lost(&self.fleet, &reading);
        let lost_alone = held.lost_alone(&self.fleet, &reading);
        let duplicated = held.duplicated();
        let report = Report {
            failover_outage_ms: times.failover_ms,
            failback_outage_ms: times.failback_ms,
            resync_awaited_ms: times.resync_ms,
            events_sent: reading.totals.sent,
            events_lost: lost.len() as u64,
            events_lost_in: lost_alone.clone(),
            events_duplicated: duplicated.len() as u64,
            sessions_left_on_backup: left,
        };
        let by_failback = duplicated
            .iter()
            .filter(|event| !before_failback.contains(**event))
            .count();
        let results = Results {
            resent: reading.totals.resent,
            by_server: held.counts(),
            by_failback,
            probes: PROBES,
            rate: RATE,
        };
        let routing = self.auditor.finish_watching().await;
        self.fleet.request::<Value>("POST", "resume").await?;
        live.say(Who::Probes, "send again");

        let mut broken = Vec::new();
        let mut promise = |kept: bool, what: String| {
            if !kept {
                broken.push(what);
            }
        };
        let sample: Vec<_> = lost.iter().take(5).collect();
        promise(
            lost.is_empty(),
            format!("{} events are lost, such as {sample:?}", lost.len()),
        );
        promise(
            lost_alone.values().all(|lost| *lost == 0),
            format!("an ObjectServer lacks events by itself: {lost_alone:?}"),
        );
        promise(
            reading.totals.sent == reading.totals.acknowledged,
            format!(
                "{} of {} events acknowledged",
                reading.totals.acknowledged, reading.totals.sent
            ),
        );
        promise(left == 0, format!("{left} sessions are left on the backup"));
        promise(
            by_failback == 0,
            format!("the failback sent {by_failback} events twice"),
        );
        promise(
            report.events_duplicated <= reading.totals.resent,
            format!(
                "{} events came more than once, though the probes sent only {} again",
                report.events_duplicated, reading.totals.resent
            ),
        );
        if let Err(error) = routing {
            promise(false, format!("{error:#}"));
        }
        Ok((report, results, broken))
    }

    /// Waits until AGG_B has no session, and gives how many it has in the end.
    async fn until_home(&self) -> Result<u64> {
        let none_left = eventually(SOON, "nobody is left on the backup", async || {
            let left = self.agg_b.sessions().await?;
            ensure!(left == 0, "{left} sessions");
            Ok(())
        });
        // The count is what is judged.
        let _ = none_left.await;
        self.agg_b.sessions().await
    }
}

/// What was measured on the way.
struct Times {
    failover_ms: f64,
    failback_ms: f64,
    resync_ms: f64,
}

/// The pair: refusal is believed at once, the primary must have been well for 5 s before it serves again.
fn manifest(site: &Site, agg_p: &ObjectServer, agg_b: &ObjectServer) -> Value {
    let mut manifest = pair::manifest("proxy-v", agg_p, agg_b);
    manifest["spec"]["healthCheck"] = json!({"unreachableAfter": "0s", "healthyAfter": "2s"});
    manifest["spec"]["failback"] = json!({"stableFor": "5s"});
    merge(&mut manifest["spec"], &site.spec());
    manifest
}
