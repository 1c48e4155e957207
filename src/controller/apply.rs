//! Applying children: under one field manager, and only what belongs to this ProxyPair.

use std::collections::BTreeMap;

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};

use crate::{
    api::FIELD_MANAGER,
    cluster::{ApplyError, Cluster, within_deadline},
    domain::{
        children::{Child, is_owned},
        pair::Pair,
    },
};

/// `metadata.resourceVersion` of each child, by kind and name.
pub type Versions = BTreeMap<(String, String), String>;

/// Applies the children of one pair, and keeps what came of it.
///
/// A child that is refused does not keep the others from being applied: the first error is kept until [`finish`](Self::finish).
pub struct Applier<'a> {
    cluster: &'a Cluster,
    pair: &'a Pair,
    versions: Versions,
    error: Option<ApplyError>,
}

impl<'a> Applier<'a> {
    /// Nothing is applied yet.
    pub fn new(cluster: &'a Cluster, pair: &'a Pair) -> Self {
        Self {
            cluster,
            pair,
            versions: Versions::new(),
            error: None,
        }
    }

    /// Applies a child, after having made sure that nobody else's object is in its place. `None` when that failed.
    pub async fn apply<K: Child>(&mut self, child: &K) -> Option<K> {
        self.find::<K>(&child.name_any()).await?;
        self.apply_found(child).await
    }

    /// Applies a child that was looked for. `None` when that failed.
    pub async fn apply_found<K: Child>(&mut self, child: &K) -> Option<K> {
        let applied = match self.cluster.claim() {
            Ok(_) => patch(self.cluster, self.pair, child).await,
            Err(error) => Err(error),
        };
        let applied = self.keep::<K, K>(&child.name_any(), applied)?;
        self.note(&applied);
        Some(applied)
    }

    /// Looks for a child. `None` when that failed, or the object belongs to somebody else.
    pub async fn find<K: Child>(&mut self, name: &str) -> Option<Option<K>> {
        let found = find::<K>(self.cluster, self.pair, name).await;
        self.keep::<K, _>(name, found)
    }

    /// Remembers the version of a child that is as it should be.
    pub fn note<K: Child>(&mut self, child: &K) {
        let version = child.resource_version().unwrap_or_default();
        self.versions
            .insert((K::kind(&()).into_owned(), child.name_any()), version);
    }

    /// The versions of all children, or the first error.
    pub fn finish(self) -> Result<Versions, ApplyError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.versions),
        }
    }

    fn keep<K: Child, T>(&mut self, name: &str, outcome: Result<T, ApplyError>) -> Option<T> {
        outcome
            .map_err(|error| {
                let (kind, pair, namespace) = (K::kind(&()), &self.pair.name, &self.pair.namespace);
                tracing::warn!(pair, namespace, %kind, name, %error, "failed to apply a child");
                self.error.get_or_insert(error);
            })
            .ok()
    }
}

/// Reads a child. One that belongs to somebody else is an error, and is never touched.
pub async fn find<K: Child>(cluster: &Cluster, pair: &Pair, name: &str) -> Result<Option<K>, ApplyError> {
    let api: Api<K> = Api::namespaced(cluster.client.clone(), &pair.namespace);
    match within_deadline(api.get_opt(name)).await? {
        Some(object) if !is_owned(pair, &object) => Err(ApplyError::NotOurs {
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
        }),
        found => Ok(found),
    }
}

/// Applies a child, whatever is there. With a resourceVersion it is refused if the object has changed since.
pub async fn patch<K: Child>(cluster: &Cluster, pair: &Pair, child: &K) -> Result<K, ApplyError> {
    let api: Api<K> = Api::namespaced(cluster.client.clone(), &pair.namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    within_deadline(api.patch(&child.name_any(), &params, &Patch::Apply(child))).await
}
