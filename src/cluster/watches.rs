//! The caches: what the operator made, and the ProxyPairs, as the API server has them.
//!
//! Anybody who may create objects in one namespace decides what these watches receive, so a cache keeps of an object only what is used, and
//! lists come in small pages: the memory of one page is all that a large object costs.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ContainerStatus, Pod, PodSpec, PodStatus},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
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
    api::{
        ANNOTATION_TEMPLATE, LABEL_MANAGED_BY, LABEL_PAIR, LABEL_ROLE, LABEL_ROUTED, LABEL_SERVICE_NAME, LABEL_SIDE,
        MANAGED_BY, ProxyPair,
    },
    domain::children::Child,
};

/// Objects in one page of a list. An object can have 1.5 MB, and metadata alone 256 KiB of annotations.
const PAGE: u32 = 20;

/// How long one request of a watch lasts, in seconds. The API server ends it then, and one that is silent for 5 s longer is given up: so long
/// can a cache be behind if its connection dies without a word.
const WATCH_SECONDS: u32 = 20;

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

/// How everything is watched.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

/// How what the operator made is watched.
pub fn ours() -> watcher::Config {
    config().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_PAIR}"))
}

/// The ProxyPair that a child belongs to, by its label.
pub fn owner<K: Resource>(object: &K) -> Option<ObjectRef<GuardedPair>> {
    let pair = object.labels().get(LABEL_PAIR)?;
    Some(ObjectRef::new(pair).within(&object.namespace()?))
}

/// The ProxyPairs: the store that the stream fills, and those that are created, changed or deleted.
pub fn pairs(
    client: &Client,
    namespace: Option<&str>,
) -> (
    Store<GuardedPair>,
    impl Stream<Item = watcher::Result<GuardedPair>> + Send + 'static,
) {
    let (store, writer) = reflector::store();
    let stream = watcher(api::<GuardedPair>(client, namespace), config())
        .default_backoff()
        .modify(|pair| {
            let metadata = pair.meta_mut();
            metadata.managed_fields = None;
            metadata.annotations = None;
        })
        .reflect(writer)
        .touched_objects();
    (store, stream)
}

/// Caches of one kind of child which there are, in which version, and asks for a reconciliation when one changes or goes.
pub fn children<K: Child>(
    client: &Client,
    namespace: Option<&str>,
    requeue: &Requeue,
) -> (Store<PartialObjectMeta<K>>, BoxFuture<'static, ()>) {
    let (store, writer) = reflector::store();
    let requeue = requeue.clone();
    let stream = watcher(api::<PartialObjectMeta<K>>(client, namespace), ours())
        .default_backoff()
        .modify(|child| keep(&mut child.metadata, &[LABEL_PAIR], &[]))
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
        .modify(keep_of_pod)
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
    let stream = watcher(api::<EndpointSlice>(client, namespace), config().labels(LABEL_PAIR))
        .default_backoff()
        .modify(keep_of_slice)
        .reflect(writer);
    let task = stream.for_each(move |event| {
        if matches!(event, Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone)) {
            changes.notify();
        }
        futures::future::ready(())
    });
    (store, Box::pin(task))
}

/// Drops everything but the identity of an object, its times, and some labels and annotations.
fn keep(metadata: &mut ObjectMeta, labels: &[&str], annotations: &[&str]) {
    let some = |map: &mut Option<BTreeMap<String, String>>, wanted: &[&str]| {
        let mut map = map.take()?;
        map.retain(|key, _| wanted.contains(&key.as_str()));
        Some(map)
    };
    *metadata = ObjectMeta {
        labels: some(&mut metadata.labels, labels),
        annotations: some(&mut metadata.annotations, annotations),
        name: metadata.name.take(),
        namespace: metadata.namespace.take(),
        uid: metadata.uid.take(),
        resource_version: metadata.resource_version.take(),
        creation_timestamp: metadata.creation_timestamp.take(),
        deletion_timestamp: metadata.deletion_timestamp.take(),
        deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
        ..ObjectMeta::default()
    };
}

fn keep_of_pod(pod: &mut Pod) {
    keep(
        &mut pod.metadata,
        &[LABEL_PAIR, LABEL_ROUTED, LABEL_SIDE],
        &[ANNOTATION_TEMPLATE],
    );
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        ..PodSpec::default()
    });
    let Some(status) = pod.status.take() else { return };
    let of_containers = |statuses: Option<Vec<ContainerStatus>>| {
        statuses.map(|statuses| {
            let some = |status: ContainerStatus| ContainerStatus {
                name: status.name,
                image: status.image,
                state: status.state,
                last_state: status.last_state,
                ..ContainerStatus::default()
            };
            statuses.into_iter().map(some).collect()
        })
    };
    pod.status = Some(PodStatus {
        phase: status.phase,
        conditions: status.conditions,
        pod_ip: status.pod_ip,
        host_ip: status.host_ip,
        init_container_statuses: of_containers(status.init_container_statuses),
        container_statuses: of_containers(status.container_statuses),
        ..PodStatus::default()
    });
}

fn keep_of_slice(slice: &mut EndpointSlice) {
    keep(&mut slice.metadata, &[LABEL_PAIR, LABEL_ROLE, LABEL_SERVICE_NAME], &[]);
    slice.ports = None;
    for endpoint in &mut slice.endpoints {
        *endpoint = Endpoint {
            addresses: std::mem::take(&mut endpoint.addresses),
            ..Endpoint::default()
        };
    }
}

#[cfg(test)]
mod tests;
