//! What goes wrong in one history.

use std::time::Duration;

use fastrand::Rng;
use proxypair::api::Side;

/// When the first fault may come: the pair serves by then.
const FIRST: Duration = Duration::from_secs(25);
/// How long faults may begin.
const SPAN: Duration = Duration::from_secs(60);

/// One history.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub timing: Timing,
    pub probes: usize,
    /// `proxy.replicas`.
    pub replicas: usize,
    /// Each with when it begins and how long it lasts.
    pub faults: Vec<(Duration, Duration, Fault)>,
}

/// The timings of the pair, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub interval: u64,
    pub unreachable_after: u64,
    pub unresponsive_after: u64,
    pub healthy_after: u64,
    pub stable_for: u64,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    OperatorKilled(usize),
    LeaseDeleted,
    /// To one operator, or to both.
    Api(Option<usize>, ApiFault),
    WatchesEnd,
    HistoryForgotten,
    ServerKilled(Side),
    ServerStalled(Side),
    NameGone(Side),
    GateKilled(Side, Which),
    PodDeleted(Side, Which),
    /// Nothing comes back between two hosts.
    Silent(Link),
    PairEdited,
    KeysDeleted,
}

/// Which gates of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// One alone, by its age.
    One(usize),
}

/// What the API server does to the requests of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    Slow,
    LostBefore,
    LostAfter,
    Busy,
    Failing,
    Silent,
    /// It refuses writes of one kind of object.
    Forbids(&'static str),
    Rejects(&'static str),
}

/// Two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    OperatorGate(usize, Side, Which),
    OperatorServer(usize, Side),
    GateServer(Side, Which),
}

const KINDS: [&str; 5] = ["services", "deployments", "poddisruptionbudgets", "secrets", "events"];

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut chance = Rng::with_seed(seed);
        let timing = match chance.u32(0..3) {
            // The defaults, but for the time that the primary must be stable.
            0 => Timing {
                interval: 1000,
                unreachable_after: 1000,
                unresponsive_after: 15_000,
                healthy_after: 5000,
                stable_for: 10_000,
            },
            1 => Timing {
                interval: 500,
                unreachable_after: 0,
                unresponsive_after: 3000,
                healthy_after: 1000,
                stable_for: 0,
            },
            _ => Timing {
                interval: chance.u64(200..2000),
                unreachable_after: chance.u64(0..2000),
                unresponsive_after: chance.u64(4000..10_000),
                healthy_after: chance.u64(0..5000),
                stable_for: chance.u64(0..10_000),
            },
        };
        let count = chance.usize(1..7);
        let span = u64::try_from(SPAN.as_millis()).unwrap_or_default();
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let begins = FIRST + Duration::from_millis(chance.u64(0..span));
                let lasts = Duration::from_millis(chance.u64(10..20_000));
                (begins, lasts, Fault::drawn(&mut chance))
            })
            .collect();
        faults.sort_by_key(|(begins, ..)| *begins);
        Self {
            seed,
            timing,
            probes: chance.usize(1..5),
            replicas: [1, 2, 2, 3][chance.usize(0..4)],
            faults,
        }
    }

    /// Leaves out all faults but those with these numbers.
    pub fn keep(&mut self, numbers: &[usize]) {
        let mut number = 0;
        self.faults.retain(|_| {
            number += 1;
            numbers.contains(&(number - 1))
        });
    }

    /// When the last fault is over.
    pub fn repaired_at(&self) -> Duration {
        let ends = self.faults.iter().map(|(begins, lasts, _)| *begins + *lasts);
        ends.max().unwrap_or(FIRST)
    }
}

impl Fault {
    /// What it is counted as.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::OperatorKilled(_) => "operator-killed",
            Self::LeaseDeleted => "lease-deleted",
            Self::Api(_, fault) => fault.kind(),
            Self::WatchesEnd => "watches-end",
            Self::HistoryForgotten => "history-forgotten",
            Self::ServerKilled(_) => "server-killed",
            Self::ServerStalled(_) => "server-stalled",
            Self::NameGone(_) => "name-gone",
            Self::GateKilled(_, Which::All) => "gates-killed",
            Self::GateKilled(..) => "gate-killed",
            Self::PodDeleted(_, Which::All) => "pods-deleted",
            Self::PodDeleted(..) => "pod-deleted",
            Self::Silent(_) => "link-silent",
            Self::PairEdited => "pair-edited",
            Self::KeysDeleted => "keys-deleted",
        }
    }

    fn drawn(chance: &mut Rng) -> Self {
        let side = if chance.bool() { Side::Primary } else { Side::Backup };
        match chance.u32(0..17) {
            0 | 1 => Self::OperatorKilled(chance.usize(0..2)),
            2 => Self::LeaseDeleted,
            3..=5 => Self::Api([None, Some(0), Some(1)][chance.usize(0..3)], ApiFault::drawn(chance)),
            6 => Self::WatchesEnd,
            7 => Self::HistoryForgotten,
            8 | 9 => Self::ServerKilled(side),
            10 => Self::ServerStalled(side),
            11 => Self::NameGone(side),
            12 => Self::GateKilled(side, Which::drawn(chance)),
            13 => Self::PodDeleted(side, Which::drawn(chance)),
            14 => Self::Silent(match chance.u32(0..3) {
                0 => Link::OperatorGate(chance.usize(0..2), side, Which::drawn(chance)),
                1 => Link::OperatorServer(chance.usize(0..2), side),
                _ => Link::GateServer(side, Which::drawn(chance)),
            }),
            15 => Self::PairEdited,
            _ => Self::KeysDeleted,
        }
    }
}

impl Which {
    fn drawn(chance: &mut Rng) -> Self {
        match chance.u32(0..3) {
            0 => Self::All,
            _ => Self::One(chance.usize(0..3)),
        }
    }
}

impl ApiFault {
    const fn kind(self) -> &'static str {
        match self {
            Self::Slow => "api-slow",
            Self::LostBefore => "api-lost-before",
            Self::LostAfter => "api-lost-after",
            Self::Busy => "api-429",
            Self::Failing => "api-500",
            Self::Silent => "api-silent",
            Self::Forbids(_) => "api-403",
            Self::Rejects(_) => "api-422",
        }
    }

    fn drawn(chance: &mut Rng) -> Self {
        let kind = KINDS[chance.usize(0..KINDS.len())];
        match chance.u32(0..8) {
            0 => Self::Slow,
            1 => Self::LostBefore,
            2 => Self::LostAfter,
            3 => Self::Busy,
            4 => Self::Failing,
            5 => Self::Silent,
            6 => Self::Forbids(kind),
            _ => Self::Rejects(kind),
        }
    }
}
