//! What is measured: an operator, two ObjectServers, a pair and probes, in a namespace of their own.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::{
    api::core::v1::{Namespace as NamespaceObject, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testkit::{
    cluster::Cluster,
    directory::repository,
    manifest::merge,
    namespace::{Namespace, TESTER},
    operator::Operator,
    pair::{self, Pair},
    stand_ins::{Fleet, FleetOptions, ObjectServer, ServerOptions},
    wait::eventually,
};

/// How many probes send.
pub const PROBES: u64 = 10;
/// Events per second of each.
pub const RATE: u64 = 50;
/// How long starting may take.
const START: Duration = Duration::from_secs(90);
/// Where everything is that is not cut off.
pub const SAFE: &str = "node1";
/// Where the primary's proxy is when a node is cut off.
pub const CUT: &str = "node3";
/// Where the backup's is.
pub const OTHER: &str = "node2";

/// How many gates there are, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One for each side, with short timings.
    OneGate,
    /// The same, each on a node of its own, and all else on a third.
    OneGateANode,
    /// Two for the primary, one of them on the node that is cut off, with every timing at its default, and node agents.
    TwoGates,
}

/// The stage.
pub struct Stage {
    /// Its namespace.
    pub namespace: Namespace,
    /// The operator.
    pub operator: Operator,
    /// The primary's ObjectServer.
    pub agg_p: ObjectServer,
    /// The ProxyPair.
    pub pair: Pair,
    /// The probes.
    pub fleet: Fleet,
}

impl Stage {
    /// Sets it.
    pub async fn set(cluster: &Cluster, name: &str, layout: Layout) -> Result<Self> {
        let nodes = layout != Layout::OneGate;
        define(cluster).await?;
        let namespace = fresh_namespace(cluster, name).await?;
        let safe = ServerOptions::on(nodes.then_some(SAFE));
        let mut values = json!({"log": "info"});
        if nodes {
            values["nodeSelector"] = json!({"kubernetes.io/hostname": SAFE});
        }
        let (operator, agg_p, agg_b) = tokio::try_join!(
            install(&namespace, &values, layout),
            ObjectServer::start(&namespace, "AGG_P", &safe),
            ObjectServer::start(&namespace, "AGG_B", &safe),
        )?;
        let mut manifest = match layout {
            Layout::OneGate | Layout::OneGateANode => pair::manifest("proxy-v", &agg_p, &agg_b),
            Layout::TwoGates => pair::shortest_manifest("proxy-v", &agg_p, &agg_b),
        };
        if layout == Layout::TwoGates {
            merge(&mut manifest["spec"], &two_gates());
        } else {
            // Time to look at the probes while they are away.
            manifest["spec"]["failback"]["stableFor"] = json!("4s");
        }
        if layout == Layout::OneGateANode {
            for (side, node) in [("primary", CUT), ("backup", OTHER)] {
                manifest["spec"][side]["proxy"] = json!({"nodeSelector": {"kubernetes.io/hostname": node}});
            }
        }
        let pair = Pair::apply(&namespace, manifest).await?;
        pair.until_protected(START).await?;
        let options = FleetOptions {
            probes: PROBES,
            rate: RATE,
            // Without an agent nothing else ends the sessions on a lost node.
            network_timeout: match layout {
                Layout::OneGateANode => Duration::from_secs(1),
                Layout::OneGate | Layout::TwoGates => Duration::ZERO,
            },
            connect_timeout: if nodes {
                Duration::from_millis(500)
            } else {
                Duration::from_secs(2)
            },
            reconnect_delay: Duration::from_millis(10),
            node: safe.node.clone(),
            ..FleetOptions::default()
        };
        let fleet = Fleet::start(&namespace, "load", &format!("{}:{}", pair.name, pair::PORT), &options).await?;
        fleet.until_all_on("AGG_P", START).await?;
        Ok(Self {
            namespace,
            operator,
            agg_p,
            pair,
            fleet,
        })
    }

    /// Waits until every probe is home, both sides are up and every node is ready.
    pub async fn until_home(&self, deadline: Duration) -> Result<()> {
        self.fleet.until_all_on("AGG_P", deadline).await?;
        self.pair.until_protected(deadline).await?;
        let nodes: Api<Node> = Api::all(self.namespace.cluster.client.clone());
        eventually(deadline, "every node is ready", async || {
            for node in nodes.list(&Default::default()).await? {
                let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let ready = conditions
                    .into_iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True");
                ensure!(ready, "{:?} is not", node.metadata.name);
            }
            Ok(())
        })
        .await
    }

    /// Takes it down.
    pub async fn strike(self) -> Result<()> {
        Operator::uninstall(&self.namespace).await?;
        self.namespace.delete().await
    }
}

async fn install(namespace: &Namespace, values: &Value, layout: Layout) -> Result<Operator> {
    match layout {
        Layout::OneGate | Layout::OneGateANode => Operator::install(namespace, values).await,
        Layout::TwoGates => Operator::install_with_agents(namespace, values).await,
    }
}

fn two_gates() -> Value {
    let hostname = "kubernetes.io/hostname";
    json!({
        "primary": {"proxy": {"replicas": 2, "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": hostname, "operator": "In", "values": [SAFE, CUT]}]},
            ]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
                "labelSelector": {"matchLabels": {"proxypair.dev/side": "primary"}},
                "topologyKey": hostname,
            }}]},
        }}},
        "backup": {"proxy": {"replicas": 1, "nodeSelector": {hostname: OTHER}}},
    })
}

/// Makes the namespace, without what a former run may have left in it.
async fn fresh_namespace(cluster: &Cluster, name: &str) -> Result<Namespace> {
    let api: Api<NamespaceObject> = Api::all(cluster.client.clone());
    if api.get_opt(name).await?.is_some() {
        let former = Namespace {
            cluster: cluster.clone(),
            name: name.to_owned(),
        };
        Operator::uninstall(&former).await?;
        api.delete(name, &DeleteParams::background()).await?;
        eventually(START, format!("the former namespace {name} is gone"), async || {
            ensure!(api.get_opt(name).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
    }
    Namespace::create_named(cluster, name).await
}

/// Applies the CustomResourceDefinition.
async fn define(cluster: &Cluster) -> Result<()> {
    let text = std::fs::read_to_string(repository().join("crds/proxypairs.yaml"))?;
    let definition: CustomResourceDefinition = serde_saphyr::from_str(&text)?;
    let name = definition.metadata.name.clone().unwrap_or_default();
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    api.patch(&name, &PatchParams::apply(TESTER).force(), &Patch::Apply(&definition))
        .await?;
    let established = kube::runtime::wait::conditions::is_crd_established();
    kube::runtime::wait::await_condition(api, &name, established).await?;
    Ok(())
}
