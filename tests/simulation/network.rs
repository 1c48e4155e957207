//! The network, link by link. A link is clear unless a fault says otherwise.

use std::time::Duration;

use proxypair::api::Side;

use super::random::Random;

/// Who talks to whom. The second is the one that is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An operator and the proxy pods of one side.
    OperatorGate(usize, usize, Side),
    /// An operator and an ObjectServer.
    OperatorServer(usize, usize, Side),
    /// The proxy pods of one side and their ObjectServer.
    GateServer(usize, Side),
    /// Probes and the proxy pods of one side.
    ProbeGate(usize, Side),
    /// An operator and the API server.
    OperatorApi(usize),
    /// The gateway and an ObjectServer.
    GatewayServer(usize, Side),
}

/// What a link does to what is sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing arrives, in either direction.
    Silent,
    /// What is asked arrives, and no answer comes back.
    AnswersLost,
    /// New connections are refused and existing ones reset.
    Refuses,
    /// A name that has no address any more: new connections fail at once, existing ones go on.
    Unresolved,
    /// It is slow.
    Delayed(Duration),
}

impl Link {
    pub fn of(pair: usize, side: Side, operator: usize, random: &mut Random) -> Self {
        random.pick(&[
            Self::OperatorGate(operator, pair, side),
            Self::OperatorServer(operator, pair, side),
            Self::GateServer(pair, side),
            Self::GateServer(pair, side),
            Self::ProbeGate(pair, side),
            Self::OperatorApi(operator),
            Self::GatewayServer(pair, side),
        ])
    }
}

impl Condition {
    pub fn of(random: &mut Random) -> Self {
        let delayed = Self::Delayed(random.millis(5, 900));
        random.pick(&[
            Self::Silent,
            Self::Silent,
            Self::AnswersLost,
            Self::Refuses,
            Self::Unresolved,
            delayed,
        ])
    }
}

impl Condition {
    /// What happens to an attempt to connect, or to a message.
    fn passage(self, is_new: bool) -> Passage {
        match self {
            Self::Silent => Passage::Silent,
            Self::AnswersLost => Passage::OneWay,
            Self::Refuses => Passage::Refused,
            Self::Unresolved if is_new => Passage::Refused,
            Self::Unresolved => Passage::Free(Duration::ZERO),
            Self::Delayed(by) => Passage::Free(by),
        }
    }
}

/// What happens to a message, or to an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It arrives, and its answer comes back. There and back it takes this much longer than usual.
    Free(Duration),
    /// It arrives, and its answer does not.
    OneWay,
    /// It does not arrive.
    Silent,
    /// A kernel refuses or resets it.
    Refused,
}

/// A delay that keeps nobody from anything.
pub const SHORT: Duration = Duration::from_millis(100);

impl Passage {
    /// It arrives, and is not late.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Free(delay) if delay <= SHORT)
    }

    /// Of two links in a row: where the first one refuses, nothing reaches the second.
    pub fn then(self, next: Self) -> Self {
        match self {
            Self::Refused => Self::Refused,
            Self::Free(_) | Self::OneWay | Self::Silent => self.worse(next),
        }
    }

    /// Of two conditions of one link.
    fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Silent, _) | (_, Self::Silent) => Self::Silent,
            (Self::OneWay, _) | (_, Self::OneWay) => Self::OneWay,
            (Self::Refused, _) | (_, Self::Refused) => Self::Refused,
            (Self::Free(a), Self::Free(b)) => Self::Free(a + b),
        }
    }
}

/// All links that are not clear.
#[derive(Default)]
pub struct Network {
    faulty: Vec<(Link, Condition)>,
    /// Pods whose node is cut off from everything.
    lost_pods: Vec<u64>,
    /// Pods whose node cannot reach the ObjectServer, and what it meets instead.
    cut_pods: Vec<(u64, Condition)>,
}

impl Network {
    pub fn disturb(&mut self, link: Link, condition: Condition) {
        self.faulty.push((link, condition));
    }

    pub fn repair(&mut self, link: Link, condition: Condition) {
        if let Some(at) = self.faulty.iter().position(|known| *known == (link, condition)) {
            self.faulty.remove(at);
        }
    }

    pub fn lose_pod(&mut self, pod: u64) {
        self.lost_pods.push(pod);
    }

    /// Their nodes are back. Returns those that had been cut off.
    pub fn find_pods(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.lost_pods)
    }

    pub fn cut_pod(&mut self, pod: u64, condition: Condition) {
        self.cut_pods.push((pod, condition));
    }

    pub fn mend_pods(&mut self) {
        self.cut_pods.clear();
    }

    pub fn is_lost(&self, pod: u64) -> bool {
        self.lost_pods.contains(&pod)
    }

    pub fn repair_all(&mut self) {
        self.faulty.clear();
        self.lost_pods.clear();
        self.cut_pods.clear();
    }

    /// Whether messages and new connections pass, and none is late.
    pub fn is_free(&self, link: Link) -> bool {
        self.message(link).is_free() && self.connect(link).is_free()
    }

    /// What happens to a message on an existing connection.
    pub fn message(&self, link: Link) -> Passage {
        self.passage(link, false)
    }

    /// What happens to an attempt to connect.
    pub fn connect(&self, link: Link) -> Passage {
        self.passage(link, true)
    }

    /// The same on a link that ends at a pod.
    pub fn at_pod(&self, pod: u64, link: Link, is_new: bool) -> Passage {
        if self.is_lost(pod) {
            return Passage::Silent;
        }
        let own = self
            .cut_pods
            .iter()
            .find(|(cut, _)| *cut == pod && matches!(link, Link::GateServer(..)));
        let own = own.map_or(Passage::Free(Duration::ZERO), |(_, condition)| {
            condition.passage(is_new)
        });
        self.passage(link, is_new).worse(own)
    }

    fn passage(&self, link: Link, is_new: bool) -> Passage {
        let conditions = self.faulty.iter().filter(|(faulty, _)| *faulty == link);
        conditions.fold(Passage::Free(Duration::ZERO), |passage, (_, condition)| {
            passage.worse(condition.passage(is_new))
        })
    }
}
