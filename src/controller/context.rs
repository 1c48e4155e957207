//! What reconciliations share: access to the cluster, caches of the children, and settings.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Client,
    core::PartialObjectMeta,
    runtime::{
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use tokio::sync::{mpsc, watch};

use super::references::References;
use crate::{
    cluster::{self, Changes, Cluster, GuardedPair, Requeue},
    domain::children::{Child, GateImage},
    leader::Standing,
    metrics::Metrics,
};

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this process, for the gates and for Events.
    pub identity: String,
    /// The one namespace in scope; all of them without it.
    pub namespace: Option<String>,
    /// What the proxy pods run.
    pub image: GateImage,
    /// How many pairs may get a new image of the gates at the same time.
    pub max_updating_pairs: usize,
    /// How long a gate's certificate is valid.
    pub certificate_lifetime: Duration,
    /// Node agents reset the sessions of lost gates.
    pub has_node_agents: bool,
}

/// What reconciliations share.
pub struct Context {
    /// What they share with the workers.
    pub cluster: Arc<Cluster>,
    /// How the operator runs.
    pub settings: Settings,
    /// The children, without their content: enough to notice that one was changed or deleted.
    pub children: Children,
    /// Secrets and ConfigMaps of users.
    pub references: References,
}

impl Context {
    /// The shared state, the stream of pairs that need a reconciliation, and the task that fills the caches.
    pub fn new(
        client: Client,
        settings: Settings,
        metrics: Metrics,
        standing: watch::Receiver<Standing>,
    ) -> (
        Arc<Self>,
        impl Stream<Item = ObjectRef<GuardedPair>> + Send + 'static,
        BoxFuture<'static, ()>,
    ) {
        let (requeue, mut requeued) = mpsc::unbounded_channel();
        let changes = Changes::default();
        let namespace = settings.namespace.as_deref();
        let (pods, pods_task) = cluster::pods(&client, namespace, &requeue, &changes);
        let (slices, slices_task) = cluster::slices(&client, namespace, &changes);
        let (children, children_tasks) = Children::watch(&client, namespace, &requeue);
        let references = References::new(client.clone(), requeue.clone());
        let reporter = Reporter {
            controller: "proxypair.dev/operator".to_owned(),
            instance: Some(settings.identity.clone()),
        };
        let cluster = Cluster {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            identity: settings.identity.clone(),
            metrics,
            pods,
            slices,
            changes,
            requeue,
            has_node_agents: settings.has_node_agents,
            standing,
        };
        let context = Self {
            cluster: Arc::new(cluster),
            settings,
            children,
            references,
        };
        let requeued = futures::stream::poll_fn(move |context| requeued.poll_recv(context));
        let tasks = children_tasks.into_iter().chain([pods_task, slices_task]);
        let tasks = futures::future::join_all(tasks).map(drop).boxed();
        (Arc::new(context), requeued, tasks)
    }

    /// Waits until the caches hold what the API server holds: on less, a reconciliation would take existing pods for missing ones.
    pub async fn caches_are_ready(&self) {
        let Cluster { pods, slices, .. } = &*self.cluster;
        // An error means that the task which fills a cache has ended, with the process.
        let _ = futures::join!(
            pods.wait_until_ready(),
            slices.wait_until_ready(),
            self.children.are_ready()
        );
    }
}

/// One cache for each kind of child.
pub struct Children(Vec<Box<dyn ChildCache>>);

impl Children {
    /// Starts to cache the metadata of every kind of child. This is the list of the kinds.
    fn watch(client: &Client, namespace: Option<&str>, requeue: &Requeue) -> (Self, Vec<BoxFuture<'static, ()>>) {
        fn kind<K: Child>(
            client: &Client,
            namespace: Option<&str>,
            requeue: &Requeue,
        ) -> (Box<dyn ChildCache>, BoxFuture<'static, ()>) {
            let (store, task) = cluster::children::<K>(client, namespace, requeue);
            (Box::new(store), task)
        }
        let (caches, tasks) = [
            kind::<Deployment>(client, namespace, requeue),
            kind::<Service>(client, namespace, requeue),
            kind::<Secret>(client, namespace, requeue),
            kind::<ServiceAccount>(client, namespace, requeue),
            kind::<PodDisruptionBudget>(client, namespace, requeue),
            kind::<ConfigMap>(client, namespace, requeue),
        ]
        .into_iter()
        .unzip();
        (Self(caches), tasks)
    }

    /// The cached `metadata.resourceVersion` of a child.
    pub fn version(&self, kind: &str, namespace: &str, name: &str) -> Option<String> {
        let cache = self.0.iter().find(|cache| cache.kind() == kind)?;
        cache.version(namespace, name)
    }

    async fn are_ready(&self) {
        futures::future::join_all(self.0.iter().map(|cache| cache.is_ready())).await;
    }
}

/// The cache of one kind of child.
trait ChildCache: Send + Sync {
    fn kind(&self) -> String;
    fn version(&self, namespace: &str, name: &str) -> Option<String>;
    fn is_ready(&self) -> BoxFuture<'_, ()>;
}

impl<K: Child> ChildCache for Store<PartialObjectMeta<K>> {
    fn kind(&self) -> String {
        K::kind(&()).into_owned()
    }

    fn version(&self, namespace: &str, name: &str) -> Option<String> {
        let key = ObjectRef::new(name).within(namespace);
        self.get(&key)?.metadata.resource_version.clone()
    }

    fn is_ready(&self) -> BoxFuture<'_, ()> {
        self.wait_until_ready().map(drop).boxed()
    }
}
