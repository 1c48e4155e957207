//! A namespace per test, with Pod Security `restricted` in force, and short ways to objects in it.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace as NamespaceObject, Pod, ServiceAccount},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{cluster::Cluster, wait::eventually};

/// The field manager of everything that tests apply.
pub const TESTER: &str = "proxypair-e2e";

/// A namespace of one test's own.
#[derive(Clone)]
pub struct Namespace {
    /// The cluster it is in.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Makes one whose name begins with `e2e-` and tells which test it is for.
    pub async fn create(cluster: &Cluster, test: &str) -> Result<Self> {
        let word: String = test.replace('_', "-").chars().take(40).collect();
        let name = format!("e2e-{}-{}", word.trim_end_matches('-'), random_suffix());
        Self::create_named(cluster, &name).await
    }

    /// Makes one of this name.
    pub async fn create_named(cluster: &Cluster, name: &str) -> Result<Self> {
        Self::create_with(cluster, name, "restricted").await
    }

    /// Makes one of this name, with that level of Pod Security in force.
    async fn create_with(cluster: &Cluster, name: &str, level: &str) -> Result<Self> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {
                "proxypair.dev/e2e": "test",
                "pod-security.kubernetes.io/enforce": level,
            }},
        });
        let api: Api<NamespaceObject> = Api::all(cluster.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        let namespace = Self {
            cluster: cluster.clone(),
            name: name.to_owned(),
        };
        let accounts = namespace.api::<ServiceAccount>();
        eventually(
            Duration::from_secs(20),
            "the namespace has its default ServiceAccount",
            async || Ok(accounts.get("default").await?),
        )
        .await?;
        Ok(namespace)
    }

    /// The name of the other namespace that a test may have.
    fn other_name(&self) -> String {
        format!("{}-2", self.name)
    }

    /// Makes another one beside it. [`Self::delete`] deletes it, too.
    pub async fn create_other(&self) -> Result<Self> {
        Self::create_named(&self.cluster, &self.other_name()).await
    }

    /// The same, for pods that need the network of their node.
    pub async fn create_other_privileged(&self) -> Result<Self> {
        Self::create_with(&self.cluster, &self.other_name(), "privileged").await
    }

    /// The other one, if it was made.
    pub async fn other(&self) -> Result<Option<Self>> {
        let api: Api<NamespaceObject> = Api::all(self.cluster.client.clone());
        let found = api.get_opt(&self.other_name()).await?;
        Ok(found.map(|found| Self {
            cluster: self.cluster.clone(),
            name: found.name_any(),
        }))
    }

    /// Begins to delete it. Everything in it goes with it.
    pub async fn delete(&self) -> Result<()> {
        let api: Api<NamespaceObject> = Api::all(self.cluster.client.clone());
        if let Some(other) = self.other().await? {
            api.delete(&other.name, &DeleteParams::background()).await?;
        }
        api.delete(&self.name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// The objects of one kind.
    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.cluster.client.clone(), &self.name)
    }

    /// Applies an object.
    pub async fn apply<K>(&self, object: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let kind = K::kind(&()).into_owned();
        let object: K = serde_json::from_value(object).with_context(|| format!("this is no {kind}"))?;
        let params = PatchParams::apply(TESTER).force();
        let applied = self
            .api()
            .patch(&object.name_any(), &params, &Patch::Apply(&object))
            .await;
        applied.with_context(|| format!("failed to apply {kind} {}", object.name_any()))
    }

    /// Pods with these labels that are not being deleted.
    pub async fn pods(&self, labels: &str) -> Result<Vec<Pod>> {
        let list = self.api::<Pod>().list(&ListParams::default().labels(labels)).await?;
        Ok(list
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }

    /// Waits until a pod is ready.
    pub async fn until_ready(&self, pod: &str) -> Result<Pod> {
        let pods = self.api::<Pod>();
        eventually(Duration::from_secs(60), format!("pod {pod} is ready"), async || {
            let found = pods.get(pod).await?;
            ensure!(is_ready(&found), "{}", serde_json::to_string(&found.status)?);
            Ok(found)
        })
        .await
    }
}

/// Whether a pod passes its readiness checks.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn random_suffix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let seed = std::hash::BuildHasher::hash_one(
        &std::hash::RandomState::new(),
        (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
    );
    format!("{:05x}", seed & 0xf_ffff)
}
