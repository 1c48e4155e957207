//! Pods and endpoints of one pair, as the caches have them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{ResourceExt, runtime::reflector::Store};
use tokio::time::Instant;

use crate::{
    api::{LABEL_PAIR, LABEL_ROLE, LABEL_ROUTED, LABEL_SERVICE_NAME, LABEL_SIDE, ROLE_VIRTUAL, ROUTED, Side, Sides},
    clock::wall,
    cluster::Cluster,
    domain::{children, machine::PodView, now::Now, pair::Pair, pod_failure::pod_failure},
};

/// What a worker knows of its surroundings beside its own checks.
pub trait View: Send {
    /// The time.
    fn now(&self) -> Now;
    /// The pods of each side that have not ended.
    fn pods(&self, pair: &Pair) -> Sides<Vec<PodView>>;
    /// The addresses in the EndpointSlices of the virtual Service.
    fn endpoints(&self, pair: &Pair) -> Vec<IpAddr>;
}

/// The operator's caches.
pub struct ClusterView(Arc<Cluster>);

impl ClusterView {
    pub fn new(cluster: Arc<Cluster>) -> Self {
        Self(cluster)
    }
}

impl View for ClusterView {
    fn now(&self) -> Now {
        Now {
            monotonic: Instant::now().into_std(),
            wall: wall(),
        }
    }

    fn pods(&self, pair: &Pair) -> Sides<Vec<PodView>> {
        Sides::from_fn(|side| {
            let pods = self.0.pods.state_filter(of_side(pair, side));
            let mut views: Vec<_> = pods.iter().map(|pod| pod_view(pod)).collect();
            views.sort_by(|a, b| a.uid.cmp(&b.uid));
            views
        })
    }

    fn endpoints(&self, pair: &Pair) -> Vec<IpAddr> {
        let service = pair.service_name();
        let is_ours = |slice: &EndpointSlice| {
            let label = |key: &str| slice.labels().get(key).map(String::as_str);
            slice.metadata.namespace.as_deref() == Some(&pair.namespace)
                && label(LABEL_SERVICE_NAME) == Some(&service)
                && label(LABEL_ROLE) == Some(ROLE_VIRTUAL)
                && label(LABEL_PAIR) == Some(&pair.name)
        };
        let mut addresses: Vec<IpAddr> = self
            .0
            .slices
            .state_filter(is_ours)
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|address| address.parse().ok())
            .collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

fn pod_view(pod: &Pod) -> PodView {
    PodView {
        uid: pod.uid().unwrap_or_default(),
        name: pod.name_any(),
        ip: pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref())
            .and_then(|ip| ip.parse().ok()),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        terminating: terminating(pod),
        failure: pod.status.as_ref().and_then(pod_failure),
        template: children::template_of(&pod.metadata).map(str::to_owned),
        routed: pod.labels().get(LABEL_ROUTED).map(String::as_str) == Some(ROUTED),
    }
}

/// How long a pod that is being deleted has to end.
fn terminating(pod: &Pod) -> Option<Duration> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// The address of the node that the newest pod of `side` runs on.
pub fn node_of(pods: &Store<Pod>, pair: &Pair, side: Side) -> Option<String> {
    let on_a_node = |pod: &Pod| host(pod).is_some() && of_side(pair, side)(pod);
    let newest = pods
        .state_filter(on_a_node)
        .into_iter()
        .max_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0))?;
    host(&newest).map(str::to_owned)
}

fn host(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.host_ip.as_deref()
}

fn of_side(pair: &Pair, side: Side) -> impl Fn(&Pod) -> bool {
    move |pod| {
        let label = |key| pod.labels().get(key).map(String::as_str);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.namespace.as_deref() == Some(&pair.namespace)
            && label(LABEL_PAIR) == Some(&pair.name)
            && label(LABEL_SIDE) == Some(side.label())
            && !matches!(phase, Some("Failed" | "Succeeded"))
    }
}

#[cfg(test)]
mod tests {
    use fake_api_server::ApiServer;
    use kube::runtime::reflector::ObjectRef;
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;
    use crate::cluster::{Changes, pods};

    fn view(metadata: serde_json::Value) -> PodView {
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "nodeName": "node1"}});
        pod_view(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_that_is_deleted_has_the_time_that_it_was_given() {
        assert_eq!(view(json!({"name": "p", "uid": "1"})).terminating, None);
        // The time of the deletion is by another clock: it is far away from this one.
        let deleted = json!({
            "name": "p",
            "uid": "1",
            "deletionTimestamp": "2001-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 10,
        });
        let view = view(deleted);
        assert_eq!(view.terminating, Some(Duration::from_secs(10)));
        assert_eq!(view.node.as_deref(), Some("node1"));
    }

    #[tokio::test]
    async fn the_cache_keeps_all_that_is_read_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "proxy-v-primary-1",
                "namespace": "netcool",
                "uid": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "deletionTimestamp": "2026-01-01T00:00:10Z",
                "deletionGracePeriodSeconds": 10,
                "labels": {
                    "app.kubernetes.io/managed-by": "proxypair",
                    "proxypair.dev/pair": "proxy-v",
                    "proxypair.dev/side": "primary",
                    "proxypair.dev/routed": "true",
                },
                "annotations": {"proxypair.dev/template": "abc"},
            },
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "hostIP": "10.0.1.1",
                "containerStatuses": [{
                    "name": "gate", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
                    "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
                }],
            },
        }))
        .unwrap();
        let server = ApiServer::new();
        server.put(&pod);
        let pod = server.get::<Pod>("netcool", "proxy-v-primary-1").unwrap();
        let (requeue, _requeued) = mpsc::unbounded_channel();
        let (store, task) = pods(&server.client(), None, &requeue, &Changes::default());
        let task = tokio::spawn(task);
        store.wait_until_ready().await.unwrap();
        let cached = store
            .get(&ObjectRef::new("proxy-v-primary-1").within("netcool"))
            .unwrap();
        let view = pod_view(&pod);
        assert_eq!(pod_view(&cached), view);
        assert_eq!(host(&cached), host(&pod));
        // Each field has something that could be lost.
        let PodView {
            uid,
            name,
            ip,
            node,
            created,
            terminating,
            failure,
            template,
            routed,
        } = view;
        assert!(!uid.is_empty() && !name.is_empty() && routed);
        assert!(ip.is_some() && node.is_some() && created.is_some() && terminating.is_some());
        assert!(failure.is_some() && template.is_some());
        task.abort();
    }
}
