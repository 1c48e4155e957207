//! What a candidate does when it is due, and what becomes of its calls and commands.

use proxypair::{
    gate::commands::CommandError,
    leader::election::{Answer, Election, Request, Step},
};

use super::{
    gate::Connection,
    model::Handover,
    state::{Candidate, Flight, Keyed, State, Wrong},
};

/// Strays beyond that are lost.
const STRAYS: usize = 2;

impl Handover {
    /// Whoever is due does what the election wants.
    pub fn settle(&self, state: &mut State) {
        for at in 0..state.candidates.len() {
            self.step(state, at);
        }
        let leaders = (0..state.candidates.len()).filter(|at| self.claim(state, *at).is_some());
        if leaders.count() > 1 {
            state.wrong = Some(Wrong::TwoLeaders);
        }
    }

    pub fn step(&self, state: &mut State, at: usize) {
        let found = &state.candidates[at];
        if found.call.is_none() && !found.is_gone && found.wakes <= state.now && found.stopped_until <= state.now {
            let election = Election::clone(&found.election);
            self.go_on(state, at, election);
        }
    }

    /// Does what the election wants at once. The answer to what was asked before is in it.
    fn go_on(&self, state: &mut State, at: usize, mut election: Election) {
        let now = state.now;
        let step = match state.candidates[at].stopped_until <= now {
            true => election.step(self.local(at, now), Self::wall(now)),
            false => Step::Wait(self.local(at, now)),
        };
        let found = &mut state.candidates[at];
        found.election = Keyed::new(election);
        found.call = None;
        match step {
            Step::Wait(until) => found.wakes = self.step_of(at, until, now),
            Step::Call(call) => {
                let overdue = self.step_of(at, self.local(at, now) + call.deadline, now);
                found.call = Some(Flight {
                    request: Keyed::new(call.request),
                    sent: now,
                    overdue,
                    answer: None,
                });
            }
            Step::End => self.restart(state, at),
        }
        self.leads(state, at);
    }

    /// Another process under the same identity.
    pub fn restart(&self, state: &mut State, at: usize) {
        let life = state.candidates[at].life + 1;
        self.stray(state, at);
        let stopped_until = state.candidates[at].stopped_until;
        let born = self.born(at, state.now, life);
        state.candidates[at] = Candidate {
            stopped_until,
            wakes: state.now + 1,
            ..born
        };
    }

    /// What a candidate has sent is on its way without it.
    pub fn stray(&self, state: &mut State, at: usize) {
        if let Some(Flight {
            request, answer: None, ..
        }) = state.candidates[at].call.take()
            && *request != Request::Read
            && state.strays.len() < STRAYS
        {
            state.strays.push(request);
        }
    }

    /// Takes note of a leadership that begins.
    fn leads(&self, state: &mut State, at: usize) {
        let Some(term) = self.claim(state, at) else { return };
        let life = state.candidates[at].life;
        let is_known = |known: &Connection| (known.candidate, known.life, known.term) == (at, life, term);
        if state.gate.connections.iter().any(is_known) {
            return;
        }
        if !self.has_gate {
            // Only the newest leadership is of interest.
            state.gate.connections.clear();
        }
        if state.terms.last().is_some_and(|last| *last >= term) {
            state.wrong = Some(Wrong::OldTerm);
        }
        state.terms.push(term);
        state.gate.connections.push(Connection {
            candidate: at,
            life,
            term,
            is_open: false,
            is_commanding: false,
        });
    }

    pub fn answered(&self, state: &mut State, at: usize, answer: Answer) {
        let Some(Flight { request, sent, .. }) = state.candidates[at].call.take() else {
            return;
        };
        let mut election = Election::clone(&state.candidates[at].election);
        election.answered(&request, answer, self.local(at, sent), self.local(at, state.now));
        self.go_on(state, at, election);
    }

    pub fn stop(&self, state: &mut State, at: usize) {
        let found = &state.candidates[at];
        let is_reading = found.call.as_ref().is_some_and(|call| *call.request == Request::Read);
        let mut election = Election::clone(&found.election);
        election.stop(self.local(at, state.now));
        // A read is given up at once, the outcome of a write is waited for.
        match found.call.is_none() || is_reading {
            true => self.go_on(state, at, election),
            false => state.candidates[at].election = Keyed::new(election),
        }
    }

    /// The commands of a candidate that leads, and has greeted the gate.
    pub fn commands(&self, state: &State, at: usize) -> Option<usize> {
        let term = self.claim(state, at)?;
        let found = &state.candidates[at];
        let is_it = |known: &Connection| (known.candidate, known.life, known.term) == (at, found.life, term);
        let connection = state.gate.connections.iter().position(is_it)?;
        let is_ready = state.gate.connections[connection].is_open && found.commanded != Some(term);
        (is_ready && found.stopped_until <= state.now).then_some(connection)
    }

    pub fn obey(&self, state: &mut State, connection: usize) {
        let Connection {
            candidate, life, term, ..
        } = state.gate.connections[connection];
        let obeyed = state.gate.obey(connection, tokio::time::Instant::from_std(self.zero));
        let leads = state.candidates[candidate].life == life && self.claim(state, candidate) == Some(term);
        match obeyed {
            Ok(()) if term < state.gate.highest() => state.wrong = Some(Wrong::FormerLeaderObeyed),
            Err(CommandError::TermOver { .. }) if leads => state.wrong = Some(Wrong::LeaderRejected),
            Ok(()) | Err(_) => {}
        }
    }
}
