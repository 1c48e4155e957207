//! What a history is made of: the pairs and their timings, and the faults that strike. All of it follows from the seed.

use std::{fmt, sync::Arc, time::Duration};

use proxypair::{
    api::{Side, Sides},
    domain::{machine::Selects, pair::Pair},
};
use serde_json::{Value, json};

use super::{
    clock::Time,
    network::{Condition, Link, SHORT},
    random::Random,
    stories::story,
};

/// A history before it runs.
#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    pub operators: usize,
    /// `leaseDuration` of the chart.
    pub lease: Duration,
    pub pairs: Vec<PairPlan>,
    pub faults: Vec<PlannedFault>,
    /// From then on there are no faults, and everything is repaired but what is dead for good.
    pub calm_from: Time,
    /// ObjectServers that fail then, and are never repaired: at most one of each pair.
    pub dead: Vec<(usize, Side, Death)>,
}

/// One pair.
#[derive(Clone)]
pub struct PairPlan {
    pub pair: Arc<Pair>,
    pub timing: String,
    pub probes: Vec<ProbePlan>,
    /// How long the gateway needs to copy what a returned ObjectServer has missed.
    pub resync: Duration,
    /// Which pair is declared when a user edits it.
    pub edited: Arc<Pair>,
}

/// One probe.
#[derive(Clone, Copy, Debug)]
pub struct ProbePlan {
    /// Its `omni.dat` has the backup's own Service as second address.
    pub knows_backup: bool,
    /// Time from an acknowledgement to the next event.
    pub every: Duration,
    /// Its `NetworkTimeout`.
    pub network_timeout: Duration,
}

/// A fault, when it strikes and how long it lasts.
#[derive(Clone, Debug)]
pub struct PlannedFault {
    pub when: When,
    pub lasts: Duration,
    pub fault: Fault,
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// At that moment.
    At(Time),
    /// That long after an operator has begun the `nth` call of this kind in the history.
    OnCall(CallKind, usize, Duration),
}

/// A kind of call to the API server, as far as faults care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Intent,
    Selector,
    Fact,
    Read,
    /// A command to a gate, which is no call to the API server.
    Command,
    /// One of them to a gate that is to be emptied.
    Drain,
}

/// How an ObjectServer is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Killed,
    Stalled,
    /// Its gates cannot reach it.
    CutOff,
}

/// What can go wrong. `usize` is the number of a pair or of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    ServerKilled(usize, Side),
    ServerStalled(usize, Side),
    LoginRefused(usize, Side),
    WrongServer(usize, Side),
    GateKilled(usize, Side),
    GateFrozen(usize, Side),
    /// Its certificate cannot be used: the port for probes stays closed.
    PortClosed(usize, Side),
    /// `kubectl delete pod`, an eviction, a drained node.
    PodDeleted(usize, Side),
    /// All pods of a side are deleted in order.
    PodsDeleted(usize, Side),
    /// The same without a grace period.
    PodForced(usize, Side),
    NodeLost(usize, Side),
    /// One gate alone cannot reach its ObjectServer.
    GateCut(usize, Side, Condition),
    Link(Link, Condition),
    GatewayStopped(usize),
    OperatorKilled(usize),
    OperatorStopped(usize),
    /// The same as `OperatorRetired` and `OperatorKilled`, of whichever leads.
    LeaderRetired,
    LeaderKilled,
    Api(ApiTrouble),
    /// The watches of an operator deliver nothing.
    WatchesStalled(usize),
    /// The process is told to stop, and to return the Lease.
    OperatorRetired(usize),
    /// It has no file descriptor left.
    OperatorBlind(usize),
    LeaseDeleted,
    /// The API server is away for longer than any claim lasts, and then has an old Lease.
    LeaseRestored,
    SelectorEdited(usize, Selects),
    ServiceDeleted(usize),
    SpecEdited(usize),
    TemplateEdited(usize),
    /// Deleted, and made again under its name at once.
    PairRecreated(usize),
    ClockAhead(usize, i64),
}

/// How the API server misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiTrouble {
    /// Answers take this long.
    Slow(Duration),
    /// What is asked is done, and every other answer is lost.
    AnswersLost,
    /// 500, 429 or a broken connection: nothing is done.
    Refuses,
    /// 429: nothing is done, and the caller is asked to wait for so long.
    Busy(Duration),
    /// Status cannot be written: 403 or 422.
    RefusesStatus,
    /// Services cannot be written.
    RefusesServices,
    /// It answers nothing.
    Silent,
}

impl ApiTrouble {
    /// It keeps nobody from anything.
    pub fn is_harmless(self) -> bool {
        matches!(self, Self::Slow(by) if by <= SHORT)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => write!(f, "at {:.3} s", time.since_start().as_secs_f64()),
            Self::OnCall(kind, nth, after) => write!(f, "{after:?} after call {nth} of kind {kind:?}"),
        }
    }
}

impl fmt::Display for PlannedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, for {:.3} s: {:?}",
            self.when,
            self.lasts.as_secs_f64(),
            self.fault
        )
    }
}

/// How long a pair is left alone before the first fault, so that most faults meet a pair that serves.
const SETTLING: Duration = Duration::from_secs(3);

/// How many histories there are to one that lasts for hours.
const LONG_ONE_IN: usize = 300;
const HOUR: Duration = Duration::from_secs(3600);

impl Plan {
    /// Its gateway can finish no resync any more.
    pub fn stays_behind(&self, pair: usize) -> bool {
        let is_gone = |death: &Death| matches!(death, Death::Killed | Death::Stalled);
        self.dead
            .iter()
            .any(|(number, _, death)| *number == pair && is_gone(death))
    }

    /// The side of a pair that is gone for good.
    pub fn dead_side(&self, pair: usize) -> Option<Side> {
        let dead = self.dead.iter().find(|(number, ..)| *number == pair);
        dead.map(|(_, side, _)| *side)
    }

    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let operators = random.pick(&[1, 2, 2, 2, 3]);
        let lease = Duration::from_secs(random.pick(&[2, 3, 5, 5, 15]));
        let pairs: Vec<_> = (0..random.pick(&[1, 1, 1, 2]))
            .map(|number| PairPlan::of(number, &mut random))
            .collect();
        let longest = pairs.iter().map(PairPlan::pace).max().unwrap_or_default();
        let mut calm_from = Time::ZERO + SETTLING + longest * u32::try_from(random.below(6) + 2).unwrap_or(2);
        let mut faults: Vec<PlannedFault> = Vec::new();
        // In some there is time for what happens seldom or grows slowly.
        if random.one_in(LONG_ONE_IN) {
            calm_from = Time::ZERO + random.span(HOUR, HOUR * 2);
        }
        for _ in 0..random.pick(&[1, 2, 3, 4, 6, 9]) {
            let mut fault = PlannedFault::of(&pairs, operators, calm_from, &mut random);
            // Troubles come together: one that follows another meets what that has begun.
            if let Some(When::At(earlier)) = faults.last().map(|fault| fault.when)
                && random.one_in(3)
            {
                fault.when = When::At(earlier + random.mostly_short(Duration::from_secs(15)));
            }
            faults.push(fault);
        }
        if random.one_in(4) {
            let story = story(&pairs, operators, calm_from, &mut random);
            calm_from = calm_from.max(story.until);
            // Half of them are told alone: another fault often keeps one from coming to its point.
            if random.one_in(2) {
                faults.clear();
            }
            faults.extend(story.faults);
        }
        // docs/failover.md assumes that clocks do not go back when the Lease is lost, and says how long a restore takes.
        let is_lost = |fault: &PlannedFault| matches!(fault.fault, Fault::LeaseDeleted | Fault::LeaseRestored);
        if faults.iter().any(is_lost) {
            faults.retain(|fault| !matches!(fault.fault, Fault::ClockAhead(..)));
        }
        for fault in faults.iter_mut().filter(|fault| fault.fault == Fault::LeaseRestored) {
            fault.lasts = lease + random.millis(20, 3000);
        }
        let dead = dead(&pairs, &mut random);
        Self {
            seed,
            operators,
            lease,
            pairs,
            faults,
            calm_from,
            dead,
        }
    }
}

/// In some histories one side of each pair is gone for good when everything else is repaired.
fn dead(pairs: &[PairPlan], random: &mut Random) -> Vec<(usize, Side, Death)> {
    if !random.one_in(4) {
        return Vec::new();
    }
    let death = |(number, pair): (usize, &PairPlan)| {
        let death = random.pick(&[Death::Killed, Death::Stalled, Death::CutOff]);
        // Without a login a process that hangs cannot be told from an idle one.
        let has_login = pair.pair.spec.health_check.login.is_some();
        let death = if death == Death::Stalled && !has_login {
            Death::Killed
        } else {
            death
        };
        (
            number,
            random.pick(&[Side::Primary, Side::Primary, Side::Backup]),
            death,
        )
    };
    pairs.iter().enumerate().map(death).collect()
}

impl PairPlan {
    fn of(number: usize, random: &mut Random) -> Self {
        let spec = spec(random);
        let mut edited = spec.clone();
        edited["healthCheck"]["healthyAfter"] = json!(millis(random.millis(0, 4000)));
        edited["failback"]["stableFor"] = json!(millis(random.mostly_short(Duration::from_secs(20))));
        let timing = format!(
            "replicas {} healthCheck {} failback {}",
            spec["proxy"]["replicas"], spec["healthCheck"], spec["failback"]
        );
        let probes = (0..random.below(3) + 1).map(|_| ProbePlan::of(random)).collect();
        Self {
            pair: Arc::new(declared(number, spec, 1)),
            edited: Arc::new(declared(number, edited, 2)),
            timing,
            probes,
            resync: random.mostly_short(Duration::from_secs(20)),
        }
    }

    /// The time in which something happens with such timings.
    fn pace(&self) -> Duration {
        let check = &self.pair.spec.health_check;
        (check.unresponsive_after.get() + check.healthy_after.get()).min(Duration::from_secs(40))
            + Duration::from_secs(3)
    }
}

impl ProbePlan {
    fn of(random: &mut Random) -> Self {
        Self {
            knows_backup: !random.one_in(3),
            every: random.millis(300, 3000),
            network_timeout: Duration::from_secs(random.pick(&[2, 5, 20])),
        }
    }
}

fn millis(span: Duration) -> String {
    format!("{}s{}ms", span.as_secs(), span.subsec_millis())
}

/// Any legal timing: small ones most of the time, so that histories are short, and close to the limits of the rules.
fn spec(random: &mut Random) -> Value {
    let interval = Duration::from_millis(match random.one_in(25) {
        true => random.pick(&[100, 10_000, 30_000, 60_000]),
        false => random.pick(&[250, 500, 500, 1000, 1000, 1000, 2000, 5000]),
    });
    let least = (interval * 2).max(Duration::from_secs(2));
    let unresponsive = least + random.pick(&[Duration::ZERO, Duration::ZERO, interval, least]);
    let unreachable = random.pick(&[Duration::ZERO, Duration::ZERO, interval / 2, interval, unresponsive]);
    let has_login = !random.one_in(3);
    let healthy = random.mostly_short(Duration::from_secs(5));
    let stable = random.mostly_short(Duration::from_secs(20));
    let minimum = random.pick(&[0, 0, 0, 3000]);
    let mut spec = json!({
        "proxy": {"replicas": random.pick(&[1, 1, 2, 2, 3])},
        "healthCheck": {
            "interval": millis(interval),
            "unreachableAfter": millis(unreachable),
            "unresponsiveAfter": millis(unresponsive),
            "healthyAfter": millis(random.pick(&[Duration::ZERO, healthy])),
        },
        "failback": {
            "mode": if random.one_in(8) { "Never" } else { "Automatic" },
            "stableFor": millis(random.pick(&[Duration::ZERO, stable])),
            "minimumOnBackup": format!("{minimum}ms"),
            "drain": {
                "delay": format!("{}ms", random.pick(&[0, 0, 0, 700, 4000])),
                "gracePeriod": millis(random.millis(1000, 8000)),
                "connectionsPerSecond": random.pick(&[1, 2, 10, 100, 1000]),
            },
        },
    });
    if has_login {
        spec["healthCheck"]["login"] = json!({"secretName": "check"});
        if !random.one_in(4) {
            spec["failback"]["resync"] = json!({"policy": "Required"});
        }
    }
    spec
}

/// The pair as an API server stores it.
///
/// # Panics
///
/// If the spec is not legal: the plan is wrong then.
fn declared(number: usize, mut spec: Value, generation: i64) -> Pair {
    spec["serverName"] = json!("PROXY_V");
    for (side, word) in [("primary", "P"), ("backup", "B")] {
        spec[side] = json!({
            "serverName": format!("PROXY_{word}"),
            "objectServer": {"name": format!("AGG_{word}"), "host": format!("agg{word}.example.com")},
        });
    }
    let object = serde_json::from_value(json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": format!("proxy-{number}"), "namespace": "netcool", "uid": number.to_string(), "generation": generation},
        "spec": spec,
    }));
    match object.map(|object| Pair::validate(&object)) {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => panic!("the plan has an invalid pair: {error}"),
        Err(error) => panic!("the plan has an unreadable pair: {error}"),
    }
}

impl PlannedFault {
    fn of(pairs: &[PairPlan], operators: usize, calm_from: Time, random: &mut Random) -> Self {
        let at = Time::ZERO + random.span(SETTLING, calm_from.since_start());
        let kinds = [
            CallKind::Intent,
            CallKind::Selector,
            CallKind::Fact,
            CallKind::Read,
            CallKind::Command,
        ];
        let when = if random.one_in(3) {
            let longest = random.pick(&[0, 20, 3000]);
            let after = random.millis(0, longest);
            When::OnCall(random.pick(&kinds), random.below(3), after)
        } else {
            When::At(at)
        };
        let pair = random.below(pairs.len());
        let pace = pairs[pair].pace();
        let unresponsive = pairs[pair].pair.spec.health_check.unresponsive_after.get();
        let lasts = match random.below(3) {
            0 => random.mostly_short(pace),
            1 => random.span(Duration::ZERO, pace * 2),
            _ => unresponsive + random.millis(0, 400),
        };
        let fault = Fault::of(pair, operators, random);
        Self { when, lasts, fault }
    }
}

impl Fault {
    fn of(pair: usize, operators: usize, random: &mut Random) -> Self {
        let side = random.pick(&[Side::Primary, Side::Primary, Side::Backup]);
        let operator = random.below(operators);
        let busy = Duration::from_secs(random.pick(&[1, 2, 5, 120]));
        match random.below(36) {
            0..=4 => Self::ServerKilled(pair, side),
            5..=6 => Self::ServerStalled(pair, side),
            7 => Self::LoginRefused(pair, side),
            8 => Self::WrongServer(pair, side),
            9..=10 => Self::GateKilled(pair, side),
            11 => Self::GateFrozen(pair, side),
            12 => Self::PortClosed(pair, side),
            13 => Self::PodDeleted(pair, side),
            14 => random.pick(&[Self::PodDeleted(pair, side), Self::PodsDeleted(pair, side)]),
            15 => Self::PodForced(pair, side),
            16 => Self::NodeLost(pair, side),
            17 => Self::GateCut(pair, side, Condition::of(random)),
            18..=20 => Self::Link(Link::of(pair, side, operator, random), Condition::of(random)),
            21 => Self::GatewayStopped(pair),
            22..=24 => Self::OperatorKilled(operator),
            25 => Self::OperatorStopped(operator),
            26 => Self::Api(ApiTrouble::Slow(random.millis(10, 4000))),
            27..=28 => Self::Api(random.pick(&[
                ApiTrouble::AnswersLost,
                ApiTrouble::Refuses,
                ApiTrouble::Busy(busy),
                ApiTrouble::RefusesStatus,
                ApiTrouble::RefusesServices,
                ApiTrouble::Silent,
            ])),
            29 => Self::WatchesStalled(operator),
            30 => random.pick(&[Self::LeaseDeleted, Self::LeaseRestored]),
            31 => Self::SelectorEdited(pair, random.pick(&[Selects::Other, Selects::Side(side)])),
            32 => random.pick(&[
                Self::ServiceDeleted(pair),
                Self::SpecEdited(pair),
                Self::TemplateEdited(pair),
                Self::PairRecreated(pair),
            ]),
            33 => Self::OperatorRetired(operator),
            34 => Self::OperatorBlind(operator),
            _ => Self::ClockAhead(operator, random.pick(&[-3600, -10, 10, 3600])),
        }
    }
}

/// Both sides of every pair.
pub fn sides_of(pairs: usize) -> impl Iterator<Item = (usize, Side)> {
    (0..pairs).flat_map(|pair| Side::BOTH.map(move |side| (pair, side)))
}

/// The same for both sides.
pub fn both<T>(of: impl FnMut(Side) -> T) -> Sides<T> {
    Sides::from_fn(of)
}
