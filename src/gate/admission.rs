//! Decides whether probes are admitted: one pure function of the orders in force, the upstream and the time.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::{GateState, Upstream};

/// What the gate does with sessions, new ones and those that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Accept new sessions.
    Open,
    /// Refuse new sessions and end each that exists when none of its requests is unanswered.
    Draining {
        /// When those that are still busy are closed regardless.
        deadline: Instant,
        /// How fast sessions may be closed.
        pace: Pace,
    },
    /// Refuse new sessions and close those that exist at once.
    Closed(ClosedBy),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("admit"),
            Self::Draining { deadline, pace } => {
                let left = deadline.saturating_duration_since(Instant::now());
                match pace {
                    Pace::AtMost(rate) => write!(f, "drain within {left:.1?}, {rate} a second at most"),
                    Pace::InTime(rate) => write!(f, "drain within {left:.1?}, {rate} a second at least"),
                }
            }
            Self::Closed(ClosedBy::Order) => f.write_str("refuse: ordered"),
            Self::Closed(ClosedBy::Upstream) => f.write_str("refuse: no way to the ObjectServer"),
        }
    }
}

/// How fast a drain may close sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As ordered: at most this many a second.
    AtMost(u32),
    /// As fast as needed to finish before the deadline, and no slower than this many a second: nobody has given an order.
    InTime(u32),
}

/// Why a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// The order `Drop`.
    Order,
    /// The ObjectServer cannot be reached, or the proxy server before it.
    Upstream,
}

/// The order in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Accept sessions: also without any order.
    Admit,
    /// Drain as ordered.
    Drain(DrainOrder),
    /// Close everything.
    Drop,
}

/// A drain as it was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOrder {
    /// Time from the order to the deadline, as ordered. Tells a repeated order from a new one.
    pub grace_period: Duration,
    /// Sessions to close in a second, at most.
    pub per_second: u32,
    /// When the sessions that are left are closed.
    pub deadline: Instant,
}

/// A gate that was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Until then it waits for the operator to move the Service and order a drain.
    pub serves_until: Instant,
    /// Then the last session is closed.
    pub drained_by: Instant,
    /// Sessions closed in a second at least, when it drains by itself.
    pub per_second: u32,
}

/// How long before the end of its grace period a leaving gate has closed its last session.
const SPARE: Duration = Duration::from_secs(1);

impl Leaving {
    /// The timetable of a gate told to stop `now`, that will be killed when `grace_period` is over.
    #[must_use]
    pub fn begin(now: Instant, grace_period: Duration, per_second: u32) -> Self {
        let serves_until = now + grace_period / 2;
        let drained_by = (now + grace_period.saturating_sub(SPARE)).max(serves_until);
        Self {
            serves_until,
            drained_by,
            per_second,
        }
    }

    /// Whether it drains although nobody ordered it.
    #[must_use]
    pub fn drains_by_itself(&self, now: Instant) -> bool {
        now >= self.serves_until
    }
}

/// Everything that is decided outside and stands until it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// The operator's order in force.
    pub standing: Standing,
    /// Set once, by SIGTERM.
    pub leaving: Option<Leaving>,
}

impl Orders {
    /// The orders of a process that nobody has told anything.
    pub const NONE: Self = Self {
        standing: Standing::Admit,
        leaving: None,
    };

    /// When the decision changes although nothing happens.
    #[must_use]
    pub fn next_turn(&self, now: Instant) -> Option<Instant> {
        self.leaving.map(|leaving| leaving.serves_until).filter(|at| now < *at)
    }
}

/// Decides what to do with sessions.
#[must_use]
pub fn decide(orders: &Orders, upstream: &Upstream, now: Instant) -> Decision {
    if orders.standing == Standing::Drop {
        return Decision::Closed(ClosedBy::Order);
    }
    if matches!(upstream, Upstream::Unreachable { .. }) {
        return Decision::Closed(ClosedBy::Upstream);
    }
    match (orders.standing, orders.leaving) {
        (Standing::Drain(drain), leaving) => Decision::Draining {
            deadline: leaving.map_or(drain.deadline, |leaving| leaving.drained_by.min(drain.deadline)),
            pace: Pace::AtMost(drain.per_second),
        },
        (_, Some(leaving)) if leaving.drains_by_itself(now) => Decision::Draining {
            deadline: leaving.drained_by,
            pace: Pace::InTime(leaving.per_second),
        },
        _ => Decision::Open,
    }
}

/// Whether a gate with this many sessions has nothing left to do and can exit.
#[must_use]
pub fn may_exit(orders: &Orders, sessions: u32, now: Instant) -> bool {
    let Some(leaving) = orders.leaving else {
        return false;
    };
    let refuses_for_good = orders.standing != Standing::Admit || leaving.drains_by_itself(now);
    sessions == 0 && refuses_for_good || now >= leaving.drained_by
}

/// What is reported of a decision: open only when the socket listens, draining only while somebody is left.
#[must_use]
pub fn reported(decision: Decision, listening: bool, sessions: u32) -> GateState {
    match decision {
        Decision::Open if listening => GateState::Open,
        Decision::Draining { .. } if sessions > 0 => GateState::Draining,
        Decision::Open | Decision::Draining { .. } | Decision::Closed(_) => GateState::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::UnreachableCause;

    const SECOND: Duration = Duration::from_secs(1);

    fn away() -> Upstream {
        Upstream::Unreachable {
            cause: UnreachableCause::Refused,
            message: "refused".to_owned(),
        }
    }

    fn drain(now: Instant) -> Standing {
        Standing::Drain(DrainOrder {
            grace_period: 5 * SECOND,
            per_second: 100,
            deadline: now + 5 * SECOND,
        })
    }

    fn leaving(now: Instant) -> Leaving {
        Leaving::begin(now, 30 * SECOND, 50)
    }

    #[test]
    fn without_orders_it_follows_its_objectserver() {
        let now = Instant::now();
        assert_eq!(decide(&Orders::NONE, &Upstream::Reachable, now), Decision::Open);
        assert_eq!(
            decide(&Orders::NONE, &away(), now),
            Decision::Closed(ClosedBy::Upstream)
        );
    }

    #[test]
    fn a_drain_ends_at_once_when_the_objectserver_goes() {
        let now = Instant::now();
        let orders = Orders {
            standing: drain(now),
            leaving: None,
        };
        assert_eq!(decide(&orders, &away(), now), Decision::Closed(ClosedBy::Upstream));
    }

    #[test]
    fn a_drop_stands_whatever_the_objectserver_does() {
        let orders = Orders {
            standing: Standing::Drop,
            leaving: None,
        };
        for upstream in [Upstream::Reachable, away()] {
            assert_eq!(
                decide(&orders, &upstream, Instant::now()),
                Decision::Closed(ClosedBy::Order)
            );
        }
    }

    #[test]
    fn a_leaving_gate_serves_for_half_its_grace_period_and_is_empty_a_second_before_the_end() {
        let now = Instant::now();
        let orders = Orders {
            leaving: Some(leaving(now)),
            ..Orders::NONE
        };
        assert_eq!(orders.next_turn(now), Some(now + 15 * SECOND));
        assert_eq!(decide(&orders, &Upstream::Reachable, now + 14 * SECOND), Decision::Open);
        assert!(!may_exit(&orders, 0, now + 14 * SECOND));
        let expected = Decision::Draining {
            deadline: now + 29 * SECOND,
            pace: Pace::InTime(50),
        };
        assert_eq!(decide(&orders, &Upstream::Reachable, now + 15 * SECOND), expected);
        assert_eq!(orders.next_turn(now + 15 * SECOND), None);
        assert!(!may_exit(&orders, 1, now + 28 * SECOND));
        assert!(may_exit(&orders, 0, now + 15 * SECOND));
        assert!(may_exit(&orders, 1, now + 29 * SECOND));
    }

    #[test]
    fn a_leaving_gate_drains_as_ordered_but_never_beyond_its_own_end() {
        let now = Instant::now();
        let long = DrainOrder {
            grace_period: 99 * SECOND,
            per_second: 7,
            deadline: now + 99 * SECOND,
        };
        for (standing, end) in [
            (drain(now), now + 5 * SECOND),
            (Standing::Drain(long), now + 29 * SECOND),
        ] {
            let orders = Orders {
                standing,
                leaving: Some(leaving(now)),
            };
            let Decision::Draining { deadline, .. } = decide(&orders, &Upstream::Reachable, now) else {
                panic!("it does not drain");
            };
            assert_eq!(deadline, end);
            assert!(may_exit(&orders, 0, now));
            assert!(!may_exit(&orders, 1, now));
        }
    }

    #[test]
    fn a_grace_period_too_short_to_spare_a_second_still_has_an_order_in_time() {
        let now = Instant::now();
        let leaving = Leaving::begin(now, SECOND, 50);
        assert_eq!(leaving.serves_until, now + SECOND / 2);
        assert_eq!(leaving.drained_by, leaving.serves_until);
    }

    #[test]
    fn nobody_exits_without_being_told() {
        let now = Instant::now();
        let orders = Orders {
            standing: drain(now),
            leaving: None,
        };
        assert!(!may_exit(&orders, 0, now + 99 * SECOND));
    }

    #[test]
    fn reports_what_a_probe_would_meet() {
        let now = Instant::now();
        let draining = Decision::Draining {
            deadline: now,
            pace: Pace::AtMost(1),
        };
        assert_eq!(reported(Decision::Open, true, 0), GateState::Open);
        assert_eq!(reported(Decision::Open, false, 0), GateState::Closed);
        assert_eq!(reported(draining, false, 1), GateState::Draining);
        assert_eq!(reported(draining, false, 0), GateState::Closed);
        assert_eq!(reported(Decision::Closed(ClosedBy::Order), false, 1), GateState::Closed);
    }
}
