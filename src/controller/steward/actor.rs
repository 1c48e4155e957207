//! The task behind a [`Steward`](super::Steward).

use std::{
    collections::HashMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{Api, Resource, ResourceExt, runtime::events::Event};
use rustls::pki_types::ServerName;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::sleep,
};

use super::{
    Declared, Known, Wish,
    pods::pod_of,
    switch::{Steps, address, event, selects, settled},
};
use crate::{
    api::{Engine, ProxyPair, ProxyPairStatus, Side, Switch, SwitchKind, Switching},
    controller::{
        apply::{ApplyError, apply, within_deadline},
        context::Context,
    },
    domain::{
        children,
        evidence::{Pod as PodState, Timing},
        expiry::Certificate,
        failover::{Decision, Policy, Routing},
        pair::Pair,
        status::{Now, Problem},
    },
    health::{Assignment, Finding, Identity, PodAddress, Server, index, monitor},
    metrics::SwitchLabels,
};

/// Time from a failed write to the next.
const RETRY: Duration = Duration::from_millis(100);
/// While a pod leaves, its successor is looked for so often: nothing tells when the time it has for that is over.
const LOOK_AFTER_LEAVING: Duration = Duration::from_secs(1);
/// How long the primary of a new pair may take to start before the backup serves in its place.
const FIRST_START: Duration = Duration::from_secs(30);

/// The task's state.
pub(super) struct Actor {
    pub(super) context: Arc<Context>,
    pub(super) pair: Arc<Pair>,
    /// The newest version of the object, from the cache or from a write's answer.
    pub(super) object: ProxyPair,
    /// The virtual Service as last seen or written.
    pub(super) service: Option<Service>,
    pub(super) key_text: String,
    pub(super) routing: Routing,
    pub(super) switching: Option<Switching>,
    pub(super) steps: Option<Steps>,
    pub(super) finished: Option<Switch>,
    pub(super) problem: Option<Problem>,
    pub(super) assignments: watch::Sender<Assignment>,
    pub(super) findings: watch::Receiver<Option<Finding>>,
    pub(super) known: watch::Sender<Option<Known>>,
    pub(super) monitor: AbortHandle,
    /// When the status was last written.
    pub(super) written_at: Option<Instant>,
    /// When a pod of each side was last deleted.
    pub(super) evicted: HashMap<Side, Instant>,
    /// Certificates that were told of, with the end that was told.
    pub(super) told: HashMap<(Side, Certificate), Timestamp>,
}

impl Actor {
    pub(super) fn new(context: Arc<Context>, declared: &Declared, known: watch::Sender<Option<Known>>) -> Self {
        let Declared {
            pair,
            object,
            service,
            login,
            authorities,
            problem,
            keys,
            gate_name,
            key_text,
        } = declared.clone();
        let now = read_clocks();
        let status = object.status.clone().unwrap_or_default();
        let routing = resumed(&status, now);
        let unknown = PodAddress::UNKNOWN;
        let pods = Side::BOTH.map(|side| pod_of(&context.pods, &pair, side, &unknown, Timestamp::now()));
        let assignment = Assignment {
            login,
            keys: Some(keys),
            epoch: 0,
            ..assignment(&pair, gate_name, pods, routing, authorities)
        };
        let assignments = watch::Sender::new(assignment);
        let (findings_in, findings) = watch::channel(None);
        let term = context.claim().map_or(0, |claim| claim.term);
        let identity = Identity {
            holder: context.settings.identity.clone(),
            term,
        };
        let monitor = tokio::spawn(monitor(identity, assignments.subscribe(), findings_in)).abort_handle();
        Self {
            context,
            pair,
            object: (*object).clone(),
            service,
            key_text,
            routing,
            switching: status.switching,
            steps: None,
            finished: None,
            problem,
            assignments,
            findings,
            known,
            monitor,
            written_at: None,
            evicted: HashMap::new(),
            told: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut wishes: mpsc::UnboundedReceiver<Wish>) {
        let mut changes = self.context.changes.subscribe();
        loop {
            let again = match self.act().await {
                Ok(again) => again,
                Err(ApplyError::NotLeading) => return,
                Err(error) => {
                    tracing::warn!(pair = self.pair.name, namespace = self.pair.namespace, %error, "a write failed and is tried again");
                    self.read_again().await;
                    Some(Instant::now() + RETRY)
                }
            };
            self.tell_known();
            let soon = Instant::now() + LOOK_AFTER_LEAVING;
            let again = match self.is_left() {
                true => Some(again.unwrap_or(soon).min(soon)),
                false => again,
            };
            let alarm = async {
                match again {
                    Some(at) => sleep(at.saturating_duration_since(Instant::now())).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(Wish::Declare(declared, reply)) => {
                        let outcome = self.declare(*declared).await;
                        // Nobody waits for an answer any more when the reconciliation was given up.
                        let _ = reply.send(outcome);
                    }
                    Some(Wish::Tell(problem)) => self.problem = Some(problem),
                    None => return,
                },
                changed = self.findings.changed() => if changed.is_err() { return },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.look_at_pods();
                }
                () = alarm => if self.is_left() {
                    self.look_at_pods();
                },
            }
        }
    }

    /// Whether a pod under watch is being deleted.
    fn is_left(&self) -> bool {
        self.assignments
            .borrow()
            .pods
            .iter()
            .any(|pod| pod.state == PodState::Leaving)
    }

    /// Takes over what is declared now, and makes the virtual Service so.
    async fn declare(&mut self, declared: Declared) -> Result<Option<Service>, ApplyError> {
        let Declared {
            pair,
            object,
            service,
            login,
            authorities,
            problem,
            keys,
            gate_name,
            key_text,
        } = declared;
        self.problem = problem;
        self.pair = pair;
        if newer(&*object, &self.object) {
            self.object = (*object).clone();
        }
        let new_keys = self.key_text != key_text;
        self.key_text = key_text;
        let pair = Arc::clone(&self.pair);
        let routing = self.routing;
        self.assignments.send_if_modified(|current| {
            // A bundle that has gone missing, or cannot be read, does not end the checks.
            let authorities = Side::BOTH.map(|side| {
                let before = || current.servers[index(side)].authorities.clone();
                authorities[index(side)].clone().or_else(before)
            });
            let next = Assignment {
                // A Secret that has gone missing does not end the checks.
                login: login
                    .or_else(|| current.login.clone())
                    .filter(|_| pair.spec.health_check.login.is_some()),
                keys: if new_keys { Some(keys) } else { current.keys.clone() },
                epoch: current.epoch,
                ..assignment(&pair, gate_name, current.pods.clone(), routing, authorities)
            };
            let changed = new_keys || next.asks_otherwise_than(current);
            *current = next;
            changed
        });
        let outdated = |found: &Service| self.service.as_ref().is_some_and(|known| !newer(found, known));
        if !service.as_ref().is_some_and(outdated) {
            self.service = service;
        }
        if self.routing.target != self.routing.serving && self.service.is_some() {
            // The switch that is under way renders the Service in its turn.
            return Ok(None);
        }
        self.context.claim()?;
        let wanted = children::virtual_service(&self.pair, self.routing.target);
        self.service = Some(apply(&self.context.client, &self.pair, &wanted).await?);
        Ok(self.service.clone())
    }

    /// Does what the newest finding asks for. Returns when to come back if nothing happens before.
    async fn act(&mut self) -> Result<Option<Instant>, ApplyError> {
        let finding = self.findings.borrow_and_update().clone();
        let Some(finding) = finding.filter(|finding| finding.epoch == self.assignments.borrow().epoch) else {
            return Ok(None);
        };
        match finding.decision.clone() {
            Decision::Begin { to, kind, cause } => {
                let decided = Instant::now();
                self.switching = Some(Switching {
                    kind,
                    cause,
                    started_at: MicroTime(now_in_micros()),
                });
                self.routing.target = to;
                self.write_status(&finding).await?;
                self.intent_written();
                let now = Instant::now();
                self.steps = Some(Steps {
                    seen: finding.seen_at,
                    decided,
                    intended: now,
                    patched: now,
                    settled: now,
                });
                self.finish(&finding).await?;
            }
            Decision::Finish => self.finish(&finding).await?,
            Decision::Withdraw => {
                tracing::info!(
                    pair = self.pair.name,
                    namespace = self.pair.namespace,
                    to = self.routing.serving.label(),
                    "withdrawing a switch"
                );
                self.point_at(self.routing.serving).await?;
                self.routing.target = self.routing.serving;
                self.switching = None;
                self.write_status(&finding).await?;
                self.routing_changed();
            }
            Decision::Stay { .. } => {
                if self.routing.since.is_none() && finding.sides[index(self.routing.serving)].health.may_serve() {
                    self.routing.since = Some(Instant::now());
                    self.routing_changed();
                }
                self.evict_frozen(&finding).await?;
                let certificates = self.tell_of_certificates(&finding);
                let counts = self.keep_status(&finding).await?;
                return Ok([certificates, counts].into_iter().flatten().min());
            }
        }
        Ok(None)
    }

    /// Steps 2 to 4 of a switch.
    async fn finish(&mut self, finding: &Finding) -> Result<(), ApplyError> {
        let to = self.routing.target;
        let mut changes = self.context.changes.subscribe();
        self.point_at(to).await?;
        let patched = Instant::now();
        if let Some(pod) = address(finding, to)
            && !settled(&self.context.slices, &mut changes, &self.pair, pod).await
        {
            tracing::warn!(
                pair = self.pair.name,
                namespace = self.pair.namespace,
                "the EndpointSlices do not show the new side yet"
            );
        }
        let settled = Instant::now();
        let finished_at = MicroTime(now_in_micros());
        let under_way = self.switching.take().unwrap_or(Switching {
            kind: SwitchKind::Failover,
            cause: None,
            started_at: finished_at.clone(),
        });
        let took = finished_at.0.duration_since(under_way.started_at.0).unsigned_abs();
        let switch = Switch {
            kind: under_way.kind,
            to,
            cause: under_way.cause,
            started_at: under_way.started_at.clone(),
            finished_at,
            duration: took.into(),
        };
        self.routing = Routing {
            serving: to,
            target: to,
            since: Some(settled),
        };
        self.finished = Some(switch.clone());
        let written = self.write_status(finding).await;
        self.finished = None;
        written?;
        let steps = self.steps.take().unwrap_or(Steps {
            seen: finding.seen_at,
            decided: patched,
            intended: patched,
            patched,
            settled,
        });
        Steps {
            patched,
            settled,
            ..steps
        }
        .log(&self.pair, &switch);
        self.routing_changed();
        let labels = SwitchLabels {
            kind: switch.kind.as_str(),
            cause: switch.cause.map_or("None", |cause| cause.as_str()),
        };
        self.context.metrics.switches.get_or_create(&labels).inc();
        self.context
            .metrics
            .switch_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        self.publish(event(&self.pair, &switch));
        Ok(())
    }

    /// Patches the Service, if it does not select that side already.
    async fn point_at(&mut self, side: Side) -> Result<(), ApplyError> {
        if self
            .service
            .as_ref()
            .is_some_and(|service| selects(service, &self.pair, side))
        {
            return Ok(());
        }
        self.context.claim()?;
        let mut wanted = children::virtual_service(&self.pair, side);
        wanted.metadata.resource_version = self.service.as_ref().and_then(ResourceExt::resource_version);
        self.service = Some(apply(&self.context.client, &self.pair, &wanted).await?);
        Ok(())
    }

    /// After a write that failed, or whose outcome is not known: what the API server holds is the truth now.
    async fn read_again(&mut self) {
        let objects: Api<ProxyPair> = Api::namespaced(self.context.client.clone(), &self.pair.namespace);
        let services: Api<Service> = Api::namespaced(self.context.client.clone(), &self.pair.namespace);
        match within_deadline(objects.get(&self.pair.name)).await {
            Ok(object) => {
                let status = object.status.clone().unwrap_or_default();
                self.routing = resumed(&status, read_clocks());
                self.switching = status.switching;
                self.object = object;
            }
            Err(error) => tracing::warn!(pair = self.pair.name, %error, "failed to read the ProxyPair"),
        }
        match within_deadline(services.get_opt(&self.pair.service_name())).await {
            Ok(service) => self.service = service,
            Err(error) => tracing::warn!(pair = self.pair.name, %error, "failed to read the Service"),
        }
        self.routing_changed();
    }

    fn look_at_pods(&self) {
        self.assignments.send_if_modified(|assignment| {
            let mut changed = false;
            for side in Side::BOTH {
                let before = &assignment.pods[index(side)];
                let pod = pod_of(&self.context.pods, &self.pair, side, before, Timestamp::now());
                if pod != *before {
                    assignment.pods[index(side)] = pod;
                    changed = true;
                }
            }
            changed
        });
    }

    /// From now on the target admits probes too: the first arrive as soon as the Service is patched, before the switch is finished.
    fn intent_written(&self) {
        self.assignments
            .send_modify(|assignment| assignment.routing = self.routing);
    }

    fn routing_changed(&self) {
        self.assignments.send_modify(|assignment| {
            assignment.routing = self.routing;
            assignment.epoch += 1;
        });
    }

    fn tell_known(&self) {
        self.known.send_replace(Some(Known {
            serving: self.routing.serving,
            settled: self.routing.serving == self.routing.target,
            finding: self.findings.borrow().clone(),
        }));
    }

    /// Events are told beside the work: they never hold it up.
    pub(super) fn publish(&self, event: Event) {
        let (recorder, reference) = (self.context.recorder.clone(), self.object.object_ref(&()));
        tokio::spawn(async move {
            if let Err(error) = within_deadline(recorder.publish(&event, &reference)).await {
                tracing::warn!(%error, reason = event.reason, "failed to publish an event");
            }
        });
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.monitor.abort();
    }
}

/// What the monitor is to watch, but for the keys.
fn assignment(
    pair: &Pair,
    gate_name: ServerName<'static>,
    pods: [PodAddress; 2],
    routing: Routing,
    [primary, backup]: [Option<Arc<Vec<u8>>>; 2],
) -> Assignment {
    Assignment {
        pods,
        servers: [server(pair, Side::Primary, primary), server(pair, Side::Backup, backup)],
        keys: None,
        gate_name,
        login: None,
        resync: pair.spec.resync(),
        timing: Timing::from(&pair.spec.health_check),
        policy: Policy::new(&pair.spec.failback, FIRST_START),
        drain: pair.spec.failback.drain.clone(),
        routing,
        epoch: 0,
    }
}

/// How to reach the ObjectServer of a side. One that is to speak TLS and whose authorities are not known is trusted by nobody.
fn server(pair: &Pair, side: Side, authorities: Option<Arc<Vec<u8>>>) -> Server {
    let (declared, login) = (pair.spec.side(side), pair.spec.health_check.login.as_ref());
    let is_proxied = pair.spec.proxy.engine == Engine::Proxyserv;
    Server {
        address: pair.object_server(side).clone(),
        name: declared.object_server.name.clone(),
        authorities: declared
            .object_server
            .tls
            .as_ref()
            .map(|_| authorities.unwrap_or_default()),
        allow_plaintext: login.is_some_and(|login| login.allow_plaintext_login),
        proxy: is_proxied.then(|| declared.server_name.clone()),
    }
}

/// Where the traffic goes, from status alone.
fn resumed(status: &ProxyPairStatus, now: Now) -> Routing {
    let serving = status.serving.unwrap_or(Routing::NEW.serving);
    Routing {
        serving,
        target: status.target.unwrap_or(serving),
        since: status.since.as_ref().map(|since| now.instant_of(since.0)),
    }
}

/// Whether `a` is a later version of an object than `b`, or the same. Versions are numbers that grow.
fn newer<K: Resource>(a: &K, b: &K) -> bool {
    let version = |object: &K| {
        object
            .resource_version()
            .and_then(|version| version.parse::<u64>().ok())
    };
    version(a) >= version(b)
}

pub(super) fn read_clocks() -> Now {
    Now {
        monotonic: Instant::now(),
        wall: Timestamp::now(),
    }
}

fn now_in_micros() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
