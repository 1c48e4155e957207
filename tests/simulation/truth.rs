//! What is true, to compare with what the product believes: how each operator could see each side if it looked everywhere at once.

mod record;

use std::{collections::BTreeMap, time::Duration};

use proxypair::{
    api::{Side, Sides},
    domain::{evidence::Timing, machine::Selects},
    gate::mode::Listening,
};

use self::record::Glance;
pub use self::record::{Record, Sight};
use super::{
    clock::Time,
    network::{Link, Passage},
    plan::{Plan, both},
    pod::Pod,
    world::World,
};

/// All of them.
pub struct Truth {
    /// By operator, then by pair.
    records: Vec<Vec<Sides<Record>>>,
    /// Since when each side has had no pod with an address that a Service would lead to.
    pub missing_since: Vec<Sides<Option<Time>>>,
    /// Since when no pod of each side has accepted probes.
    pub closed_since: Vec<Sides<Option<Time>>>,
    /// Since when each operator has led and heard of everything.
    pub informed_since: Vec<Option<Time>>,
    /// By operator and pod.
    pub gates: BTreeMap<(usize, u64), GateRecord>,
    /// Since when each operator has reached the gates and the ObjectServer of each side without delay, by operator and pair.
    pub links_free_since: Vec<Vec<Sides<Option<Time>>>>,
    /// The last moment at which each pod was in EndpointSlices.
    pub endpoint_until: BTreeMap<u64, Time>,
    /// Since when the EndpointSlices of each virtual Service that selects a side have been empty.
    pub endpointless_since: Vec<Option<Time>>,
    /// The last moment at which another server answered in the place of each ObjectServer.
    pub other_until: Vec<Sides<Option<Time>>>,
    /// Since when each ObjectServer cannot be reached by its gates, and whether there was silence since then.
    pub away_since: Vec<Sides<Option<(Time, bool)>>>,
}

/// A gate over time, as an operator could see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct GateRecord {
    pub good_since: Option<Time>,
    /// Since when it has been silent, and since when broken: who knows of one has yet to notice the other.
    pub silent_since: Option<Time>,
    pub broken_since: Option<Time>,
    /// Since when nothing comes back on the connection to its control port.
    pub mute_since: Option<Time>,
    /// The last moment at which that had lasted for `unresponsiveAfter`.
    pub mute_until: Option<Time>,
}

impl Truth {
    pub fn new(plan: &Plan) -> Self {
        let pairs = plan.pairs.len();
        Self {
            records: vec![vec![both(|_| Record::new()); pairs]; plan.operators],
            missing_since: vec![both(|_| Some(Time::ZERO)); pairs],
            closed_since: vec![both(|_| Some(Time::ZERO)); pairs],
            informed_since: vec![None; plan.operators],
            gates: BTreeMap::new(),
            links_free_since: vec![vec![both(|_| None); pairs]; plan.operators],
            endpoint_until: BTreeMap::new(),
            endpointless_since: vec![None; pairs],
            other_until: vec![both(|_| None); pairs],
            away_since: vec![both(|_| None); pairs],
        }
    }

    pub fn of(&self, operator: usize, pair: usize, side: Side) -> &Record {
        &self.records[operator][pair][side]
    }

    pub fn gate(&self, operator: usize, pod: u64) -> GateRecord {
        self.gates.get(&(operator, pod)).copied().unwrap_or_default()
    }
}

/// How long the checks may take to be connected to an ObjectServer that has taken the place of another one.
pub const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// How long before it ceased to answer a gate may have been asked.
const TRIP: Duration = Duration::from_millis(20);
/// How late an answer may be before anybody is asked about it.
const LATE: Duration = Duration::from_millis(200);
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
            for pod in &self.pairs[pair].slices {
                self.watchdog.truth.endpoint_until.insert(*pod, now);
            }
            let is_endpointless = matches!(self.selected(pair), Selects::Side(_)) && self.pairs[pair].slices.is_empty();
            let endpointless = &mut self.watchdog.truth.endpointless_since[pair];
            *endpointless = is_endpointless.then(|| endpointless.unwrap_or(now));
            for side in Side::BOTH {
                let is_missing = !self.pods_of(pair, side).any(|pod| pod.ip.is_some() && pod.routed);
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
                if self.pairs[pair].servers[side].is_other {
                    self.watchdog.truth.other_until[pair][side] = Some(now);
                }
                for operator in 0..self.operators.len() {
                    self.look_at_side(operator, pair, side);
                }
            }
            self.guarantee_04_another_server_is_left(pair);
        }
    }

    fn look_at_side(&mut self, operator: usize, pair: usize, side: Side) {
        let now = self.now;
        let sights = self.sights(operator, pair, side);
        let timing = self.timing(pair);
        for seen in &sights {
            let is_mute = self.is_mute(operator, pair, seen.pod);
            let known = self.watchdog.truth.gates.entry((operator, seen.pod)).or_default();
            let keep = |since: &mut Option<Time>, is_so: bool| *since = is_so.then(|| since.unwrap_or(now));
            keep(&mut known.good_since, seen.sight == Sight::Good);
            keep(&mut known.silent_since, seen.sight == Sight::Silent);
            keep(&mut known.broken_since, seen.sight == Sight::Broken);
            let was_mute = known.mute_since;
            keep(&mut known.mute_since, is_mute);
            // Nobody sees anything of it.
            let (counts_after, trip) = match self.network.is_lost(seen.pod) {
                // What has no answer may have been sent, over a slow link, before that.
                true => (timing.lost_after, LATE),
                false => (timing.unresponsive_after, TRIP),
            };
            if was_mute.is_some_and(|since| now.after(since) + trip >= counts_after) {
                known.mute_until = Some(now);
            }
        }
        let links = [
            Link::OperatorGate(operator, pair, side),
            Link::OperatorServer(operator, pair, side),
        ];
        let is_free = links.iter().all(|link| self.network.is_free(*link));
        let free = &mut self.watchdog.truth.links_free_since[operator][pair][side];
        *free = is_free.then(|| free.unwrap_or(now));
        let glance = self.glance(operator, pair, side, &sights, solid_after(&timing));
        let record = &mut self.watchdog.truth.records[operator][pair][side];
        record.see(&glance, &timing, now);
    }

    fn glance(&self, operator: usize, pair: usize, side: Side, sights: &[Seen], known_after: Duration) -> Glance {
        let is_led_to = |pod: &&Pod| pod.routed && pod.ip.is_some();
        let led_to = || self.pods_of(pair, side).filter(is_led_to);
        let is_open = |pod: &Pod| pod.gate.as_ref().is_some_and(|gate| gate.listening == Listening::Yes);
        let is_one = |wanted: Sight| led_to().any(|pod| self.sight_with_open_eyes(operator, pair, pod) == wanted);
        let is_leaving = self.is_leaving(operator, pair, side, known_after);
        let is_refused = self.refuses_anew(operator, pair, side);
        Glance {
            sight: together(sights),
            is_leaving,
            is_broken: is_refused || is_leaving || !led_to().any(is_open) || is_one(Sight::Broken),
            is_silent: is_one(Sight::Silent),
        }
    }

    /// A pod of the side is being deleted, and there is no other one that has been good for long enough to take its place.
    fn is_leaving(&self, operator: usize, pair: usize, side: Side, known_after: Duration) -> bool {
        let truth = &self.watchdog.truth;
        let takes_over = |pod: &Pod| {
            let good_since = truth.gate(operator, pod.id).good_since;
            let is_led_to = pod.routed && pod.ip.is_some() && pod.terminating.is_none();
            is_led_to && good_since.is_some_and(|since| self.now.after(since) >= known_after)
        };
        self.pods_of(pair, side).any(|pod| pod.terminating.is_some()) && !self.pods_of(pair, side).any(takes_over)
    }

    /// Nothing comes back from the control port of that gate.
    fn is_mute(&self, operator: usize, pair: usize, id: u64) -> bool {
        let Some((_, pod)) = self.pod(id) else { return false };
        let link = Link::OperatorGate(operator, pair, pod.side);
        let passage = self.network.at_pod(id, link, false);
        let is_frozen = pod.gate.as_ref().is_some_and(|gate| gate.is_frozen);
        is_frozen || matches!(passage, Passage::Silent | Passage::OneWay)
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
        if self.operators[operator].is_blind && pod.terminating.is_none() {
            return Sight::Doubtful;
        }
        self.sight_with_open_eyes(operator, pair, pod)
    }

    /// What the operator could see if it lacked nothing.
    fn sight_with_open_eyes(&self, operator: usize, pair: usize, pod: &Pod) -> Sight {
        let side = pod.side;
        let check = &self.plan.pairs[pair].pair.spec.health_check;
        let has_login = check.login.is_some();
        if let Some(known) = pod.terminating {
            // kubelet ends it then; how soon that is seen is not the operator's to say.
            let is_ending = known.until <= self.now && self.now < known.until + ENDS_WITHIN;
            return if is_ending { Sight::Doubtful } else { Sight::Leaving };
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
            Passage::Free(delay) if delay >= check.unresponsive_after.get() => return Sight::Silent,
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
