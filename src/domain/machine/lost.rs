//! Gates that are lost: nothing answers for them, and the traffic has left them. Nobody can command such a gate to close its sessions, and the
//! kernel that would do so is gone or does not answer. The node agents reset them, on the nodes where they are translated.
//!
//! The declaration is in status, so that it outlives the pod, which is deleted, and the operator that made it.

use std::{net::IpAddr, time::Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Gate, Machine, Phase};
use crate::{
    api::{LostGate, Reason, Side},
    domain::{
        defect::Defect,
        evidence::{Fault, Link, Timing},
        now::Now,
        status::{count, whole_seconds},
    },
};

/// How long a gate stays declared lost. A session that leads to it is reset as soon as the agent of its node knows; an agent that was away has
/// this long to come back.
const LOST_FOR: SignedDuration = SignedDuration::from_hours(1);
/// The same without agents: Linux gives up a connection that has something to send after 924.6 s with `tcp_retries2` 15, its default.
const GIVEN_UP_AFTER: SignedDuration = SignedDuration::from_mins(16);
/// How many `status.lostGates` holds.
const LOST_MAX: usize = 8;

impl Machine {
    /// Declares gates lost, and withdraws that of those that were heard again, whose address another pod of the pair has, or whose time is over.
    /// Returns when the next time is over.
    pub(super) fn keep_lost(&mut self, now: Now) -> Option<Instant> {
        let stays = match self.resets_sessions {
            true => LOST_FOR,
            false => GIVEN_UP_AFTER,
        };
        let mut lost = std::mem::take(&mut self.memory.lost);
        lost.retain(|known| now.wall < known.since.0 + stays && !self.is_found(known));
        for side in Side::BOTH.into_iter().filter(|side| self.has_left(*side)) {
            for gate in &self.sides[side].gates {
                let Some(address) = gate
                    .pod
                    .ip
                    .filter(|_| gate.lost_at(&self.timing).is_some_and(|at| at <= now.monotonic))
                else {
                    continue;
                };
                if !lost.iter().any(|known| is_same(known, gate)) {
                    lost.insert(0, declared(side, gate, address, now.wall));
                }
            }
        }
        lost.truncate(LOST_MAX);
        let over = lost.iter().map(|known| now.instant_ahead(known.since.0 + stays)).min();
        let left = Side::BOTH.into_iter().filter(|side| self.has_left(*side));
        let due = left
            .flat_map(|side| &self.sides[side].gates)
            .filter_map(|gate| gate.lost_at(&self.timing));
        let next = due.filter(|at| *at > now.monotonic).chain(over).min();
        self.memory.lost = lost;
        next
    }

    /// Whether the traffic was on a side and has left it.
    fn has_left(&self, side: Side) -> bool {
        let is_switched = match &self.phase {
            Phase::Switching { .. } => true,
            Phase::Settled { .. } => self.api.status.history.first().is_some_and(|last| last.to != side),
        };
        self.phase.selected() != side && is_switched
    }

    fn is_found(&self, known: &LostGate) -> bool {
        let is_other = |gate: &Gate| !is_same(known, gate) && has_address(known, gate);
        let is_heard = |gate: &Gate| is_same(known, gate) && gate.evidence.control == Link::Answering;
        let mut gates = Side::BOTH.into_iter().flat_map(|side| &self.sides[side].gates);
        gates.any(|gate| is_other(gate) || is_heard(gate))
    }

    /// Whether the gate of a pod is declared lost.
    pub(super) fn is_declared_lost(&self, gate: &Gate) -> bool {
        self.memory.lost.iter().any(|known| is_same(known, gate))
    }

    /// What each lost gate means for the probes on it, and whether `Ready` is `False` for it.
    pub(super) fn defects_of_lost_gates(&self) -> impl Iterator<Item = (Defect, bool)> {
        self.memory.lost.iter().map(|known| {
            let LostGate {
                side,
                pod,
                node,
                address,
                connections,
                since: _,
            } = known;
            let node = node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
            let fate = match self.resets_sessions {
                true => format!("the node agents reset the sessions that lead to {address}"),
                false => format!(
                    "the {connections} sessions that it had stay on it until their probes' NetworkTimeout, or until TCP gives them up: the \
                     node agent, which would reset them, is not installed (nodeAgent.enabled of the chart)"
                ),
            };
            let defect = Defect {
                side: Some(*side),
                reason: Reason::GateLost,
                message: format!("nothing answers for the gate in pod {pod}{node}: {fate}"),
            };
            (defect, !self.resets_sessions && *connections > 0)
        })
    }
}

impl Gate {
    /// From when on it is lost, if nothing else is observed: nothing has come back from it for as long as a side may be silent, or there has been
    /// no way to its machine for as long as a failure must last.
    fn lost_at(&self, timing: &Timing) -> Option<Instant> {
        match &self.evidence.control {
            Link::Silent { since } => Some(*since + timing.unresponsive_after),
            Link::Failed {
                since,
                fault: Fault::Unroutable,
                ..
            } => Some(*since + timing.unreachable_after),
            Link::Failed { .. } | Link::Untried | Link::Answering | Link::Unseen { .. } => None,
        }
    }
}

fn has_address(known: &LostGate, gate: &Gate) -> bool {
    gate.pod.ip.is_some_and(|address| known.address == address.to_string())
}

fn is_same(known: &LostGate, gate: &Gate) -> bool {
    known.pod == gate.pod.name && has_address(known, gate)
}

fn declared(side: Side, gate: &Gate, address: IpAddr, now: Timestamp) -> LostGate {
    LostGate {
        side,
        pod: gate.pod.name.clone(),
        node: gate.pod.node.clone(),
        address: address.to_string(),
        connections: count(gate.sessions()),
        since: Time(whole_seconds(now)),
    }
}
