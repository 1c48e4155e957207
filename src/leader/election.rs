//! The decisions of one candidate, without a clock and without a client: what to ask of the API server next, and whether this process leads.
//!
//! [`Election::step`] returns the next call or how long to wait, [`Election::answered`] takes in what became of a call. Both get the time.

mod lease;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::api::ObjectMeta;

use self::lease::{Held, clock, holder_of, released, renewed, term_of, transitions};
use super::{Candidate, Claim, Standing};

/// How often a standby reads the Lease.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// How long a claim lasts that is not renewed. A standby waits for the whole `duration`: the rest is for clocks that run at different rates.
fn claim_lasts(duration: Duration) -> Duration {
    duration - duration / 10
}

/// A call to the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What to ask.
    pub request: Request,
    /// How long to wait for the answer.
    pub deadline: Duration,
}

/// What to ask of the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Read the Lease, not from a cache.
    Read,
    /// Create it.
    Create(Box<Lease>),
    /// Replace it, on the condition that it still has this resourceVersion.
    Replace(Box<Lease>),
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The Lease as it was read or written.
    Lease(Box<Lease>),
    /// There is none.
    Missing,
    /// It was not written, because another one was faster.
    Conflict,
    /// The call failed, or its outcome is unknown.
    Failed,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make this call, then pass its answer to [`Election::answered`].
    Call(Call),
    /// Nothing before this moment.
    Wait(Instant),
    /// Nothing any more.
    End,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Election {
    candidate: Candidate,
    phase: Phase,
    standing: Standing,
    /// The longest duration of a claim that another process may still have: this candidate's own, or that in the Lease that was read last.
    longest: Duration,
    /// The highest term that was observed.
    highest: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Another process holds the Lease, or may hold it.
    Standby {
        seen: Option<Seen>,
        next: Next,
    },
    /// This candidate created the Lease. It renews it without leading until no earlier leader can have a claim.
    Holding {
        lease: Box<Lease>,
        until: Instant,
        renew_at: Instant,
    },
    /// This process leads.
    Leading {
        held: Held,
        next: Next,
    },
    /// This process has stopped, and returns the Lease.
    Releasing {
        held: Held,
        next: Next,
    },
    Ended,
}

/// The next call of a phase, and when it is due.
#[derive(Clone, Debug)]
enum Next {
    ReadAt(Instant),
    RenewAt(Instant),
    Create,
    /// To acquire a Lease whose holder's claim has ended.
    Acquire(Box<Lease>),
}

/// The last change of the Lease that was observed.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    /// Of the Lease that was read: one that was created later says nothing about the leader under this one.
    uid: Option<String>,
    holder: Option<String>,
    renewed: Option<MicroTime>,
    since: Instant,
    /// The holder that this candidate has seen has returned it.
    is_returned: bool,
}

impl Election {
    /// A candidate that has not read the Lease yet.
    #[must_use]
    pub fn new(candidate: Candidate, now: Instant) -> Self {
        Self {
            longest: candidate.duration,
            highest: 0,
            candidate,
            phase: Phase::Standby {
                seen: None,
                next: Next::ReadAt(now),
            },
            standing: Standing::Unknown,
        }
    }

    /// Whether this process leads.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// The process stops: nothing writes under the claim any more. A Lease that is held is returned.
    pub fn stop(&mut self, now: Instant) {
        self.standing = Standing::Lost;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Leading { held, next } => {
                // Only a renewal that is due later is replaced: after one of unknown outcome the Lease is read first.
                let next = match next {
                    Next::RenewAt(_) => Next::RenewAt(now),
                    next => next,
                };
                Phase::Releasing { held, next }
            }
            // A Lease that is held without leading is not returned: who leads under the former one may still have a claim.
            Phase::Standby { .. } | Phase::Holding { .. } | Phase::Releasing { .. } | Phase::Ended => Phase::Ended,
        };
    }

    /// What to do at `now`.
    pub fn step(&mut self, now: Instant, wall: Timestamp) -> Step {
        self.expire(now);
        match &self.phase {
            Phase::Ended => Step::End,
            Phase::Standby { next, .. } => match next {
                Next::ReadAt(at) | Next::RenewAt(at) if now < *at => Step::Wait(*at),
                Next::ReadAt(_) | Next::RenewAt(_) => self.call(Request::Read, self.candidate.duration),
                Next::Create => {
                    let created = self.acquired(Lease::default(), wall);
                    self.call(Request::Create(Box::new(created)), self.candidate.duration)
                }
                Next::Acquire(lease) => {
                    let acquired = self.acquired((**lease).clone(), wall);
                    self.call(Request::Replace(Box::new(acquired)), self.candidate.duration)
                }
            },
            Phase::Holding { renew_at, .. } if now < *renew_at => Step::Wait(*renew_at),
            Phase::Holding { lease, until, .. } => {
                let term = match now >= *until {
                    true => self.next_term(wall),
                    false => term_of(lease),
                };
                self.call(Request::Replace(renewed(lease, term, wall)), self.candidate.duration)
            }
            Phase::Leading { held, next } => self.step_of_leader(held, next, now, wall),
            Phase::Releasing { held, next } => match next {
                Next::ReadAt(at) if now < *at => Step::Wait(*at),
                Next::ReadAt(_) => self.call(Request::Read, held.claim.expires - now),
                _ => self.call(Request::Replace(released(&held.lease)), held.claim.expires - now),
            },
        }
    }

    fn step_of_leader(&self, held: &Held, next: &Next, now: Instant, wall: Timestamp) -> Step {
        let left = held.claim.expires - now;
        match next {
            Next::ReadAt(at) | Next::RenewAt(at) if now < *at => Step::Wait((*at).min(held.claim.expires)),
            Next::ReadAt(_) => self.call(Request::Read, left),
            Next::RenewAt(_) | Next::Acquire(_) => self.call(Request::Replace(held.renewed(wall)), left),
            Next::Create => self.call(Request::Create(held.created_again(wall)), left),
        }
    }

    /// A third of the duration for each call, so that another one is possible if this connection is dead.
    fn call(&self, request: Request, left: Duration) -> Step {
        let deadline = left.min(self.candidate.duration / 3);
        Step::Call(Call { request, deadline })
    }

    /// Ends what the claim allowed, once it has expired.
    fn expire(&mut self, now: Instant) {
        if let Phase::Leading { held, .. } | Phase::Releasing { held, .. } = &self.phase
            && !held.claim.holds(now)
        {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.standing = Standing::Lost;
        self.phase = Phase::Ended;
    }

    /// Takes in what became of `request`, which was sent at `sent`. A claim that has expired meanwhile is not renewed by it.
    pub fn answered(&mut self, request: &Request, answer: Answer, sent: Instant, now: Instant) {
        self.expire(now);
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Standby { seen, .. } => self.standby_answered(seen, request, answer, sent, now),
            Phase::Holding { until, .. } => self.holder_answered(answer, until, sent, now),
            Phase::Leading { held, .. } => self.leader_answered(held, request, answer, sent, now),
            Phase::Releasing { held, .. } => self.releasing_answered(held, request, answer, now),
            Phase::Ended => {}
        }
    }

    fn standby_answered(&mut self, seen: Option<Seen>, request: &Request, answer: Answer, sent: Instant, now: Instant) {
        let later = |seen| Phase::Standby {
            seen,
            next: Next::ReadAt(now + RETRY),
        };
        self.phase = match (request, answer) {
            (Request::Read, Answer::Lease(lease)) => {
                self.standing = Standing::Standby { seen: now };
                self.judge(seen, lease, now)
            }
            (Request::Read, Answer::Missing) => {
                self.standing = Standing::Standby { seen: now };
                Phase::Standby {
                    seen: None,
                    next: Next::Create,
                }
            }
            (Request::Create(_), Answer::Lease(lease)) => Phase::Holding {
                lease,
                until: now + self.longest,
                renew_at: now + self.candidate.duration / 3,
            },
            (Request::Replace(_), Answer::Lease(lease)) => self.lead(lease, sent),
            (_, Answer::Missing | Answer::Conflict | Answer::Failed) => later(seen),
        };
    }

    /// Acquires a Lease that was returned, or that has not changed for as long as the claim of whoever held it can last.
    fn judge(&mut self, seen: Option<Seen>, lease: Box<Lease>, now: Instant) -> Phase {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = holder_of(&lease);
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        self.longest = self.candidate.duration.max(Duration::from_secs(seconds));
        self.highest = self.highest.max(term_of(&lease));
        let before = seen.filter(|seen| seen.uid == lease.metadata.uid);
        let seen = match before {
            Some(seen) if seen.renewed == spec.renew_time && seen.holder == holder => seen,
            before => Seen {
                uid: lease.metadata.uid.clone(),
                is_returned: holder.is_none() && before.is_some_and(|seen| seen.holder.is_some() || seen.is_returned),
                holder,
                renewed: spec.renew_time,
                since: now,
            },
        };
        let is_free = seen.is_returned || now >= seen.since + self.longest;
        Phase::Standby {
            seen: Some(seen),
            next: match is_free {
                true => Next::Acquire(lease),
                false => Next::ReadAt(now + RETRY),
            },
        }
    }

    /// Leads with the first renewal that was sent after the wait: it proves that the Lease still is the one that was created.
    fn holder_answered(&mut self, answer: Answer, until: Instant, sent: Instant, now: Instant) {
        self.phase = match answer {
            Answer::Lease(lease) if sent >= until => self.lead(lease, sent),
            Answer::Lease(lease) => {
                self.standing = Standing::Standby { seen: now };
                Phase::Holding {
                    lease,
                    until,
                    renew_at: now + self.candidate.duration / 3,
                }
            }
            Answer::Missing | Answer::Conflict | Answer::Failed => Phase::Standby {
                seen: None,
                next: Next::ReadAt(now + RETRY),
            },
        };
    }

    fn lead(&mut self, lease: Box<Lease>, sent: Instant) -> Phase {
        let claim = Claim {
            term: term_of(&lease),
            expires: sent + claim_lasts(self.candidate.duration),
        };
        self.standing = Standing::Leading(claim);
        Phase::Leading {
            held: Held { lease, claim },
            next: Next::RenewAt(sent + self.candidate.duration / 3),
        }
    }

    fn leader_answered(&mut self, held: Held, request: &Request, answer: Answer, sent: Instant, now: Instant) {
        let soon = now + self.candidate.duration / 20;
        let go_on = |held, next| Phase::Leading { held, next };
        self.phase = match (request, answer) {
            (Request::Replace(_) | Request::Create(_), Answer::Lease(lease)) => self.lead(lease, sent),
            (Request::Read, Answer::Lease(lease)) => match self.is_ours(&lease, &held) {
                true => go_on(Held { lease, ..held }, Next::RenewAt(now)),
                false => return self.lose(),
            },
            // The Lease was deleted. While the claim is valid nobody else can lead, so it is created again.
            (Request::Replace(_) | Request::Read, Answer::Missing) => go_on(held, Next::Create),
            (Request::Replace(_) | Request::Create(_), Answer::Conflict | Answer::Failed) => {
                go_on(held, Next::ReadAt(now))
            }
            (_, Answer::Missing | Answer::Conflict | Answer::Failed) => go_on(held, Next::ReadAt(soon)),
        };
    }

    fn releasing_answered(&mut self, held: Held, request: &Request, answer: Answer, now: Instant) {
        let soon = now + self.candidate.duration / 20;
        let go_on = |held, next| Phase::Releasing { held, next };
        self.phase = match (request, answer) {
            (Request::Read, Answer::Lease(lease)) if self.is_ours(&lease, &held) => {
                go_on(Held { lease, ..held }, Next::RenewAt(now))
            }
            (Request::Replace(_), Answer::Conflict | Answer::Failed) => go_on(held, Next::ReadAt(now)),
            (Request::Read, Answer::Failed) => go_on(held, Next::ReadAt(soon)),
            // It is released, it is gone, or another process has it.
            _ => Phase::Ended,
        };
    }

    /// Whether a Lease that was read is held by this process. One of a later term belongs to another process of the same name.
    fn is_ours(&self, lease: &Lease, held: &Held) -> bool {
        holder_of(lease).as_ref() == Some(&self.candidate.identity) && term_of(lease) <= held.claim.term
    }

    /// Above every term that was observed, and above those of a Lease that was lost: the clock is later than when they began.
    fn next_term(&self, wall: Timestamp) -> u64 {
        (self.highest + 1).max(clock(wall))
    }

    /// The Lease with this candidate as its holder, in a new term.
    fn acquired(&self, lease: Lease, wall: Timestamp) -> Lease {
        let now = MicroTime(wall);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.lease.clone()),
                ..lease.metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.candidate.identity.clone()),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_duration_seconds: i32::try_from(self.candidate.duration.as_secs()).ok(),
                lease_transitions: Some(transitions(self.next_term(wall))),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests;
