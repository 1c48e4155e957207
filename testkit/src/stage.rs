//! What most tests begin with: an operator, two ObjectServers, a ProxyPair whose primary serves, an auditor, and probes that send.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use anyhow::{Result, ensure};
use proxypair::api::Side;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    auditor::{Auditor, Ledger, duplicates, held_by, timeline},
    cluster::Cluster,
    manifest::merge,
    namespace::Namespace,
    operator::Operator,
    pair::{self, Pair},
    site::Site,
    stand_ins::{Fleet, FleetOptions, Gateway, ObjectServer, ServerOptions},
    wait::eventually,
};

/// How long a pair may take from the manifest to both sides up.
const START: Duration = Duration::from_secs(60);
/// How long anything that a test waits for may take; far more than it takes when it works.
pub const SOON: Duration = Duration::from_secs(30);

/// One test's namespace and its words.
pub struct Scene {
    /// The test's name.
    pub test: &'static str,
    /// Its namespace.
    pub namespace: Namespace,
    began: Instant,
    /// The auditor's timeline, for the evidence of a failure.
    pub timeline: Mutex<Option<String>>,
}

impl Scene {
    /// Makes the namespace.
    pub async fn open(cluster: &Cluster, test: &'static str) -> Result<Self> {
        let began = Instant::now();
        let namespace = Namespace::create(cluster, test).await?;
        Ok(Self {
            test,
            namespace,
            began,
            timeline: Mutex::new(None),
        })
    }

    /// Says what the test does or has measured.
    pub fn say(&self, words: impl std::fmt::Display) {
        println!("{} [{:5.1} s] {words}", self.test, self.began.elapsed().as_secs_f32());
    }

    /// Sets the stage as most tests need it.
    pub async fn set(&self) -> Result<Stage<'_>> {
        self.set_with(&Setting::default()).await
    }

    /// Sets the stage.
    pub async fn set_with(&self, setting: &Setting) -> Result<Stage<'_>> {
        let namespace = &self.namespace;
        let at = ServerOptions::on(setting.nodes);
        if let Some(site) = &setting.site {
            site.found(namespace).await?;
        }
        let of_server = |name: &str| ServerOptions {
            node: at.node.clone(),
            ..setting
                .site
                .as_ref()
                .map_or_else(ServerOptions::default, |site| site.server(name))
        };
        let [of_p, of_b] = ["AGG_P", "AGG_B"].map(of_server);
        let installed = async {
            match setting.node_agents {
                true => Operator::install_with_agents(namespace, &setting.operator).await,
                false => Operator::install(namespace, &setting.operator).await,
            }
        };
        let (operator, agg_p, agg_b) = tokio::try_join!(
            installed,
            ObjectServer::start(namespace, "AGG_P", &of_p),
            ObjectServer::start(namespace, "AGG_B", &of_b),
        )?;
        let gateway = match &setting.site {
            Some(site) => site.gateway(namespace, &agg_p, &agg_b).await?,
            None => None,
        };
        let manifest = match setting.timings {
            Timings::Quick => pair::manifest,
            Timings::Default => pair::shortest_manifest,
        };
        let mut manifest = manifest("proxy-v", &agg_p, &agg_b);
        if let Some(site) = &setting.site {
            merge(&mut manifest["spec"], &site.spec());
        }
        merge(&mut manifest["spec"], &setting.spec);
        let auditor = Auditor::start(namespace, "proxy-v").await?;
        let stage = async {
            let pair = Pair::apply(namespace, manifest).await?;
            pair.until_protected(START).await?;
            pair.until_every_gate_is_led_to(START).await?;
            let options = FleetOptions {
                node: at.node.clone(),
                ..setting.fleet()
            };
            let server = format!("{}:{}", pair.name, pair::PORT);
            let fleet = Fleet::start(namespace, "load", &server, &options).await?;
            fleet
                .until_all_on(met_by_probes(setting.site.as_ref(), Side::Primary), SOON)
                .await?;
            anyhow::Ok((pair, fleet))
        };
        let guard = Watched {
            scene: self,
            auditor: Some(auditor),
        };
        let (pair, fleet) = stage.await?;
        self.say("the primary serves, the backup is up, the probes send");
        Ok(Stage {
            scene: self,
            operator,
            agg_p,
            agg_b,
            gateway,
            pair,
            fleet,
            site: setting.site.clone(),
            auditor: guard,
        })
    }
}

/// The timings of a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timings {
    /// Short ones.
    #[default]
    Quick,
    /// Every default: the manifest says nothing of timings.
    Default,
}

/// What a test wants otherwise than most.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Those of the manifest.
    pub timings: Timings,
    /// Put over the manifest's spec.
    pub spec: Value,
    /// The node of the stand-ins.
    pub nodes: Option<&'static str>,
    /// Values for the chart, put over those of all tests.
    pub operator: Value,
    /// The release has node agents.
    pub node_agents: bool,
    /// The probes.
    pub fleet: FleetOptions,
    /// Users, certificates and gateway; without it there is none of these.
    pub site: Option<Site>,
}

impl Setting {
    /// The probes, as they are at the site.
    pub fn fleet(&self) -> FleetOptions {
        match &self.site {
            Some(site) => site.fleet(&self.fleet),
            None => self.fleet.clone(),
        }
    }
}

/// The stage, set.
pub struct Stage<'a> {
    scene: &'a Scene,
    /// The operator.
    pub operator: Operator,
    /// The primary's ObjectServer.
    pub agg_p: ObjectServer,
    /// The backup's.
    pub agg_b: ObjectServer,
    /// What copies between them, if the site has it.
    pub gateway: Option<Gateway>,
    /// The ProxyPair.
    pub pair: Pair,
    /// The probes.
    pub fleet: Fleet,
    site: Option<Site>,
    auditor: Watched<'a>,
}

impl Stage<'_> {
    /// The ObjectServer of a side.
    pub fn server(&self, side: Side) -> &ObjectServer {
        match side {
            Side::Primary => &self.agg_p,
            Side::Backup => &self.agg_b,
        }
    }

    /// The name that the server of a side gives to probes.
    pub fn met_by_probes(&self, side: Side) -> &'static str {
        met_by_probes(self.site.as_ref(), side)
    }

    /// Waits until `side` serves and every probe is on it, and says how long the longest gap since the mark was.
    pub async fn until_moved(&self, side: Side, mark: &str) -> Result<Duration> {
        self.until_moved_within(side, mark, SOON).await
    }

    /// The same, where it takes longer than anything does with short timings.
    pub async fn until_moved_within(&self, side: Side, mark: &str, deadline: Duration) -> Result<Duration> {
        let name = self.met_by_probes(side);
        self.fleet.until_all_on(name, deadline).await?;
        self.pair.until_serving(side, deadline).await?;
        let gap = self.fleet.longest_gap(mark).await?;
        self.scene.say(format_args!(
            "{mark}: every probe is on {name}; the longest gap was {} ms",
            gap.as_millis()
        ));
        Ok(gap)
    }

    /// Waits until each ObjectServer has just the sessions that the probes have there; or each gate, where proxy servers share sessions out.
    pub async fn until_no_session_is_left(&self) -> Result<()> {
        eventually(SOON, "each side has just the probes' sessions", async || {
            let probes = self.fleet.report().await?.totals.sessions;
            for side in Side::BOTH {
                let name = self.met_by_probes(side);
                let wanted = probes.get(name).copied().unwrap_or_default();
                let sessions = match self.has_proxyserv() {
                    true => self.pair.gate_sessions(side).await?,
                    false => self.server(side).sessions().await?,
                };
                ensure!(
                    sessions == wanted,
                    "{name} has {sessions} sessions, the probes have {wanted} there"
                );
            }
            Ok(())
        })
        .await
    }

    fn has_proxyserv(&self) -> bool {
        self.site.as_ref().is_some_and(|site| site.proxyserv.is_some())
    }

    /// How often each event came, over both ObjectServers.
    pub async fn held(&self) -> Result<BTreeMap<String, u64>> {
        held_by(&[&self.agg_p, &self.agg_b]).await
    }

    /// Events that have come more than once until now.
    pub async fn duplicates(&self) -> Result<BTreeMap<String, u64>> {
        duplicates(&[&self.agg_p, &self.agg_b]).await
    }

    /// Ends the auditor's watch with its judgement, while the probes send on.
    pub async fn finish_watching(mut self) -> Result<()> {
        match self.auditor.auditor.take() {
            Some(auditor) => auditor.finish_watching().await,
            None => anyhow::bail!("the auditor has gone"),
        }
    }

    /// Closes the books: fails if a session was left behind, an acknowledged event is lost, or the routing was ever wrong.
    pub async fn finish(mut self) -> Result<Ledger> {
        self.until_no_session_is_left().await?;
        let Some(auditor) = self.auditor.auditor.take() else {
            anyhow::bail!("the auditor has gone")
        };
        let judgement = auditor.judgement();
        *self
            .scene
            .timeline
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(timeline::in_words(&judgement));
        let ledger = auditor.finish(&[&self.fleet], &[&self.agg_p, &self.agg_b]).await?;
        let (acknowledged, lost) = (ledger.acknowledged.len(), ledger.lost.len());
        if self.gateway.is_none() {
            let duplicated = ledger.duplicated.len();
            self.scene.say(format_args!(
                "{acknowledged} events acknowledged, {lost} lost, {duplicated} came more than once"
            ));
        } else {
            self.scene
                .say(format_args!("{acknowledged} events acknowledged, {lost} lost"));
            for server in [&self.agg_p, &self.agg_b] {
                eventually(
                    SOON,
                    format!("{} holds every event by itself", server.name),
                    async || {
                        let missing = ledger.missing_in(server).await?;
                        ensure!(missing.is_none(), "it lacks {missing:?}");
                        Ok(())
                    },
                )
                .await?;
            }
        }
        Ok(ledger)
    }
}

fn met_by_probes(site: Option<&Site>, side: Side) -> &'static str {
    match (site.and_then(|site| site.proxyserv), side) {
        (None, Side::Primary) => "AGG_P",
        (None, Side::Backup) => "AGG_B",
        (Some(_), Side::Primary) => "PROXY_P",
        (Some(_), Side::Backup) => "PROXY_B",
    }
}

/// Keeps the auditor's timeline when a test fails before the end.
struct Watched<'a> {
    scene: &'a Scene,
    auditor: Option<Auditor>,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some(auditor) = &self.auditor {
            let words = timeline::in_words(&auditor.judgement());
            *self
                .scene
                .timeline
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(words);
        }
    }
}
