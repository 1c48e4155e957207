//! What each gate is told: to admit probes, to drain them, or to drop them.
//!
//! The orders follow from what is, not from what happened, so that a successor of the operator gives the same ones: a side that does not
//! serve and has sessions is emptied, whenever and however they came there. That is what *look again until nobody is left* means.

use super::{failover::Routing, health::SideHealth};
use crate::api::{Health, Side};

/// What a gate is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Take probes.
    Admit,
    /// Take no more, and end each session when nothing is outstanding on it.
    Drain,
    /// End all sessions at once.
    Drop,
}

/// What is known of the side that an order goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Probe sessions on its gate.
    pub sessions: u32,
    /// The order in force, if one was given.
    pub last: Option<Admission>,
}

/// The order for the gate of `side`.
///
/// A side that serves, or is about to, admits. A side that does not is emptied once the switch is finished: politely if it is up or
/// leaving in order, at once if it has failed, since its sessions lead nowhere. It is never drained while the other side could not take
/// the probes, and admits again when it is empty, so that probes that know both addresses still find it when no operator runs.
pub fn order(side: Side, routing: &Routing, this: &SideHealth, other: &SideHealth, occupancy: Occupancy) -> Admission {
    let idle = routing.serving != side && routing.target != side;
    if !idle || occupancy.sessions == 0 || !other.may_serve() {
        return Admission::Admit;
    }
    let failed = this.health == Health::Down && this.cause != Some(crate::api::Cause::ProxyLeaving);
    if failed || occupancy.last == Some(Admission::Drop) {
        Admission::Drop
    } else {
        Admission::Drain
    }
}
