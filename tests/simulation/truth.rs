//! What is true, to compare with what the product believes: how each operator could see each side if it looked everywhere at once.

use std::{collections::BTreeMap, time::Duration};

use proxypair::{
    api::{Side, Sides},
    domain::evidence::Timing,
    gate::mode::Listening,
};

use super::{
    clock::Time,
    network::{Link, Passage},
    plan::{Plan, both},
    pod::Pod,
    world::World,
};

/// A side as an operator could see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Everything answers.
    Good,
    /// Something is slow, on its way, or says nothing about events.
    Doubtful,
    /// Something answers nothing.
    Silent,
    /// A kernel, a certificate or a server says that it does not work.
    Broken,
    /// A pod of it is being deleted.
    Leaving,
}

/// A sight over time.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub sight: Sight,
    pub since: Time,
    /// Since when it was neither good nor doubtful.
    pub ill_since: Option<Time>,
    /// It was silent at some moment since then.
    pub was_silent: bool,
    /// The last moment at which it had been good for so long that every check must have noticed.
    pub solid_until: Time,
    /// Since then it was nothing but silent.
    pub only_silent: bool,
    /// Since then a pod of it was being deleted.
    pub was_leaving: bool,
    /// Since then it was neither good nor doubtful at some moment.
    pub was_ill: bool,
}

/// All of them.
pub struct Truth {
    /// By operator, then by pair.
    records: Vec<Vec<Sides<Record>>>,
    /// Since when each side has had no pod with an address.
    pub missing_since: Vec<Sides<Option<Time>>>,
    /// Since when no pod of each side has accepted probes.
    pub closed_since: Vec<Sides<Option<Time>>>,
    /// Since when each operator has led and heard of everything.
    pub informed_since: Vec<Option<Time>>,
    /// Since when each pod has been good, by operator and pod.
    pub good_since: BTreeMap<(usize, u64), Time>,
    /// Since when each ObjectServer cannot be reached by its gates, and whether there was silence since then.
    pub away_since: Vec<Sides<Option<(Time, bool)>>>,
}

impl Truth {
    pub fn new(plan: &Plan) -> Self {
        let record = Record {
            sight: Sight::Broken,
            since: Time::ZERO,
            ill_since: Some(Time::ZERO),
            was_silent: false,
            solid_until: Time::ZERO,
            only_silent: false,
            was_leaving: true,
            was_ill: true,
        };
        let pairs = plan.pairs.len();
        Self {
            records: vec![vec![both(|_| record); pairs]; plan.operators],
            missing_since: vec![both(|_| Some(Time::ZERO)); pairs],
            closed_since: vec![both(|_| Some(Time::ZERO)); pairs],
            informed_since: vec![None; plan.operators],
            good_since: BTreeMap::new(),
            away_since: vec![both(|_| None); pairs],
        }
    }

    pub fn of(&self, operator: usize, pair: usize, side: Side) -> &Record {
        &self.records[operator][pair][side]
    }
}

impl Record {
    fn see(&mut self, sight: Sight, now: Time, solid_after: Duration) {
        if self.sight == Sight::Good && now.after(self.since) >= solid_after {
            self.solid_until = now;
            self.only_silent = true;
            self.was_leaving = false;
            self.was_ill = false;
        }
        if sight == self.sight {
            return;
        }
        // What is seen of a pod that leaves says nothing about its successor, whose silence begins to be noticed now.
        if self.sight == Sight::Leaving && sight == Sight::Silent {
            self.ill_since = None;
        }
        self.sight = sight;
        self.since = now;
        match sight {
            Sight::Good | Sight::Doubtful => {
                self.ill_since = None;
                self.was_silent = false;
            }
            Sight::Silent | Sight::Broken | Sight::Leaving => {
                self.ill_since.get_or_insert(now);
                self.was_silent |= sight == Sight::Silent;
                self.was_ill = true;
            }
        }
        self.only_silent &= sight == Sight::Silent;
        self.was_leaving |= sight == Sight::Leaving;
    }
}

/// How long the checks may take to be connected to an ObjectServer that has taken the place of another one.
pub const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// How long after its grace period a pod may still be there.
const ENDS_WITHIN: Duration = Duration::from_millis(1500);

/// How long a side must be good so that every check has noticed: a failed login is followed by the next after a second.
pub fn solid_after(timing: &Timing) -> Duration {
    timing.interval * 2 + Duration::from_millis(3500)
}

/// A pod as an operator could see it.
struct Seen {
    pod: u64,
    has_address: bool,
    is_routed: bool,
    sight: Sight,
}

/// What all pods of a side come to.
fn together(pods: &[Seen]) -> Sight {
    let with_address = || pods.iter().filter(|seen| seen.has_address);
    if with_address().next().is_none() && pods.iter().any(|seen| seen.sight == Sight::Leaving) {
        return Sight::Leaving;
    }
    let led_to = || with_address().filter(|seen| seen.is_routed);
    let is_one = |sight: Sight| led_to().any(|seen| seen.sight == sight);
    if is_one(Sight::Good) {
        // A bad one is taken out.
        let all = led_to().all(|seen| seen.sight == Sight::Good);
        return if all { Sight::Good } else { Sight::Doubtful };
    }
    if is_one(Sight::Doubtful) || with_address().any(|seen| seen.sight == Sight::Good) {
        return Sight::Doubtful;
    }
    let worst = [Sight::Leaving, Sight::Silent].into_iter().find(|sight| is_one(*sight));
    worst.unwrap_or(Sight::Broken)
}

impl World {
    pub fn look_at_the_truth(&mut self) {
        let now = self.now;
        for operator in 0..self.operators.len() {
            let is_informed = self.claims(operator).is_some() && self.is_informed(operator);
            let since = &mut self.watchdog.truth.informed_since[operator];
            *since = is_informed.then(|| since.unwrap_or(now));
        }
        for pair in 0..self.pairs.len() {
            for side in Side::BOTH {
                let is_missing = !self.pods_of(pair, side).any(|pod| pod.ip.is_some());
                let missing = &mut self.watchdog.truth.missing_since[pair][side];
                *missing = is_missing.then(|| missing.unwrap_or(now));
                let is_open = |pod: &Pod| pod.gate.as_ref().is_some_and(|gate| gate.listening == Listening::Yes);
                let is_closed = !self.pods_of(pair, side).any(is_open);
                let closed = &mut self.watchdog.truth.closed_since[pair][side];
                *closed = is_closed.then(|| closed.unwrap_or(now));
                let away = self.is_server_away(pair, side);
                let known = self.watchdog.truth.away_since[pair][side];
                let since = known.map_or(now, |(since, _)| since);
                let was_silent = known.is_some_and(|(_, is_silent)| is_silent);
                self.watchdog.truth.away_since[pair][side] = away.map(|is_silent| (since, is_silent || was_silent));
                for operator in 0..self.operators.len() {
                    let sights = self.sights(operator, pair, side);
                    for seen in &sights {
                        let good_since = &mut self.watchdog.truth.good_since;
                        match seen.sight {
                            Sight::Good => drop(good_since.entry((operator, seen.pod)).or_insert(now)),
                            _ => drop(good_since.remove(&(operator, seen.pod))),
                        }
                    }
                    let sight = together(&sights);
                    let timing = Timing::from(&self.plan.pairs[pair].pair.spec.health_check);
                    let is_leaving = self.pods_of(pair, side).any(|pod| pod.terminating.is_some());
                    let is_refused = self.refuses_anew(operator, pair, side);
                    let record = &mut self.watchdog.truth.records[operator][pair][side];
                    // A side that was down stays so until then.
                    record.see(sight, now, solid_after(&timing) + timing.healthy_after);
                    record.was_leaving |= is_leaving;
                    record.only_silent &= !is_refused;
                }
            }
            self.guarantee_04_another_server_is_left(pair);
        }
    }

    /// Whether the gates of that side cannot reach their ObjectServer; then whether they meet silence.
    fn is_server_away(&self, pair: usize, side: Side) -> Option<bool> {
        match self.network.message(Link::GateServer(pair, side)) {
            Passage::Silent | Passage::OneWay => Some(true),
            Passage::Refused => Some(false),
            Passage::Free(_) if !self.pairs[pair].servers[side].is_alive => Some(false),
            Passage::Free(_) => None,
        }
    }

    /// Whether new connections there are refused, whatever becomes of existing ones: that is more than silence.
    fn refuses_anew(&self, operator: usize, pair: usize, side: Side) -> bool {
        let links = [Link::OperatorGate(operator, pair, side), Link::GateServer(pair, side)];
        self.pods_of(pair, side).any(|pod| {
            links
                .iter()
                .any(|link| self.network.at_pod(pod.id, *link, true) == Passage::Refused)
        })
    }

    /// A side is as good as the gates to which a Service that selects it leads, together.
    pub fn sight(&self, operator: usize, pair: usize, side: Side) -> Sight {
        together(&self.sights(operator, pair, side))
    }

    fn sights(&self, operator: usize, pair: usize, side: Side) -> Vec<Seen> {
        let seen = |pod: &Pod| Seen {
            pod: pod.id,
            has_address: pod.ip.is_some(),
            is_routed: pod.routed,
            sight: self.sight_of_pod(operator, pair, pod),
        };
        self.pods_of(pair, side).map(seen).collect()
    }

    pub fn sight_of_pod(&self, operator: usize, pair: usize, pod: &Pod) -> Sight {
        let side = pod.side;
        let check = &self.plan.pairs[pair].pair.spec.health_check;
        let has_login = check.login.is_some();
        if let Some(known) = pod.terminating {
            // kubelet ends it then; how soon that is seen is not the operator's to say.
            let is_ending = known.until <= self.now && self.now < known.until + ENDS_WITHIN;
            return if is_ending { Sight::Doubtful } else { Sight::Leaving };
        }
        if self.operators[operator].is_blind {
            return Sight::Doubtful;
        }
        let links = [Link::OperatorGate(operator, pair, side), Link::GateServer(pair, side)];
        let passages = links.map(|link| self.network.at_pod(pod.id, link, false));
        let Some(gate) = &pod.gate else {
            // Of a process that ended when its machine had gone, nobody says that it has.
            return match passages[0] {
                Passage::Silent | Passage::OneWay => Sight::Silent,
                Passage::Refused | Passage::Free(_) => Sight::Broken,
            };
        };
        let server = &self.pairs[pair].servers[side];
        let passage = passages[0].then(passages[1]);
        if passages[0] == Passage::Refused {
            return Sight::Broken;
        }
        let is_stalled = server.is_stalled && has_login && server.is_alive;
        if gate.is_frozen || (is_stalled && passage != Passage::Refused) {
            return Sight::Silent;
        }
        match passage {
            Passage::Silent | Passage::OneWay => return Sight::Silent,
            Passage::Refused => return Sight::Broken,
            Passage::Free(delay) if !delay.is_zero() => return Sight::Doubtful,
            Passage::Free(_) => {}
        }
        let is_failing = matches!(gate.listening, Listening::Failed(_));
        if !server.is_alive || is_failing || (server.is_other && has_login) {
            return Sight::Broken;
        }
        let is_unresolved = |link: &Link| self.network.at_pod(pod.id, *link, true) != Passage::Free(Duration::ZERO);
        let is_refused = server.refuses_login && has_login;
        // Connections to its predecessor are closed, and made again.
        let is_new = server.replaced > Time::ZERO && self.now.after(server.replaced) < CONNECTS_WITHIN;
        let is_closed = gate.inputs.upstream != proxypair::protocol::Upstream::Reachable;
        if is_new || is_refused || is_closed || links.iter().any(is_unresolved) {
            return Sight::Doubtful;
        }
        // Of a pod of which its watch has not told it the operator knows nothing, and takes the one before for the newest.
        if self.worker(operator, pair).is_some_and(|worker| !worker.knows(pod.id)) {
            return Sight::Doubtful;
        }
        Sight::Good
    }
}
