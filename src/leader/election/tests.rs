//! A simulation: candidates, an API server with one Lease, a network that delays and loses, and somebody who deletes and restores the Lease.
//! Everything happens on an artificial clock, in an order that a seed decides.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

const START: &str = "2026-06-01T00:00:00Z";

struct Server {
    lease: Option<Lease>,
    version: u64,
    backup: Option<Lease>,
}

impl Server {
    fn store(&mut self, lease: &Lease) -> Answer {
        self.version += 1;
        let mut stored = lease.clone();
        stored.metadata.resource_version = Some(self.version.to_string());
        stored.metadata.uid.get_or_insert_with(|| self.version.to_string());
        self.lease = Some(stored.clone());
        Answer::Lease(Box::new(stored))
    }

    fn carry_out(&mut self, request: &Request) -> Answer {
        match (request, &self.lease) {
            (Request::Read, Some(lease)) => Answer::Lease(Box::new(lease.clone())),
            (Request::Read | Request::Replace(_), None) => Answer::Missing,
            (Request::Create(_), Some(_)) => Answer::Conflict,
            (Request::Create(lease), None) => self.store(lease),
            (Request::Replace(lease), Some(stored)) => {
                match lease.metadata.resource_version == stored.metadata.resource_version {
                    true => self.store(lease),
                    false => Answer::Conflict,
                }
            }
        }
    }
}

/// A request on its way.
struct Flight {
    request: Request,
    sent: Instant,
    /// When the server carries it out; `None` if it is lost, or was carried out.
    arrives: Option<Instant>,
    /// When the candidate has the answer, or gives up.
    ends: Instant,
    /// Whether the answer comes before the candidate gives up.
    in_time: bool,
    answer: Option<Answer>,
}

impl Flight {
    fn outcome(self) -> Answer {
        self.answer.filter(|_| self.in_time).unwrap_or(Answer::Failed)
    }
}

struct Process {
    election: Election,
    flight: Option<Flight>,
    /// When it starts, if it does not run.
    starts: Option<Instant>,
    /// Requests of former processes and those that were given up: the server may still carry them out.
    stray: Vec<(Instant, Request)>,
    /// How far its wall clock is ahead.
    ahead: Duration,
}

fn candidate(identity: usize) -> Candidate {
    Candidate {
        namespace: "default".to_owned(),
        lease: "lease".to_owned(),
        identity: format!("op-{identity}"),
        duration: Duration::from_secs(3),
    }
}

struct World {
    begun: Instant,
    now: Instant,
    server: Server,
    processes: Vec<Process>,
    /// State of the generator of random numbers.
    random: Cell<u64>,
    /// Who led, and in which term.
    terms: Vec<(usize, u64)>,
    /// When somebody had a claim last.
    claimed: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let begun = Instant::now();
        let processes = (0..3).map(|at| Process {
            election: Election::new(candidate(at), begun),
            flight: None,
            starts: None,
            stray: Vec::new(),
            ahead: Duration::from_millis(100) * u32::try_from(at).unwrap(),
        });
        Self {
            begun,
            now: begun,
            server: Server {
                lease: None,
                version: 0,
                backup: None,
            },
            processes: processes.collect(),
            random: Cell::new(seed),
            terms: Vec::new(),
            claimed: begun,
        }
    }

    /// A random number below `end`: SplitMix64.
    fn below(&self, end: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn chance(&self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn millis(&self, end: u64) -> Duration {
        Duration::from_millis(self.below(end))
    }

    /// Ten milliseconds of the world.
    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        self.interfere();
        for at in 0..self.processes.len() {
            self.arrivals(at);
            self.run(at);
        }
        self.judge();
    }

    /// What administrators and disasters do.
    fn interfere(&mut self) {
        if self.chance(600) {
            self.server.lease = None;
        }
        if self.chance(500) {
            self.server.backup.clone_from(&self.server.lease);
        }
        // A restored API server was down for longer than a claim lasts, and no request survived that.
        let is_quiet = |process: &Process| {
            process.election.standing().claim(self.now).is_none()
                && process.flight.is_none()
                && process.stray.is_empty()
        };
        if self.chance(100)
            && let Some(backup) = self.server.backup.clone()
            && self.processes.iter().all(is_quiet)
            && self.now > self.claimed + candidate(0).duration
        {
            self.server.store(&backup);
        }
        let victim = usize::try_from(self.below(3)).unwrap();
        if self.chance(900) {
            self.processes[victim].election.stop(self.now);
        }
        if self.chance(1500) {
            self.restart(victim);
        }
    }

    fn restart(&mut self, at: usize) {
        let starts = self.now + Duration::from_secs(1) + self.millis(4000);
        let process = &mut self.processes[at];
        if let Some(Flight {
            request,
            arrives: Some(arrives),
            ..
        }) = process.flight.take()
        {
            process.stray.push((arrives, request));
        }
        process.election.stop(self.now);
        process.election.phase = Phase::Ended;
        process.starts.get_or_insert(starts);
    }

    /// The requests that reach the server now.
    fn arrivals(&mut self, at: usize) {
        let Self {
            server, processes, now, ..
        } = self;
        let process = &mut processes[at];
        process.stray.retain(|(arrives, request)| {
            let is_due = arrives <= now;
            if is_due {
                server.carry_out(request);
            }
            !is_due
        });
        if let Some(flight) = &mut process.flight
            && flight.arrives.is_some_and(|arrives| arrives <= *now)
        {
            flight.arrives = None;
            flight.answer = Some(server.carry_out(&flight.request));
        }
    }

    fn run(&mut self, at: usize) {
        let (now, wall) = (self.now, self.wall(at));
        let process = &mut self.processes[at];
        if let Some(starts) = process.starts {
            if starts > now {
                return;
            }
            process.starts = None;
            process.election = Election::new(candidate(at), now);
        }
        if let Some(flight) = process.flight.take_if(|flight| flight.ends <= now) {
            if let Some(arrives) = flight.arrives {
                process.stray.push((arrives, flight.request.clone()));
            }
            let (request, sent) = (flight.request.clone(), flight.sent);
            process.election.answered(&request, flight.outcome(), sent, now);
        }
        if process.flight.is_some() {
            return;
        }
        match process.election.step(now, wall) {
            Step::Wait(until) => assert!(until > now),
            Step::End => {
                if process.starts.is_none() {
                    self.restart(at);
                }
            }
            Step::Call(call) => self.processes[at].flight = Some(self.send(call)),
        }
    }

    fn send(&self, Call { request, deadline }: Call) -> Flight {
        let slow = self.chance(8);
        let there = self.millis(if slow { 4000 } else { 60 });
        let back = self.millis(if slow { 4000 } else { 60 });
        let is_lost = self.chance(12);
        let in_time = there + back < deadline && !is_lost;
        Flight {
            request,
            sent: self.now,
            arrives: (!(is_lost && self.chance(2))).then_some(self.now + there),
            ends: self.now + if in_time { there + back } else { deadline },
            in_time,
            answer: None,
        }
    }

    fn wall(&self, at: usize) -> Timestamp {
        let start: Timestamp = START.parse().unwrap();
        start + (self.now - self.begun) + self.processes[at].ahead
    }

    fn judge(&mut self) {
        let claims: Vec<_> = self
            .processes
            .iter()
            .enumerate()
            .filter_map(|(at, process)| Some((at, process.election.standing().claim(self.now)?)))
            .collect();
        if !claims.is_empty() {
            self.claimed = self.now;
        }
        let time = self.now - self.begun;
        assert!(claims.len() < 2, "two claims after {time:?}: {claims:?}");
        if let [(at, claim)] = claims[..]
            && self.terms.last() != Some(&(at, claim.term))
        {
            let last = self.terms.last().copied();
            assert!(
                last.is_none_or(|(_, term)| term < claim.term),
                "op-{at} leads in term {} after {last:?}, after {time:?}",
                claim.term
            );
            self.terms.push((at, claim.term));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn claims_never_overlap_and_terms_only_grow(seed: u64) {
        changes_of_leader(seed);
    }
}

#[test]
fn in_these_histories_leadership_changes_hands_often() {
    let changes: usize = (0..20).map(changes_of_leader).sum();
    assert!(changes > 20 * 5, "{changes}");
}

/// Runs a history, and says how many leaders there were in it.
fn changes_of_leader(seed: u64) -> usize {
    let mut world = World::new(seed);
    for _ in 0..12_000 {
        world.step();
    }
    world.terms.len()
}

#[test]
fn a_claim_that_has_expired_is_not_renewed_by_a_late_answer() {
    let begun = Instant::now();
    let at = |millis| begun + Duration::from_millis(millis);
    let wall: Timestamp = START.parse().unwrap();
    let mut election = Election::new(candidate(0), begun - RETRY);
    // It is held, and then returned.
    for (moment, holder) in [(begun - RETRY, "op-9"), (begun, "")] {
        let Step::Call(read) = election.step(moment, wall) else {
            panic!("{election:?}");
        };
        let mut lease = Box::<Lease>::default();
        lease.spec.get_or_insert_default().holder_identity = Some(holder.to_owned());
        election.answered(&read.request, Answer::Lease(lease), moment, moment);
    }
    let Step::Call(acquire) = election.step(begun, wall) else {
        panic!("{election:?}");
    };
    let Request::Replace(lease) = &acquire.request else {
        panic!("{acquire:?}");
    };
    election.answered(&acquire.request, Answer::Lease(lease.clone()), begun, at(10));
    assert!(election.standing().claim(at(2699)).is_some());
    let Step::Call(renewal) = election.step(at(1000), wall) else {
        panic!("{election:?}");
    };
    election.answered(&renewal.request, Answer::Lease(lease.clone()), at(1000), at(2700));
    assert_eq!(election.standing(), Standing::Lost);
    assert_eq!(election.step(at(2700), wall), Step::End);
}
