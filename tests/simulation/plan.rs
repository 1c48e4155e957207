//! What a history is made of: the pairs and their timings, and the faults that strike. All of it follows from the seed.

mod chances;
mod pairs;

use std::{fmt, sync::Arc, time::Duration};

use proxypair::{
    api::{Side, Sides},
    domain::{machine::Selects, pair::Pair},
};

use self::chances::dead;
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
    /// The longest interval of the two.
    pub slowest: Duration,
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
    /// One pod is deleted with less than its own grace period.
    PodDeletedWithin(usize, Side, Duration),
    /// All pods of both sides are deleted in order.
    AllPodsDeleted(usize),
    /// A pod is deleted without a grace period.
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
    /// They deliver what was so that long ago.
    WatchesLag(usize, Duration),
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
    /// Pods cannot be written or deleted.
    RefusesPods,
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

/// Both sides of every pair.
pub fn sides_of(pairs: usize) -> impl Iterator<Item = (usize, Side)> {
    (0..pairs).flat_map(|pair| Side::BOTH.map(move |side| (pair, side)))
}

/// The same for both sides.
pub fn both<T>(of: impl FnMut(Side) -> T) -> Sides<T> {
    Sides::from_fn(of)
}
