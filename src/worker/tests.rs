//! A worker against a scripted API server, on paused time.

mod log;
mod supervision;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fake_api_server::{ApiServer, Fault, Match, Verb};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Resource, ResourceExt,
    runtime::{
        events::{Recorder, Reporter},
        reflector::{self, ObjectRef},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Handover, WorkerMessage,
    checks::{Checks, Observed, input},
    task::Task,
    view::View,
    writer::{ApiWriter, Writer},
};
use crate::{
    api::{LABEL_SIDE, ProxyPair, ProxyPairStatus, Reason, Side, Sides, SwitchKind},
    check::{Check, Observation},
    cluster::{Changes, Cluster, GuardedPair},
    domain::{
        children,
        evidence::{Fault as LinkFault, Link},
        machine::{Call, CallDone, Input, PodView, Source},
        now::Now,
        pair::{Pair, fixture::pair},
        rollout::Snapshot,
    },
    leader::{Claim, Standing},
    metrics::{DefectLabels, Metrics},
    protocol::{Report, Request, UnreachableCause, Upstream},
};

const NAMESPACE: &str = "netcool";
const NAME: &str = "proxy-v";
/// Of a gate that works.
const REPORT: &str = r#"{"gate":"P","objectServer":"A","instance":"1","admission":"Open","sessions":2,"upstream":{"state":"Reachable"},"leaving":false}"#;

/// What meets a worker on its way from primary to backup, after the primary's ObjectServer has died.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// The API server answers.
    Plain,
    /// Somebody else writes the ProxyPair just before the intent: 409.
    ConflictAtIntent,
    /// Somebody else writes the Service just before the patch: 409.
    ConflictAtPatch,
    /// Somebody else writes the ProxyPair just before the fact: 409.
    ConflictAtFact,
    /// The intent is written, its answer is lost, and the read that follows fails once.
    IntentUnknown,
    /// The selector is patched, the answer never comes, and the read that follows fails once.
    PatchUnknown,
    /// The fact is written, its answer is lost, and the read that follows fails once.
    FactUnknown,
    /// The API server is overloaded for three calls: 429.
    Overloaded,
    /// Each write is answered after 1.5 s.
    Slow,
}

impl Scenario {
    const ALL: [Self; 9] = [
        Self::Plain,
        Self::ConflictAtIntent,
        Self::ConflictAtPatch,
        Self::ConflictAtFact,
        Self::IntentUnknown,
        Self::PatchUnknown,
        Self::FactUnknown,
        Self::Overloaded,
        Self::Slow,
    ];

    fn script(self, server: &ApiServer) {
        let status = || Match::new(Verb::Update, "proxypairs").subresource("status");
        let service = || Match::new(Verb::Patch, "services");
        let fail_a_read = || server.fault(Match::new(Verb::Get, "proxypairs"), Fault::DisconnectBefore);
        let writes_object = |server: &ApiServer| {
            let server = server.clone();
            Fault::hook(move |_| {
                server.merge::<ProxyPair>(NAMESPACE, NAME, &json!({"metadata": {"labels": {"a": "b"}}}));
            })
        };
        match self {
            Self::Plain => {}
            Self::ConflictAtIntent => server.fault(status(), writes_object(server)),
            Self::ConflictAtFact => server.fault(status().nth(2), writes_object(server)),
            Self::ConflictAtPatch => {
                let other = server.clone();
                let hook =
                    move |_: &_| other.merge::<Service>(NAMESPACE, NAME, &json!({"metadata": {"labels": {"a": "b"}}}));
                server.fault(service(), Fault::hook(hook));
            }
            Self::IntentUnknown => {
                server.fault(status(), Fault::DisconnectAfter);
                fail_a_read();
            }
            Self::PatchUnknown => {
                server.fault(service(), Fault::SilenceAfter);
                fail_a_read();
            }
            Self::FactUnknown => {
                server.fault(status().nth(2), Fault::DisconnectAfter);
                fail_a_read();
            }
            Self::Overloaded => {
                for nth in 1..=3 {
                    server.fault(status().nth(nth), Fault::status(429));
                }
            }
            Self::Slow => {
                for nth in 1..=3 {
                    server.fault(status().nth(nth), Fault::SlowAnswer(Duration::from_millis(1500)));
                    server.fault(service().nth(nth), Fault::SlowAnswer(Duration::from_millis(1500)));
                }
            }
        }
    }
}

/// Gates that a test stands for.
#[derive(Clone, Default)]
struct FakeChecks(Arc<Mutex<Sides<Option<Request>>>>);

impl FakeChecks {
    fn commanded(&self, side: Side) -> Option<Request> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[side].clone()
    }
}

impl Checks for FakeChecks {
    fn declare(&mut self, _handover: &Handover) -> Vec<(Side, Source)> {
        Vec::new()
    }

    fn assign(&mut self, _pods: &Sides<Vec<PodView>>) -> Vec<(Side, Source)> {
        Vec::new()
    }

    fn command(&mut self, side: Side, _gate: &str, request: Request) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[side] = Some(request);
    }

    fn watch_route(&mut self, _address: Option<SocketAddr>) {}

    fn recheck(&mut self, _side: Side, _gate: &str) {}

    fn look(&mut self, _side: Side, _gate: &str, _question: u64, _look_at: Vec<crate::protocol::LookAt>) {}

    fn read_gateways(&mut self, _side: Side, _wanted: bool) {}

    fn input(&self, observed: Observed) -> Option<Input> {
        input(observed.side, observed.source, observed.observation)
    }
}

/// One pod for each side, and endpoints that follow the selector at once.
struct FakeView {
    server: ApiServer,
    started: Instant,
}

impl View for FakeView {
    /// Both clocks run with the paused one.
    fn now(&self) -> Now {
        let noon: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        Now {
            monotonic: Instant::now().into_std(),
            wall: noon + SignedDuration::try_from(self.started.elapsed()).unwrap(),
        }
    }

    fn pods(&self, _pair: &Pair) -> Sides<Vec<PodView>> {
        Sides::from_fn(|side| {
            vec![PodView {
                uid: side.label().to_owned(),
                name: format!("{NAME}-{}", side.label()),
                ip: Some(address(side)),
                created: None,
                node: None,
                terminating: None,
                failure: None,
                template: None,
                routed: true,
            }]
        })
    }

    fn endpoints(&self, _pair: &Pair) -> Vec<IpAddr> {
        selected(&self.server).map(address).into_iter().collect()
    }
}

fn address(side: Side) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, if side == Side::Primary { 1 } else { 2 }))
}

fn selected(server: &ApiServer) -> Option<Side> {
    let service = server.json::<Service>(NAMESPACE, NAME)?;
    let label = service["spec"]["selector"][LABEL_SIDE].as_str()?.to_owned();
    Side::BOTH.into_iter().find(|side| side.label() == label)
}

struct Stage {
    server: ApiServer,
    cluster: Arc<Cluster>,
    checks: FakeChecks,
    standing: watch::Sender<Standing>,
    messages: mpsc::UnboundedSender<WorkerMessage>,
    observed: mpsc::Sender<Observed>,
    worker: JoinHandle<()>,
    requeued: mpsc::UnboundedReceiver<ObjectRef<GuardedPair>>,
    pair: Arc<Pair>,
}

fn declared() -> Arc<Pair> {
    Arc::new(pair(
        json!({"healthCheck": {"unreachableAfter": "0s", "healthyAfter": "0s"}}),
    ))
}

fn object(status: Value) -> ProxyPair {
    let pair = declared();
    let mut object = ProxyPair::new(NAME, pair.spec.clone());
    object.metadata.namespace = Some(NAMESPACE.to_owned());
    object.metadata.uid = Some(pair.uid.clone());
    object.status = serde_json::from_value(status).unwrap();
    object
}

impl Stage {
    /// A worker on a pair with this status; the Service selects the primary.
    async fn new(status: Value) -> Self {
        let server = ApiServer::new();
        let pair = declared();
        let object = server.put(&object(status));
        let service = server.put(&children::virtual_service(&pair, Side::Primary));
        let leads = Standing::Leading(Claim {
            term: 1,
            expires: Instant::now().into_std() + Duration::from_secs(3600),
        });
        let (standing, led) = watch::channel(leads);
        let (requeue, requeued) = mpsc::unbounded_channel();
        let reporter = Reporter {
            controller: "test".to_owned(),
            instance: None,
        };
        let cluster = Arc::new(Cluster {
            recorder: Recorder::new(server.client(), reporter),
            client: server.client(),
            identity: "op-1".to_owned(),
            metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
            pods: reflector::store().0,
            slices: reflector::store().0,
            changes: Changes::default(),
            requeue,
            has_node_agents: false,
            standing: led,
        });
        let handover = Handover {
            pair: Arc::clone(&pair),
            object: Arc::new(object),
            login: None,
            authorities: Sides::default(),
            keys: None,
        };
        let checks = FakeChecks::default();
        let writer = ApiWriter::new(Arc::clone(&cluster), &handover.object);
        let (snapshot, _) = watch::channel(Snapshot::default());
        let view = FakeView {
            server: server.clone(),
            started: Instant::now(),
        };
        let task = Task::new(Arc::clone(&cluster), &handover, writer, checks.clone(), view, snapshot);
        let (messages, received) = mpsc::unbounded_channel();
        let (observed, observations) = mpsc::channel(64);
        let stage = Self {
            server,
            cluster,
            checks,
            standing,
            messages,
            observed,
            worker: tokio::spawn(task.run(received, observations)),
            requeued,
            pair,
        };
        stage.send(WorkerMessage::Service(Box::new(Some(service))));
        stage
    }

    /// A worker on a pair that serves from its primary, with everything said in status.
    async fn settled() -> Self {
        let stage = Self::new(Value::Null).await;
        stage.up(Side::Primary).await;
        stage.up(Side::Backup).await;
        stage
            .until("both sides are up", |stage| {
                let status = stage.status();
                Side::BOTH.iter().all(|side| {
                    let side = status.side(*side);
                    side.is_some_and(|side| side.health == crate::api::Health::Up)
                }) && status.since.is_some()
            })
            .await;
        sleep(Duration::from_secs(3)).await;
        stage.server.take_requests();
        stage
    }

    fn send(&self, message: WorkerMessage) {
        assert!(self.messages.send(message).is_ok(), "the worker has ended");
    }

    fn status(&self) -> ProxyPairStatus {
        let object = self.server.get::<ProxyPair>(NAMESPACE, NAME);
        object.and_then(|object| object.status).unwrap_or_default()
    }

    async fn observe(&self, side: Side, source: Source, observation: Observation) {
        let observed = Observed {
            side,
            source,
            number: 1,
            observation,
        };
        self.observed.send(observed).await.unwrap();
    }

    async fn see(&self, side: Side, direct: Link, upstream: Upstream, path: Link) {
        let gate = || Source::Gate(side.label().to_owned());
        let report = Report {
            upstream,
            sessions: if side == Side::Primary { 2 } else { 0 },
            ..serde_json::from_str(REPORT).unwrap()
        };
        let at = Instant::now().into_std();
        self.observe(side, Source::Server, Observation::Link(Check::Direct, direct))
            .await;
        self.observe(side, gate(), Observation::Link(Check::Control, Link::Answering))
            .await;
        self.observe(side, gate(), Observation::Report { at, report }).await;
        self.observe(side, gate(), Observation::Link(Check::Path, path)).await;
    }

    async fn up(&self, side: Side) {
        self.see(side, Link::Answering, Upstream::Reachable, Link::Answering)
            .await;
    }

    async fn down(&self, side: Side) {
        let refused = Link::Failed {
            since: Instant::now().into_std(),
            fault: LinkFault::Connection,
            message: "refused".to_owned(),
        };
        let upstream = Upstream::Unreachable {
            cause: UnreachableCause::Refused,
            message: "refused".to_owned(),
        };
        self.see(side, refused.clone(), upstream, refused).await;
    }

    /// Waits for a condition for a minute of the paused clock; the caches notice every change within 10 ms.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..6000 {
            if holds(self) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
            self.cluster.changes.notify();
        }
        panic!(
            "not within a minute: {what}; status {:#?}; requests {:#?}",
            self.status(),
            self.requests()
        );
    }

    /// Verb, resource and what matters of the body of each write.
    fn requests(&self) -> Vec<String> {
        let line = |request: &fake_api_server::Request| {
            let word = |pointer: &str| {
                request
                    .body
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            match request.resource.as_str() {
                "proxypairs" => format!("status {}->{}", word("/status/serving"), word("/status/target")),
                "services" => format!("selector {}", word("/spec/selector/proxypair.dev~1side")),
                other => other.to_owned(),
            }
        };
        self.server
            .writes()
            .iter()
            .filter(|request| request.resource != "events")
            .map(line)
            .collect()
    }

    /// The reasons in the metric `proxypair_defects`.
    fn defects(&self) -> Vec<&'static str> {
        let is_there = |reason: &&'static str| {
            let labels = DefectLabels {
                namespace: NAMESPACE.to_owned(),
                pair: NAME.to_owned(),
                reason,
            };
            self.cluster.metrics.defects.get(&labels).is_some()
        };
        Reason::all().map(Reason::as_str).filter(is_there).collect()
    }

    fn is_moved(&self) -> bool {
        self.status().serving == Some(Side::Backup)
    }
}

#[tokio::test(start_paused = true)]
async fn a_switch_is_intent_patch_and_fact_whatever_happens_to_its_writes() {
    for scenario in Scenario::ALL {
        let stage = Stage::settled().await;
        scenario.script(&stage.server);
        stage.down(Side::Primary).await;
        stage
            .until(&format!("{scenario:?}: the backup serves"), Stage::is_moved)
            .await;
        sleep(Duration::from_secs(5)).await;
        let (status, requests) = (stage.status(), stage.requests());
        let what = format!("{scenario:?}: {requests:?}");
        assert_eq!(selected(&stage.server), Some(Side::Backup), "{what}");
        assert_eq!(status.target, Some(Side::Backup), "{what}");
        assert_eq!(status.history.len(), 1, "{what}");
        assert_eq!(status.history[0].kind, SwitchKind::Failover, "{what}");
        let first = |wanted: &str| requests.iter().position(|request| request == wanted);
        let (intent, patch, fact) = (
            first("status Primary->Backup"),
            first("selector backup"),
            first("status Backup->Backup"),
        );
        assert!(intent.is_some() && intent < patch && patch < fact, "{what}");
        let announced = stage.server.events();
        let failovers = announced
            .iter()
            .filter(|event| event["reason"] == "FailoverObjectServerUnreachable");
        assert_eq!(failovers.count(), 1, "{what}: {announced:#?}");
        assert!(!stage.worker.is_finished(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_asks_to_be_left_alone_gets_no_call_meanwhile() {
    let stage = Stage::settled().await;
    stage.server.fault(
        Match::new(Verb::Update, "proxypairs").subresource("status"),
        Fault::too_many_requests(7),
    );
    stage.down(Side::Primary).await;
    sleep(Duration::from_millis(6900)).await;
    assert_eq!(stage.requests().len(), 1, "{:?}", stage.requests());
    assert_eq!(stage.server.count(&Match::new(Verb::Get, "proxypairs")), 0);
    stage.until("the backup serves", Stage::is_moved).await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_command_is_in_status_in_an_event_and_in_the_metrics() {
    let stage = Stage::settled().await;
    let mut report: Report = serde_json::from_str(REPORT).unwrap();
    report.rejected_command = Some("term 1 of op-1 is over".to_owned());
    let at = Instant::now().into_std();
    let gate = Source::Gate(Side::Backup.label().to_owned());
    stage
        .observe(Side::Backup, gate, Observation::Report { at, report })
        .await;
    stage
        .until("status says it", |stage| {
            let conditions = stage.status().conditions;
            conditions
                .iter()
                .any(|known| known.type_ == "Ready" && known.reason == "CommandRejected")
        })
        .await;
    stage
        .until("an Event says it", |stage| {
            stage
                .server
                .events()
                .iter()
                .any(|event| event["reason"] == "CommandRejected")
        })
        .await;
    assert_eq!(stage.defects(), ["CommandRejected"]);
}

#[tokio::test(start_paused = true)]
async fn a_plain_switch_is_three_writes_each_on_the_version_that_is_known() {
    let stage = Stage::settled().await;
    stage.down(Side::Primary).await;
    stage.until("the backup serves", Stage::is_moved).await;
    let writes: Vec<_> = stage
        .server
        .writes()
        .into_iter()
        .filter(|request| request.resource != "events")
        .collect();
    assert_eq!(
        stage.requests()[..3],
        ["status Primary->Backup", "selector backup", "status Backup->Backup"]
    );
    for write in &writes {
        let version = write.body.pointer("/metadata/resourceVersion");
        assert!(version.is_some_and(Value::is_string), "{write:?}");
    }
    // The patch has the selector and nothing that the cluster could refuse for another reason.
    let spec = writes[1].body["spec"].as_object().unwrap();
    assert_eq!(spec.keys().collect::<Vec<_>>(), ["selector"]);
}

#[tokio::test(start_paused = true)]
async fn a_settled_pair_writes_nothing() {
    let stage = Stage::settled().await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        stage.up(Side::Primary).await;
        stage.up(Side::Backup).await;
    }
    assert_eq!(stage.server.requests().len(), 0, "{:?}", stage.requests());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_while_its_intent_is_being_written_gets_no_traffic() {
    let stage = Stage::settled().await;
    let slow = Fault::SlowAnswer(Duration::from_millis(1500));
    stage
        .server
        .fault(Match::new(Verb::Update, "proxypairs").subresource("status"), slow);
    stage.down(Side::Primary).await;
    stage
        .until("the intent is written", |stage| {
            stage.status().target == Some(Side::Backup)
        })
        .await;
    stage.up(Side::Primary).await;
    stage.down(Side::Backup).await;
    stage
        .until("the intent is withdrawn", |stage| {
            stage.status().target == Some(Side::Primary)
        })
        .await;
    assert_eq!(
        stage.server.count(&Match::new(Verb::Patch, "services")),
        0,
        "{:?}",
        stage.requests()
    );
    assert_eq!(stage.status().switching, None);
    assert!(stage.status().history.is_empty());
}

#[tokio::test(start_paused = true)]
async fn gates_are_commanded_while_the_api_server_is_silent() {
    let stage = Stage::settled().await;
    stage.down(Side::Primary).await;
    stage.until("the backup serves", Stage::is_moved).await;
    stage
        .until("the gate that was left drops its sessions", |stage| {
            stage.checks.commanded(Side::Primary) == Some(Request::Drop)
        })
        .await;
    // From now on no write is answered; the primary comes back with sessions on it.
    for nth in 1..=100 {
        stage
            .server
            .fault(Match::new(Verb::Update, "proxypairs").nth(nth), Fault::SilenceBefore);
    }
    let silent_since = Instant::now();
    stage.down(Side::Backup).await;
    stage
        .until("the gate of the primary admits", |stage| {
            stage.checks.commanded(Side::Primary) == Some(Request::Admit)
        })
        .await;
    assert!(
        silent_since.elapsed() < Duration::from_secs(1),
        "{:?}",
        silent_since.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_that_no_longer_leads_writes_nothing_and_its_worker_ends() {
    let stage = Stage::settled().await;
    stage.standing.send_replace(Standing::Lost);
    stage.down(Side::Primary).await;
    stage.until("the worker ends", |stage| stage.worker.is_finished()).await;
    assert_eq!(stage.server.writes().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn leadership_that_is_lost_between_intent_and_patch_leaves_the_service_alone() {
    let stage = Stage::settled().await;
    let (held, release) = Fault::held();
    stage
        .server
        .fault(Match::new(Verb::Update, "proxypairs").subresource("status"), held);
    stage.down(Side::Primary).await;
    sleep(Duration::from_millis(100)).await;
    stage.standing.send_replace(Standing::Lost);
    release.release();
    stage.until("the worker ends", |stage| stage.worker.is_finished()).await;
    assert_eq!(selected(&stage.server), Some(Side::Primary));
    assert_eq!(
        stage.status().target,
        Some(Side::Backup),
        "a successor finds the intent"
    );
}

#[tokio::test(start_paused = true)]
async fn a_successor_finishes_what_it_finds_and_writes_the_intent_no_second_time() {
    let stage = Stage::new(json!({
        "serving": "Primary",
        "target": "Backup",
        "switching": {"kind": "Failover", "cause": "ObjectServerUnreachable", "startedAt": "2026-11-01T11:59:00.000000Z"},
        "since": "2026-11-01T11:00:00Z",
    }))
    .await;
    stage.up(Side::Backup).await;
    stage.down(Side::Primary).await;
    stage.until("the backup serves", Stage::is_moved).await;
    let requests = stage.requests();
    let moves: Vec<_> = requests
        .iter()
        .filter(|request| *request != "status Primary->Backup")
        .collect();
    assert_eq!(moves[..2], ["selector backup", "status Backup->Backup"]);
    assert_eq!(
        stage.status().history[0].started_at.0.to_string(),
        "2026-11-01T11:59:00Z"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_was_deleted_and_made_again_under_its_name_is_not_adopted() {
    let stage = Stage::settled().await;
    stage.server.delete::<ProxyPair>(NAMESPACE, NAME);
    let mut other = object(Value::Null);
    other.metadata.uid = Some("another".to_owned());
    stage.server.put(&other);
    stage.server.take_requests();
    stage.down(Side::Primary).await;
    stage.until("the worker ends", |stage| stage.worker.is_finished()).await;
    assert_eq!(
        stage.status(),
        ProxyPairStatus::default(),
        "the new object's status is untouched"
    );
    assert_eq!(selected(&stage.server), Some(Side::Primary));
}

#[tokio::test(start_paused = true)]
async fn an_edited_label_costs_no_conflict() {
    let stage = Stage::settled().await;
    stage
        .server
        .merge::<ProxyPair>(NAMESPACE, NAME, &json!({"metadata": {"labels": {"team": "noc"}}}));
    let object = stage.server.get::<ProxyPair>(NAMESPACE, NAME).unwrap();
    stage.send(WorkerMessage::Handover(Box::new(Handover {
        pair: Arc::clone(&stage.pair),
        object: Arc::new(object),
        login: None,
        authorities: Sides::default(),
        keys: None,
    })));
    // The worker takes it before anything else happens.
    sleep(Duration::from_millis(10)).await;
    stage.down(Side::Primary).await;
    stage.until("the backup serves", Stage::is_moved).await;
    assert_eq!(
        stage.server.count(&Match::new(Verb::Get, "proxypairs")),
        0,
        "nothing had to be read"
    );
    let object = stage.server.get::<ProxyPair>(NAMESPACE, NAME).unwrap();
    assert_eq!(object.labels().get("team").map(String::as_str), Some("noc"));
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_was_edited_by_hand_is_patched_back_with_all_its_keys() {
    let stage = Stage::settled().await;
    let wrong = json!({"spec": {"selector": {"app": "nginx", LABEL_SIDE: null}}});
    stage.server.merge::<Service>(NAMESPACE, NAME, &wrong);
    let service = stage.server.get::<Service>(NAMESPACE, NAME);
    stage.send(WorkerMessage::Service(Box::new(service)));
    stage
        .until("the selector is back", |stage| {
            selected(&stage.server) == Some(Side::Primary)
        })
        .await;
    let service = stage.server.get::<Service>(NAMESPACE, NAME).unwrap();
    let selector = service.spec.unwrap().selector.unwrap();
    assert_eq!(selector, children::virtual_selector(&stage.pair, Side::Primary));
}

#[tokio::test(start_paused = true)]
async fn a_service_of_somebody_else_is_never_patched() {
    let stage = Stage::settled().await;
    stage.server.delete::<Service>(NAMESPACE, NAME);
    let mut foreign = children::virtual_service(&stage.pair, Side::Primary);
    foreign.meta_mut().owner_references = None;
    let foreign = stage.server.put(&foreign);
    stage.send(WorkerMessage::Service(Box::new(Some(foreign))));
    stage.down(Side::Primary).await;
    stage
        .until("the intent is written", |stage| {
            stage.status().target == Some(Side::Backup)
        })
        .await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.server.count(&Match::new(Verb::Patch, "services")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_with_the_grace_that_is_given_and_only_that_one() {
    let stage = Stage::settled().await;
    let mut pod = Pod::default();
    (pod.metadata.name, pod.metadata.namespace) = (Some("p".to_owned()), Some(NAMESPACE.to_owned()));
    pod.metadata.uid = Some("first".to_owned());
    let object = stage.server.get::<ProxyPair>(NAMESPACE, NAME).unwrap();
    let writer = ApiWriter::new(Arc::clone(&stage.cluster), &object);
    for (uid, is_left, grace) in [("second", true, 1), ("first", false, 0)] {
        stage.server.put(&pod);
        stage.server.take_requests();
        let call = Call::DeletePod {
            side: Side::Primary,
            name: "p".to_owned(),
            uid: uid.to_owned(),
            grace: Duration::from_secs(grace),
        };
        let (outcome, _) = writer.begin(call, &stage.pair).await;
        let is_done = if is_left {
            matches!(outcome, Ok(CallDone::AlreadyGone))
        } else {
            matches!(outcome, Ok(CallDone::Written))
        };
        assert!(is_done, "{outcome:?}");
        assert_eq!(stage.server.get::<Pod>(NAMESPACE, "p").is_some(), is_left, "{uid}");
        let deletion = &stage.server.writes()[0].body;
        assert_eq!(deletion["gracePeriodSeconds"], grace, "{deletion}");
        assert_eq!(deletion["preconditions"]["uid"], uid, "{deletion}");
    }
}
