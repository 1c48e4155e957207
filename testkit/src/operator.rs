//! An operator of the test's own, installed by the Helm chart, and the faults it is to survive.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    coordination::v1::Lease,
    core::v1::Pod,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::Cluster,
    manifest::merge,
    namespace::{Namespace, is_ready},
    wait::eventually,
};

/// Name of most releases, their Deployment, ServiceAccount and Lease.
const RELEASE: &str = "proxypair";
/// Name of a release that replaces the first. Its objects have the chart's name behind it.
const SECOND_RELEASE: &str = "second";
/// Labels of the operator's pods.
const PODS: &str = "app.kubernetes.io/name=proxypair,app.kubernetes.io/component=operator";
/// A name in the API server's certificate.
const API_SERVER: &str = "kubernetes.default.svc";
/// Pods of an operator: one leads, one stands by.
const REPLICAS: usize = 2;

/// The operator of one namespace.
#[derive(Clone)]
pub struct Operator {
    /// Where it runs.
    namespace: Namespace,
    /// The one whose pairs it reconciles.
    watched: Namespace,
    /// Name of the Deployment, the ServiceAccount and the Lease.
    name: String,
}

impl Operator {
    /// Installs it with two replicas, for its own namespace alone. `values` are put over the chart's.
    pub async fn install(namespace: &Namespace, values: &Value) -> Result<Self> {
        let operator = Self::in_namespace(namespace);
        operator.install_release(RELEASE, values).await?;
        Ok(operator)
    }

    /// Installs it with node agents, in a namespace beside that of its pairs.
    pub async fn install_with_agents(watched: &Namespace, values: &Value) -> Result<Self> {
        let namespace = watched.create_other_privileged().await?;
        let mut all = json!({"nodeAgent": {"enabled": true}});
        if !values.is_null() {
            merge(&mut all, values);
        }
        let operator = Self {
            watched: watched.clone(),
            ..Self::in_namespace(&namespace)
        };
        operator.install_release(RELEASE, &all).await?;
        operator.until_agents_run().await?;
        Ok(operator)
    }

    /// Waits until there is an agent on each node, and all are ready.
    pub async fn until_agents_run(&self) -> Result<()> {
        let agents = self.namespace.api::<DaemonSet>();
        let name = format!("{}-node-agent", self.name);
        eventually(
            Duration::from_secs(60),
            "each node has an agent that is ready",
            async || {
                let status = agents.get(&name).await?.status.unwrap_or_default();
                let wanted = status.desired_number_scheduled;
                ensure!(
                    wanted > 0 && status.number_ready == wanted,
                    "{} of {wanted} are ready",
                    status.number_ready
                );
                Ok(())
            },
        )
        .await
    }

    /// Uninstalls it, and installs another release in a namespace, under another name.
    pub async fn replace_by_another_release(&self, namespace: &Namespace) -> Result<Self> {
        Self::uninstall_from(&self.namespace).await?;
        let second = Self {
            namespace: namespace.clone(),
            watched: self.watched.clone(),
            name: format!("{SECOND_RELEASE}-proxypair"),
        };
        second.install_release(SECOND_RELEASE, &Value::Null).await?;
        Ok(second)
    }

    async fn install_release(&self, release: &str, values: &Value) -> Result<()> {
        let namespace = &self.namespace;
        let image = std::env::var("IMAGE").unwrap_or_else(|_| "proxypair.test/proxypair:dev".to_owned());
        let (repository, tag) = image.rsplit_once(':').context("IMAGE has no tag")?;
        let mut all = json!({
            "image": {"repository": repository, "tag": tag},
            "watchNamespace": self.watched.name,
            "crds": {"install": false},
            "rbac": {"aggregate": false},
            "replicas": REPLICAS,
            "log": "info,proxypair=debug",
        });
        if !values.is_null() {
            merge(&mut all, values);
        }
        let mut helm = namespace.cluster.tool("helm");
        helm.args([
            "install",
            release,
            "charts/proxypair",
            "--skip-crds",
            "--namespace",
            &namespace.name,
        ]);
        for (key, value) in all.as_object().into_iter().flatten() {
            helm.arg("--set-json").arg(format!("{key}={value}"));
        }
        finish(helm).await.context("failed to install the chart")?;
        self.until_complete(Duration::from_secs(60)).await
    }

    /// The one that is installed in a namespace already.
    pub fn in_namespace(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            watched: namespace.clone(),
            name: RELEASE.to_owned(),
        }
    }

    /// Removes every release of a test's namespaces, with what stands outside of them.
    pub async fn uninstall(namespace: &Namespace) -> Result<()> {
        if let Some(other) = namespace.other().await? {
            Self::uninstall_from(&other).await?;
        }
        Self::uninstall_from(namespace).await
    }

    async fn uninstall_from(namespace: &Namespace) -> Result<()> {
        let mut helm = namespace.cluster.tool("helm");
        helm.args([
            "uninstall",
            RELEASE,
            SECOND_RELEASE,
            "--namespace",
            &namespace.name,
            "--ignore-not-found",
        ]);
        finish(helm).await.context("failed to uninstall the chart")
    }

    /// The user that it is for the API server.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace.name, self.name)
    }

    /// What its pods have logged.
    pub async fn logs(&self) -> Result<String> {
        let api = self.namespace.api::<Pod>();
        let mut logs = String::new();
        for pod in self.namespace.pods(PODS).await? {
            logs += &api.logs(&pod.name_any(), &LogParams::default()).await?;
        }
        Ok(logs)
    }

    /// What the leader counts, as Prometheus reads it.
    pub async fn metrics(&self) -> Result<String> {
        let uri = format!(
            "/api/v1/namespaces/{}/pods/{}:8080/proxy/metrics",
            self.namespace.name,
            self.leader().await?.pod
        );
        let request = http::Request::get(uri).body(Vec::new())?;
        Ok(self.namespace.cluster.client.request_text(request).await?)
    }

    /// Waits until all replicas are ready and one of them leads.
    pub async fn until_complete(&self, deadline: Duration) -> Result<()> {
        eventually(
            deadline,
            "all replicas of the operator are ready and one leads",
            async || {
                let pods = self.namespace.pods(PODS).await?;
                let ready: Vec<_> = pods
                    .iter()
                    .filter(|pod| is_ready(pod))
                    .map(ResourceExt::name_any)
                    .collect();
                ensure!(
                    ready.len() == REPLICAS && pods.len() == REPLICAS,
                    "ready {ready:?} of {}",
                    pods.len()
                );
                let leader = self.leader().await?;
                ensure!(ready.contains(&leader.pod), "{leader:?} leads, ready {ready:?}");
                Ok(())
            },
        )
        .await
    }

    /// Has so many pods run from now on; returns when no other is left.
    pub async fn scale(&self, replicas: usize) -> Result<()> {
        let patch = json!({"spec": {"replicas": replicas}});
        self.namespace
            .api::<Deployment>()
            .patch_scale(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        eventually(
            Duration::from_secs(60),
            format!("{replicas} pods of the operator are left"),
            async || {
                let pods = self
                    .namespace
                    .api::<Pod>()
                    .list(&ListParams::default().labels(PODS))
                    .await?;
                ensure!(pods.items.len() == replicas, "there are {}", pods.items.len());
                Ok(())
            },
        )
        .await
    }

    /// Has it reach the API server through this address from now on, under the API server's own name; returns when all replicas do.
    pub async fn reach_api_through(&self, address: &str, port: u16) -> Result<()> {
        let patch = json!({"spec": {"template": {"spec": {
            "hostAliases": [{"ip": address, "hostnames": [API_SERVER]}],
            "containers": [{"name": "operator", "env": [
                {"name": "KUBERNETES_SERVICE_HOST", "value": API_SERVER},
                {"name": "KUBERNETES_SERVICE_PORT", "value": port.to_string()},
            ]}],
        }}}});
        let deployments = self.namespace.api::<Deployment>();
        let patched = deployments
            .patch(RELEASE, &PatchParams::default(), &Patch::Strategic(&patch))
            .await?;
        eventually(Duration::from_secs(120), "the operator was rolled out", async || {
            let status = deployments.get(RELEASE).await?.status.unwrap_or_default();
            let (observed, updated, all) = (status.observed_generation, status.updated_replicas, status.replicas);
            ensure!(
                observed >= patched.metadata.generation && updated == Some(2) && all == Some(2),
                "generation {observed:?}, {updated:?} of {all:?} updated"
            );
            Ok(())
        })
        .await?;
        self.until_complete(Duration::from_secs(60)).await
    }

    /// Who leads, as the Lease says.
    pub async fn leader(&self) -> Result<Leader> {
        let lease = self.namespace.api::<Lease>().get(&self.name).await?;
        let spec = lease.spec.context("an empty Lease")?;
        let pod = spec
            .holder_identity
            .filter(|holder| !holder.is_empty())
            .context("nobody leads")?;
        Ok(Leader {
            pod,
            term: spec.lease_transitions.unwrap_or_default(),
        })
    }

    /// Deletes its Lease; returns when there is another one.
    pub async fn delete_lease(&self, deadline: Duration) -> Result<()> {
        let leases = self.namespace.api::<Lease>();
        let old = leases.delete(&self.name, &DeleteParams::default()).await?;
        let old = old.left().and_then(|old| old.uid());
        eventually(deadline, "the Lease is created again", async || {
            let new = leases.get(&self.name).await?;
            ensure!(new.uid() != old, "it is still there");
            Ok(())
        })
        .await
    }

    /// Waits until leadership has passed on from `old`.
    pub async fn until_led_by_another_than(&self, old: &Leader, deadline: Duration) -> Result<Leader> {
        eventually(deadline, format!("somebody else than {old:?} leads"), async || {
            let leader = self.leader().await?;
            ensure!(leader != *old, "it still leads");
            Ok(leader)
        })
        .await
    }

    /// Ends the leader's process with SIGKILL and takes its pod away, so that it can neither finish nor release anything.
    pub async fn kill_leader(&self) -> Result<Leader> {
        let leader = self.leader().await?;
        if Cluster::is_own() {
            self.namespace
                .cluster
                .signal(&self.namespace.name, &leader.pod, "KILL")
                .await?;
        }
        let now = DeleteParams::default().grace_period(0);
        self.namespace
            .api::<k8s_openapi::api::core::v1::Pod>()
            .delete(&leader.pod, &now)
            .await?;
        Ok(leader)
    }
}

/// A term of leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The pod.
    pub pod: String,
    term: i32,
}

async fn finish(mut command: Command) -> Result<()> {
    let output = command.output().await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
