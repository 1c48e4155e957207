//! What reconciler and stewards share: client, caches and settings.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Secret, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use tokio::sync::{mpsc, watch};

use super::{
    apply::ApplyError,
    references::{self, References},
    watches::{self, Changes, GuardedPair},
};
use crate::{
    domain::children::GateImage,
    leader::{Claim, Standing},
    metrics::Metrics,
};

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this process, for the gates and for events.
    pub identity: String,
    /// The one namespace to look after; all of them without it.
    pub namespace: Option<String>,
    /// What the proxy pods run.
    pub image: GateImage,
    /// How long a gate's certificate is valid.
    pub certificate_lifetime: Duration,
}

/// What reconciler and stewards share.
pub struct Context {
    /// Talks to the API server.
    pub client: Client,
    /// How the operator runs.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    /// Proxy pods.
    pub pods: Store<Pod>,
    /// EndpointSlices of the Services that the operator made.
    pub slices: Store<EndpointSlice>,
    /// The children, without their content.
    pub children: Children,
    /// Secrets and ConfigMaps of users.
    pub references: Arc<References>,
    /// Something has changed in `slices` or `pods`.
    pub changes: Changes,
    standing: watch::Receiver<Standing>,
}

/// What is cached of the children: enough to see that one was changed or deleted.
pub struct Children {
    pub deployments: Store<PartialObjectMeta<Deployment>>,
    pub services: Store<PartialObjectMeta<Service>>,
    pub secrets: Store<PartialObjectMeta<Secret>>,
    pub accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
}

impl Children {
    /// The cached `metadata.resourceVersion` of a child.
    pub fn version(&self, kind: &str, namespace: &str, name: &str) -> Option<String> {
        fn of<K>(store: &Store<PartialObjectMeta<K>>, kind: &str, namespace: &str, name: &str) -> Option<String>
        where
            K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + 'static,
        {
            if K::kind(&()) != kind {
                return None;
            }
            let key = ObjectRef::new(name).within(namespace);
            store.get(&key)?.metadata.resource_version.clone()
        }
        let Self {
            deployments,
            services,
            secrets,
            accounts,
            budgets,
        } = self;
        of(deployments, kind, namespace, name)
            .or_else(|| of(services, kind, namespace, name))
            .or_else(|| of(secrets, kind, namespace, name))
            .or_else(|| of(accounts, kind, namespace, name))
            .or_else(|| of(budgets, kind, namespace, name))
    }
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
        let (nudge, mut nudged) = mpsc::unbounded_channel();
        let changes = Changes::default();
        let namespace = settings.namespace.as_deref();
        let (pods, pods_task) = watches::pods(&client, namespace, &nudge, &changes);
        let (slices, slices_task) = watches::slices(&client, namespace, &changes);
        let (deployments, deployments_task) = watches::children(&client, namespace, &nudge);
        let (services, services_task) = watches::children(&client, namespace, &nudge);
        let (secrets, secrets_task) = watches::children(&client, namespace, &nudge);
        let (accounts, accounts_task) = watches::children(&client, namespace, &nudge);
        let (budgets, budgets_task) = watches::children(&client, namespace, &nudge);
        let references = Arc::new(References::default());
        let references_task = references::watch(&client, namespace, &references, &nudge);
        let tasks: [BoxFuture<'static, ()>; 8] = [
            pods_task,
            slices_task,
            deployments_task,
            services_task,
            secrets_task,
            accounts_task,
            budgets_task,
            references_task,
        ];
        let reporter = Reporter {
            controller: "proxypair.dev/operator".to_owned(),
            instance: Some(settings.identity.clone()),
        };
        let context = Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            settings,
            metrics,
            pods,
            slices,
            children: Children {
                deployments,
                services,
                secrets,
                accounts,
                budgets,
            },
            references,
            changes,
            standing,
        };
        let nudges = futures::stream::poll_fn(move |context| nudged.poll_recv(context));
        let tasks: BoxFuture<'static, ()> = Box::pin(async move {
            futures::future::join_all(tasks).await;
        });
        (Arc::new(context), nudges, tasks)
    }

    /// An API over everything this operator looks after.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        watches::api(&self.client, self.settings.namespace.as_deref())
    }

    /// Waits until what stands in the caches is what stands in the API server: decisions on less would be decisions on nothing.
    pub async fn caches_are_ready(&self) {
        let Children {
            deployments,
            services,
            secrets,
            accounts,
            budgets,
        } = &self.children;
        let _ = futures::join!(
            self.pods.wait_until_ready(),
            self.slices.wait_until_ready(),
            deployments.wait_until_ready(),
            services.wait_until_ready(),
            secrets.wait_until_ready(),
            accounts.wait_until_ready(),
            budgets.wait_until_ready(),
        );
    }

    /// The right to write, checked before each write.
    pub fn claim(&self) -> Result<Claim, ApplyError> {
        self.standing
            .borrow()
            .claim(Instant::now())
            .ok_or(ApplyError::NotLeading)
    }
}
