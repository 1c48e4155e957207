//! An operator process: its election, its caches, and one worker for each pair while it leads.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use proxypair::{
    api::{ProxyPairStatus, Side, Sides},
    domain::{
        machine::PodView,
        pair::Pair,
        rollout::{self, RolloutStep, Template},
    },
};

use super::{
    api_server::{Answer, Caller, DEADLINE, Object, Request},
    checks::CheckEvent,
    clock::Time,
    lease::{Elector, elector},
    network::{Link, Passage},
    plan::{ApiTrouble, Plan, both},
    worker::Worker,
    world::{Event, World},
};

/// An operator.
pub struct Operator {
    /// Changes with each process: what was meant for another one is void.
    pub life: u32,
    pub is_running: bool,
    /// How far its wall clock is ahead.
    pub skew: SignedDuration,
    pub watches_stalled: bool,
    /// How old what its watches deliver is, and until when nothing newer may overtake that.
    pub watch_lag: Duration,
    watch_at: Time,
    /// It can make no new connection to anything but the API server, for lack of file descriptors.
    pub is_blind: bool,
    pub election: Elector,
    /// It was told to stop, and returns the Lease.
    pub is_stopping: bool,
    /// Pods in the EndpointSlices of each pair, as its node knows them, and when it learns what is known by now.
    pub rules: Vec<Vec<u64>>,
    pub rules_at: Time,
    is_leading: bool,
    pub workers: Vec<Option<Worker>>,
    /// What its watch of ProxyPairs has delivered last.
    pub objects: Vec<Object>,
    reconciles: Vec<Reconcile>,
}

/// How far the reconciliation of a pair is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reconcile {
    is_due: bool,
    is_running: bool,
    /// Calls that it waits for.
    waits_for: usize,
    has_failed: bool,
}

/// What happens to an operator.
#[derive(Clone, Debug)]
pub enum OperatorEvent {
    Starts,
    Election,
    /// A watch delivers what the API server holds now.
    Sync(usize, Kind),
    /// A watch delivers what the API server held a while ago.
    Old(usize, Old),
    Reconcile(usize),
    /// A write of that worker was not begun, as this process no longer leads.
    Denied(usize, u64),
    /// The machine of a worker wants to be woken.
    Wake(usize, u64, u64),
    /// A worker asks where connections to the virtual Service lead; only the newest turn counts.
    AskRoute(usize, u64, u64),
    /// A check of a worker.
    Check(usize, u64, CheckEvent),
    /// A worker's own look at the machine of a gate has ended: pair, worker, check and question.
    Look(usize, u64, u64, u64),
}

/// What was so a while ago.
#[derive(Clone, Debug)]
pub enum Old {
    Object(Box<Object>),
    Pods(Sides<Vec<PodView>>),
}

/// What a watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Service,
    Pods,
    Endpoints,
}

impl Operator {
    pub fn new(operator: usize, plan: &Plan) -> Self {
        Self {
            life: 0,
            is_running: false,
            skew: SignedDuration::ZERO,
            watches_stalled: false,
            watch_lag: Duration::ZERO,
            watch_at: Time::ZERO,
            is_blind: false,
            election: elector(operator, plan, Time::ZERO),
            is_stopping: false,
            rules: vec![Vec::new(); plan.pairs.len()],
            rules_at: Time::ZERO,
            is_leading: false,
            workers: plan.pairs.iter().map(|_| None).collect(),
            objects: Vec::new(),
            reconciles: vec![Reconcile::default(); plan.pairs.len()],
        }
    }
}

impl World {
    pub fn operator_later(&mut self, operator: usize, by: Duration, event: OperatorEvent) {
        let life = self.operators[operator].life;
        self.later(by, Event::Operator { operator, life, event });
    }

    /// A new process, after a while.
    pub fn start_operator(&mut self, operator: usize, after: Duration) {
        let life = self.operators[operator].life;
        self.later(
            after,
            Event::Operator {
                operator,
                life,
                event: OperatorEvent::Starts,
            },
        );
    }

    /// The process is gone, with all that it knew. What it has sent may still arrive.
    pub fn kill_operator(&mut self, operator: usize) {
        let election = elector(operator, &self.plan, self.now);
        let pairs = self.plan.pairs.len();
        let found = &mut self.operators[operator];
        found.life += 1;
        found.is_running = false;
        found.is_leading = false;
        found.is_stopping = false;
        found.election = election;
        found.workers = (0..pairs).map(|_| None).collect();
        found.reconciles = vec![Reconcile::default(); pairs];
        self.note(format_args!("operator {operator}"), format_args!("is gone"));
    }

    /// The process receives SIGTERM: its workers end, and it returns the Lease.
    pub fn stop_operator(&mut self, operator: usize) {
        let now = self.now.instant();
        let pairs = self.plan.pairs.len();
        let found = &mut self.operators[operator];
        if !found.is_running || found.is_stopping {
            return;
        }
        found.is_stopping = true;
        found.is_leading = false;
        found.workers = (0..pairs).map(|_| None).collect();
        found.reconciles = vec![Reconcile::default(); pairs];
        found.election.machine.stop(now);
        self.note(format_args!("operator {operator}"), format_args!("receives SIGTERM"));
        self.forget_calls(operator);
        self.election_steps(operator);
    }

    pub fn restart_operator(&mut self, operator: usize) {
        self.kill_operator(operator);
        let after = self.random.millis(300, 2000);
        self.start_operator(operator, after);
    }

    pub fn claims(&self, operator: usize) -> Option<u64> {
        let found = &self.operators[operator];
        if !found.is_running {
            return None;
        }
        let claim = found.election.machine.standing().claim(self.now.instant());
        claim.map(|claim| claim.term)
    }

    pub fn operator_event(&mut self, operator: usize, event: OperatorEvent) {
        if !self.operators[operator].is_running && !matches!(event, OperatorEvent::Starts) {
            return;
        }
        match event {
            OperatorEvent::Starts => {
                if !self.operators[operator].is_running {
                    let election = elector(operator, &self.plan, self.now);
                    let found = &mut self.operators[operator];
                    found.is_running = true;
                    found.election = election;
                    self.note(format_args!("operator {operator}"), format_args!("starts"));
                    self.election_steps(operator);
                }
            }
            OperatorEvent::Election => self.election_steps(operator),
            OperatorEvent::Sync(pair, kind) => self.sync(operator, pair, kind),
            OperatorEvent::Old(pair, old) => self.sync_old(operator, pair, old),
            OperatorEvent::Reconcile(pair) => self.reconcile(operator, pair),
            OperatorEvent::Denied(pair, worker) => self.denied(operator, pair, worker),
            OperatorEvent::Wake(pair, worker, turn) => self.wake(operator, pair, worker, turn),
            OperatorEvent::AskRoute(pair, worker, turn) => self.ask_route(operator, pair, worker, turn),
            OperatorEvent::Check(pair, worker, event) => self.check_event(operator, pair, worker, event),
            OperatorEvent::Look(pair, worker, check, question) => self.looked(operator, pair, worker, check, question),
        }
    }

    /// Starts what a leader does: its caches are filled first.
    pub fn leadership_changed(&mut self, operator: usize) {
        if self.operators[operator].is_leading || self.claims(operator).is_none() {
            return;
        }
        self.operators[operator].is_leading = true;
        self.operators[operator].objects = self.api.objects.clone();
        self.note(format_args!("operator {operator}"), format_args!("leads"));
        self.guarantee_07_one_leader();
        for pair in 0..self.pairs.len() {
            let after = self.random.millis(5, 60);
            self.reconcile_later(operator, pair, after);
        }
    }

    /// What has changed comes with the watches of all operators, each in its own time.
    pub fn tell_operators(&mut self, pair: usize, kind: Kind) {
        for operator in 0..self.operators.len() {
            if !self.operators[operator].is_leading {
                continue;
            }
            let lag = self.random.mostly_short(Duration::from_millis(300));
            let late = self.operators[operator].watch_lag;
            let at = (self.now + lag + late).max(self.operators[operator].watch_at);
            let old = match kind {
                _ if late.is_zero() => None,
                Kind::Object => Some(Old::Object(Box::new(self.api.objects[pair].clone()))),
                Kind::Pods => Some(Old::Pods(self.pod_views(pair))),
                // The Service is read, and an EndpointSlice that is late is like a node that is slow.
                Kind::Service | Kind::Endpoints => None,
            };
            let event = match old {
                Some(old) => {
                    self.operators[operator].watch_at = at;
                    OperatorEvent::Old(pair, old)
                }
                None => OperatorEvent::Sync(pair, kind),
            };
            self.operator_later(operator, at.after(self.now), event);
        }
    }

    /// What is new replaces what is old in any case, once the watches can be followed again.
    fn sync_old(&mut self, operator: usize, pair: usize, old: Old) {
        if self.is_unwatched(operator) {
            let kind = match old {
                Old::Object(_) => Kind::Object,
                Old::Pods(_) => Kind::Pods,
            };
            return self.operator_later(operator, Duration::from_millis(500), OperatorEvent::Sync(pair, kind));
        }
        match old {
            Old::Object(object) => {
                self.operators[operator].objects[pair] = *object;
                self.reconcile_later(operator, pair, Duration::from_millis(5));
            }
            Old::Pods(pods) => self.take_pods(operator, pair, pods),
        }
    }

    /// Nothing that its watches would deliver reaches that operator.
    fn is_unwatched(&self, operator: usize) -> bool {
        let link = self.network.message(Link::OperatorApi(operator));
        let is_out = |trouble: &ApiTrouble| matches!(trouble, ApiTrouble::Silent | ApiTrouble::Refuses);
        let is_silent = self.api.trouble.iter().any(is_out);
        self.operators[operator].watches_stalled || is_silent || !matches!(link, Passage::Free(_))
    }

    fn sync(&mut self, operator: usize, pair: usize, kind: Kind) {
        if self.is_unwatched(operator) {
            self.operator_later(operator, Duration::from_millis(500), OperatorEvent::Sync(pair, kind));
            return;
        }
        match kind {
            Kind::Object => {
                self.operators[operator].objects[pair] = self.api.objects[pair].clone();
                self.reconcile_later(operator, pair, Duration::from_millis(5));
            }
            Kind::Service => self.reconcile_later(operator, pair, Duration::from_millis(5)),
            Kind::Pods => self.look_at_pods(operator, pair),
            Kind::Endpoints => self.look_at_endpoints(operator, pair),
        }
    }

    /// Asks for a reconciliation. One that runs is followed by another.
    pub fn reconcile_later(&mut self, operator: usize, pair: usize, by: Duration) {
        let reconcile = &mut self.operators[operator].reconciles[pair];
        if !reconcile.is_due {
            reconcile.is_due = true;
            if !reconcile.is_running {
                self.operator_later(operator, by, OperatorEvent::Reconcile(pair));
            }
        }
    }

    /// The order of src/controller/reconcile.rs: hand over, then the Service, then the Deployments.
    fn reconcile(&mut self, operator: usize, pair: usize) {
        if self.claims(operator).is_none() || self.operators[operator].reconciles[pair].is_running {
            return;
        }
        let object = self.operators[operator].objects[pair].clone();
        let works_for = self.worker(operator, pair).map(|worker| worker.pair.uid.clone());
        match works_for.as_ref() == Some(&object.pair.uid) {
            true => self.hand_over(operator, pair, &object),
            false => self.start_worker(operator, pair, &object),
        }
        self.operators[operator].reconciles[pair] = Reconcile {
            is_running: true,
            waits_for: 1,
            ..Reconcile::default()
        };
        self.call(operator, Caller::Reconciler(pair), Request::ReadService(pair), DEADLINE);
    }

    pub fn reconciler_answered(&mut self, operator: usize, pair: usize, request: &Request, answer: Answer) {
        let reconcile = &mut self.operators[operator].reconciles[pair];
        reconcile.waits_for = reconcile.waits_for.saturating_sub(1);
        reconcile.has_failed |= matches!(answer, Answer::Failed | Answer::Busy(_));
        match (request, answer) {
            (Request::ReadService(_), Answer::Service(found)) => {
                self.take_service(operator, pair, found);
                if found.is_none() && self.claims(operator).is_some() {
                    let side = self.declared_side(operator, pair);
                    self.reconciler_calls(operator, pair, Request::CreateService(pair, side));
                }
                self.apply_deployments(operator, pair);
            }
            (Request::CreateService(_, side), Answer::Written(version)) => {
                let selects = proxypair::domain::machine::Selects::Side(*side);
                let owner = self.api.objects[pair].made;
                let service = super::api_server::Service {
                    version,
                    selects,
                    owner,
                };
                self.take_service(operator, pair, Some(service));
            }
            _ => {}
        }
        let reconcile = &mut self.operators[operator].reconciles[pair];
        if reconcile.waits_for == 0 && reconcile.is_running {
            reconcile.is_running = false;
            let again = match (reconcile.has_failed, reconcile.is_due) {
                (true, _) => Duration::from_secs(2),
                (false, true) => Duration::from_millis(20),
                (false, false) => return,
            };
            reconcile.is_due = true;
            self.operator_later(operator, again, OperatorEvent::Reconcile(pair));
        }
    }

    fn reconciler_calls(&mut self, operator: usize, pair: usize, request: Request) {
        self.operators[operator].reconciles[pair].waits_for += 1;
        self.call(operator, Caller::Reconciler(pair), request, DEADLINE);
    }

    /// The side that a new virtual Service selects.
    fn declared_side(&self, operator: usize, pair: usize) -> Side {
        let found = &self.operators[operator];
        let selected = found.workers[pair].as_ref().and_then(|worker| worker.snapshot.selected);
        selected.or(found.objects[pair].status.serving).unwrap_or(Side::Primary)
    }

    fn apply_deployments(&mut self, operator: usize, pair: usize) {
        let Some(snapshot) = self.operators[operator].workers[pair]
            .as_ref()
            .map(|worker| worker.snapshot.clone())
        else {
            return;
        };
        let wanted = self.watchdog.template(pair);
        let templates: Sides<Template> = both(|side| Template {
            wanted: Some(wanted.to_string()),
            found: self.pairs[pair].deployments[side]
                .template
                .map(|template| template.to_string()),
            held_back: false,
            postponed: false,
        });
        let in_status = self.operators[operator].objects[pair].status.serving;
        let steps = rollout::next(&templates, &snapshot, in_status.unwrap_or(Side::Primary));
        for (side, step) in steps.iter() {
            if *step == RolloutStep::Apply && templates[side].found != templates[side].wanted {
                self.reconciler_calls(operator, pair, Request::ApplyDeployment(pair, side, wanted));
            }
        }
    }

    /// A user edits the spec.
    pub fn edit_spec(&mut self, pair: usize) {
        let edited = Arc::clone(&self.plan.pairs[pair].edited);
        self.declare(pair, edited);
        for side in Side::BOTH {
            self.later(Duration::from_millis(100), Event::Deploy(pair, side));
        }
    }

    /// A ProxyPair is deleted with its children, and made again under its name.
    pub fn recreate_pair(&mut self, pair: usize) {
        let uid = format!("{pair}-{}", self.new_id());
        let renamed = |declared: &Arc<Pair>| {
            let mut declared = Pair::clone(declared);
            declared.uid.clone_from(&uid);
            Arc::new(declared)
        };
        let plan = &mut self.plan.pairs[pair];
        plan.edited = renamed(&plan.edited);
        let declared = renamed(&plan.pair);
        self.api.objects[pair].status = ProxyPairStatus::default();
        self.api.objects[pair].made += 1;
        self.api.services[pair] = None;
        self.service_changed(pair);
        self.watchdog.recreated(pair);
        self.pairs[pair].deployments = Sides::default();
        let grace = self.grace(pair);
        let pods: Vec<_> = self.pairs[pair].pods.iter().map(|pod| pod.id).collect();
        for pod in pods {
            self.delete_pod(pod, grace);
        }
        self.declare(pair, declared);
    }

    fn declare(&mut self, pair: usize, declared: Arc<Pair>) {
        let version = self.api.next_version();
        self.plan.pairs[pair].pair = Arc::clone(&declared);
        let object = &mut self.api.objects[pair];
        object.version = version;
        object.pair = declared;
        self.tell_operators(pair, Kind::Object);
    }
}
