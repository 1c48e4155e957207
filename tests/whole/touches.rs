//! What faults touch, so that each excuses only what it explains.

use std::{net::IpAddr, time::Duration};

use proxypair::api::Side;

use super::{
    plan::{Fault, Link},
    world::World,
};

/// One fault as a side feels it.
#[derive(Clone, Debug)]
pub struct Touch {
    pub side: Side,
    /// The one gate that it touches; `None` is all that the side has.
    pub gate: Option<IpAddr>,
    /// `None` while it lasts.
    pub ends: Option<Duration>,
    fault: usize,
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
    /// Whether it is about the operators and the API server, and not about a side.
    pub const fn is_of_operators(self) -> bool {
        matches!(
            self,
            Self::OperatorKilled(_)
                | Self::LeaseDeleted
                | Self::Api(..)
                | Self::WatchesEnd
                | Self::HistoryForgotten
                | Self::PairEdited
                | Self::KeysDeleted
        )
    }

    /// The side that feels it.
    const fn felt(self) -> Option<Side> {
        Some(match self {
            Self::ServerKilled(side) | Self::NameGone(side) | Self::GateKilled(side, _) => side,
            Self::ServerStalled(side) | Self::Silent(Link::GateServer(side, _)) => side,
            Self::PodDeleted(side, _) => side,
            Self::Silent(Link::OperatorGate(_, side, _) | Link::OperatorServer(_, side)) => side,
            _ => return None,
        })
    }
}

impl World {
    /// A fault has struck these gates of its side, or all that the side has.
    pub(super) fn touch(&mut self, number: usize, fault: Fault, gates: &[IpAddr]) {
        let Some(side) = fault.felt() else { return };
        let all = gates.is_empty().then_some(None);
        for gate in gates.iter().copied().map(Some).chain(all) {
            self.touches.push(Touch {
                side,
                gate,
                ends: None,
                fault: number,
            });
        }
    }

    /// A fault is over.
    pub(super) fn untouch(&mut self, number: usize, now: Duration) {
        for touch in &mut self.touches {
            if touch.fault == number {
                touch.ends.get_or_insert(now);
            }
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
