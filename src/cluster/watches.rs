//! The caches: what the operator made, as the API server has it.

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{core::v1::Pod, discovery::v1::EndpointSlice},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::{mpsc, watch};

use crate::{
    api::{LABEL_MANAGED_BY, LABEL_PAIR, MANAGED_BY, ProxyPair},
    domain::children::Child,
};

/// The guarded type keeps one malformed ProxyPair from stopping the watch for all.
pub type GuardedPair = DeserializeGuard<ProxyPair>;

/// Notifies that pods or EndpointSlices have changed.
#[derive(Clone, Debug, Default)]
pub struct Changes(watch::Sender<u64>);

impl Changes {
    /// Notifies of each change from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Notifies all subscribers.
    pub fn notify(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

/// Asks for a reconciliation.
pub type Requeue = mpsc::UnboundedSender<ObjectRef<GuardedPair>>;

/// An API over one namespace, or all.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_PAIR}"))
}

/// The ProxyPair that a child belongs to, by its label.
pub fn owner<K: Resource>(object: &K) -> Option<ObjectRef<GuardedPair>> {
    let pair = object.labels().get(LABEL_PAIR)?;
    Some(ObjectRef::new(pair).within(&object.namespace()?))
}

/// Caches the metadata of one kind of child, and asks for a reconciliation when one changes or goes.
pub fn children<K: Child>(
    client: &Client,
    namespace: Option<&str>,
    requeue: &Requeue,
) -> (Store<PartialObjectMeta<K>>, BoxFuture<'static, ()>) {
    let (store, writer) = reflector::store();
    let requeue = requeue.clone();
    let stream = watcher(api::<PartialObjectMeta<K>>(client, namespace), ours())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    let task = stream.for_each(move |object| {
        if let Some(pair) = object.ok().as_ref().and_then(owner) {
            let _ = requeue.send(pair);
        }
        futures::future::ready(())
    });
    (store, Box::pin(task))
}

/// Caches the proxy pods. Workers are notified of a change at once, without waiting for a reconciliation.
pub fn pods(
    client: &Client,
    namespace: Option<&str>,
    requeue: &Requeue,
    changes: &Changes,
) -> (Store<Pod>, BoxFuture<'static, ()>) {
    let (store, writer) = reflector::store();
    let (requeue, changes) = (requeue.clone(), changes.clone());
    let stream = watcher(api::<Pod>(client, namespace), ours())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    let task = stream.for_each(move |pod| {
        changes.notify();
        if let Some(pair) = pod.ok().as_ref().and_then(owner) {
            let _ = requeue.send(pair);
        }
        futures::future::ready(())
    });
    (store, Box::pin(task))
}

/// Caches the EndpointSlices of the Services that the operator made.
pub fn slices(
    client: &Client,
    namespace: Option<&str>,
    changes: &Changes,
) -> (Store<EndpointSlice>, BoxFuture<'static, ()>) {
    let (store, writer) = reflector::store();
    let changes = changes.clone();
    let config = watcher::Config::default().labels(LABEL_PAIR);
    let stream = watcher(api::<EndpointSlice>(client, namespace), config)
        .default_backoff()
        .reflect(writer);
    let task = stream.for_each(move |event| {
        if matches!(event, Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone)) {
            changes.notify();
        }
        futures::future::ready(())
    });
    (store, Box::pin(task))
}
