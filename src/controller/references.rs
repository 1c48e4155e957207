//! Secrets and ConfigMaps that belong to users and that ProxyPairs refer to: read when somebody needs them, never kept.
//!
//! One watch for each kind, over the metadata alone, hears of every such object that the operator may see. What nobody refers to is
//! forgotten at once; of the rest the index keeps who refers to it and the version last heard of. A change nudges all who refer to it, and
//! their reconciliation reads the content again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Debug,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::ObjectRef,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::{
    apply::{ApplyError, within_deadline},
    watches::{self, GuardedPair, Nudge},
};
use crate::domain::references::{Content, Contents, Reference, ReferenceKind};

/// `metadata.resourceVersion` of each object that was read; `None` for one that did not exist.
pub type ReferenceVersions = BTreeMap<Reference, Option<String>>;

/// Who refers to what.
#[derive(Default)]
pub struct References {
    entries: Mutex<HashMap<(String, Reference), Entry>>,
}

#[derive(Default)]
struct Entry {
    pairs: HashSet<ObjectRef<GuardedPair>>,
    /// What was last heard or read of it; nothing when that may be out of date.
    seen: Option<Option<String>>,
    /// Grows with each thing heard, so that an answer which was overtaken is known as such.
    heard: u64,
}

impl References {
    /// Reads all of `wanted`, and from now on nudges `pair` when one of them changes, comes or goes. What `pair` referred to before and is
    /// not in `wanted` is forgotten.
    ///
    /// # Errors
    ///
    /// [`ApplyError`] if the API server does not answer. An object that does not exist is no error.
    pub async fn read(
        &self,
        client: &Client,
        pair: &ObjectRef<GuardedPair>,
        wanted: &BTreeSet<Reference>,
    ) -> Result<Contents, ApplyError> {
        let namespace = pair.namespace.as_deref().unwrap_or_default();
        // Before reading, so that no change goes unheard.
        let heard = self.refer(pair, wanted);
        let mut contents = Contents::new();
        for (reference, heard) in wanted.iter().zip(heard) {
            let content = fetch(client, namespace, reference).await?;
            self.note(namespace, reference, heard, content.as_ref());
            contents.insert(reference.clone(), content);
        }
        Ok(contents)
    }

    /// Whether everything still is as it was read.
    pub fn unchanged(&self, namespace: &str, versions: &ReferenceVersions) -> bool {
        let entries = self.entries();
        versions.iter().all(|(reference, version)| {
            let entry = entries.get(&(namespace.to_owned(), reference.clone()));
            entry.is_some_and(|entry| entry.seen.as_ref() == Some(version))
        })
    }

    /// Forgets what a pair referred to.
    pub fn forget(&self, pair: &ObjectRef<GuardedPair>) {
        self.refer(pair, &BTreeSet::new());
    }

    fn refer(&self, pair: &ObjectRef<GuardedPair>, wanted: &BTreeSet<Reference>) -> Vec<u64> {
        let namespace = pair.namespace.as_deref().unwrap_or_default();
        let mut entries = self.entries();
        entries.retain(|(of, reference), entry| {
            if of == namespace && !wanted.contains(reference) {
                entry.pairs.remove(pair);
            }
            !entry.pairs.is_empty()
        });
        let refer = |reference: &Reference| {
            let entry = entries.entry((namespace.to_owned(), reference.clone())).or_default();
            entry.pairs.insert(pair.clone());
            entry.heard
        };
        wanted.iter().map(refer).collect()
    }

    fn note(&self, namespace: &str, reference: &Reference, heard: u64, content: Option<&Content>) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&(namespace.to_owned(), reference.clone()))
            && entry.heard == heard
        {
            entry.seen = Some(content.map(|content| content.version.clone()));
        }
    }

    /// Takes in what the watch says of an object; `None` when it is gone. Returns who refers to it.
    fn hear(&self, namespace: &str, reference: &Reference, version: Option<String>) -> Vec<ObjectRef<GuardedPair>> {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&(namespace.to_owned(), reference.clone())) else {
            return Vec::new();
        };
        entry.heard += 1;
        if entry.seen.as_ref() == Some(&version) {
            return Vec::new();
        }
        entry.seen = Some(version);
        entry.pairs.iter().cloned().collect()
    }

    /// After a list of everything: what is referred to and was not in it may be gone. Returns who refers to such.
    fn listed(&self, kind: ReferenceKind, found: &HashSet<(String, Reference)>) -> Vec<ObjectRef<GuardedPair>> {
        let mut pairs = Vec::new();
        for (key, entry) in self.entries().iter_mut() {
            if key.1.kind == kind && !found.contains(key) && entry.seen != Some(None) {
                entry.heard += 1;
                entry.seen = None;
                pairs.extend(entry.pairs.iter().cloned());
            }
        }
        pairs
    }

    fn knows(&self, key: &(String, Reference)) -> bool {
        self.entries().contains_key(key)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<(String, Reference), Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The versions in `contents`, for [`References::unchanged`].
pub fn versions(contents: &Contents) -> ReferenceVersions {
    let version = |content: &Option<Content>| content.as_ref().map(|content| content.version.clone());
    contents
        .iter()
        .map(|(reference, content)| (reference.clone(), version(content)))
        .collect()
}

/// Listens for changes of Secrets and ConfigMaps, for ever.
pub fn watch(
    client: &Client,
    namespace: Option<&str>,
    references: &Arc<References>,
    nudge: &Nudge,
) -> BoxFuture<'static, ()> {
    let secrets = listen::<Secret>(client, namespace, ReferenceKind::Secret, references, nudge);
    let config_maps = listen::<ConfigMap>(client, namespace, ReferenceKind::ConfigMap, references, nudge);
    Box::pin(async move {
        futures::join!(secrets, config_maps);
    })
}

fn listen<K>(
    client: &Client,
    namespace: Option<&str>,
    kind: ReferenceKind,
    references: &Arc<References>,
    nudge: &Nudge,
) -> impl Future<Output = ()> + Send + use<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api = watches::api::<PartialObjectMeta<K>>(client, namespace);
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut ear = Ear {
        kind,
        references: Arc::clone(references),
        found: HashSet::new(),
    };
    let nudge = nudge.clone();
    stream.for_each(move |event| {
        // What failed is begun anew by the watch itself.
        for pair in event.map(|event| ear.take_in(event)).unwrap_or_default() {
            let _ = nudge.send(pair);
        }
        futures::future::ready(())
    })
}

/// What one watch has heard since its newest list began.
struct Ear {
    kind: ReferenceKind,
    references: Arc<References>,
    found: HashSet<(String, Reference)>,
}

impl Ear {
    /// Returns whom to nudge.
    fn take_in<K: Resource>(&mut self, event: Event<PartialObjectMeta<K>>) -> Vec<ObjectRef<GuardedPair>> {
        let hear = |object: &PartialObjectMeta<K>, version| {
            let (namespace, reference) = key(self.kind, object);
            self.references.hear(&namespace, &reference, version)
        };
        match event {
            Event::Apply(object) => hear(&object, object.metadata.resource_version.clone()),
            Event::Delete(object) => hear(&object, None),
            Event::Init => {
                self.found.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let pairs = hear(&object, object.metadata.resource_version.clone());
                let key = key(self.kind, &object);
                if self.references.knows(&key) {
                    self.found.insert(key);
                }
                pairs
            }
            Event::InitDone => self.references.listed(self.kind, &mem::take(&mut self.found)),
        }
    }
}

fn key<K: Resource>(kind: ReferenceKind, object: &PartialObjectMeta<K>) -> (String, Reference) {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    (namespace, Reference { kind, name })
}

async fn fetch(client: &Client, namespace: &str, reference: &Reference) -> Result<Option<Content>, ApplyError> {
    let Reference { kind, name } = reference;
    match kind {
        ReferenceKind::Secret => {
            let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let found = within_deadline(api.get_opt(name)).await?;
            Ok(found.map(|secret| Content {
                version: secret.resource_version().unwrap_or_default(),
                data: secret
                    .data
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key, value.0))
                    .collect(),
            }))
        }
        ReferenceKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let found = within_deadline(api.get_opt(name)).await?;
            Ok(found.map(|map| {
                let text = map
                    .data
                    .clone()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key, value.into_bytes()));
                let bytes = map
                    .binary_data
                    .clone()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key, value.0));
                Content {
                    version: map.resource_version().unwrap_or_default(),
                    data: text.chain(bytes).collect(),
                }
            }))
        }
    }
}

#[cfg(test)]
mod tests;
