//! The server through a real client.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, ObjectReference, Pod, Service},
};
use kube::{
    Api, Error, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, WatchParams},
    core::{PartialObjectMeta, WatchEvent},
    runtime::{
        WatchStreamExt,
        events::{Event, EventType, Recorder, Reporter},
        reflector, watcher,
    },
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{ApiServer, Fault, Match, PatchKind, Verb};

fn config_map(name: &str, labels: &[(&str, &str)]) -> ConfigMap {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("n".to_owned()),
            labels: (!labels.is_empty()).then_some(labels),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), "1".to_owned())])),
        ..ConfigMap::default()
    }
}

fn deployment(name: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "n"},
        "spec": {"replicas": 1, "selector": {}, "template": {}},
        "status": {"replicas": 1},
    }))
    .unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}})).unwrap()
}

fn maps(server: &ApiServer) -> Api<ConfigMap> {
    Api::namespaced(server.client(), "n")
}

#[track_caller]
fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> u16 {
    match outcome {
        Err(Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

fn version(object: &impl ResourceExt) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

#[tokio::test]
async fn creates_reads_replaces_and_deletes() {
    let server = ApiServer::new();
    let maps = maps(&server);
    let created = maps
        .create(&PostParams::default(), &config_map("a", &[]))
        .await
        .unwrap();
    assert!(created.uid().is_some() && created.metadata.creation_timestamp.is_some());
    assert_eq!(maps.get("a").await.unwrap(), created);
    let again = maps.create(&PostParams::default(), &config_map("a", &[])).await;
    assert_eq!(code(again), 409);

    let mut changed = created.clone();
    changed.data = None;
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!((replaced.data.clone(), replaced.uid()), (None, created.uid()));
    assert!(version(&replaced) > version(&created));
    assert_eq!(code(maps.replace("a", &PostParams::default(), &created).await), 409);

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
    assert_eq!(code(maps.replace("a", &PostParams::default(), &replaced).await), 404);
    let reborn = maps
        .create(&PostParams::default(), &config_map("a", &[]))
        .await
        .unwrap();
    assert_ne!(reborn.uid(), created.uid());
}

#[tokio::test]
async fn a_replacement_of_what_was_deleted_and_made_again_is_a_conflict() {
    let server = ApiServer::new();
    let old = server.put(&config_map("a", &[]));
    server.delete::<ConfigMap>("n", "a");
    let new = server.put(&config_map("a", &[]));
    let mut sent = old;
    sent.metadata.resource_version = new.resource_version();
    assert_eq!(
        code(maps(&server).replace("a", &PostParams::default(), &sent).await),
        409
    );
}

#[tokio::test]
async fn a_replacement_without_a_version_is_refused() {
    let server = ApiServer::new();
    server.put(&config_map("a", &[]));
    let sent = config_map("a", &[]);
    assert_eq!(
        code(maps(&server).replace("a", &PostParams::default(), &sent).await),
        422
    );
}

#[tokio::test]
async fn a_write_that_changes_nothing_makes_no_version() {
    let server = ApiServer::new();
    let stored = server.put(&config_map("a", &[]));
    let replaced = maps(&server)
        .replace("a", &PostParams::default(), &stored)
        .await
        .unwrap();
    assert_eq!(replaced.resource_version(), stored.resource_version());
}

#[tokio::test]
async fn names_are_generated() {
    let server = ApiServer::new();
    let mut map = config_map("", &[]);
    map.metadata.name = None;
    assert_eq!(code(maps(&server).create(&PostParams::default(), &map).await), 422);
    map.metadata.generate_name = Some("a-".to_owned());
    let first = maps(&server).create(&PostParams::default(), &map).await.unwrap();
    let second = maps(&server).create(&PostParams::default(), &map).await.unwrap();
    assert!(first.name_any().starts_with("a-") && first.name_any() != second.name_any());
}

#[tokio::test]
async fn the_status_is_written_through_its_subresource_alone() {
    let server = ApiServer::new();
    let api: Api<Deployment> = Api::namespaced(server.client(), "n");
    let created = api.create(&PostParams::default(), &deployment("d")).await.unwrap();
    assert_eq!((created.status.clone(), created.metadata.generation), (None, Some(1)));

    let mut sent = created.clone();
    sent.spec.as_mut().unwrap().replicas = Some(5);
    sent.status = deployment("d").status;
    let status = api.replace_status("d", &PostParams::default(), &sent).await.unwrap();
    assert_eq!(status.spec, created.spec);
    assert_eq!(
        (status.status.unwrap().replicas, status.metadata.generation),
        (Some(1), Some(1))
    );
    assert_eq!(code(api.replace_status("d", &PostParams::default(), &sent).await), 409);

    let scaled = json!({"spec": {"replicas": 3}, "status": {"replicas": 3}});
    let scaled = api
        .patch("d", &PatchParams::default(), &Patch::Merge(scaled))
        .await
        .unwrap();
    assert_eq!(
        (scaled.spec.unwrap().replicas, scaled.metadata.generation),
        (Some(3), Some(2))
    );
    assert_eq!(scaled.status.unwrap().replicas, Some(1));

    let merged = json!({"spec": {"replicas": 9}, "status": {"replicas": 3}});
    let merged = api
        .patch_status("d", &PatchParams::default(), &Patch::Merge(merged))
        .await
        .unwrap();
    assert_eq!(
        (merged.spec.unwrap().replicas, merged.status.unwrap().replicas),
        (Some(3), Some(3))
    );
}

#[tokio::test]
async fn patches_with_a_stale_version_are_conflicts() {
    let server = ApiServer::new();
    let old = server.put(&config_map("a", &[]));
    server.modify("n", "a", |map: &mut ConfigMap| map.data = None);
    let maps = maps(&server);
    let stale = json!({"metadata": {"resourceVersion": old.resource_version()}, "data": {"key": "2"}});
    let merge = maps.patch("a", &PatchParams::default(), &Patch::Merge(&stale)).await;
    assert_eq!(code(merge), 409);
    let apply = maps
        .patch("a", &PatchParams::apply("me").force(), &Patch::Apply(&stale))
        .await;
    assert_eq!(code(apply), 409);
    let fresh = json!({"metadata": {"resourceVersion": server.get::<ConfigMap>("n", "a").unwrap().resource_version()}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(fresh))
        .await
        .unwrap();
}

#[tokio::test]
async fn applies_what_is_absent_and_what_is_there() {
    let server = ApiServer::new();
    let maps = maps(&server);
    let apply = PatchParams::apply("me").force();
    let created = maps
        .patch("a", &apply, &Patch::Apply(config_map("a", &[("x", "y")])))
        .await
        .unwrap();
    assert!(created.uid().is_some());
    server.merge::<ConfigMap>("n", "a", &json!({"data": {"theirs": "1"}}));
    let applied = maps
        .patch("a", &apply, &Patch::Apply(config_map("a", &[])))
        .await
        .unwrap();
    assert!(applied.metadata.labels.is_none(), "the label is no longer applied");
    let keys: Vec<&str> = applied.data.as_ref().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["key", "theirs"]);
    assert_eq!(server.requests()[0].patch, Some(PatchKind::Apply));
}

fn json_patch(operations: serde_json::Value) -> http::Request<Vec<u8>> {
    http::Request::patch("/api/v1/namespaces/n/configmaps/a")
        .header(http::header::CONTENT_TYPE, "application/json-patch+json")
        .body(operations.to_string().into_bytes())
        .unwrap()
}

#[tokio::test]
async fn a_json_patch_tests_and_replaces() {
    let server = ApiServer::new();
    server.put(&config_map("a", &[]));
    let client = server.client();
    let test = |value| json!({"op": "test", "path": "/data/key", "value": value});
    let replace = json!({"op": "replace", "path": "/data/key", "value": "2"});
    let patched: ConfigMap = client.request(json_patch(json!([test("1"), replace]))).await.unwrap();
    assert_eq!(patched.data.unwrap()["key"], "2");
    let refused = client
        .request::<ConfigMap>(json_patch(json!([test("1"), replace])))
        .await;
    assert_eq!(code(refused), 422);
}

#[tokio::test]
async fn a_pod_stays_for_its_grace_period() {
    let server = ApiServer::new();
    let stored = server.put(&pod("p"));
    let pods: Api<Pod> = Api::namespaced(server.client(), "n");
    let params = |uid: &str| DeleteParams {
        grace_period_seconds: Some(1),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    assert_eq!(code(pods.delete("p", &params("other")).await), 409);
    pods.delete("p", &params(&stored.uid().unwrap())).await.unwrap();
    let going = pods.get("p").await.unwrap();
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(1));
    assert!(going.metadata.deletion_timestamp.is_some());
    assert!(server.delete::<Pod>("n", "p"));
    assert_eq!(code(pods.delete("p", &DeleteParams::default()).await), 404);
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_until_it_is_taken_off() {
    let server = ApiServer::new();
    let mut map = config_map("a", &[]);
    map.metadata.finalizers = Some(vec!["example.com/a".to_owned()]);
    server.put(&map);
    let maps = maps(&server);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    let none = json!({"metadata": {"finalizers": null}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(none))
        .await
        .unwrap();
    assert_eq!(maps.get_opt("a").await.unwrap(), None);
}

#[tokio::test]
async fn lists_by_namespace_label_and_field() {
    let server = ApiServer::new();
    server.put(&config_map("a", &[("app", "x")]));
    server.put(&config_map("b", &[("app", "y")]));
    let mut elsewhere = config_map("c", &[("app", "x")]);
    elsewhere.metadata.namespace = Some("m".to_owned());
    server.put(&elsewhere);
    let names = async |api: &Api<ConfigMap>, params: ListParams| -> Vec<String> {
        let list = api.list(&params).await.unwrap();
        assert_eq!(list.metadata.resource_version.as_deref(), Some("3"));
        list.iter().map(ResourceExt::name_any).collect()
    };
    let all = Api::all(server.client());
    assert_eq!(names(&maps(&server), ListParams::default()).await, ["a", "b"]);
    assert_eq!(
        names(&all, ListParams::default().labels("app in (x)")).await,
        ["c", "a"]
    );
    assert_eq!(
        names(&all, ListParams::default().fields("metadata.name=b")).await,
        ["b"]
    );
}

#[tokio::test]
async fn answers_with_metadata_alone() {
    let server = ApiServer::new();
    let stored = server.put(&config_map("a", &[]));
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(server.client(), "n");
    let typed = maps(&server);
    assert_eq!(typed.get_metadata("a").await.unwrap().metadata, stored.metadata);
    let listed = typed.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items[0].metadata, stored.metadata);
    assert_eq!(listed.types.kind, "PartialObjectMetadataList");
    let events = watcher(api, watcher::Config::default());
    let seen: Vec<_> = events.applied_objects().take(1).try_collect().await.unwrap();
    assert_eq!(seen[0].metadata, stored.metadata);
}

#[tokio::test]
async fn a_watch_tells_what_comes_changes_and_goes() {
    let server = ApiServer::new();
    let before = server.put(&config_map("before", &[("app", "x")]));
    let params = WatchParams::default().labels("app=x");
    let events = maps(&server)
        .watch(&params, &before.resource_version().unwrap())
        .await
        .unwrap();
    server.put(&config_map("a", &[("app", "x")]));
    server.put(&config_map("other", &[("app", "y")]));
    server.merge::<ConfigMap>("n", "a", &json!({"data": {"key": "2"}}));
    server.merge::<ConfigMap>("n", "a", &json!({"metadata": {"labels": {"app": "y"}}}));
    server.merge::<ConfigMap>("n", "other", &json!({"metadata": {"labels": {"app": "x"}}}));
    server.delete::<ConfigMap>("n", "other");
    let events: Vec<_> = events.take(5).try_collect().await.unwrap();
    let events: Vec<_> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Added(map) => ("added", map.name_any()),
            WatchEvent::Modified(map) => ("modified", map.name_any()),
            WatchEvent::Deleted(map) => ("deleted", map.name_any()),
            other => panic!("{other:?}"),
        })
        .collect();
    let (a, other) = (|| "a".to_owned(), || "other".to_owned());
    let expected = [
        ("added", a()),
        ("modified", a()),
        ("deleted", a()),
        ("added", other()),
        ("deleted", other()),
    ];
    assert_eq!(events, expected);
}

#[tokio::test(start_paused = true)]
async fn a_reflector_follows_through_ended_watches_and_a_lost_history() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = ApiServer::new();
        server.put(&config_map("a", &[]));
        let (store, writer) = reflector::store();
        let stream = watcher(maps(&server), config).default_backoff().reflect(writer);
        let task = tokio::spawn(stream.for_each(|_| async {}));
        store.wait_until_ready().await.unwrap();
        let value = |name: &str| {
            let map = store.get(&reflector::ObjectRef::new(name).within("n"))?;
            map.data.as_ref()?.get("key").cloned()
        };
        assert_eq!(value("a").as_deref(), Some("1"));
        for (round, disturb) in [
            |_: &ApiServer| {},
            ApiServer::end_watches,
            |server: &ApiServer| {
                server.forget_history();
                server.end_watches();
            },
        ]
        .into_iter()
        .enumerate()
        {
            disturb(&server);
            let name = format!("b{round}");
            server.put(&config_map(&name, &[]));
            let seen = async {
                while value(&name).is_none() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(60), seen).await.unwrap();
        }
        task.abort();
    }
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_refused() {
    let server = ApiServer::new();
    let old = server.put(&config_map("a", &[])).resource_version().unwrap();
    server.forget_history();
    let mut events = Box::pin(maps(&server).watch(&WatchParams::default(), &old).await.unwrap());
    let Some(Ok(WatchEvent::Error(status))) = events.next().await else {
        panic!("no error");
    };
    assert_eq!(status.code, 410);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn events_are_recorded() {
    let server = ApiServer::new();
    let recorder = Recorder::new(server.client(), Reporter::from("me"));
    let regarding = ObjectReference {
        name: Some("a".to_owned()),
        namespace: Some("n".to_owned()),
        ..ObjectReference::default()
    };
    for _ in 0..2 {
        let event = Event {
            type_: EventType::Normal,
            reason: "FailedOver".to_owned(),
            note: Some("to b".to_owned()),
            action: "Switch".to_owned(),
            secondary: None,
        };
        recorder.publish(&event, &regarding).await.unwrap();
    }
    let events = server.events();
    assert_eq!(events.len(), 2);
    assert_eq!(
        (events[0]["reason"].as_str(), events[1]["series"]["count"].as_i64()),
        (Some("FailedOver"), Some(2))
    );
    assert!(server.writes().is_empty(), "Events are not among the writes");
}

#[tokio::test]
async fn cluster_scoped_objects_have_no_namespace() {
    let server = ApiServer::new();
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    server.put(&namespace);
    assert_eq!(
        Api::<Namespace>::all(server.client())
            .get("n")
            .await
            .unwrap()
            .name_any(),
        "n"
    );
    assert_eq!(server.list::<Namespace>().len(), 1);
    assert!(server.get::<Namespace>("", "n").is_some());
}

// Faults

/// Patches `key` of ConfigMap `a` to 2, for ten seconds at most.
async fn set(server: &ApiServer) -> Option<Result<ConfigMap, Error>> {
    let maps = maps(server);
    let patch = Patch::Merge(json!({"data": {"key": "2"}}));
    let params = PatchParams::default();
    timeout(Duration::from_secs(10), maps.patch("a", &params, &patch))
        .await
        .ok()
}

fn faulty(fault: Fault) -> ApiServer {
    let server = ApiServer::new();
    server.put(&config_map("a", &[]));
    server.fault(Match::new(Verb::Patch, "configmaps"), fault);
    server
}

fn is_set(server: &ApiServer) -> bool {
    server.json::<ConfigMap>("n", "a").unwrap()["data"]["key"] == "2"
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_comes_late_and_the_write_at_once() {
    let server = faulty(Fault::SlowAnswer(Duration::from_secs(3)));
    let began = Instant::now();
    let write = tokio::spawn({
        let server = server.clone();
        async move { set(&server).await }
    });
    server.until(is_set).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    write.await.unwrap().unwrap().unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_carried_out_after_the_client_gave_up() {
    let server = faulty(Fault::SlowRequest(Duration::from_secs(30)));
    assert!(set(&server).await.is_none());
    assert!(!is_set(&server));
    let began = Instant::now();
    server.until(is_set).await;
    assert_eq!(began.elapsed(), Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn silence_comes_before_or_after_the_write() {
    for (fault, written) in [(Fault::SilenceBefore, false), (Fault::SilenceAfter, true)] {
        let server = faulty(fault);
        assert!(set(&server).await.is_none());
        assert_eq!(is_set(&server), written);
        assert!(set(&server).await.unwrap().is_ok(), "only the next request is met");
    }
}

#[tokio::test]
async fn a_connection_breaks_before_or_after_the_write() {
    for (fault, written) in [(Fault::DisconnectBefore, false), (Fault::DisconnectAfter, true)] {
        let server = faulty(fault);
        let error = set(&server).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Service(_)), "{error:?}");
        assert_eq!(is_set(&server), written);
        assert!(set(&server).await.unwrap().is_ok(), "only the next request is met");
    }
}

#[tokio::test]
async fn refuses_with_any_status() {
    for (status, reason) in [
        (403, "Forbidden"),
        (404, "NotFound"),
        (409, "Conflict"),
        (422, "Invalid"),
        (500, "InternalError"),
    ] {
        let server = faulty(Fault::status(status));
        let Err(Error::Api(refusal)) = set(&server).await.unwrap() else {
            panic!("{status} is no refusal");
        };
        assert_eq!((refusal.code, refusal.reason.as_str()), (status, reason));
        assert!(!is_set(&server));
    }
    let server = faulty(Fault::too_many_requests(7));
    let Err(Error::Api(refusal)) = set(&server).await.unwrap() else {
        panic!("429 is no refusal");
    };
    assert_eq!((refusal.code, refusal.details.unwrap().retry_after_seconds), (429, 7));
}

#[tokio::test]
async fn a_hook_runs_before_the_request() {
    let server = ApiServer::new();
    let stored = server.put(&config_map("a", &[]));
    let other = server.clone();
    let hook = Fault::hook(move |request| {
        assert_eq!(request.body["metadata"]["name"], "a");
        other.merge::<ConfigMap>("n", "a", &json!({"data": {"key": "9"}}));
    });
    server.fault(Match::new(Verb::Update, "configmaps"), hook);
    let maps = maps(&server);
    let mut sent = stored;
    sent.data = None;
    assert_eq!(code(maps.replace("a", &PostParams::default(), &sent).await), 409);
}

#[tokio::test(start_paused = true)]
async fn a_held_request_waits_for_its_release() {
    let (fault, release) = Fault::held();
    let server = faulty(fault);
    let write = tokio::spawn({
        let server = server.clone();
        async move { set(&server).await }
    });
    server
        .until(|server| server.count(&Match::any().verb(Verb::Patch)) == 1)
        .await;
    assert!(!is_set(&server));
    release.release();
    write.await.unwrap().unwrap().unwrap();
    assert!(is_set(&server));
}

#[tokio::test]
async fn faults_count_what_they_are_meant_for() {
    let server = ApiServer::new();
    server.put(&deployment("d"));
    server.put(&config_map("a", &[]));
    let status = Match::new(Verb::Get, "deployments").subresource("status");
    server.fault(status.clone().nth(2), Fault::status(500));
    server.fault(
        Match::new(Verb::Get, "deployments")
            .subresource("")
            .named("d")
            .from_nth(2),
        Fault::status(403),
    );
    let api: Api<Deployment> = Api::namespaced(server.client(), "n");
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push((
            api.get("d").await.err().is_some(),
            api.get_status("d").await.err().is_some(),
        ));
        assert!(maps(&server).get("a").await.is_ok());
    }
    assert_eq!(codes, [(false, false), (true, true), (true, false)]);
    assert_eq!(server.count(&status), 3);
    server.clear_faults();
    assert!(api.get("d").await.is_ok());
}

#[tokio::test]
async fn networks_share_the_objects_and_nothing_else() {
    let server = faulty(Fault::status(500));
    let other = server.another_network();
    assert!(set(&other).await.unwrap().is_ok());
    assert_eq!(
        (
            server.requests().len(),
            other.take_requests().len(),
            other.requests().len()
        ),
        (0, 1, 0)
    );
    assert!(set(&server).await.unwrap().is_err());
    assert!(is_set(&server));
}

#[tokio::test]
async fn the_log_has_what_was_asked() {
    let server = faulty(Fault::status(403));
    let services: Api<Service> = Api::namespaced(server.client(), "n");
    assert_eq!(services.get_opt("absent").await.unwrap(), None);
    assert_eq!(code(set(&server).await.unwrap()), 403);
    let log = server.requests();
    assert_eq!((log[0].verb, log[0].name.as_deref()), (Verb::Get, Some("absent")));
    assert_eq!((log[1].verb, log[1].namespace.as_deref()), (Verb::Patch, Some("n")));
    assert_eq!(log[1].body, json!({"data": {"key": "2"}}));
    assert_eq!(server.writes(), log[1..]);
}

#[tokio::test]
async fn a_list_comes_in_pages_and_a_watch_goes_on_from_the_first() {
    let server = ApiServer::new();
    for at in 0..5 {
        server.put(&config_map(&format!("m-{at}"), &[]));
    }
    let maps = maps(&server);
    let mut params = ListParams::default().limit(2);
    let mut names = Vec::new();
    let mut versions = Vec::new();
    for remaining in [Some(3), Some(1), None] {
        let page = maps.list(&params).await.unwrap();
        assert_eq!(page.metadata.remaining_item_count, remaining);
        versions.push(page.metadata.resource_version.clone());
        names.extend(page.items.iter().map(ResourceExt::name_any));
        if let Some(token) = page.metadata.continue_ {
            params = params.continue_token(&token);
        }
        // Somebody writes meanwhile.
        server.put(&config_map("z", &[("at", &names.len().to_string())]));
        server.delete::<ConfigMap>("n", "z");
    }
    assert_eq!(names, ["m-0", "m-1", "m-2", "m-3", "m-4"]);
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}
