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

/// A gate that was declared lost.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub gate: LostGate,
    /// Its pod was there when the pods were last listed.
    is_listed: bool,
    /// Its pod was deleted without grace, so that it goes whether its processes have ended or not.
    is_forced: bool,
}

impl Lost {
    /// Declared by an earlier operator.
    pub const fn resumed(gate: LostGate) -> Self {
        Self {
            gate,
            is_listed: false,
            is_forced: false,
        }
    }
}

impl Machine {
    /// Declares gates lost, and withdraws that of those
    ///
    /// - that were heard again,
    /// - whose pod kubelet has ended: with the process its sessions have ended, too,
    /// - whose address another pod of the pair has,
    /// - whose time is over.
    ///
    /// Returns when the next time is over.
    pub(super) fn keep_lost(&mut self, now: Now) -> Option<Instant> {
        let stays = match self.resets_sessions {
            true => LOST_FOR,
            false => GIVEN_UP_AFTER,
        };
        let mut lost = std::mem::take(&mut self.memory.lost);
        lost.retain_mut(|known| {
            let was_listed = std::mem::replace(&mut known.is_listed, self.has_pod(&known.gate));
            let has_ended = was_listed && !known.is_listed && !known.is_forced;
            now.wall < known.gate.since.0 + stays && !has_ended && !self.is_found(&known.gate)
        });
        for side in Side::BOTH {
            // On one that was empty when it left there is nothing to reset.
            let has_left_empty = |gate: &&Gate| gate.is_terminating() && gate.sessions() == 0;
            for gate in self.left_gates(side).filter(|gate| !has_left_empty(gate)) {
                let Some(address) = gate
                    .pod
                    .ip
                    .filter(|_| gate.lost_at(&self.timing).is_some_and(|at| at <= now.monotonic))
                else {
                    continue;
                };
                if !lost.iter().any(|known| is_same(&known.gate, gate)) {
                    lost.insert(0, declared(side, gate, address, now.wall));
                }
            }
        }
        lost.truncate(LOST_MAX);
        let over = lost
            .iter()
            .map(|known| now.instant_ahead(known.gate.since.0 + stays))
            .min();
        let due = Side::BOTH
            .into_iter()
            .flat_map(|side| self.left_gates(side))
            .filter_map(|gate| gate.lost_at(&self.timing));
        let next = due.filter(|at| *at > now.monotonic).chain(over).min();
        self.memory.lost = lost;
        next
    }

    /// The gates that the traffic has left: with their side, or alone.
    fn left_gates(&self, side: Side) -> impl Iterator<Item = &Gate> {
        let has_left = self.has_left(side);
        let gates = self.sides[side].gates.iter();
        gates.filter(move |gate| has_left || self.is_replaced(side, gate))
    }

    /// Whether the virtual Service leads to others of its side, and not to this gate.
    pub(super) fn is_replaced(&self, side: Side, gate: &Gate) -> bool {
        gate.out_since.is_some() && self.has_good_sibling(side, gate)
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

    fn has_pod(&self, known: &LostGate) -> bool {
        let mut gates = Side::BOTH.into_iter().flat_map(|side| &self.sides[side].gates);
        gates.any(|gate| is_same(known, gate))
    }

    /// Whether the gate of a pod is declared lost.
    pub(super) fn is_declared_lost(&self, gate: &Gate) -> bool {
        self.memory.lost.iter().any(|known| is_same(&known.gate, gate))
    }

    /// Takes note that a pod is being deleted without grace, or, with `is_forced` false, that it turned out to be gone already.
    pub(super) fn note_forced_deletion(&mut self, pod: &str, is_forced: bool) {
        for known in self.memory.lost.iter_mut().filter(|known| known.gate.pod == pod) {
            known.is_forced = is_forced;
            // It may have been missing from the newest list already.
            known.is_listed = true;
        }
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
            } = &known.gate;
            let node = node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
            let fate = match self.resets_sessions {
                true => format!("the node agents reset the sessions that lead to {address}"),
                false => format!(
                    "the {connections} sessions that it had may stay on it until their probes' NetworkTimeout, or until TCP gives them up: the \
                     node agent, which would reset them, is not installed (nodeAgent.enabled of the chart)"
                ),
            };
            let defect = Defect {
                side: Some(*side),
                reason: Reason::GateLost,
                message: format!("nothing answers for the gate in pod {pod}{node}: {fate}"),
            };
            // Who took the pod away while no operator looked is not known.
            let may_hang = known.is_listed || known.is_forced;
            (defect, !self.resets_sessions && may_hang && *connections > 0)
        })
    }
}

impl Gate {
    /// From when on it is lost, if nothing else is observed: nothing has come back from it for as long as a side may be silent, or from its
    /// machine to anybody for as long as a machine may be, or there has been no way to its machine for as long as a failure must last.
    fn lost_at(&self, timing: &Timing) -> Option<Instant> {
        match &self.evidence.control {
            Link::Silent { since } => self.evidence.silence_counts_at(*since, timing),
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

fn declared(side: Side, gate: &Gate, address: IpAddr, now: Timestamp) -> Lost {
    let gate = LostGate {
        side,
        pod: gate.pod.name.clone(),
        node: gate.pod.node.clone(),
        address: address.to_string(),
        connections: count(gate.sessions()),
        since: Time(whole_seconds(now)),
    };
    Lost {
        gate,
        is_listed: true,
        is_forced: false,
    }
}
