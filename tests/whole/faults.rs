//! What can go wrong.

use fastrand::Rng;
use proxypair::api::Side;

/// A kind of fault. `usize` is the number of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    OperatorKilled(usize),
    /// It is told to stop, and returns the Lease.
    OperatorRetired(usize),
    /// The operators are replaced by those of a new image, which is that of the gates.
    ImageRolled,
    LeaseDeleted,
    /// To one operator, or to both.
    Api(Option<usize>, ApiFault),
    WatchesEnd,
    HistoryForgotten,
    ServerKilled(Side),
    ServerStalled(Side),
    /// It runs on its other machine from now on, and its name leads there.
    ServerMoved(Side),
    /// Another server answers at its address.
    WrongServer(Side),
    /// It refuses the user of the checks.
    LoginRefused(Side),
    NameGone(Side),
    GateKilled(Side, Which),
    PodDeleted(Side, Which),
    /// Its pod is deleted, and pods that are made meanwhile need so many milliseconds more to start.
    PodEvicted(Side, Which, u64),
    /// Nothing comes back from its node, and the kubelet there does nothing.
    NodeLost(Side, Which),
    Cut(Link, How),
    Edited(Edit),
    /// The pair is deleted, and made again.
    PairRecreated,
    /// One of the pair's Secrets with keys, by its number.
    KeysDeleted(usize),
    KeysDamaged(usize),
    /// The Secret with the login of the checks.
    LoginDeleted,
    LoginDamaged,
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
    /// A probe and the gates of one side.
    ProbeGate(usize, Side, Which),
}

/// What becomes of a link. What gets lost is sent again, and arrives when the fault is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing comes through.
    Silent,
    /// What the first host sends gets lost, or what the second one sends.
    Deaf,
    Mute,
    /// Everything needs so many milliseconds.
    Slow(u64),
}

/// What a user changes. What would keep the pair on its backup, or out of work, is changed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Interval,
    Timings,
    NeverFailsBack,
    Replicas(usize),
    Labels,
    /// A value that the operator does not accept, and one that it cannot read.
    Illegal,
    Unreadable,
}

const KINDS: [&str; 6] = [
    "services",
    "deployments",
    "poddisruptionbudgets",
    "secrets",
    "events",
    "pods",
];

impl Fault {
    /// What it is counted as.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::OperatorKilled(_) => "operator killed",
            Self::OperatorRetired(_) => "operator retired",
            Self::ImageRolled => "image rolled",
            Self::LeaseDeleted => "lease deleted",
            Self::Api(_, fault) => fault.kind(),
            Self::WatchesEnd => "watches end",
            Self::HistoryForgotten => "history forgotten",
            Self::ServerKilled(_) => "server killed",
            Self::ServerStalled(_) => "server stalled",
            Self::ServerMoved(_) => "server moved",
            Self::WrongServer(_) => "server of another name",
            Self::LoginRefused(_) => "login refused",
            Self::NameGone(_) => "name gone",
            Self::GateKilled(_, Which::All) => "gates killed, all",
            Self::GateKilled(..) => "gates killed, one",
            Self::PodDeleted(_, Which::All) => "pods deleted, all",
            Self::PodDeleted(..) => "pods deleted, one",
            Self::PodEvicted(..) => "pod evicted",
            Self::NodeLost(_, Which::All) => "nodes lost, all",
            Self::NodeLost(..) => "nodes lost, one",
            Self::Cut(link, how) => how.kind(link),
            Self::Edited(edit) => edit.kind(),
            Self::PairRecreated => "pair recreated",
            Self::KeysDeleted(_) => "keys deleted",
            Self::KeysDamaged(_) => "keys damaged",
            Self::LoginDeleted => "login Secret deleted",
            Self::LoginDamaged => "login Secret damaged",
        }
    }

    /// Whether pods of both sides are made or replaced.
    pub const fn moves_all_pods(self) -> bool {
        match self {
            Self::ImageRolled | Self::PairRecreated => true,
            Self::Edited(edit) => edit.moves_pods(),
            _ => false,
        }
    }

    /// Whether logins of the checks are refused.
    pub const fn refuses_login(self) -> bool {
        matches!(self, Self::LoginRefused(_) | Self::LoginDamaged)
    }

    pub fn drawn(chance: &mut Rng, has_login: bool, probes: usize) -> Self {
        let side = if chance.bool() { Side::Primary } else { Side::Backup };
        let operator = chance.usize(0..2);
        let which = Which::drawn(chance);
        match chance.u32(0..if has_login { 34 } else { 28 }) {
            0 => Self::OperatorKilled(operator),
            1 => Self::OperatorRetired(operator),
            2 => Self::ImageRolled,
            3 => Self::LeaseDeleted,
            4..=6 => Self::Api([None, Some(0), Some(1)][chance.usize(0..3)], ApiFault::drawn(chance)),
            7 => Self::WatchesEnd,
            8 => Self::HistoryForgotten,
            9 | 10 => Self::ServerKilled(side),
            11 => Self::ServerStalled(side),
            12 => Self::ServerMoved(side),
            13 => Self::NameGone(side),
            14 => Self::GateKilled(side, which),
            15 => Self::PodDeleted(side, which),
            16 => Self::PodEvicted(side, which, chance.u64(3000..15_000)),
            17 | 18 => Self::NodeLost(side, which),
            19..=22 => Self::Cut(Link::drawn(chance, side, which, probes), How::drawn(chance)),
            23 | 24 => Self::Edited(Edit::drawn(chance)),
            25 => Self::PairRecreated,
            26 => Self::KeysDeleted(chance.usize(0..4)),
            27 => Self::KeysDamaged(chance.usize(0..4)),
            28 | 29 => Self::WrongServer(side),
            30 | 31 => Self::LoginRefused(side),
            32 => Self::LoginDeleted,
            _ => Self::LoginDamaged,
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

impl Link {
    fn drawn(chance: &mut Rng, side: Side, which: Which, probes: usize) -> Self {
        match chance.u32(0..4) {
            0 => Self::OperatorGate(chance.usize(0..2), side, which),
            1 => Self::OperatorServer(chance.usize(0..2), side),
            2 => Self::GateServer(side, which),
            _ => Self::ProbeGate(chance.usize(0..probes), side, which),
        }
    }
}

impl How {
    const fn kind(self, link: Link) -> &'static str {
        match (self, link) {
            (Self::Silent, Link::OperatorGate(..)) => "link silent, operator to gate",
            (Self::Silent, Link::OperatorServer(..)) => "link silent, operator to server",
            (Self::Silent, Link::GateServer(..)) => "link silent, gate to server",
            (Self::Silent, Link::ProbeGate(..)) => "link silent, probe to gate",
            (Self::Deaf | Self::Mute, Link::ProbeGate(..)) => "link one way, probe to gate",
            (Self::Deaf | Self::Mute, _) => "link one way",
            (Self::Slow(_), Link::ProbeGate(..)) => "link slow, probe to gate",
            (Self::Slow(_), _) => "link slow",
        }
    }

    fn drawn(chance: &mut Rng) -> Self {
        match chance.u32(0..4) {
            0 => Self::Silent,
            1 => Self::Deaf,
            2 => Self::Mute,
            _ => Self::Slow(chance.u64(50..3000)),
        }
    }
}

impl Edit {
    const fn kind(self) -> &'static str {
        match self {
            Self::Interval => "edit of the interval",
            Self::Timings => "edit of timings",
            Self::NeverFailsBack => "edit of failback.mode",
            Self::Replicas(_) => "edit of replicas",
            Self::Labels => "edit of labels",
            Self::Illegal => "edit that is illegal",
            Self::Unreadable => "edit that is unreadable",
        }
    }

    fn drawn(chance: &mut Rng) -> Self {
        match chance.u32(0..7) {
            0 => Self::Interval,
            1 => Self::Timings,
            2 => Self::NeverFailsBack,
            3 => Self::Replicas(chance.usize(1..4)),
            4 => Self::Labels,
            5 => Self::Illegal,
            _ => Self::Unreadable,
        }
    }

    /// Whether pods are made or replaced.
    pub const fn moves_pods(self) -> bool {
        matches!(self, Self::Replicas(_) | Self::Labels)
    }
}

impl ApiFault {
    const fn kind(self) -> &'static str {
        match self {
            Self::Slow => "API slow",
            Self::LostBefore => "API lost before",
            Self::LostAfter => "API lost after",
            Self::Busy => "API 429",
            Self::Failing => "API 500",
            Self::Silent => "API silent",
            Self::Forbids(_) => "API 403",
            Self::Rejects(_) => "API 422",
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
