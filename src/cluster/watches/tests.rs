//! Caches that strangers fill, against a scripted API server.

use std::{fmt::Debug, time::Duration};

use fake_api_server::{ApiServer, Match, Verb};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::domain::pair::fixture;

const STRANGERS: usize = 200;

/// Metadata with everything that strangers can put into it, and the labels by which the caches select.
fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "namespace": "netcool",
        "labels": {
            "app.kubernetes.io/managed-by": "proxypair", "proxypair.dev/pair": "proxy-v", "proxypair.dev/side": "primary",
            "proxypair.dev/role": "virtual", "kubernetes.io/service-name": "proxy-v", "stranger": "x".repeat(63),
        },
        "annotations": {"stranger": "<".repeat(250 * 1024), "proxypair.dev/template": "abc"},
        "finalizers": ["stranger/x"],
        "managedFields": [{"manager": "stranger", "operation": "Update", "fieldsV1": {"f:x": "y".repeat(10_000)}}],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x".repeat(200), "uid": "1"}],
    })
}

/// How many bytes all objects of a store have as JSON.
async fn bytes_of<K>(store: Store<K>) -> usize
where
    K: Resource<DynamicType = ()> + Serialize + Clone + Debug + Send + Sync + 'static,
{
    let ready = timeout(Duration::from_secs(60), store.wait_until_ready()).await;
    ready.expect("the cache is filled").unwrap();
    let objects = store.state();
    assert!(objects.len() >= STRANGERS, "{}", objects.len());
    objects
        .iter()
        .map(|object| serde_json::to_string(&**object).unwrap().len())
        .sum()
}

/// Nothing was listed in larger pages, and it took as many as it has to.
fn assert_small_pages(server: &ApiServer, resource: &str) {
    let lists: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.verb == Verb::List)
        .collect();
    assert!(lists.len() >= STRANGERS / PAGE as usize, "{}", lists.len());
    for list in &lists {
        assert_eq!(
            (list.resource.as_str(), list.query["limit"].as_str()),
            (resource, "20"),
            "{list:?}"
        );
    }
}

#[tokio::test]
async fn of_children_the_version_is_kept_and_nothing_else_that_strangers_write() {
    let server = ApiServer::new();
    for at in 0..STRANGERS {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": metadata(&format!("m-{at}"))})).unwrap();
        server.put(&map);
    }
    let (requeue, mut requeued) = mpsc::unbounded_channel();
    let (store, task) = children::<ConfigMap>(&server.client(), None, &requeue);
    let task = tokio::spawn(task);
    let bytes = bytes_of(store.clone()).await;
    assert!(bytes < STRANGERS * 512, "{bytes}");
    assert_small_pages(&server, "configmaps");
    let key = ObjectRef::new("m-7").within("netcool");
    assert_eq!(
        store.get(&key).unwrap().metadata.resource_version,
        server
            .get::<ConfigMap>("netcool", "m-7")
            .unwrap()
            .metadata
            .resource_version
    );
    assert_eq!(
        requeued.recv().await.unwrap(),
        ObjectRef::new("proxy-v").within("netcool")
    );
    task.abort();
}

#[tokio::test]
async fn of_pods_and_slices_only_what_a_worker_reads_is_kept() {
    let server = ApiServer::new();
    for at in 0..STRANGERS {
        let pod = json!({
            "metadata": metadata(&format!("p-{at}")),
            "spec": {"containers": [{"name": "x", "env": [{"name": "x", "value": "y".repeat(100_000)}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.1.1", "containerStatuses": [
                {"name": "gate", "image": "i", "imageID": "z".repeat(10_000), "ready": true, "restartCount": 0},
            ]},
        });
        server.put(&serde_json::from_value::<Pod>(pod).unwrap());
        let slice = json!({
            "metadata": metadata(&format!("s-{at}")), "addressType": "IPv4", "ports": [],
            "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "h".repeat(1000)}],
        });
        server.put(&serde_json::from_value::<EndpointSlice>(slice).unwrap());
    }
    let (requeue, _requeued) = mpsc::unbounded_channel();
    let (pods_store, pods_task) = pods(&server.client(), None, &requeue, &Changes::default());
    let pods_task = tokio::spawn(pods_task);
    let bytes = bytes_of(pods_store.clone()).await;
    assert!(bytes < STRANGERS * 1024, "{bytes}");
    assert_small_pages(&server, "pods");
    let pod = pods_store.get(&ObjectRef::new("p-7").within("netcool")).unwrap();
    assert_eq!(pod.annotations()[ANNOTATION_TEMPLATE], "abc");
    assert_eq!(pod.labels()[LABEL_SIDE], "primary");
    pods_task.abort();

    server.take_requests();
    let (slices_store, slices_task) = slices(&server.client(), None, &Changes::default());
    let slices_task = tokio::spawn(slices_task);
    let bytes = bytes_of(slices_store.clone()).await;
    assert!(bytes < STRANGERS * 1024, "{bytes}");
    assert_small_pages(&server, "endpointslices");
    let slice = slices_store.get(&ObjectRef::new("s-7").within("netcool")).unwrap();
    assert_eq!(slice.endpoints[0].addresses, ["10.0.0.1"]);
    assert_eq!(slice.labels()[LABEL_SERVICE_NAME], "proxy-v");
    slices_task.abort();
}

#[tokio::test]
async fn of_pairs_the_annotations_are_not_kept() {
    let server = ApiServer::new();
    for at in 0..STRANGERS {
        let mut pair = fixture::object(json!({}));
        let mut foreign: ObjectMeta = serde_json::from_value(metadata(&format!("pair-{at}"))).unwrap();
        foreign.uid = Some(format!("uid-{at}"));
        pair.metadata = foreign;
        server.put(&pair);
    }
    let (store, stream) = pairs(&server.client(), None);
    let task = tokio::spawn(stream.for_each(|_| futures::future::ready(())));
    let ready = timeout(Duration::from_secs(60), store.wait_until_ready()).await;
    ready.expect("the cache is filled").unwrap();
    assert_eq!(store.state().len(), STRANGERS);
    for pair in store.state() {
        assert_eq!((&pair.meta().annotations, &pair.meta().managed_fields), (&None, &None));
    }
    assert_small_pages(&server, "proxypairs");
    task.abort();
}

/// A connection that dies silently is noticed well before the lease of the next leader would be.
#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_is_opened_again() {
    let server = ApiServer::new();
    let (requeue, _requeued) = mpsc::unbounded_channel();
    let (store, task) = children::<ConfigMap>(&server.client(), None, &requeue);
    let task = tokio::spawn(task);
    store.wait_until_ready().await.unwrap();
    let watches = Match::new(Verb::Watch, "configmaps");
    server.until(|server| server.count(&watches) == 1).await;
    let begun = tokio::time::Instant::now();
    server.until(|server| server.count(&watches) == 2).await;
    let took = begun.elapsed();
    assert!(took <= Duration::from_secs(26), "{took:?}");
    let asked = server
        .requests()
        .into_iter()
        .find(|request| request.verb == Verb::Watch)
        .unwrap();
    assert_eq!(asked.query["timeoutSeconds"], "20");
    task.abort();
}
