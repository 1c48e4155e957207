//! Applying children: under one field manager, and only what belongs to this ProxyPair.

use std::collections::BTreeMap;

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    api::{FIELD_MANAGER, ProxyPair},
    cluster::{ApplyError, Cluster, within_deadline},
    domain::{
        children::{self, Child},
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
    /// Kind and name of each child that had no owner any more.
    pub adopted: Vec<String>,
}

impl<'a> Applier<'a> {
    /// Nothing is applied yet.
    pub fn new(cluster: &'a Cluster, pair: &'a Pair) -> Self {
        Self {
            cluster,
            pair,
            versions: Versions::new(),
            error: None,
            adopted: Vec::new(),
        }
    }

    /// Applies a child, after having made sure that nobody else's object is in its place. `None` when that failed.
    pub async fn apply<K: Child>(&mut self, child: &K) -> Option<K> {
        self.find::<K>(&child.name_any()).await?;
        self.apply_found(child).await
    }

    /// Applies a child that was looked for. `None` when that failed.
    pub async fn apply_found<K: Child>(&mut self, child: &K) -> Option<K> {
        let applied = self.patch(child).await;
        self.keep::<K, K>(&child.name_any(), applied)
    }

    /// Looks for a child. `None` when that failed, or the object belongs to somebody else.
    pub async fn find<K: Child>(&mut self, name: &str) -> Option<Option<K>> {
        let found = self.look::<K>(name).await;
        self.keep::<K, _>(name, found)
    }

    /// Reads a child. One that belongs to somebody else is an error, and is never touched. One that was made for a ProxyPair of this name and
    /// has no owner any more is adopted.
    pub async fn look<K: Child>(&mut self, name: &str) -> Result<Option<K>, ApplyError> {
        match within_deadline(self.api::<K>().get_opt(name)).await? {
            Some(object) if children::is_owned(self.pair, &object) => Ok(Some(object)),
            Some(object) if children::is_orphan(self.pair, &object) => self.adopt(&object).await.map(Some),
            Some(_) => Err(not_ours::<K>(name)),
            None => Ok(None),
        }
    }

    /// Applies a child, whatever is there. With a resourceVersion it is refused if the object has changed since.
    pub async fn patch<K: Child>(&mut self, child: &K) -> Result<K, ApplyError> {
        self.cluster.claim()?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = within_deadline(self.api::<K>().patch(&child.name_any(), &params, &Patch::Apply(child))).await?;
        self.note(&applied);
        Ok(applied)
    }

    /// Remembers the version of a child that is as it should be.
    pub fn note<K: Child>(&mut self, child: &K) {
        let version = child.resource_version().unwrap_or_default();
        self.versions
            .insert((K::kind(&()).into_owned(), child.name_any()), version);
    }

    /// The versions of all children, or the first error.
    pub fn finish(&mut self) -> Result<Versions, ApplyError> {
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut self.versions)),
        }
    }

    async fn adopt<K: Child>(&mut self, orphan: &K) -> Result<K, ApplyError> {
        let (kind, name) = (K::kind(&()).into_owned(), orphan.name_any());
        if orphan.meta().deletion_timestamp.is_some() {
            return Err(ApplyError::BeingDeleted { kind, name });
        }
        // The cache may still have a ProxyPair that was deleted, and the object may have been made for its successor.
        let pairs: Api<ProxyPair> = self.api();
        let current = within_deadline(pairs.get_metadata_opt(&self.pair.name)).await?;
        let exists = current.is_some_and(|current| {
            current.metadata.uid.as_ref() == Some(&self.pair.uid) && current.metadata.deletion_timestamp.is_none()
        });
        if !exists {
            return Err(not_ours::<K>(&name));
        }
        self.cluster.claim()?;
        // Replaces the whole list: two controllers in it, one of them deleted, would be refused.
        let patch = json!({"metadata": {
            "resourceVersion": orphan.resource_version(),
            "ownerReferences": children::owners_after_adoption(self.pair, orphan),
        }});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let adopted = within_deadline(self.api::<K>().patch(&name, &params, &Patch::Merge(&patch))).await?;
        self.adopted.push(format!("{kind} {name}"));
        Ok(adopted)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.pair.namespace)
    }

    fn keep<K: Child, T>(&mut self, name: &str, outcome: Result<T, ApplyError>) -> Option<T> {
        outcome
            .map_err(|error| {
                tracing::warn!(kind = %K::kind(&()), name, %error, "failed to apply a child");
                self.error.get_or_insert(error);
            })
            .ok()
    }
}

fn not_ours<K: Child>(name: &str) -> ApplyError {
    ApplyError::NotOurs {
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
    }
}
