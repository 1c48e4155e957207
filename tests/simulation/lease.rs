//! Who leads: the election is the product's, and this makes its calls. The API server here keeps the Lease as a real one does.

use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use proxypair::leader::{
    Candidate,
    election::{Answer, Election, Request, Step},
};

use super::{
    api_server::{Caller, Request as ApiRequest},
    clock::Time,
    operator::OperatorEvent,
    plan::Plan,
    world::World,
};

/// The election of one process, and its call under way with when that was sent.
pub struct Elector {
    pub machine: Election,
    calling: Option<(Request, Instant)>,
    /// Only the newest timer counts.
    wakes_at: Option<Time>,
}

/// The election of a new process of that operator.
pub fn elector(operator: usize, plan: &Plan, now: Time) -> Elector {
    let candidate = Candidate {
        namespace: "proxypair".to_owned(),
        lease: "proxypair".to_owned(),
        identity: format!("operator-{operator}"),
        duration: plan.lease,
    };
    Elector {
        machine: Election::new(candidate, now.instant()),
        calling: None,
        wakes_at: None,
    }
}

impl World {
    pub fn store_lease(&mut self, request: Request) -> Answer {
        let new = match (request, &self.api.lease) {
            (Request::Read | Request::Replace(_), None) => return Answer::Missing,
            (Request::Read, Some(lease)) => return Answer::Lease(lease.clone()),
            (Request::Create(_), Some(_)) => return Answer::Conflict,
            (Request::Create(mut lease), None) => {
                lease.metadata.uid = Some(format!("lease-{}", self.new_id()));
                lease
            }
            (Request::Replace(lease), Some(found)) => {
                let is_same = lease.metadata.resource_version == found.metadata.resource_version;
                if !is_same || lease.metadata.uid != found.metadata.uid {
                    return Answer::Conflict;
                }
                lease
            }
        };
        let lease = self.versioned(new);
        self.api.backup.get_or_insert_with(|| lease.clone());
        self.api.lease = Some(lease.clone());
        Answer::Lease(lease)
    }

    fn versioned(&mut self, mut lease: Box<Lease>) -> Box<Lease> {
        lease.metadata.resource_version = Some(self.api.next_version().to_string());
        lease
    }

    /// The Lease is what it was in a backup.
    pub fn restore_lease(&mut self) {
        if let Some(backup) = self.api.backup.clone() {
            self.api.lease = Some(backup);
        }
    }

    pub fn election_answered(&mut self, operator: usize, answer: Answer) {
        let now = self.now.instant();
        let elector = &mut self.operators[operator].election;
        if let Some((request, sent)) = elector.calling.take() {
            elector.machine.answered(&request, answer, sent, now);
            self.election_goes_on(operator);
        }
    }

    /// A wait is over.
    pub fn election_steps(&mut self, operator: usize) {
        let elector = &self.operators[operator].election;
        let is_early = elector.wakes_at.is_some_and(|at| self.now < at) && !self.operators[operator].is_stopping;
        if elector.calling.is_none() && !is_early {
            self.election_goes_on(operator);
        }
    }

    fn election_goes_on(&mut self, operator: usize) {
        let (now, skew) = (self.now, self.operators[operator].skew);
        let elector = &mut self.operators[operator].election;
        let step = elector.machine.step(now.instant(), now.wall() + skew);
        match step {
            Step::Call(call) => {
                elector.calling = Some((call.request.clone(), now.instant()));
                elector.wakes_at = None;
                let request = ApiRequest::Lease(call.request);
                self.call(operator, Caller::Election, request, call.deadline);
                self.leadership_changed(operator);
            }
            Step::Wait(until) => {
                let at = Time::of(until);
                elector.wakes_at = Some(at);
                self.operator_later(operator, at.after(now), OperatorEvent::Election);
                self.leadership_changed(operator);
            }
            Step::End if self.operators[operator].is_stopping => self.kill_operator(operator),
            Step::End => {
                self.note(
                    format_args!("operator {operator}"),
                    format_args!("has lost leadership and exits"),
                );
                self.restart_operator(operator);
            }
        }
    }
}
