//! Reconciliations against a scripted API server.

mod adoption;
mod log;
mod references;
mod updates;

use std::{sync::Arc, time::Duration};

use fake_api_server::{ApiServer, Fault, Match, Verb};
use futures::{StreamExt, future::ready, stream::BoxStream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Service},
};
use kube::{
    ResourceExt,
    core::DeserializeGuard,
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Settings,
    context::Context,
    reconcile::{ReconcileError, on_error, reconcile},
    registry::Registry,
};
use crate::{
    api::{CONDITION_READY, LABEL_SIDE, ProxyPair, Side},
    cluster::GuardedPair,
    domain::{children::GateImage, pair::fixture},
    leader::{Claim, Standing},
    metrics::Metrics,
    worker::Worker,
};

const NAMESPACE: &str = "netcool";
const NAME: &str = "proxy-v";

struct Stage {
    server: ApiServer,
    registry: Arc<Registry>,
    _requeued: BoxStream<'static, ObjectRef<GuardedPair>>,
    _standing: watch::Sender<Standing>,
}

fn manifest(spec: Value) -> ProxyPair {
    let ports = json!({
        "primary": {"objectServer": {"host": "127.0.0.1", "port": 1}},
        "backup": {"objectServer": {"host": "127.0.0.1", "port": 2}},
    });
    let mut changes = json!({"spec": ports});
    fixture::merge(&mut changes, json!({"spec": spec}));
    fixture::object(changes)
}

impl Stage {
    /// An operator that leads, and a pair that it has not seen yet.
    async fn new(spec: Value) -> Self {
        let server = ApiServer::new();
        server.put(&manifest(spec));
        Self::lead(server, "proxypair:1").await
    }

    /// An operator of that image that leads.
    async fn lead(server: ApiServer, image: &str) -> Self {
        let settings = Settings {
            identity: "op-1".to_owned(),
            namespace: None,
            image: GateImage {
                image: image.to_owned(),
                pull_policy: None,
            },
            max_updating_pairs: 1,
            certificate_lifetime: Duration::from_secs(90 * 24 * 3600),
            has_node_agents: false,
        };
        let leads = Standing::Leading(Claim {
            term: 1,
            expires: Instant::now().into_std() + Duration::from_secs(24 * 3600),
        });
        let (standing, led) = watch::channel(leads);
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let (context, requeued, caches) = Context::new(server.client(), settings, metrics, led);
        tokio::spawn(caches);
        context.caches_are_ready().await;
        let (pairs, changed) = crate::cluster::pairs(&server.client(), None);
        tokio::spawn(changed.for_each(|_| ready(())));
        pairs.wait_until_ready().await.unwrap();
        Self {
            server,
            registry: Arc::new(Registry::new(context, pairs)),
            _requeued: requeued.boxed(),
            _standing: standing,
        }
    }

    fn pair(&self) -> ProxyPair {
        self.server.get::<ProxyPair>(NAMESPACE, NAME).unwrap()
    }

    async fn reconcile(&self) -> Result<Action, ReconcileError> {
        self.reconcile_pair(self.pair()).await
    }

    async fn reconcile_pair(&self, pair: ProxyPair) -> Result<Action, ReconcileError> {
        reconcile(Arc::new(DeserializeGuard(Ok(pair))), Arc::clone(&self.registry)).await
    }

    /// The caches have taken in what has changed: paused time passes when no task has anything to do.
    async fn caches_follow(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    /// Reconciles until there is nothing to do any more.
    async fn settle(&self) {
        for _ in 0..100 {
            self.server.take_requests();
            if self.reconcile().await.is_ok() && self.reconciling_requests() == 0 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("it never has nothing to do: {:#?}", self.server.requests());
    }

    /// Requests of a reconciliation: the worker reads and writes only the ProxyPair.
    fn reconciling_requests(&self) -> usize {
        let of_worker = ["proxypairs", "events"];
        let requests = self.server.requests();
        requests
            .iter()
            .filter(|request| request.verb != Verb::Watch && !of_worker.contains(&request.resource.as_str()))
            .count()
    }

    fn is_watched(&self) -> bool {
        let key = ObjectRef::new(NAME).within(NAMESPACE);
        let uid = self.pair().uid().unwrap();
        self.registry.with_worker(&key, &uid, Worker::snapshot).is_some()
    }

    fn ready(&self) -> Option<(String, String)> {
        let conditions = self.pair().status?.conditions;
        let ready = conditions
            .into_iter()
            .find(|condition| condition.type_ == CONDITION_READY)?;
        Some((ready.reason, ready.message))
    }

    async fn until_ready_is(&self, reason: &str) -> String {
        for _ in 0..600 {
            match self.ready() {
                Some((found, message)) if found == reason => return message,
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
        panic!("Ready never has the reason {reason}: {:?}", self.ready());
    }

    fn selected(&self) -> Option<Side> {
        let service = self.server.json::<Service>(NAMESPACE, NAME)?;
        let label = service["spec"]["selector"][LABEL_SIDE].as_str()?.to_owned();
        Side::BOTH.into_iter().find(|side| side.label() == label)
    }

    fn edit(&self, spec: Value) {
        self.server.merge::<ProxyPair>(NAMESPACE, NAME, &json!({"spec": spec}));
    }
}

fn select(side: Side) -> Value {
    json!({"spec": {"selector": {LABEL_SIDE: side.label()}}})
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_gets_all_its_children_and_a_worker() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    assert!(stage.is_watched());
    assert_eq!(stage.selected(), Some(Side::Primary));
    assert_eq!(stage.server.list::<Deployment>().len(), 2);
    assert!(stage.server.get::<ConfigMap>(NAMESPACE, "proxy-v-probes").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_watched_whatever_child_is_refused_and_status_says_why_it_is_not_ready() {
    for resource in [
        "serviceaccounts",
        "poddisruptionbudgets",
        "services",
        "deployments",
        "configmaps",
    ] {
        let stage = Stage::new(json!({})).await;
        let refused = Match::new(Verb::Patch, resource).always();
        stage.server.fault(refused, Fault::status(403));
        assert!(stage.reconcile().await.is_err(), "{resource}");
        assert!(stage.is_watched(), "{resource}");
        stage.until_ready_is("Forbidden").await;
        // What is refused keeps nothing else from being applied.
        let deployments = stage.server.list::<Deployment>().len();
        assert_eq!(deployments, if resource == "deployments" { 0 } else { 2 }, "{resource}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_watched_although_its_secret_cannot_be_read() {
    let stage = Stage::new(json!({"healthCheck": {"login": {"secretName": "check"}}})).await;
    let secret = Match::new(Verb::Get, "secrets").named("check").always();
    stage.server.fault(secret, Fault::status(403));
    assert!(stage.reconcile().await.is_err());
    assert!(stage.is_watched());
    stage.until_ready_is("Forbidden").await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_the_cluster_refuses_leaves_the_worker_its_selector() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    stage.edit(json!({"service": {"type": "NodePort", "nodePort": 4400}}));
    stage
        .server
        .fault(Match::new(Verb::Patch, "services").named(NAME), Fault::status(422));
    assert!(stage.reconcile().await.is_err());
    stage.until_ready_is("Rejected").await;
    // The worker goes on with the Service as it is, and would patch its selector alone.
    stage
        .server
        .merge::<Service>(NAMESPACE, NAME, &json!({"spec": {"selector": {LABEL_SIDE: "nobody"}}}));
    stage
        .server
        .fault(Match::new(Verb::Patch, "services").named(NAME), Fault::status(422));
    assert!(stage.reconcile().await.is_err());
    for _ in 0..600 {
        if stage.selected() == Some(Side::Primary) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the selector was never patched: {:#?}", stage.server.writes());
}

#[tokio::test(start_paused = true)]
async fn the_selector_stays_as_it_is_found() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    stage.server.merge::<Service>(NAMESPACE, NAME, &select(Side::Backup));
    stage.edit(json!({"service": {"annotations": {"team": "noc"}}}));
    stage.reconcile().await.unwrap();
    let service = stage.server.get::<Service>(NAMESPACE, NAME).unwrap();
    assert_eq!(service.annotations().get("team").map(String::as_str), Some("noc"));
    assert_eq!(stage.selected(), Some(Side::Backup));
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_is_patched_in_between_is_not_turned_back() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    stage.edit(json!({"service": {"annotations": {"team": "noc"}}}));
    let server = stage.server.clone();
    let switch = Fault::hook(move |_| server.merge::<Service>(NAMESPACE, NAME, &select(Side::Backup)));
    stage
        .server
        .fault(Match::new(Verb::Patch, "services").named(NAME), switch);
    let error = stage.reconcile().await.unwrap_err();
    assert!(
        matches!(&error, ReconcileError::Apply(error) if error.is_conflict()),
        "{error}"
    );
    assert_eq!(stage.selected(), Some(Side::Backup));
}

#[tokio::test(start_paused = true)]
async fn an_edited_label_is_handed_over_without_another_request() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    // What the worker has still to write is written.
    sleep(Duration::from_secs(60)).await;
    stage
        .server
        .merge::<ProxyPair>(NAMESPACE, NAME, &json!({"metadata": {"labels": {"team": "noc"}}}));
    stage.server.take_requests();
    stage.reconcile().await.unwrap();
    assert_eq!(stage.reconciling_requests(), 0, "{:#?}", stage.server.requests());
    // The next write of the worker is no conflict: it knows the new version.
    stage
        .server
        .merge::<ProxyPair>(NAMESPACE, NAME, &json!({"status": {"connections": 7}}));
    stage.reconcile().await.unwrap();
    for _ in 0..600 {
        if stage.pair().status.is_some_and(|status| status.connections == 0) {
            let reads = stage.server.count(&Match::new(Verb::Get, "proxypairs"));
            assert_eq!(reads, 0, "{:#?}", stage.server.requests());
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the status was never repaired");
}

#[tokio::test(start_paused = true)]
async fn the_worker_of_a_pair_that_was_made_again_does_not_live_on() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    let old = stage.pair().uid().unwrap();
    stage.server.delete::<ProxyPair>(NAMESPACE, NAME);
    let mut again = manifest(json!({}));
    again.metadata.uid = Some("another".to_owned());
    stage.server.put(&again);
    // The children of the old one are still there.
    stage.reconcile().await.unwrap();
    let key = ObjectRef::new(NAME).within(NAMESPACE);
    assert!(stage.registry.with_worker(&key, &old, Worker::snapshot).is_none());
    assert!(stage.is_watched());
    let status = stage.pair().status.unwrap_or_default();
    assert!(status.history.is_empty(), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_demands_is_obeyed_and_a_success_ends_the_row_of_failures() {
    let stage = Stage::new(json!({})).await;
    let service = Match::new(Verb::Patch, "services").named("proxy-v-primary");
    stage.server.fault(service.clone(), Fault::too_many_requests(7));
    let error = stage.reconcile().await.unwrap_err();
    let object = Arc::new(DeserializeGuard(Ok(stage.pair())));
    let wait = on_error(Arc::clone(&object), &error, Arc::clone(&stage.registry));
    assert_eq!(wait, Action::requeue(Duration::from_secs(7)));
    let second = stage.registry.failed(&object);
    stage.reconcile().await.unwrap();
    assert_ne!(stage.registry.failed(&object), second.and_one_more(1));
}

#[tokio::test(start_paused = true)]
async fn proxies_on_one_node_are_told_from_what_the_caches_keep_of_their_pods() {
    let stage = Stage::new(json!({})).await;
    for side in Side::BOTH {
        let pod = json!({
            "metadata": {"name": format!("proxy-v-{}-1", side.label()), "namespace": NAMESPACE, "labels": {
                "app.kubernetes.io/managed-by": "proxypair", "proxypair.dev/pair": NAME, "proxypair.dev/side": side.label(),
            }},
            "spec": {"containers": [], "nodeName": "node7"},
            "status": {"phase": "Running", "podIP": "127.0.0.1"},
        });
        stage.server.put::<Pod>(&serde_json::from_value(pod).unwrap());
    }
    stage.settle().await;
    let says = |stage: &Stage| {
        let conditions = stage.pair().status.map(|status| status.conditions).unwrap_or_default();
        let protected = conditions.into_iter().find(|known| known.type_ == "Protected");
        protected.map(|protected| protected.message).unwrap_or_default()
    };
    for _ in 0..100 {
        if says(&stage).contains("on node node7") {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("Protected says: {}", says(&stage));
}
