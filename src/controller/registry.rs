//! The worker of each pair, and what its last reconciliation left behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::{apply::Versions, context::Context, references::ReferenceVersions};
use crate::{
    api::{ServiceType, Side},
    cluster::GuardedPair,
    domain::{children::Nodes, pair::Pair, rollout::Snapshot},
    worker::{Handover, Worker, node_of},
};

/// What reconciliations share among each other.
pub struct Registry {
    /// What they share with the workers.
    pub context: Arc<Context>,
    pairs: Mutex<HashMap<ObjectRef<GuardedPair>, PairEntry>>,
}

/// One pair.
#[derive(Default)]
struct PairEntry {
    worker: Option<Worker>,
    /// What the last reconciliation left behind; `None` when the next one has to look for itself.
    applied: Option<Applied>,
    /// The nodes of the pair's pods, if probes connect to nodes.
    nodes: Nodes,
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
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
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
        let now = Side::BOTH.map(|side| node_of(&self.context.cluster.pods, pair, side));
        let mut pairs = self.pairs();
        let known = &mut pairs.entry(key(pair)).or_default().nodes;
        for (known, now) in known.iter_mut().zip(now) {
            if now.is_some() {
                *known = now;
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
        let known = self.pairs().remove(pair);
        self.context.references.forget(pair);
        if known.is_some_and(|entry| entry.worker.is_some()) {
            tracing::info!(%pair, "the ProxyPair is gone");
        }
        let namespace = pair.namespace.as_deref().unwrap_or_default();
        self.context.cluster.metrics.forget(namespace, &pair.name);
    }

    fn pairs(&self) -> MutexGuard<'_, HashMap<ObjectRef<GuardedPair>, PairEntry>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a pair.
pub fn key(pair: &Pair) -> ObjectRef<GuardedPair> {
    ObjectRef::new(&pair.name).within(&pair.namespace)
}
