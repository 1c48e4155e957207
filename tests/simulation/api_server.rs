//! The API server: objects with resourceVersions, and calls on their way to it and back, each of which may be slow, refused, or lost after it
//! took effect.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use proxypair::{
    api::{ProxyPairStatus, Side},
    domain::{machine::Selects, pair::Pair},
    leader::election::{Answer as LeaseAnswer, Request as LeaseRequest},
};

use super::{
    clock::Time,
    network::{Link, Passage},
    operator::Kind,
    plan::{ApiTrouble, Plan},
    world::{Event, World},
};

/// What the API server holds.
pub struct ApiServer {
    version: u64,
    pub objects: Vec<Object>,
    /// The virtual Service of each pair.
    pub services: Vec<Option<Service>>,
    pub lease: Option<Box<Lease>>,
    /// The Lease as it was when it was new, for a restore.
    pub backup: Option<Box<Lease>>,
    pub trouble: Vec<ApiTrouble>,
    flights: Vec<Flight>,
    /// Every write but those of the Lease: when, and what.
    pub last_write: Option<(Time, &'static str)>,
}

/// A ProxyPair.
#[derive(Clone, Debug)]
pub struct Object {
    pub version: u64,
    /// How often it was made anew.
    pub made: u64,
    pub pair: Arc<Pair>,
    pub status: ProxyPairStatus,
}

/// A virtual Service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub version: u64,
    pub selects: Selects,
    /// Which ProxyPair of that name owns it.
    pub owner: u64,
}

impl Service {
    /// What it selects, for a worker of that ProxyPair: a Service of another one counts as none.
    pub fn selects_for(found: Option<Self>, owner: u64) -> Selects {
        let ours = found.filter(|service| service.owner == owner);
        ours.map_or(Selects::NoService, |service| service.selects)
    }
}

/// A call.
#[derive(Clone, Debug)]
pub enum Request {
    ReadObject(usize),
    ReadService(usize),
    /// Carries the resourceVersion that it was decided on.
    WriteStatus(usize, u64, Box<ProxyPairStatus>),
    /// The same, if the Service is known.
    PatchSelector(usize, Option<u64>, Side),
    LabelPod(u64, bool),
    DeletePod(u64, Duration),
    CreateService(usize, Side),
    ApplyDeployment(usize, Side, u64),
    Lease(LeaseRequest),
}

/// Its outcome.
#[derive(Clone)]
pub enum Answer {
    Object(Box<Object>),
    Service(Option<Service>),
    Written(u64),
    Lease(LeaseAnswer),
    /// What was to be deleted is not there.
    Gone,
    /// Too many requests: another one is welcome after that time.
    Busy(Duration),
    /// A conflict, an error, or no answer in time.
    Failed,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The worker with that number.
    Worker(usize, u64),
    Reconciler(usize),
    Election,
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum ApiEvent {
    /// It takes effect.
    Arrives,
    /// Its answer comes.
    Answered,
    /// Its caller has waited for as long as it waits.
    Overdue,
}

struct Flight {
    id: u64,
    operator: usize,
    life: u32,
    caller: Caller,
    request: Request,
    answer: Answer,
}

/// How long a call to the API server may take: `DEADLINE` in src/cluster/call.rs.
pub const DEADLINE: Duration = Duration::from_secs(2);

impl ApiServer {
    pub fn new(plan: &Plan) -> Self {
        let object = |pair: &super::plan::PairPlan| Object {
            version: 1,
            made: 0,
            pair: Arc::clone(&pair.pair),
            status: ProxyPairStatus::default(),
        };
        Self {
            version: 1,
            objects: plan.pairs.iter().map(object).collect(),
            services: vec![None; plan.pairs.len()],
            lease: None,
            backup: None,
            trouble: Vec::new(),
            flights: Vec::new(),
            last_write: None,
        }
    }

    pub const fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl World {
    /// Sends a call. Its answer comes to `caller`, as long as the operator lives.
    pub fn call(&mut self, operator: usize, caller: Caller, request: Request, deadline: Duration) {
        let id = self.new_id();
        let life = self.operators[operator].life;
        let there = self.random.millis(1, 4);
        let back = self.random.millis(1, 4);
        let (there, back) = self.fate(operator, &request, there, back);
        let answer = self.refusal();
        self.api.flights.push(Flight {
            id,
            operator,
            life,
            caller,
            request,
            answer,
        });
        if let Some(there) = there {
            self.later(there, Event::Api(id, ApiEvent::Arrives));
            if let Some(back) = back {
                self.later(there + back, Event::Api(id, ApiEvent::Answered));
            }
        } else if let Some(back) = back {
            self.later(back, Event::Api(id, ApiEvent::Answered));
        }
        self.later(deadline, Event::Api(id, ApiEvent::Overdue));
    }

    /// Nobody waits any more for what the workers and reconciliations of that operator have sent.
    pub fn forget_calls(&mut self, operator: usize) {
        let flights = self.api.flights.iter_mut();
        for flight in flights.filter(|flight| flight.operator == operator && flight.caller != Caller::Election) {
            flight.life = u32::MAX;
        }
    }

    /// What the answer to a call is that is not carried out.
    fn refusal(&self) -> Answer {
        let mut busy = self.api.trouble.iter().filter_map(|trouble| match trouble {
            ApiTrouble::Busy(after) => Some(Answer::Busy(*after)),
            _ => None,
        });
        busy.next().unwrap_or(Answer::Failed)
    }

    /// After what time a call takes effect, and its answer comes. `None` if never.
    fn fate(
        &mut self,
        operator: usize,
        request: &Request,
        there: Duration,
        back: Duration,
    ) -> (Option<Duration>, Option<Duration>) {
        let link = self.network.message(Link::OperatorApi(operator));
        let mut fate = match link {
            Passage::Free(delay) => (Some(there + delay / 2), Some(back + delay / 2)),
            Passage::OneWay => (Some(there), None),
            Passage::Silent => (None, None),
            Passage::Refused => (None, Some(back)),
        };
        for trouble in self.api.trouble.clone() {
            let is_write = !matches!(request, Request::ReadObject(_) | Request::ReadService(_));
            fate = match trouble {
                ApiTrouble::Slow(by) => {
                    let by = self.random.span(Duration::ZERO, by);
                    let first = self.random.span(Duration::ZERO, by);
                    (fate.0.map(|there| there + first), fate.1.map(|back| back + by))
                }
                ApiTrouble::AnswersLost if self.random.one_in(2) => (fate.0, None),
                ApiTrouble::Refuses | ApiTrouble::Busy(_) => (None, fate.1),
                ApiTrouble::RefusesStatus if matches!(request, Request::WriteStatus(..)) => (None, fate.1),
                ApiTrouble::RefusesServices
                    if is_write && matches!(request, Request::PatchSelector(..) | Request::CreateService(..)) =>
                {
                    (None, fate.1)
                }
                ApiTrouble::RefusesPods if matches!(request, Request::LabelPod(..) | Request::DeletePod(..)) => {
                    (None, fate.1)
                }
                ApiTrouble::Silent => (None, None),
                ApiTrouble::AnswersLost
                | ApiTrouble::RefusesStatus
                | ApiTrouble::RefusesServices
                | ApiTrouble::RefusesPods => fate,
            };
        }
        fate
    }

    pub fn api_event(&mut self, id: u64, event: ApiEvent) {
        let Some(at) = self.api.flights.iter().position(|flight| flight.id == id) else {
            return;
        };
        match event {
            ApiEvent::Arrives => {
                let flight = &self.api.flights[at];
                let (operator, request) = (flight.operator, flight.request.clone());
                // Nobody waits for it any more, and others may have decided on what was stored without it.
                let is_late = self.operators[operator].life != flight.life;
                let answer = self.execute(operator, request, is_late);
                if let Some(flight) = self.api.flights.iter_mut().find(|flight| flight.id == id) {
                    flight.answer = answer;
                }
            }
            ApiEvent::Answered => {
                let flight = self.api.flights.remove(at);
                self.answered(flight);
            }
            ApiEvent::Overdue => {
                // It may still take effect: the server does not know that nobody waits.
                let flight = &mut self.api.flights[at];
                let overdue = Flight {
                    answer: Answer::Failed,
                    request: flight.request.clone(),
                    ..*flight
                };
                flight.life = u32::MAX;
                self.answered(overdue);
                self.later(Duration::from_secs(60), Event::Api(id, ApiEvent::Answered));
            }
        }
    }

    fn answered(&mut self, flight: Flight) {
        let operator = flight.operator;
        if self.operators[operator].life != flight.life {
            return;
        }
        match flight.caller {
            Caller::Worker(pair, worker) => self.worker_answered(operator, pair, worker, flight.answer),
            Caller::Reconciler(pair) => self.reconciler_answered(operator, pair, &flight.request, flight.answer),
            Caller::Election => {
                let answer = match flight.answer {
                    Answer::Lease(answer) => answer,
                    _ => LeaseAnswer::Failed,
                };
                self.election_answered(operator, answer);
            }
        }
    }

    fn execute(&mut self, operator: usize, request: Request, is_late: bool) -> Answer {
        match request {
            Request::ReadObject(pair) => Answer::Object(Box::new(self.api.objects[pair].clone())),
            Request::ReadService(pair) => Answer::Service(self.api.services[pair]),
            Request::WriteStatus(pair, version, status) => self.store_status(operator, pair, version, *status),
            Request::PatchSelector(pair, version, side) => self.store_selector(operator, pair, version, side, is_late),
            Request::LabelPod(pod, routed) => {
                if self.pod(pod).is_none() {
                    return Answer::Gone;
                }
                self.wrote("the label of a pod");
                self.label_pod(pod, routed);
                Answer::Written(0)
            }
            Request::DeletePod(pod, grace) => {
                if self.pod(pod).is_none() {
                    return Answer::Gone;
                }
                self.wrote("a deletion of a pod");
                self.delete_pod(pod, grace);
                Answer::Written(0)
            }
            Request::CreateService(pair, side) => {
                if self.api.services[pair].is_some() {
                    return Answer::Failed;
                }
                self.wrote("a new Service");
                let version = self.set_selector(pair, Selects::Side(side));
                self.note(
                    format_args!("api"),
                    format_args!("pair {pair}: new Service selects {}", side.label()),
                );
                Answer::Written(version)
            }
            Request::ApplyDeployment(pair, side, template) => {
                if self.pairs[pair].deployments[side].template != Some(template) {
                    self.wrote("a Deployment");
                    self.pairs[pair].deployments[side].template = Some(template);
                    self.later(Duration::from_millis(20), Event::Deploy(pair, side));
                }
                Answer::Written(0)
            }
            Request::Lease(request) => Answer::Lease(self.store_lease(request)),
        }
    }

    fn store_status(&mut self, operator: usize, pair: usize, version: u64, status: ProxyPairStatus) -> Answer {
        let object = &self.api.objects[pair];
        if object.version != version {
            return Answer::Failed;
        }
        self.guarantee_06_no_switch_is_lost(operator, pair, &status);
        self.note(
            format_args!("api"),
            format_args!(
                "pair {pair}: status of operator {operator}: serving {:?} target {:?}",
                status.serving, status.target
            ),
        );
        self.wrote("a status");
        let version = self.api.next_version();
        if status.history.first() != self.api.objects[pair].status.history.first() {
            self.counts.switches += 1;
        }
        let object = &mut self.api.objects[pair];
        object.version = version;
        object.status = status;
        self.tell_operators(pair, Kind::Object);
        Answer::Written(version)
    }

    fn store_selector(
        &mut self,
        operator: usize,
        pair: usize,
        version: Option<u64>,
        side: Side,
        is_late: bool,
    ) -> Answer {
        let Some(service) = self.api.services[pair] else {
            return Answer::Failed;
        };
        if version.is_some_and(|version| version != service.version) {
            return Answer::Failed;
        }
        self.guarantee_06_intent_comes_first(operator, pair, side, is_late);
        self.note(
            format_args!("api"),
            format_args!(
                "pair {pair}: operator {operator} has the Service select the {}",
                side.label()
            ),
        );
        self.wrote("a selector");
        let version = self.set_selector(pair, Selects::Side(side));
        Answer::Written(version)
    }

    pub fn set_selector(&mut self, pair: usize, selects: Selects) -> u64 {
        let version = self.api.next_version();
        if self.selected(pair) != selects {
            self.watchdog.selected_since[pair] = self.now;
        }
        let owner = self.api.objects[pair].made;
        self.api.services[pair] = Some(Service {
            version,
            selects,
            owner,
        });
        self.service_changed(pair);
        version
    }

    pub fn service_changed(&mut self, pair: usize) {
        let slices = self.random.millis(1, 60);
        self.later(slices, Event::Slices(pair));
        self.tell_operators(pair, Kind::Service);
    }

    fn wrote(&mut self, what: &'static str) {
        self.api.last_write = Some((self.now, what));
        self.watchdog.writes += 1;
    }
}
