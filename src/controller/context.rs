//! What reconciler and stewards share: client, caches, settings, and who looks after which pair.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, future::BoxFuture};
use jiff::Timestamp;
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
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use tokio::sync::{mpsc, watch};

use super::{
    apply::ApplyError,
    steward::Steward,
    watches::{self, Changes},
};
use crate::{
    api::ProxyPair,
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

/// The guarded type keeps one malformed ProxyPair from stopping the watch for all.
pub type GuardedPair = DeserializeGuard<ProxyPair>;

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
    /// Deployments of all sides, without their content.
    pub children: Children,
    /// Something has changed in `slices` or `pods`.
    pub changes: Changes,
    standing: watch::Receiver<Standing>,
    pairs: OnceLock<Store<GuardedPair>>,
    stewards: Mutex<HashMap<ObjectRef<GuardedPair>, Steward>>,
    applied: Mutex<HashMap<ObjectRef<GuardedPair>, Applied>>,
}

/// What the last reconciliation of a pair left behind. While nothing differs from it there is nothing to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `metadata.uid` of the ProxyPair.
    pub uid: String,
    /// `metadata.generation` of the ProxyPair.
    pub generation: i64,
    /// When the keys are to be renewed.
    pub renew_at: Timestamp,
    /// `metadata.resourceVersion` of each child, by kind and name.
    pub versions: BTreeMap<(String, String), String>,
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
    fn version(&self, kind: &str, namespace: &str, name: &str) -> Option<String> {
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
        let tasks: [BoxFuture<'static, ()>; 7] = [
            pods_task,
            slices_task,
            deployments_task,
            services_task,
            secrets_task,
            accounts_task,
            budgets_task,
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
            changes,
            standing,
            pairs: OnceLock::new(),
            stewards: Mutex::default(),
            applied: Mutex::default(),
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

    /// Tells where the ProxyPairs are cached.
    pub fn pairs_are_in(&self, store: Store<GuardedPair>) {
        // A second call would name the same store.
        let _ = self.pairs.set(store);
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

    /// Runs `act` on the stewards of all pairs.
    pub fn with_stewards<T>(&self, act: impl FnOnce(&mut HashMap<ObjectRef<GuardedPair>, Steward>) -> T) -> T {
        act(&mut self.stewards.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the last reconciliation left behind, if everything still is as it left it.
    pub fn still_applied(&self, key: &ObjectRef<GuardedPair>, uid: &str, generation: i64) -> Option<Applied> {
        let applied = self.applied().get(key).cloned()?;
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let same = applied.uid == uid
            && applied.generation == generation
            && applied.renew_at > Timestamp::now()
            && applied.versions.iter().all(|((kind, name), version)| {
                self.children.version(kind, namespace, name).as_deref() == Some(version)
            });
        same.then_some(applied)
    }

    /// Remembers what a reconciliation left behind; `None` when the next one has to look for itself.
    pub fn remember(&self, key: ObjectRef<GuardedPair>, applied: Option<Applied>) {
        match applied {
            Some(applied) => self.applied().insert(key, applied),
            None => self.applied().remove(&key),
        };
    }

    fn applied(&self) -> MutexGuard<'_, HashMap<ObjectRef<GuardedPair>, Applied>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what was done for a pair that is gone.
    pub fn forget(&self, pair: &ObjectRef<GuardedPair>) {
        self.remember(pair.clone(), None);
        if self.with_stewards(|stewards| stewards.remove(pair)).is_some() {
            tracing::info!(%pair, "the ProxyPair is gone");
        }
        self.metrics
            .forget(pair.namespace.as_deref().unwrap_or_default(), &pair.name);
    }
}
