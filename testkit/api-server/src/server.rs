//! The server as a test has it in hand: a client, a script, a log, and the objects.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::{Client, Resource};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    fault::{Fault, Match, Rule},
    key::Key,
    patch,
    request::Request,
    store::Store,
};

/// A Kubernetes API server in memory. Clones share everything.
#[derive(Clone, Debug)]
pub struct ApiServer {
    pub(crate) store: Arc<Mutex<Store>>,
    pub(crate) changed: watch::Sender<()>,
    network: Arc<Mutex<Network>>,
}

/// What lies between the clients and the store.
#[derive(Debug, Default)]
struct Network {
    rules: Vec<Rule>,
    log: Vec<Request>,
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServer {
    /// An empty server.
    pub fn new() -> Self {
        Self {
            store: Arc::default(),
            changed: watch::Sender::new(()),
            network: Arc::default(),
        }
    }

    /// The same objects over another network: with a script and a log of its own.
    #[must_use]
    pub fn another_network(&self) -> Self {
        Self {
            network: Arc::default(),
            ..self.clone()
        }
    }

    /// A client whose default namespace is `default`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    // The script

    /// Adds a fault. If several meet the same request, all hooks run, and the oldest of the others decides.
    pub fn fault(&self, requests: Match, fault: Fault) {
        lock(&self.network).rules.push(Rule::new(requests, fault));
    }

    /// Takes all faults away. What they hold already stays held.
    pub fn clear_faults(&self) {
        lock(&self.network).rules.clear();
    }

    pub(crate) fn receive(&self, request: &Request) -> Vec<Fault> {
        let mut network = lock(&self.network);
        network.log.push(request.clone());
        let faults = network.rules.iter_mut().filter_map(|rule| rule.meet(request)).collect();
        drop(network);
        self.changed.send_replace(());
        faults
    }

    // The log

    /// All requests so far, in the order in which they came, those that met a fault among them.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.network).log.clone()
    }

    /// Empties the log, and returns what was in it.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.network).log)
    }

    /// The requests that change objects, without Events.
    pub fn writes(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.verb.writes() && request.resource != "events");
        requests
    }

    /// How many requests of a kind are in the log.
    pub fn count(&self, requests: &Match) -> usize {
        lock(&self.network)
            .log
            .iter()
            .filter(|request| requests.matches(request))
            .count()
    }

    /// Waits until `holds`, which is asked again after each request and each change of an object.
    pub async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        while !holds(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    // The objects, as somebody else reads and writes them: no request, no fault, no entry in the log

    /// Creates or replaces an object, its status included. Returns it as stored: a new object gets a uid, if it has none.
    ///
    /// # Panics
    /// Without a name, and if `K` does not survive JSON.
    pub fn put<K>(&self, object: &K) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let meta = object.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        assert!(!name.is_empty(), "an object has a name");
        let key = key::<K>(meta.namespace.as_deref().unwrap_or_default(), name);
        let stored = lock(&self.store).store(&key, typed::<K>(object));
        self.changed.send_replace(());
        read(stored)
    }

    /// An object. The namespace of what has none is empty.
    ///
    /// # Panics
    /// If the object is no `K`.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.json::<K>(namespace, name).map(read)
    }

    /// An object as JSON, with what `K` does not know.
    pub fn json<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> Option<Value> {
        lock(&self.store).get(&key::<K>(namespace, name)).cloned()
    }

    /// All objects of a kind, by namespace and name.
    ///
    /// # Panics
    /// If one of them is no `K`.
    pub fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let store = lock(&self.store);
        let (group, resource) = (K::group(&()), K::plural(&()));
        let objects = store.of_resource(&group, &resource);
        objects.cloned().map(read).collect()
    }

    /// The uids of all objects of a kind, by namespace and name, whatever else is in them.
    pub fn uids<K: Resource<DynamicType = ()>>(&self) -> Vec<String> {
        let store = lock(&self.store);
        let (group, resource) = (K::group(&()), K::plural(&()));
        let objects = store.of_resource(&group, &resource);
        let uids = objects.filter_map(|object| object["metadata"]["uid"].as_str().map(str::to_owned));
        uids.collect()
    }

    /// The version of the newest change.
    pub fn version(&self) -> u64 {
        lock(&self.store).version
    }

    /// The version of the newest change of one kind of object; 0 if there was none.
    pub fn version_of<K: Resource<DynamicType = ()>>(&self) -> u64 {
        let kind = (K::group(&()).into_owned(), K::plural(&()).into_owned());
        lock(&self.store).newest.get(&kind).copied().unwrap_or_default()
    }

    /// Changes an object, its status included. Returns it as stored.
    ///
    /// # Panics
    /// If there is none, or it is no `K`.
    pub fn modify<K>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut K)) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let Some(mut object) = self.get::<K>(namespace, name) else {
            panic!("there is no {} {namespace}/{name}", K::kind(&()));
        };
        change(&mut object);
        self.put(&object)
    }

    /// Merges into an object as RFC 7386 says, its status included.
    ///
    /// # Panics
    /// If there is none.
    pub fn merge<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str, change: &Value) {
        let Some(mut object) = self.json::<K>(namespace, name) else {
            panic!("there is no {} {namespace}/{name}", K::kind(&()));
        };
        patch::merge(&mut object, change);
        lock(&self.store).store(&key::<K>(namespace, name), object);
        self.changed.send_replace(());
    }

    /// Takes an object away at once, whatever its finalizers and its grace period are. False if there was none.
    pub fn delete<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> bool {
        let removed = lock(&self.store).remove(&key::<K>(namespace, name));
        self.changed.send_replace(());
        removed.is_some()
    }

    /// The Events of `events.k8s.io` that were recorded, in order: one that is repeated is there once for each time.
    pub fn events(&self) -> Vec<Value> {
        let store = lock(&self.store);
        let events = store.history.iter().filter(|change| change.key.resource == "events");
        events.filter_map(|change| change.after.clone()).collect()
    }

    // The watches

    /// Ends all watches that are open, as a server does that restarts.
    pub fn end_watches(&self) {
        lock(&self.store).era += 1;
        self.changed.send_replace(());
    }

    /// Forgets the history, as a server does after five minutes: a watch from an earlier version is refused with 410.
    pub fn forget_history(&self) {
        let mut store = lock(&self.store);
        store.oldest = store.version + 1;
        store.version += 1;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Key {
    Key {
        group: K::group(&()).into_owned(),
        resource: K::plural(&()).into_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn typed<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
    let mut value = match serde_json::to_value(object) {
        Ok(value) => value,
        Err(error) => panic!("{} cannot be written as JSON: {error}", K::kind(&())),
    };
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    value
}

fn read<K: DeserializeOwned>(object: Value) -> K {
    match serde_json::from_value(object) {
        Ok(object) => object,
        Err(error) => panic!("the stored object cannot be read: {error}"),
    }
}
