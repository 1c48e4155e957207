//! What faults touch, so that each excuses only what it explains.

use std::{net::IpAddr, time::Duration};

use proxypair::api::Side;

use super::{
    faults::{Fault, Link},
    world::World,
};

/// One fault as a side feels it.
#[derive(Clone, Debug)]
pub struct Touch {
    pub side: Side,
    /// The one gate that it touches; `None` is all that the side has.
    pub gate: Option<IpAddr>,
    /// The one probe that feels it, if not all do.
    pub probe: Option<usize>,
    pub how: How,
    pub begins: Duration,
    /// `None` while it lasts.
    pub ends: Option<Duration>,
    /// The number of the fault.
    pub fault: usize,
}

/// What is felt of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Connections end or are refused.
    Breaks,
    /// Nothing comes back.
    Silences,
    /// A pod is asked to end, and has its grace.
    Leaves,
    /// An operator does not see what is there; probes feel nothing.
    Hides,
}

impl Touch {
    /// Whether it was felt at any time since then.
    pub fn lasts_since(&self, since: Duration) -> bool {
        self.ends.is_none_or(|ends| ends >= since)
    }

    /// Whether this gate of its side feels it.
    pub fn is_felt_by(&self, gate: IpAddr) -> bool {
        self.gate.is_none_or(|touched| touched == gate)
    }
}

impl Fault {
    /// Whether it is about the operators and what they are told, and not about a side.
    pub const fn is_of_operators(self) -> bool {
        matches!(
            self,
            Self::OperatorKilled(_)
                | Self::OperatorRetired(_)
                | Self::ImageRolled
                | Self::LeaseDeleted
                | Self::Api(..)
                | Self::WatchesEnd
                | Self::HistoryForgotten
                | Self::Edited(_)
                | Self::PairRecreated
                | Self::KeysDeleted(_)
                | Self::KeysDamaged(_)
                | Self::LoginDeleted
                | Self::LoginDamaged
        )
    }

    /// The sides that feel it, and how.
    fn felt(self) -> (Vec<Side>, How) {
        match self {
            Self::ServerKilled(side)
            | Self::ServerMoved(side)
            | Self::WrongServer(side)
            | Self::NameGone(side)
            | Self::GateKilled(side, _) => (vec![side], How::Breaks),
            Self::ServerStalled(side)
            | Self::NodeLost(side, _)
            | Self::Cut(Link::GateServer(side, _) | Link::ProbeGate(_, side, _), _) => (vec![side], How::Silences),
            Self::PodDeleted(side, _) | Self::PodEvicted(side, ..) => (vec![side], How::Leaves),
            Self::Cut(Link::OperatorGate(_, side, _) | Link::OperatorServer(_, side), _) | Self::LoginRefused(side) => {
                (vec![side], How::Hides)
            }
            Self::LoginDamaged | Self::LoginDeleted | Self::KeysDeleted(_) | Self::KeysDamaged(_) => {
                (Side::BOTH.into(), How::Hides)
            }
            Self::PairRecreated => (Side::BOTH.into(), How::Breaks),
            fault if fault.moves_all_pods() => (Side::BOTH.into(), How::Leaves),
            _ => (Vec::new(), How::Hides),
        }
    }

    /// The one probe that feels it, if not all do.
    const fn probe(self) -> Option<usize> {
        match self {
            Self::Cut(Link::ProbeGate(probe, ..), _) => Some(probe),
            _ => None,
        }
    }
}

impl World {
    /// A fault has struck these gates of its side, or all that the side has.
    pub(super) fn touch(&mut self, number: usize, fault: Fault, gates: &[IpAddr], now: Duration) {
        let (sides, how) = fault.felt();
        for side in sides {
            let all = gates.is_empty().then_some(None);
            for gate in gates.iter().copied().map(Some).chain(all) {
                self.touches.push(Touch {
                    side,
                    gate,
                    probe: fault.probe(),
                    how,
                    begins: now,
                    ends: None,
                    fault: number,
                });
            }
        }
    }

    /// A fault is over.
    pub(super) fn untouch(&mut self, number: usize, now: Duration) {
        for touch in self.touches.iter_mut().filter(|touch| touch.fault == number) {
            touch.ends = Some(now);
            let Touch {
                side,
                gate,
                probe,
                how,
                begins,
                ..
            } = touch;
            let lasted = now - *begins;
            let side = side.label();
            self.log.say(
                now,
                format_args!("the {side} felt fault {number} for {lasted:?}: {how:?}, gate {gate:?}, probe {probe:?}"),
            );
        }
    }

    /// Since when nothing has troubled the operators, or what they are told.
    pub fn untroubled_since(&self) -> Duration {
        let now = self.now();
        let over = |(begins, lasts, fault): &(Duration, Duration, Fault)| {
            (fault.is_of_operators() && *begins <= now).then(|| (*begins + *lasts).min(now))
        };
        let led_since = self.leader.as_ref().map_or(now, |(_, since, _)| *since);
        let ends = self.plan.faults.iter().filter_map(over);
        ends.chain([led_since]).max().unwrap_or_default()
    }
}
