//! What each gate is told: to admit probes, to drain them, or to drop them.
//!
//! The orders follow from what is, not from what happened, so that a successor of the operator gives the same ones: a side that does not
//! serve and has sessions is emptied, whenever and however they came there. That is what *look again until nobody is left* means.

use std::time::{Duration, Instant};

use super::{failover::Routing, health::SideHealth};
use crate::api::{Cause, Health, Side};

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

/// How long after a switch the side that was left goes on serving. A probe whose session is ended sooner may connect by the old rules and
/// come back, or meet a pod that is gone: kube-proxy applies changes once a second at the most, and was measured to need up to 0.75 s.
pub const RULES_SETTLE: Duration = Duration::from_millis(1500);

/// When the side that was left last may be drained.
pub fn drains_from(routing: &Routing) -> Option<Instant> {
    routing.since.map(|since| since + RULES_SETTLE)
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
/// A side that serves, or is about to, admits. A side that does not is emptied once the switch is finished: politely if it is up, back
/// after a failure, or leaving in order, and then not before [`drains_from`]; at once if it has failed, since its sessions lead nowhere.
/// It is never drained while the other side could not take the probes, and admits again when it is empty, so that probes that know both
/// addresses still find it when no operator runs. A gate that is leaving waits for the order to drain even when it is empty: only then
/// it knows that it has been left.
pub fn order(
    side: Side,
    routing: &Routing,
    this: &SideHealth,
    other: &SideHealth,
    occupancy: Occupancy,
    now: Instant,
) -> Admission {
    let idle = routing.serving != side && routing.target != side;
    let leaving = this.cause == Some(Cause::ProxyTerminating);
    if !idle || !other.may_serve() || (occupancy.sessions == 0 && !leaving) {
        return Admission::Admit;
    }
    let works = leaving || this.recovers() || this.cause == Some(Cause::LoginRefused);
    let failed = this.health == Health::Down && !works;
    if failed || occupancy.last == Some(Admission::Drop) {
        Admission::Drop
    } else if drains_from(routing).is_some_and(|from| now < from) {
        Admission::Admit
    } else {
        Admission::Drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::{Reading, Timing};

    const TIMING: Timing = Timing {
        interval: Duration::from_secs(1),
        unreachable_after: Duration::ZERO,
        unresponsive_after: Duration::from_secs(15),
        healthy_after: Duration::ZERO,
    };

    fn up() -> SideHealth {
        let now = Instant::now();
        SideHealth::unknown(now).step(&Reading::Good, &TIMING, now)
    }

    fn down(cause: Cause) -> SideHealth {
        let now = Instant::now();
        up().step(
            &Reading::Bad {
                cause,
                message: String::new(),
                down_at: now,
            },
            &TIMING,
            now,
        )
    }

    fn routing(serving: Side, target: Side) -> Routing {
        Routing {
            serving,
            target,
            since: None,
        }
    }

    const SETTLED: Side = Side::Primary;

    fn of_backup(this: &SideHealth, other: &SideHealth, sessions: u32, last: Option<Admission>) -> Admission {
        order(
            Side::Backup,
            &routing(SETTLED, SETTLED),
            this,
            other,
            Occupancy { sessions, last },
            Instant::now(),
        )
    }

    #[test]
    fn the_serving_side_admits_whatever_it_has() {
        let order = order(
            Side::Primary,
            &routing(SETTLED, SETTLED),
            &up(),
            &up(),
            Occupancy {
                sessions: 9,
                last: None,
            },
            Instant::now(),
        );
        assert_eq!(order, Admission::Admit);
    }

    #[test]
    fn nothing_is_drained_before_the_switch_is_finished() {
        let under_way = routing(Side::Primary, Side::Backup);
        for side in Side::BOTH {
            let order = order(
                side,
                &under_way,
                &up(),
                &up(),
                Occupancy {
                    sessions: 9,
                    last: None,
                },
                Instant::now(),
            );
            assert_eq!(order, Admission::Admit, "{side:?}");
        }
    }

    #[test]
    fn a_side_that_was_left_is_drained_when_every_node_knows_of_the_switch() {
        let now = Instant::now();
        let routing = Routing {
            since: Some(now),
            ..routing(SETTLED, SETTLED)
        };
        let occupancy = Occupancy {
            sessions: 9,
            last: None,
        };
        let at = |now| order(Side::Backup, &routing, &up(), &up(), occupancy, now);
        assert_eq!(at(now), Admission::Admit);
        assert_eq!(at(now + RULES_SETTLE), Admission::Drain);
        let failed = order(
            Side::Backup,
            &routing,
            &down(Cause::ProxyUnreachable),
            &up(),
            occupancy,
            now,
        );
        assert_eq!(failed, Admission::Drop);
    }

    #[test]
    fn a_leaving_side_that_does_not_serve_is_let_go_even_when_it_is_empty() {
        let leaving = down(Cause::ProxyTerminating);
        assert_eq!(of_backup(&leaving, &up(), 3, None), Admission::Drain);
        assert_eq!(of_backup(&leaving, &up(), 0, Some(Admission::Drain)), Admission::Drain);
        assert_eq!(of_backup(&leaving, &up(), 0, None), Admission::Drain);
        assert_eq!(
            of_backup(&leaving, &down(Cause::ProxyMissing), 0, None),
            Admission::Admit
        );
    }

    #[test]
    fn a_side_that_was_left_is_drained_until_nobody_is_on_it_and_admits_again_then() {
        assert_eq!(of_backup(&up(), &up(), 1, None), Admission::Drain);
        assert_eq!(of_backup(&up(), &up(), 1, Some(Admission::Drain)), Admission::Drain);
        assert_eq!(of_backup(&up(), &up(), 0, Some(Admission::Drain)), Admission::Admit);
    }

    #[test]
    fn a_straggler_on_the_side_that_was_left_is_drained_again() {
        assert_eq!(of_backup(&up(), &up(), 1, Some(Admission::Admit)), Admission::Drain);
    }

    #[test]
    fn sessions_on_a_failed_side_are_dropped_and_on_a_leaving_one_drained() {
        assert_eq!(of_backup(&down(Cause::PathBroken), &up(), 1, None), Admission::Drop);
        assert_eq!(
            of_backup(&down(Cause::ProxyTerminating), &up(), 1, None),
            Admission::Drain
        );
    }

    #[test]
    fn sessions_on_a_gate_that_is_back_are_drained_and_not_dropped() {
        let timing = Timing {
            healthy_after: Duration::from_secs(5),
            ..TIMING
        };
        let recovering = down(Cause::ProxyUnreachable).step(&Reading::Good, &timing, Instant::now());
        assert_eq!(recovering.health, Health::Down);
        assert_eq!(
            of_backup(&recovering, &up(), 1, Some(Admission::Admit)),
            Admission::Drain
        );
    }

    #[test]
    fn a_drain_that_would_leave_probes_nowhere_to_go_is_stopped() {
        assert_eq!(
            of_backup(&up(), &down(Cause::ObjectServerUnreachable), 5, Some(Admission::Drain)),
            Admission::Admit
        );
    }
}
