//! The worker of each pair, and what its last reconciliation left behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kube::{
    Resource,
    runtime::reflector::{ObjectRef, Store},
};

use super::{apply::Versions, backoff::Failures, context::Context, references::ReferenceVersions};
use crate::{
    api::{ProxyPair, ServiceType, Side, Sides},
    cluster::GuardedPair,
    domain::{
        children::Nodes,
        pair::Pair,
        rollout::Snapshot,
        updates::{SideImage, Updates},
    },
    telemetry::pair_span,
    worker::{Handover, Worker, node_of},
};

/// What reconciliations share among each other.
pub struct Registry {
    /// What they share with the workers.
    pub context: Arc<Context>,
    /// All ProxyPairs.
    everybody: Store<GuardedPair>,
    pairs: Mutex<HashMap<ObjectRef<GuardedPair>, PairEntry>>,
    updates: Mutex<Updates<NamespacedName>>,
}

/// Namespace and name of a ProxyPair.
type NamespacedName = (String, String);

/// One pair.
#[derive(Default)]
struct PairEntry {
    worker: Option<Worker>,
    /// What the last reconciliation left behind; `None` when the next one has to look for itself.
    applied: Option<Applied>,
    /// The nodes of the pair's pods, if probes connect to nodes.
    nodes: Nodes,
    failures: Failures,
}

/// What a reconciliation left behind. While nothing differs from it there is nothing to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `metadata.uid` of the ProxyPair.
    pub uid: String,
    /// `metadata.generation` of the ProxyPair.
    pub generation: i64,
    /// When the keys are to be renewed.
    pub renew_at: Timestamp,
    /// The children.
    pub versions: Versions,
    /// The Secrets and ConfigMaps that the user refers to.
    pub references: ReferenceVersions,
    /// The nodes whose addresses were given to probes.
    pub nodes: Nodes,
}

impl Registry {
    /// No pair is known yet.
    pub fn new(context: Arc<Context>, everybody: Store<GuardedPair>) -> Self {
        Self {
            updates: Mutex::new(Updates::new(context.settings.max_updating_pairs)),
            context,
            everybody,
            pairs: Mutex::default(),
        }
    }

    /// What the last reconciliation left behind, if everything still is as it left it.
    pub fn still_applied(&self, pair: &Pair, nodes: &Nodes, now: Timestamp) -> Option<Applied> {
        let applied = self.pairs().get(&key(pair))?.applied.clone()?;
        let Context {
            references, children, ..
        } = &*self.context;
        let same = applied.uid == pair.uid
            && applied.generation == pair.generation
            && applied.nodes == *nodes
            && applied.renew_at > now
            && references.unchanged(&pair.namespace, &applied.references)
            && applied.versions.iter().all(|((kind, name), version)| {
                children.version(kind, &pair.namespace, name).as_deref() == Some(version)
            });
        same.then_some(applied)
    }

    /// Remembers what a reconciliation left behind.
    pub fn remember(&self, pair: &Pair, applied: Option<Applied>) {
        self.pairs().entry(key(pair)).or_default().applied = applied;
    }

    /// The nodes of a pair's pods, if probes connect to nodes. A side that has no pod at the moment keeps the node it had: probes reach
    /// every pod through every node.
    pub fn nodes(&self, pair: &Pair) -> Nodes {
        if pair.spec.service.type_ != ServiceType::NodePort {
            return Nodes::default();
        }
        let now = Sides::from_fn(|side| node_of(&self.context.cluster.pods, pair, side));
        let mut pairs = self.pairs();
        let known = &mut pairs.entry(key(pair)).or_default().nodes;
        for (side, known) in known.iter_mut() {
            if now[side].is_some() {
                known.clone_from(&now[side]);
            }
        }
        known.clone()
    }

    /// Hands over to the running worker of this object; starts one if there is none and the handover has keys. Whether there is one now.
    pub fn hand_over(&self, handover: Handover) -> bool {
        let mut pairs = self.pairs();
        let entry = pairs.entry(key(&handover.pair)).or_default();
        match &entry.worker {
            Some(worker) if worker.works_for(&handover.pair.uid) => worker.hand_over(handover),
            // The worker of a pair that was deleted ends here, before it can take the new one for its own.
            _ => {
                entry.worker = None;
                entry.worker = handover
                    .keys
                    .is_some()
                    .then(|| Worker::start(&self.context.cluster, handover));
            }
        }
        entry.worker.is_some()
    }

    /// Calls `with` on the running worker of that object, if there is one.
    pub fn with_worker<T>(
        &self,
        pair: &ObjectRef<GuardedPair>,
        uid: &str,
        with: impl FnOnce(&Worker) -> T,
    ) -> Option<T> {
        let pairs = self.pairs();
        let worker = pairs.get(pair)?.worker.as_ref()?;
        worker.works_for(uid).then(|| with(worker))
    }

    /// What the worker of a pair knows; nothing, when there is none.
    pub fn snapshot(&self, pair: &Pair) -> Snapshot {
        self.with_worker(&key(pair), &pair.uid, Worker::snapshot)
            .unwrap_or_default()
    }

    /// Ends what was done for a pair that is gone.
    pub fn forget(&self, pair: &ObjectRef<GuardedPair>) {
        let namespace = pair.namespace.as_deref().unwrap_or_default();
        let _entered = pair_span(namespace, &pair.name).entered();
        let known = self.pairs().remove(pair);
        self.context.references.forget(pair);
        if known.is_some_and(|entry| entry.worker.is_some()) {
            tracing::info!("the ProxyPair is gone");
        }
        self.context.cluster.metrics.forget(namespace, &pair.name);
        let of_pair = (namespace.to_owned(), pair.name.clone());
        self.with_updates(|updates| ((), updates.forget(&of_pair)));
    }

    /// A reconciliation of a pair has failed: how many have in a row.
    pub fn failed(&self, pair: &GuardedPair) -> Failures {
        let generation = pair.meta().generation.unwrap_or_default();
        let mut pairs = self.pairs();
        let failures = &mut pairs.entry(reference(pair)).or_default().failures;
        *failures = failures.and_one_more(generation);
        *failures
    }

    /// A reconciliation of a pair has succeeded.
    pub fn succeeded(&self, pair: &ProxyPair) {
        if let Some(entry) = self.pairs().get_mut(&reference(pair)) {
            entry.failures = Failures::default();
        }
    }

    /// A pair was looked at, whatever came of it.
    pub fn see(&self, pair: &impl Resource<DynamicType = ()>) {
        self.with_updates(|updates| ((), updates.see(&namespaced_name(pair), self.everybody())));
    }

    /// Whether the sides of a pair may get the operator's new image now.
    pub fn may_update(&self, pair: &Pair, images: &Sides<SideImage>) -> bool {
        let snapshot = self.snapshot(pair);
        let of_pair = (pair.namespace.clone(), pair.name.clone());
        self.with_updates(|updates| {
            let may = updates.may_update(&of_pair, images, &snapshot, self.everybody());
            (may, Vec::new())
        })
    }

    /// A side of a pair gets the operator's new image.
    pub fn begin_update(&self, pair: &Pair, side: Side, template: Option<String>) {
        tracing::info!(side = side.label(), "updating the image of the proxy");
        let of_pair = (pair.namespace.clone(), pair.name.clone());
        self.with_updates(|updates| (updates.begin(&of_pair, side, template), Vec::new()));
    }

    /// Lets other pairs have the new image, if it works for this one.
    pub fn review_update(&self, pair: &Pair) {
        let snapshot = self.snapshot(pair);
        let of_pair = (pair.namespace.clone(), pair.name.clone());
        self.with_updates(|updates| ((), updates.review(&of_pair, &snapshot)));
    }

    /// Changes the updates, and requeues the pairs that may go on.
    fn with_updates<T>(&self, change: impl FnOnce(&mut Updates<NamespacedName>) -> (T, Vec<NamespacedName>)) -> T {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, go_on) = change(&mut updates);
        self.context
            .cluster
            .metrics
            .count_updates(updates.updating().len(), updates.waiting().len());
        drop(updates);
        for (namespace, name) in go_on {
            let _ = self
                .context
                .cluster
                .requeue
                .send(ObjectRef::new(&name).within(&namespace));
        }
        outcome
    }

    fn everybody(&self) -> impl Iterator<Item = NamespacedName> {
        self.everybody.state().into_iter().map(|pair| namespaced_name(&*pair))
    }

    fn pairs(&self) -> MutexGuard<'_, HashMap<ObjectRef<GuardedPair>, PairEntry>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a pair.
pub fn key(pair: &Pair) -> ObjectRef<GuardedPair> {
    ObjectRef::new(&pair.name).within(&pair.namespace)
}

fn reference(pair: &impl Resource<DynamicType = ()>) -> ObjectRef<GuardedPair> {
    let (namespace, name) = namespaced_name(pair);
    ObjectRef::new(&name).within(&namespace)
}

fn namespaced_name(pair: &impl Resource<DynamicType = ()>) -> NamespacedName {
    let metadata = pair.meta();
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}
