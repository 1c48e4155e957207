//! Secrets and ConfigMaps that belong to users and that ProxyPairs refer to: read when a reconciliation needs them, never kept.
//!
//! One metadata-only watch per kind covers every such object in scope. An object that no pair refers to is dropped at once; of the others
//! the index keeps which pairs refer to them and the newest version. A change requeues those pairs, and their reconciliation reads the
//! content again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::ObjectRef,
        watcher::{self, Event, watcher},
    },
};

use crate::{
    cluster::{self, ApplyError, GuardedPair, Requeue, within_deadline},
    domain::{
        children::Child,
        references::{Content, Contents, Reference, ReferenceKind},
    },
};

/// `metadata.resourceVersion` of each object that was read; `None` for one that did not exist.
pub type ReferenceVersions = BTreeMap<Reference, Option<String>>;

/// Which pairs refer to which objects.
#[derive(Default)]
pub struct References {
    entries: Mutex<HashMap<(String, Reference), ReferenceEntry>>,
}

#[derive(Default)]
struct ReferenceEntry {
    pairs: HashSet<ObjectRef<GuardedPair>>,
    /// Its newest known version, `None` inside if it does not exist; `None` when that may be out of date.
    known: Option<Option<String>>,
    /// Number of watch events about it, so that a read that such an event overtook is not believed.
    events: u64,
}

impl References {
    /// Reads all of `wanted`, and from now on requeues `pair` when one of them is changed, created or deleted. What `pair` referred to
    /// before and is not in `wanted` is forgotten.
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
        // Before reading, so that no change is missed.
        let events = self.refer(pair, wanted);
        let mut contents = Contents::new();
        for (reference, events) in wanted.iter().zip(events) {
            let content = fetch(client, namespace, reference).await?;
            self.note(namespace, reference, events, content.as_ref());
            contents.insert(reference.clone(), content);
        }
        Ok(contents)
    }

    /// Whether everything still is as it was read.
    pub fn unchanged(&self, namespace: &str, versions: &ReferenceVersions) -> bool {
        let entries = self.entries();
        versions.iter().all(|(reference, version)| {
            let entry = entries.get(&(namespace.to_owned(), reference.clone()));
            entry.is_some_and(|entry| entry.known.as_ref() == Some(version))
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
            entry.events
        };
        wanted.iter().map(refer).collect()
    }

    fn note(&self, namespace: &str, reference: &Reference, events: u64, content: Option<&Content>) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&(namespace.to_owned(), reference.clone()))
            && entry.events == events
        {
            entry.known = Some(content.map(|content| content.version.clone()));
        }
    }

    /// Takes in the version of an object that the watch reports; `None` when it is gone. Returns the pairs that refer to it.
    fn take_event(
        &self,
        namespace: &str,
        reference: &Reference,
        version: Option<String>,
    ) -> Vec<ObjectRef<GuardedPair>> {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&(namespace.to_owned(), reference.clone())) else {
            return Vec::new();
        };
        entry.events += 1;
        if entry.known.as_ref() == Some(&version) {
            return Vec::new();
        }
        entry.known = Some(version);
        entry.pairs.iter().cloned().collect()
    }

    /// After a list of everything: objects that are referred to and were not in it may be gone. Returns the pairs that refer to those.
    fn listed(&self, kind: ReferenceKind, found: &HashSet<(String, Reference)>) -> Vec<ObjectRef<GuardedPair>> {
        let mut pairs = Vec::new();
        for (key, entry) in self.entries().iter_mut() {
            if key.1.kind == kind && !found.contains(key) && entry.known != Some(None) {
                entry.events += 1;
                entry.known = None;
                pairs.extend(entry.pairs.iter().cloned());
            }
        }
        pairs
    }

    fn knows(&self, key: &(String, Reference)) -> bool {
        self.entries().contains_key(key)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<(String, Reference), ReferenceEntry>> {
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

/// Watches Secrets and ConfigMaps; never ends.
pub fn watch(
    client: &Client,
    namespace: Option<&str>,
    references: &Arc<References>,
    requeue: &Requeue,
) -> BoxFuture<'static, ()> {
    let secrets = watch_kind::<Secret>(client, namespace, ReferenceKind::Secret, references, requeue);
    let config_maps = watch_kind::<ConfigMap>(client, namespace, ReferenceKind::ConfigMap, references, requeue);
    Box::pin(async move {
        futures::join!(secrets, config_maps);
    })
}

fn watch_kind<K: Child>(
    client: &Client,
    namespace: Option<&str>,
    kind: ReferenceKind,
    references: &Arc<References>,
    requeue: &Requeue,
) -> impl Future<Output = ()> + Send + use<K> {
    let api = cluster::api::<PartialObjectMeta<K>>(client, namespace);
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut state = WatchState {
        kind,
        references: Arc::clone(references),
        found: HashSet::new(),
    };
    let requeue = requeue.clone();
    stream.for_each(move |event| {
        // The watcher itself restarts after an error.
        for pair in event.map(|event| state.take_in(event)).unwrap_or_default() {
            let _ = requeue.send(pair);
        }
        futures::future::ready(())
    })
}

/// What one watch has received since its newest list began.
struct WatchState {
    kind: ReferenceKind,
    references: Arc<References>,
    found: HashSet<(String, Reference)>,
}

impl WatchState {
    /// Returns the pairs to requeue.
    fn take_in<K: Resource>(&mut self, event: Event<PartialObjectMeta<K>>) -> Vec<ObjectRef<GuardedPair>> {
        let take = |object: &PartialObjectMeta<K>, version| {
            let (namespace, reference) = key(self.kind, object);
            self.references.take_event(&namespace, &reference, version)
        };
        match event {
            Event::Apply(object) => take(&object, object.metadata.resource_version.clone()),
            Event::Delete(object) => take(&object, None),
            Event::Init => {
                self.found.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let pairs = take(&object, object.metadata.resource_version.clone());
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
