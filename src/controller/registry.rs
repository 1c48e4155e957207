//! Who looks after which pair, and what the last reconciliation of each left behind.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::{
    context::Context,
    references::ReferenceVersions,
    steward::{Steward, node_of},
    watches::GuardedPair,
};
use crate::{
    api::ServiceType,
    domain::{children::Nodes, pair::Pair},
};

/// What reconciliations share among each other.
pub struct Registry {
    /// What they share with the stewards.
    pub context: Arc<Context>,
    stewards: Mutex<HashMap<ObjectRef<GuardedPair>, Steward>>,
    applied: Mutex<HashMap<ObjectRef<GuardedPair>, Applied>>,
    nodes: Mutex<HashMap<ObjectRef<GuardedPair>, Nodes>>,
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
    /// The Secrets and ConfigMaps that the user refers to.
    pub references: ReferenceVersions,
    /// The nodes whose addresses were given to probes.
    pub nodes: Nodes,
}

impl Registry {
    /// Nobody looks after anything yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            stewards: Mutex::default(),
            applied: Mutex::default(),
            nodes: Mutex::default(),
        }
    }

    /// Runs `act` on the stewards of all pairs.
    pub fn with_stewards<T>(&self, act: impl FnOnce(&mut HashMap<ObjectRef<GuardedPair>, Steward>) -> T) -> T {
        act(&mut self.stewards.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the last reconciliation left behind, if everything still is as it left it.
    pub fn still_applied(
        &self,
        key: &ObjectRef<GuardedPair>,
        uid: &str,
        generation: i64,
        nodes: &Nodes,
    ) -> Option<Applied> {
        let applied = self.applied().get(key).cloned()?;
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let same = applied.uid == uid
            && applied.generation == generation
            && applied.nodes == *nodes
            && applied.renew_at > Timestamp::now()
            && self.context.references.unchanged(namespace, &applied.references)
            && applied.versions.iter().all(|((kind, name), version)| {
                self.context.children.version(kind, namespace, name).as_deref() == Some(version)
            });
        same.then_some(applied)
    }

    /// The nodes of a pair's pods, if probes connect to nodes. A side that has no pod at the moment keeps the node it had: probes reach
    /// every pod through every node.
    pub fn nodes(&self, pair: &Pair) -> Nodes {
        if pair.spec.service.type_ != ServiceType::NodePort {
            return Nodes::default();
        }
        let key = ObjectRef::new(&pair.name).within(&pair.namespace);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = nodes.entry(key).or_default();
        for (side, known) in known.iter_mut() {
            if let Some(now) = node_of(&self.context.pods, pair, side) {
                *known = Some(now);
            }
        }
        known.clone()
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
        self.context.references.forget(pair);
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(pair);
        if self.with_stewards(|stewards| stewards.remove(pair)).is_some() {
            tracing::info!(%pair, "the ProxyPair is gone");
        }
        self.context
            .metrics
            .forget(pair.namespace.as_deref().unwrap_or_default(), &pair.name);
    }
}
