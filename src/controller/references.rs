//! Secrets and ConfigMaps that belong to users and that ProxyPairs refer to: read when a reconciliation needs them, never kept.
//!
//! A metadata-only watch runs for each kind and namespace in which a pair refers to something. An object that no pair refers to is dropped at
//! once; of the others the index keeps which pairs refer to them and the newest version. A change requeues those pairs, and their
//! reconciliation reads the content again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::ObjectRef,
        watcher::{Event, watcher},
    },
};
use tokio::task::JoinHandle;

use crate::{
    cluster::{self, ApplyError, GuardedPair, Requeue, within_deadline},
    domain::{
        children::Child,
        references::{Content, Contents, Reference, ReferenceKind},
    },
};

/// How long one request of a watch lasts, in seconds. Longer than for what switches depend on: there are two watches for each namespace.
const WATCH_SECONDS: u32 = 60;

/// `metadata.resourceVersion` of each object that was read; `None` for one that did not exist.
pub type ReferenceVersions = BTreeMap<Reference, Option<String>>;

/// The objects that pairs refer to, and the watches over them.
pub struct References {
    client: Client,
    requeue: Requeue,
    index: Arc<Index>,
    watches: Mutex<HashMap<(String, ReferenceKind), JoinHandle<()>>>,
}

/// Which pairs refer to which objects.
#[derive(Default)]
struct Index {
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
    /// Nothing is referred to yet.
    pub fn new(client: Client, requeue: Requeue) -> Self {
        Self {
            client,
            requeue,
            index: Arc::default(),
            watches: Mutex::default(),
        }
    }

    /// Reads all of `wanted`, and from now on requeues `pair` when one of them is changed, created or deleted. What `pair` referred to
    /// before and is not in `wanted` is forgotten.
    ///
    /// # Errors
    ///
    /// [`ApplyError`] if the API server does not answer. An object that does not exist is no error.
    pub async fn read(
        &self,
        pair: &ObjectRef<GuardedPair>,
        wanted: &BTreeSet<Reference>,
    ) -> Result<Contents, ApplyError> {
        // Before reading, so that no change is missed. A watch that begins after it meets what has changed since in its first list.
        let events = self.index.refer(pair, wanted);
        let contents = self.read_all(pair, wanted, events).await;
        self.watch_what_is_referred_to();
        contents
    }

    async fn read_all(
        &self,
        pair: &ObjectRef<GuardedPair>,
        wanted: &BTreeSet<Reference>,
        events: Vec<u64>,
    ) -> Result<Contents, ApplyError> {
        let namespace = pair.namespace.as_deref().unwrap_or_default();
        let mut contents = Contents::new();
        for (reference, events) in wanted.iter().zip(events) {
            let content = fetch(&self.client, namespace, reference).await?;
            self.index.note(namespace, reference, events, content.as_ref());
            contents.insert(reference.clone(), content);
        }
        Ok(contents)
    }

    /// Whether everything still is as it was read.
    pub fn unchanged(&self, namespace: &str, versions: &ReferenceVersions) -> bool {
        self.index.unchanged(namespace, versions)
    }

    /// Forgets what a pair referred to.
    pub fn forget(&self, pair: &ObjectRef<GuardedPair>) {
        self.index.refer(pair, &BTreeSet::new());
        self.watch_what_is_referred_to();
    }

    /// Starts the watches that are missing, and ends those that nobody needs any more.
    fn watch_what_is_referred_to(&self) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = self.index.places();
        watches.retain(|place, watch| {
            let is_needed = needed.contains(place);
            if !is_needed {
                watch.abort();
            }
            is_needed
        });
        for (namespace, kind) in needed {
            watches.entry((namespace.clone(), kind)).or_insert_with(|| {
                let (index, requeue) = (Arc::clone(&self.index), self.requeue.clone());
                match kind {
                    ReferenceKind::Secret => {
                        tokio::spawn(watch::<Secret>(&self.client, &namespace, kind, index, requeue))
                    }
                    ReferenceKind::ConfigMap => {
                        tokio::spawn(watch::<ConfigMap>(&self.client, &namespace, kind, index, requeue))
                    }
                }
            });
        }
    }
}

impl Drop for References {
    fn drop(&mut self) {
        let watches = self.watches.get_mut().unwrap_or_else(PoisonError::into_inner);
        watches.values().for_each(JoinHandle::abort);
    }
}

impl Index {
    /// Whether everything still is as it was read.
    fn unchanged(&self, namespace: &str, versions: &ReferenceVersions) -> bool {
        let entries = self.entries();
        versions.iter().all(|(reference, version)| {
            let entry = entries.get(&(namespace.to_owned(), reference.clone()));
            entry.is_some_and(|entry| entry.known.as_ref() == Some(version))
        })
    }

    /// In which namespaces objects of which kinds are referred to.
    fn places(&self) -> HashSet<(String, ReferenceKind)> {
        let place = |(namespace, reference): &(String, Reference)| (namespace.clone(), reference.kind);
        self.entries().keys().map(place).collect()
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
    fn listed(
        &self,
        (namespace, kind): &(String, ReferenceKind),
        found: &HashSet<Reference>,
    ) -> Vec<ObjectRef<GuardedPair>> {
        let mut pairs = Vec::new();
        for ((of, reference), entry) in self.entries().iter_mut() {
            let is_there = of != namespace || reference.kind != *kind || found.contains(reference);
            if !is_there && entry.known != Some(None) {
                entry.events += 1;
                entry.known = None;
                pairs.extend(entry.pairs.iter().cloned());
            }
        }
        pairs
    }

    fn knows(&self, namespace: &str, reference: &Reference) -> bool {
        self.entries().contains_key(&(namespace.to_owned(), reference.clone()))
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

/// Watches the objects of one kind in one namespace; never ends.
fn watch<K: Child>(
    client: &Client,
    namespace: &str,
    kind: ReferenceKind,
    index: Arc<Index>,
    requeue: Requeue,
) -> impl Future<Output = ()> + Send + use<K> {
    let api = cluster::api::<PartialObjectMeta<K>>(client, Some(namespace));
    let stream = watcher(api, cluster::config().timeout(WATCH_SECONDS)).default_backoff();
    let mut state = WatchState {
        place: (namespace.to_owned(), kind),
        index,
        found: HashSet::new(),
    };
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
    place: (String, ReferenceKind),
    index: Arc<Index>,
    found: HashSet<Reference>,
}

impl WatchState {
    /// Returns the pairs to requeue.
    fn take_in<K: Resource>(&mut self, event: Event<PartialObjectMeta<K>>) -> Vec<ObjectRef<GuardedPair>> {
        let (namespace, kind) = &self.place;
        let reference = |object: &PartialObjectMeta<K>| Reference {
            kind: *kind,
            name: object.metadata.name.clone().unwrap_or_default(),
        };
        let take =
            |object: &PartialObjectMeta<K>, version| self.index.take_event(namespace, &reference(object), version);
        match event {
            Event::Apply(object) => take(&object, object.metadata.resource_version.clone()),
            Event::Delete(object) => take(&object, None),
            Event::Init => {
                self.found.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let pairs = take(&object, object.metadata.resource_version.clone());
                let reference = reference(&object);
                if self.index.knows(namespace, &reference) {
                    self.found.insert(reference);
                }
                pairs
            }
            Event::InitDone => self.index.listed(&self.place, &mem::take(&mut self.found)),
        }
    }
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
