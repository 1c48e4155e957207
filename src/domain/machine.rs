//! One pair as a state machine: [`Input`]s in, [`Effect`]s out. No client, no clock, no waiting.
//!
//! # Expected flow of a switch
//!
//! The steps are those that docs/failover.md numbers. Each begins only when the write before it is known to have succeeded, so that a
//! successor finds in `status` how far a switch has come:
//!
//! 1. [`Step::Intent`]: `status.target` and `status.switching` are written.
//! 2. [`Step::Patch`]: the selector of the virtual Service is patched. From now on the target's gates admit probes.
//! 3. [`Step::Endpoints`]: the EndpointSlices come to show the target's gates and no other.
//! 4. [`Step::Fact`]: `status.serving` is written, with the switch in `status.history`.
//!
//! Each observation acts in every step. A target that can no longer serve is given up: [`Step::Revert`] turns the selector back if it was
//! patched, [`Step::Retract`] withdraws `status.target`.
//!
//! # Guarantees
//!
//! - At most one [`Call`] to the API server is under way. Its outcome is an input ([`Input::Outcome`]); commands to gates do not wait for it.
//! - After a call that failed, or whose outcome is unknown, the next call is [`Call::Read`], again and again until it succeeds. What was read
//!   is the state from then on; until then nothing is decided. A switch whose last write turns out to have succeeded is announced then.
//!   Labels and deletions of pods are not read back: they are tried again, and a gate whose label was written with an unknown outcome is not
//!   relied on before a write has succeeded.
//! - A failback that has moved nothing yet is given up when the ObjectServers are not known to be in step any more.
//! - The selector is patched only to a side that [`SideHealth::may_serve`](super::health::SideHealth::may_serve) at that moment. One that
//!   somebody else changed so that it selects neither side is set to the serving side in any case.
//! - Gates are drained only when `status.serving` is known to be written.
//!
//! # Assumptions
//!
//! Whoever carries out the effects checks leadership before each call, sends with each write the resourceVersion of the newest object that
//! the machine knows, and reports each outcome exactly once.

mod commands;
mod defects;
mod gate;
mod input;
mod looks;
mod lost;
mod outcome;
mod phase;
mod placement;
mod settled;
mod side;
mod switching;

pub use gate::{Gate, PodView};
pub use input::{Call, CallDone, CallError, Effect, Input, Selects, StopReason, Stored, Switched};
pub use phase::{PendingSwitch, Phase, Step, Timeline};
pub use side::{GateObservation, ServerObservation, SideState, Source};

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use self::{defects::DefectMemory, lost::Lost, placement::Labelling, settled::Deletion};
use super::{
    defect::Defects,
    evidence::Timing,
    expiry::Certificate,
    failover::{Decision, Policy, decide},
    gate_mode::drains_from,
    now::Now,
    pair::Pair,
    resync::{self, Missing},
    rollout::Snapshot,
    route::{Route, RouteEvidence},
    status::{self, Known, Problem, SideKnown},
};
use crate::api::{Health, ProxyPairStatus, Reason, ResyncSpec, Side, Sides, Switch, SwitchKind};

/// How long the primary of a new pair may take to start before the backup serves in its place.
const FIRST_START: Duration = Duration::from_secs(30);
/// One pair.
#[derive(Debug)]
pub struct Machine {
    pair: Arc<Pair>,
    policy: Policy,
    timing: Timing,
    resync: Option<ResyncSpec>,
    problem: Option<Problem>,
    phase: Phase,
    decision: Decision,
    sides: Sides<SideState>,
    endpoints: Vec<IpAddr>,
    route: RouteEvidence,
    defects: Defects,
    api: ApiState,
    memory: Memory,
    started_at: Instant,
    wake_at: Option<Instant>,
    /// Node agents reset the sessions of lost gates.
    resets_sessions: bool,
}

/// What the API server holds, and the call under way.
#[derive(Debug)]
struct ApiState {
    /// The status that is stored.
    status: ProxyPairStatus,
    /// What the virtual Service selects.
    selects: Selects,
    traffic: Traffic,
    /// Calls that failed in a row.
    failures: u32,
    /// Why the newest patch of the selector failed, and how many have in a row.
    unpatched: Option<(Reason, u32)>,
}

/// The one call that may be under way.
#[derive(Debug)]
enum Traffic {
    /// None: the next one may begin.
    Idle,
    /// This one.
    Calling(Call),
    /// None, and the state must be read before anything else.
    ReadAt(Instant),
}

/// What is remembered so that it is not done twice.
#[derive(Debug, Default)]
struct Memory {
    /// When the status was last written.
    written_at: Option<Instant>,
    /// Deletions of pods that are still there, by `metadata.uid`, and whether they were without grace.
    deletions: HashMap<(String, bool), Deletion>,
    /// Certificates that were announced, with the expiry that was named and whether it had passed.
    announced: HashMap<(Side, Certificate), (Timestamp, bool)>,
    /// Gates that were declared lost, newest first.
    lost: Vec<Lost>,
    /// What [`Machine::look_for_defects`] needs to know of earlier moments.
    defects: DefectMemory,
    /// Labels of pods that were written, by `metadata.uid`.
    labels: HashMap<String, Labelling>,
    /// Whether connections to the virtual Service are being observed.
    watches_route: bool,
    /// Whether each side's ObjectServer is asked for its gateways.
    reads_gateways: Sides<bool>,
    /// Questions about silent gates so far.
    questions: u64,
    /// What the virtual Service selects, and since when; `None` if that was so when this machine began.
    selected: Option<(Selects, Option<Instant>)>,
}

impl Machine {
    /// Takes up a pair where `stored` says that it stands.
    #[must_use]
    pub fn resume(pair: Arc<Pair>, stored: &Stored, now: Now) -> Self {
        let mut machine = Self {
            policy: Policy::new(&pair.spec.failback, FIRST_START),
            timing: Timing::from(&pair.spec.health_check),
            resync: pair.spec.resync(),
            pair,
            problem: None,
            phase: Phase::resumed(&stored.status, now),
            decision: Decision::STAY,
            sides: Sides::from_fn(|_| SideState::new(now.monotonic)),
            endpoints: Vec::new(),
            route: RouteEvidence::default(),
            defects: Defects::default(),
            api: ApiState {
                status: stored.status.clone(),
                selects: stored.selects,
                traffic: Traffic::Idle,
                failures: 0,
                unpatched: None,
            },
            memory: Memory {
                defects: DefectMemory::resumed(&stored.status),
                lost: stored.status.lost_gates.iter().cloned().map(Lost::resumed).collect(),
                questions: looks::first_question(now),
                ..Memory::default()
            },
            started_at: now.monotonic,
            wake_at: None,
            resets_sessions: false,
        };
        machine.wake_at = machine.next_wake(now, None);
        machine
    }

    /// The same, in a cluster whose node agents reset the sessions of lost gates.
    #[must_use]
    pub fn with_node_agents(self, installed: bool) -> Self {
        Self {
            resets_sessions: installed,
            ..self
        }
    }

    /// Takes in one input and says what is to be done.
    #[must_use]
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Tick => {}
            Input::Declared(pair) => self.declare(pair),
            Input::Problem(problem) => self.problem = problem,
            Input::Status(status) => {
                if !matches!(self.api.traffic, Traffic::Calling(Call::WriteStatus(_))) {
                    self.api.status = *status;
                }
            }
            Input::Service(selects) => self.api.selects = selects,
            Input::Pods(pods) => {
                for (side, state) in self.sides.iter_mut() {
                    state.take_pods(&pods[side], now);
                }
                self.forget_deletions();
                self.forget_labels();
            }
            Input::Route(gate) => {
                let is_of = |side: &Side| gate.as_ref() == Some(&self.pair.spec.side(*side).server_name);
                let route = Side::BOTH.into_iter().find(is_of).map_or(Route::Unseen, Route::To);
                self.route.take(route, now.monotonic);
            }
            Input::Endpoints(addresses) => self.endpoints = addresses,
            Input::Restarted(side, source) => self.sides[side].forget(&source),
            Input::Gate(side, uid, observation) => {
                let other = self.pair.spec.side(side.other());
                self.sides[side].take_gate(&uid, observation, other);
            }
            Input::Server(side, observation) => {
                let description = self.resync.as_ref().map(|resync| resync.gateway_description.as_str());
                let lasts = self.timing.answer_lasts();
                self.sides[side].take_server(observation, description.unwrap_or_default(), lasts, now);
            }
            Input::Outcome(outcome) => self.take_outcome(outcome, now, &mut effects),
        }
        self.advance(now, &mut effects);
        effects
    }

    /// When [`Input::Tick`] is due, if no other input comes before.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// What the user declares.
    #[must_use]
    pub const fn pair(&self) -> &Arc<Pair> {
        &self.pair
    }

    /// Where the traffic goes.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Everything that is known of each side.
    #[must_use]
    pub const fn sides(&self) -> &Sides<SideState> {
        &self.sides
    }

    /// What is wrong beside the health of the sides.
    #[must_use]
    pub const fn defects(&self) -> &Defects {
        &self.defects
    }

    /// Why the pair is not as declared.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// What a reconciliation needs to know.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let routing = self.phase.routing();
        Snapshot {
            serving: Some(routing.serving),
            is_settled: routing.serving == routing.target,
            selected: Some(self.phase.selected()),
            health: self.sides.each_ref().map(|side| Some(side.health.health)),
            template: self.sides.each_ref().map(SideState::template),
            proxy_works: self.sides.each_ref().map(|side| side.health.proxy_works()),
        }
    }

    fn declare(&mut self, pair: Arc<Pair>) {
        let resync = pair.spec.resync();
        if resync != self.resync {
            for (_, side) in self.sides.iter_mut() {
                side.server.state = None;
            }
        }
        self.policy = Policy::new(&pair.spec.failback, FIRST_START);
        self.timing = Timing::from(&pair.spec.health_check);
        self.resync = resync;
        self.pair = pair;
    }

    /// Decides on all that is known now.
    fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.take_looks(now.monotonic);
        self.note_selector(now.monotonic);
        for (_, side) in self.sides.iter_mut() {
            side.order_gates(now.monotonic);
            side.assess(&self.timing, &self.endpoints, now.monotonic);
        }
        let of_lost = self.keep_lost(now);
        let look_again = self.look_for_defects(now.monotonic, effects);
        self.decision = self.decide(&self.phase, now.monotonic);
        let next_status = match (&self.api.traffic, effects.iter().any(Effect::is_stop)) {
            (_, true) => None,
            (Traffic::ReadAt(at), _) if *at <= now.monotonic => {
                self.call(Call::Read, effects);
                None
            }
            (Traffic::ReadAt(_) | Traffic::Calling(_), _) => None,
            (Traffic::Idle, _) => {
                self.route(now, effects);
                self.place_gates(now, effects);
                self.maintain(now, effects)
            }
        };
        self.command_gates(now, effects);
        self.watch_route(effects);
        self.ask_for_gateways(effects);
        self.ask_for_looks(effects);
        let certificates = self.announce_certificates(now, effects);
        self.wake_at = self.next_wake(
            now,
            [next_status, certificates, look_again, of_lost]
                .into_iter()
                .flatten()
                .min(),
        );
    }

    /// What is to be done in `phase`, on all that is known now.
    fn decide(&self, phase: &Phase, now: Instant) -> Decision {
        let missing = self.missing_resync(now);
        let health = self.sides.each_ref().map(|side| &side.health);
        let routing = phase.routing();
        let decision = decide(&routing, health, &missing, &self.policy, now);
        // A successor may observe the side that the switch leaves first. That says nothing about the target.
        let look_again = self.started_at + self.timing.unresponsive_after;
        if decision == Decision::Withdraw && health[routing.target].is_unseen() && now < look_again {
            return Decision::Stay {
                waiting: Vec::new(),
                look_again: Some(look_again),
            };
        }
        if decision == Decision::Finish && is_failback_to_come(phase) && !missing.is_empty() {
            return self.reconsidered(&missing, (now < look_again).then_some(look_again));
        }
        // Nor does it that checks which are started anew have not observed the target yet.
        if decision == Decision::Withdraw && self.sides[routing.target].is_looked_at_anew() {
            return Decision::STAY;
        }
        decision
    }

    /// What is to be done about a failback that has moved nothing yet when the ObjectServers are not known to be in step any more: it is given
    /// up, unless the backup is down. A successor waits `until` it has been told.
    fn reconsidered(&self, missing: &[Missing], until: Option<Instant>) -> Decision {
        let backup = &self.sides[Side::Backup].health;
        let is_untold = |missing: &Missing| matches!(missing, Missing::Answer(_) | Missing::Confirmation);
        let is_told = until.is_none() || !missing.iter().all(is_untold);
        if backup.health == Health::Down {
            Decision::Finish
        } else if backup.may_serve() && is_told {
            Decision::Withdraw
        } else {
            Decision::Stay {
                waiting: Vec::new(),
                look_again: until,
            }
        }
    }

    fn missing_resync(&self, now: Instant) -> Vec<Missing> {
        let Some(resync) = &self.resync else {
            return Vec::new();
        };
        resync::missing(
            self.sides.primary.server.state.as_ref(),
            self.sides.backup.server.state.as_ref(),
            &resync.gateway_description,
            self.timing.answer_lasts(),
            now,
        )
    }

    fn call(&mut self, call: Call, effects: &mut Vec<Effect>) {
        self.api.traffic = Traffic::Calling(call.clone());
        effects.push(Effect::Call(call));
    }

    const fn is_idle(&self) -> bool {
        matches!(self.api.traffic, Traffic::Idle)
    }

    /// The status that says what is known now, in `phase`.
    fn rendered(&self, finished: Option<&Switch>, phase: &Phase, now: Now) -> Box<ProxyPairStatus> {
        let decision = self.decide(phase, now.monotonic);
        let known = Known {
            pair: &self.pair,
            routing: phase.routing(),
            switching: phase.switching(),
            sides: self.sides.each_ref().map(|side| SideKnown {
                health: &side.health,
                sessions: side.sessions(),
                gates: side.shown(),
                acting_primary: side.server.state.as_ref().and_then(|state| state.acting_primary),
                expiry: side.expiry(),
                unasked: side.server.unasked(),
            }),
            decision: &decision,
            problem: self.problem.as_ref(),
            defects: &self.defects,
            lost_gates: self.memory.lost.iter().map(|known| known.gate.clone()).collect(),
            finished,
        };
        Box::new(status::render(&known, &self.api.status, now))
    }

    fn next_wake(&self, now: Now, due: Option<Instant>) -> Option<Instant> {
        let decision = match &self.decision {
            Decision::Stay { look_again, .. } => *look_again,
            Decision::Begin { .. } | Decision::Finish | Decision::Withdraw => None,
        };
        let traffic = match self.api.traffic {
            Traffic::ReadAt(at) => Some(at),
            Traffic::Idle | Traffic::Calling(_) => None,
        };
        let idle = &self.sides[self.phase.routing().serving.other()];
        let drain = drains_from(&self.phase.routing(), &self.pair.spec.failback.drain)
            .max(self.nodes_know_at())
            .filter(|_| idle.sessions() > 0);
        let route = self.route.expires(now.monotonic);
        let sides = self
            .sides
            .iter()
            .filter_map(|(_, side)| side.next_look(&self.timing, now.monotonic));
        let labels = self.labels_due(now.monotonic);
        let taken_out = self.taken_out_due(now.monotonic);
        [
            due,
            decision,
            traffic,
            drain,
            route,
            labels,
            taken_out,
            self.phase.deadline(),
        ]
        .into_iter()
        .flatten()
        .chain(sides)
        .filter(|at| *at > now.monotonic)
        .min()
    }
}

/// Whether a failback is under way that has not moved anything.
const fn is_failback_to_come(phase: &Phase) -> bool {
    matches!(
        phase,
        Phase::Switching {
            switch: PendingSwitch {
                kind: SwitchKind::Failback,
                ..
            },
            step: Step::Intent | Step::Patch | Step::Revert | Step::Retract,
        }
    )
}

#[cfg(test)]
mod tests;
