//! The operator, installed as a user would: with Helm, in a namespace of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::{Api, api::DeleteParams};
use serde_json::json;
use testkit::{cluster::Cluster, namespace::Namespace, operator::Operator, wait::eventually};

/// The namespace of the operator.
pub const SYSTEM: &str = "proxypair-system";
/// The Helm release.
pub const RELEASE: &str = "proxypair";
/// The namespace of pair, ObjectServers and probes.
pub const NAMESPACE: &str = "netcool";
/// How long the operator may take to run.
const START: Duration = Duration::from_secs(90);

/// Takes away what a former demo left, and makes the namespace anew.
pub async fn fresh_namespace(cluster: &Cluster) -> Result<Namespace> {
    let api: Api<NamespaceObject> = Api::all(cluster.client.clone());
    if api.get_opt(NAMESPACE).await?.is_some() {
        // Pods first, without a grace period: nobody sends any more who could lose anything.
        let former = Namespace {
            cluster: cluster.clone(),
            name: NAMESPACE.to_owned(),
        };
        api.delete(NAMESPACE, &DeleteParams::background()).await?;
        let now = DeleteParams::default().grace_period(0);
        former
            .api::<k8s_openapi::api::core::v1::Pod>()
            .delete_collection(&now, &kube::api::ListParams::default())
            .await?;
        eventually(START, "the namespace of the former demo is gone", async || {
            ensure!(api.get_opt(NAMESPACE).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
    }
    Namespace::create_named(cluster, NAMESPACE).await
}

/// Installs the operator, or upgrades the one that is there, and waits until both replicas are ready and one leads.
pub async fn operator(namespace: &Namespace) -> Result<Operator> {
    let image = std::env::var("IMAGE").unwrap_or_else(|_| "proxypair.test/proxypair:dev".to_owned());
    let (repository, tag) = image.rsplit_once(':').context("IMAGE has no tag")?;
    let object = Api::<NamespaceObject>::all(namespace.cluster.client.clone())
        .get(&namespace.name)
        .await?;
    let mut helm = namespace.cluster.tool("helm");
    helm.args(["upgrade", "--install", RELEASE, "charts/proxypair"]);
    helm.args(["--namespace", SYSTEM, "--create-namespace"]);
    helm.args(["--take-ownership", "--force-conflicts", "--wait", "--timeout", "80s"]);
    let values = json!({
        "image": {"repository": repository, "tag": tag},
        // Other operators may run in the same cluster, each for a namespace of its own.
        "watchNamespace": namespace.name,
        "rbac": {"aggregate": false},
        "replicas": 2,
        // New pods for a new namespace, as the old ones may run an image that was replaced under its name.
        "podAnnotations": {"proxypair.dev/demo": object.metadata.uid},
    });
    for (key, value) in values.as_object().into_iter().flatten() {
        helm.arg("--set-json").arg(format!("{key}={value}"));
    }
    let output = tokio::time::timeout(START, helm.output())
        .await
        .context("helm takes too long")??;
    ensure!(
        output.status.success(),
        "helm failed to install the operator: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let operator = Operator::in_namespace(&Namespace {
        cluster: namespace.cluster.clone(),
        name: SYSTEM.to_owned(),
    });
    operator.until_complete(START).await?;
    Ok(operator)
}
