//! A ProxyPair with short timings, and waiting for what its status says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Api, ResourceExt, api::ListParams};
use proxypair::api::{Health, LABEL_PAIR, LABEL_SIDE, ProxyPair, ProxyPairStatus, Side, SwitchKind};
use serde_json::{Value, json};

use crate::{
    manifest::merge,
    namespace::Namespace,
    stand_ins::{OBJECT_SERVER_PORT, ObjectServer},
    wait::eventually,
};

/// The port of the virtual Service.
pub const PORT: u16 = 4400;

/// The gate's port for Prometheus.
const GATE_METRICS: u16 = 4403;

/// A ProxyPair that was applied.
#[derive(Clone)]
pub struct Pair {
    /// Its name, and that of its virtual Service.
    pub name: String,
    namespace: Namespace,
}

/// A manifest with timings that make tests quick: refusal is believed at once, silence after 3 s, the primary returns after 3 s. A side has one
/// gate, so that what happens to the gate happens to the side.
pub fn manifest(name: &str, primary: &ObjectServer, backup: &ObjectServer) -> Value {
    let mut manifest = shortest_manifest(name, primary, backup);
    let quick = json!({
        "proxy": {"replicas": 1},
        "healthCheck": {"unreachableAfter": "0s", "unresponsiveAfter": "3s", "healthyAfter": "1s"},
        "failback": {"stableFor": "3s", "drain": {"gracePeriod": "5s"}},
    });
    merge(&mut manifest["spec"], &quick);
    manifest
}

/// The shortest manifest there is, with every default.
pub fn shortest_manifest(name: &str, primary: &ObjectServer, backup: &ObjectServer) -> Value {
    let server =
        |server: &ObjectServer| json!({"name": server.name, "host": server.host(), "port": OBJECT_SERVER_PORT});
    json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": name},
        "spec": {
            "serverName": "PROXY_V",
            "primary": {"serverName": "PROXY_P", "objectServer": server(primary)},
            "backup": {"serverName": "PROXY_B", "objectServer": server(backup)},
        },
    })
}

impl Pair {
    /// Applies a manifest.
    pub async fn apply(namespace: &Namespace, manifest: Value) -> Result<Self> {
        let applied: ProxyPair = namespace.apply(manifest).await?;
        Ok(Self {
            name: applied.name_any(),
            namespace: namespace.clone(),
        })
    }

    /// Where it is.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// ProxyPairs of the namespace.
    pub fn api(&self) -> Api<ProxyPair> {
        self.namespace.api()
    }

    /// What its status says now.
    pub async fn status(&self) -> Result<ProxyPairStatus> {
        let object = self.api().get_status(&self.name).await?;
        object.status.context("no status yet")
    }

    /// Waits until its status is as `wanted`.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&ProxyPairStatus) -> bool,
    ) -> Result<ProxyPairStatus> {
        eventually(deadline, format!("{}: {what}", self.name), async || {
            let status = self.status().await?;
            ensure!(wanted(&status), "{}", serde_json::to_string(&status)?);
            Ok(status)
        })
        .await
    }

    /// Waits until `side` serves, no switch is under way, and the pair is ready.
    pub async fn until_serving(&self, side: Side, deadline: Duration) -> Result<ProxyPairStatus> {
        self.until(&format!("the {} side serves", side.label()), deadline, |status| {
            serves(status, side) && is_ready(status)
        })
        .await
    }

    /// Waits until `primary` serves and both sides are up: the state in which most tests begin.
    pub async fn until_protected(&self, deadline: Duration) -> Result<ProxyPairStatus> {
        self.until("the primary serves and both sides are up", deadline, |status| {
            serves(status, Side::Primary)
                && is_ready(status)
                && (condition(status, "Protected") == "True" || share_a_node(status))
        })
        .await
    }

    /// Waits until a side is of this health.
    pub async fn until_health(&self, side: Side, health: Health, deadline: Duration) -> Result<ProxyPairStatus> {
        self.until(
            &format!("the {} side is {}", side.label(), health.as_str()),
            deadline,
            |status| status.side(side).is_some_and(|side| side.health == health),
        )
        .await
    }

    /// The proxy pod of a side.
    pub async fn pod(&self, side: Side) -> Result<Pod> {
        let pods = self.pods(side).await?;
        pods.into_iter()
            .next()
            .with_context(|| format!("{} has no {} pod", self.name, side.label()))
    }

    /// All proxy pods of a side.
    pub async fn pods(&self, side: Side) -> Result<Vec<Pod>> {
        let selector = format!("{LABEL_PAIR}={},{LABEL_SIDE}={}", self.name, side.label());
        self.namespace.pods(&selector).await
    }

    /// Waits until the virtual Service leads to each gate of the primary.
    pub async fn until_every_gate_is_led_to(&self, deadline: Duration) -> Result<()> {
        let slices = self.namespace.api::<EndpointSlice>();
        let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.name));
        eventually(deadline, "each gate of the primary is a ready endpoint", async || {
            let found = slices.list(&selector).await?;
            let endpoints = found.iter().flat_map(|slice| &slice.endpoints);
            let is_ready = |endpoint: &&Endpoint| {
                let conditions = endpoint.conditions.as_ref();
                conditions.is_some_and(|conditions| conditions.ready == Some(true))
            };
            let (ready, gates) = (
                endpoints.filter(is_ready).count(),
                self.pods(Side::Primary).await?.len(),
            );
            ensure!(ready == gates, "{ready} ready endpoints, {gates} gates");
            Ok(())
        })
        .await
    }

    /// How many sessions the gates of a side have with probes, as they tell Prometheus.
    pub async fn gate_sessions(&self, side: Side) -> Result<u64> {
        let mut sessions = 0;
        for pod in self.pods(side).await? {
            sessions += self.sessions_on(&pod.name_any()).await?;
        }
        Ok(sessions)
    }

    async fn sessions_on(&self, pod: &str) -> Result<u64> {
        let uri = format!(
            "/api/v1/namespaces/{}/pods/{pod}:{GATE_METRICS}/proxy/metrics",
            self.namespace.name
        );
        let request = http::Request::get(&uri).body(Vec::new())?;
        let metrics = self.namespace.cluster.client.request_text(request).await?;
        let sessions = metrics
            .lines()
            .find_map(|line| line.strip_prefix("proxypair_gate_sessions "));
        Ok(sessions
            .with_context(|| format!("{pod} does not count its sessions"))?
            .parse()?)
    }
}

/// `Ready`, or not for sessions that may hang on a lost gate: they may end without a word to the operator.
fn is_ready(status: &ProxyPairStatus) -> bool {
    let ready = status.conditions.iter().find(|known| known.type_ == "Ready");
    ready.is_some_and(|ready| ready.status == "True" || ready.reason == "GateLost")
}

/// Whether a side serves and no switch is under way.
pub fn serves(status: &ProxyPairStatus, side: Side) -> bool {
    status.serving == Some(side) && status.target == Some(side) && status.switching.is_none()
}

/// Both sides are up, on a cluster that has one node for them.
fn share_a_node(status: &ProxyPairStatus) -> bool {
    let is_shared = |known: &Condition| known.type_ == "Protected" && known.reason == "SameNode";
    status.conditions.iter().any(is_shared)
}

/// `True`, `False`, `Unknown`, or nothing.
pub fn condition<'a>(status: &'a ProxyPairStatus, type_: &str) -> &'a str {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_);
    found.map_or("", |condition| condition.status.as_str())
}

/// Fails unless the newest switches, oldest first, were of these kinds and went to these sides.
pub fn expect_history(status: &ProxyPairStatus, wanted: &[(SwitchKind, Side)]) -> Result<()> {
    let found: Vec<_> = status
        .history
        .iter()
        .rev()
        .map(|switch| (switch.kind, switch.to))
        .collect();
    ensure!(
        found == wanted,
        "history is {found:?}, not {wanted:?}: {}",
        serde_json::to_string(&status.history)?
    );
    Ok(())
}

/// Fails unless the pair has failed over and come home, and nothing else.
pub fn expect_there_and_back(status: &ProxyPairStatus) -> Result<()> {
    expect_history(
        status,
        &[
            (SwitchKind::Failover, Side::Backup),
            (SwitchKind::Failback, Side::Primary),
        ],
    )
}
