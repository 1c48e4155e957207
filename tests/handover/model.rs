//! What can happen next. Everything that a candidate does by itself it does at once when it is due; what takes time, fails or is lost is an
//! action of its own, so that the search tries every order.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use proxypair::leader::{
    self,
    election::{Answer, Election, Request},
};
use stateright::{Model, Property};

use super::{
    gate::Gate,
    state::{Candidate, Faults, Flight, Keyed, Server, State, Wrong},
};

/// One search: who takes part, and what may go wrong.
#[derive(Clone, Debug)]
pub struct Handover {
    /// What each candidate's clock measures in a second, in thousandths of a second.
    pub rates: Vec<u32>,
    pub faults: Faults,
    pub begins: Begins,
    /// Whether leaders greet and command a gate.
    pub has_gate: bool,
    /// How long the histories are, in steps of the clock.
    pub steps: u32,
    /// When somebody must have led since the beginning, in steps of the clock.
    pub led_by: Option<u32>,
    /// The moment at which all clocks began to run.
    pub zero: Instant,
}

/// What there is at the beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Begins {
    /// No Lease.
    Empty,
    /// The first candidate leads, and the others have read that.
    Led,
    /// The same, and it dies.
    LeaderDies,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// The clock goes on by one step.
    Tick,
    /// The call of a candidate takes effect.
    Arrive(usize),
    /// Its answer comes.
    Answer(usize),
    /// It fails, and nothing is done.
    Refuse(usize),
    /// It is given up. If it has not arrived, it may still.
    GiveUp(usize),
    /// A write that nobody waits for takes effect.
    ArriveLate(usize),
    /// A user deletes the Lease.
    Delete,
    /// A user deletes it, and creates one without a holder.
    Empty,
    Crash(usize),
    /// The machine of a candidate stops for [`STOP`].
    Stop(usize),
    Retire(usize),
    /// The first line of a connection reaches the gate.
    Greet(usize),
    /// The leader sends a command.
    Command(usize),
    /// It reaches the gate.
    Obey(usize),
}

/// `leaseDuration`.
pub const DURATION: Duration = Duration::from_secs(2);
/// One step of the clock: a standby reads every two steps, a leader renews every two, and a claim lasts six.
pub const STEP: Duration = Duration::from_millis(334);
/// What all clocks on the wall show at the beginning: 2026-06-01T00:00:00Z.
const WALL: i64 = 1_780_272_000;
/// How long a machine is stopped, in steps of the clock.
const STOP: u32 = 3;

impl Handover {
    /// What the clock of a candidate shows.
    pub fn local(&self, candidate: usize, now: u32) -> Instant {
        self.zero + STEP * now * self.rates[candidate] / 1000
    }

    /// The first step of the clock at which the clock of a candidate shows at least that.
    pub fn step_of(&self, candidate: usize, at: Instant, now: u32) -> u32 {
        (now..)
            .find(|step| self.local(candidate, *step) >= at)
            .unwrap_or(u32::MAX)
    }

    pub fn wall(now: u32) -> Timestamp {
        let start = Timestamp::from_second(WALL).unwrap_or_default();
        start + SignedDuration::try_from(STEP * now).unwrap_or_default()
    }

    pub fn born(&self, candidate: usize, now: u32, life: u32) -> Candidate {
        let applicant = leader::Candidate {
            namespace: "proxypair".to_owned(),
            lease: "proxypair".to_owned(),
            identity: format!("operator-{candidate}"),
            duration: DURATION,
        };
        Candidate {
            election: Keyed::new(Election::new(applicant, self.local(candidate, now))),
            life,
            call: None,
            wakes: now,
            stopped_until: 0,
            is_gone: false,
            commanded: None,
        }
    }

    /// The term of a candidate that may write now.
    pub fn claim(&self, state: &State, candidate: usize) -> Option<u64> {
        let found = &state.candidates[candidate];
        if found.is_gone {
            return None;
        }
        let claim = found.election.standing().claim(self.local(candidate, state.now))?;
        Some(claim.term)
    }

    /// Every call is answered at once until the first candidate leads and has commanded the gate.
    fn begin_led(&self, state: &mut State) {
        while self.claim(state, 0).is_none() {
            for at in 0..state.candidates.len() {
                // The first is the first to find no Lease.
                while let Some(Flight { request, .. }) = state.candidates[at].call.clone() {
                    let answer = state.server.carry_out(&request).answer();
                    self.answered(state, at, answer);
                }
            }
            if self.claim(state, 0).is_none() {
                state.now += 1;
                self.settle(state);
            }
        }
        state.gate.greet(0);
        state.begun = state.now;
        if self.begins == Begins::LeaderDies {
            state.candidates[0].is_gone = true;
            state.candidates[0].call = None;
        }
    }
}

impl Model for Handover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: 0,
            begun: 0,
            server: Server {
                lease: None,
                version: 0,
            },
            candidates: (0..self.rates.len()).map(|at| self.born(at, 0, 0)).collect(),
            strays: Vec::new(),
            gate: Gate::new(),
            faults: self.faults,
            terms: Vec::new(),
            wrong: None,
        };
        self.settle(&mut state);
        if self.begins != Begins::Empty {
            self.begin_led(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() || state.now > state.begun + self.steps {
            return;
        }
        let Faults {
            refusals,
            timeouts,
            deletions,
            replacements,
            crashes,
            stops,
            retirements,
        } = state.faults;
        let mut may_tick = true;
        for (at, found) in state.candidates.iter().enumerate() {
            if found.is_gone {
                continue;
            }
            let is_running = found.stopped_until <= state.now;
            if let Some(call) = &found.call {
                let is_overdue = call.overdue <= state.now;
                match &call.answer {
                    None => actions.push(Action::Arrive(at)),
                    // Also one that came in time, and is looked at too late.
                    Some(_) if is_running => actions.push(Action::Answer(at)),
                    Some(_) => {}
                }
                if is_running && call.answer.is_none() && !is_overdue && refusals > 0 {
                    actions.push(Action::Refuse(at));
                }
                if is_running && is_overdue {
                    actions.push(Action::GiveUp(at));
                }
                // The last moment for an answer, unless it may be overdue.
                let is_last = call.overdue <= state.now + 1;
                may_tick &= !is_running || if timeouts > 0 { !is_overdue } else { !is_last };
            }
            if crashes > 0 {
                actions.push(Action::Crash(at));
            }
            if stops > 0 && is_running {
                actions.push(Action::Stop(at));
            }
            if retirements > 0 && is_running && self.claim(state, at).is_some() {
                actions.push(Action::Retire(at));
            }
            if self.commands(state, at).is_some() {
                actions.push(Action::Command(at));
            }
        }
        actions.extend((0..state.strays.len()).map(Action::ArriveLate));
        for (at, connection) in state.gate.connections.iter().enumerate().filter(|_| self.has_gate) {
            if !connection.is_open {
                actions.push(Action::Greet(at));
            }
            if connection.is_commanding {
                actions.push(Action::Obey(at));
            }
        }
        if deletions > 0 && state.server.lease.is_some() {
            actions.push(Action::Delete);
        }
        if replacements > 0 && state.server.lease.is_some() {
            actions.push(Action::Empty);
        }
        if may_tick {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.now += 1,
            Action::Arrive(at) => {
                let request = state.candidates[at].call.as_ref()?.request.clone();
                let answer = state.server.carry_out(&request);
                state.candidates[at].call.as_mut()?.answer = Some(answer);
            }
            Action::Answer(at) => {
                let answer = state.candidates[at].call.as_ref()?.answer.clone()?;
                self.answered(&mut state, at, answer.answer());
            }
            Action::Refuse(at) => {
                state.faults.refusals -= 1;
                self.answered(&mut state, at, Answer::Failed);
            }
            Action::GiveUp(at) => {
                state.faults.timeouts = state.faults.timeouts.saturating_sub(1);
                let call = state.candidates[at].call.clone();
                self.stray(&mut state, at);
                state.candidates[at].call = call;
                self.answered(&mut state, at, Answer::Failed);
            }
            Action::ArriveLate(at) => {
                let request = state.strays.remove(at);
                state.server.carry_out(&request);
            }
            Action::Empty => {
                state.faults.replacements -= 1;
                state.server.lease = None;
                state.server.carry_out(&Request::Create(Box::default()));
            }
            Action::Delete => {
                state.faults.deletions -= 1;
                state.server.lease = None;
            }
            Action::Crash(at) => {
                state.faults.crashes -= 1;
                self.restart(&mut state, at);
            }
            Action::Stop(at) => {
                state.faults.stops -= 1;
                state.candidates[at].stopped_until = state.now + STOP;
            }
            Action::Retire(at) => {
                state.faults.retirements -= 1;
                self.stop(&mut state, at);
            }
            Action::Greet(at) => state.gate.greet(at),
            Action::Command(at) => {
                let connection = self.commands(&state, at)?;
                state.candidates[at].commanded = Some(state.gate.connections[connection].term);
                state.gate.connections[connection].is_commanding = true;
            }
            Action::Obey(at) => self.obey(&mut state, at),
        }
        self.settle(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("two claims never overlap", |_, state: &State| {
                state.wrong != Some(Wrong::TwoLeaders)
            }),
            Property::always("terms only grow", |_, state: &State| {
                state.wrong != Some(Wrong::OldTerm)
            }),
            Property::always("a gate never obeys a former leader", |_, state: &State| {
                state.wrong != Some(Wrong::FormerLeaderObeyed)
            }),
            Property::always("a gate always obeys the leader", |_, state: &State| {
                state.wrong != Some(Wrong::LeaderRejected)
            }),
            Property::always("somebody leads in the end", |model: &Self, state: &State| {
                let led = state.terms.len() > usize::from(model.begins != Begins::Empty);
                model.led_by.is_none_or(|by| led || state.now < state.begun + by)
            }),
            Property::sometimes("leadership changes hands", |model: &Self, state: &State| {
                state.terms.len() > 1 || model.begins == Begins::Empty
            }),
            Property::sometimes("a gate rejects a former leader", |model: &Self, state: &State| {
                state.gate.has_rejected || !model.has_gate
            }),
        ]
    }
}
