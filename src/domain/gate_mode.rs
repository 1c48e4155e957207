//! What each gate is commanded: to admit probes, to drain them, or to drop them.
//!
//! Commands follow from the present state and not from what happened, so that a successor of the operator gives the same ones: a gate with
//! sessions on a side that does not serve is emptied, however the sessions came there, until none is left.

use std::time::{Duration, Instant};

use super::{failover::Routing, health::SideHealth};
use crate::{
    api::{Cause, DrainSpec, Health, Side, Sides},
    protocol::Request,
};

/// What a gate is commanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateMode {
    /// Accept sessions.
    Admit,
    /// Refuse new sessions, and end each existing one when nothing is outstanding on it.
    Drain,
    /// End all sessions at once.
    Drop,
}

impl GateMode {
    /// The command on the control port; a drain with this pace, and this long at the most.
    #[must_use]
    pub fn request(self, drain: &DrainSpec, grace_period: Duration) -> Request {
        match self {
            Self::Admit => Request::Admit,
            Self::Drop => Request::Drop,
            Self::Drain => Request::Drain {
                grace_period_ms: u64::try_from(grace_period.as_millis()).unwrap_or(u64::MAX),
                connections_per_second: u32::try_from(drain.connections_per_second).unwrap_or(1),
            },
        }
    }
}

/// How long after a switch the former side goes on serving at the least. A probe whose session is ended sooner may connect by the old rules
/// and come back, or reach a pod that is gone: kube-proxy applies changes once a second at the most, and was measured to need up to 0.75 s.
pub const RULES_SETTLE: Duration = Duration::from_millis(1500);

/// How long a side that does not serve must have had sessions without interruption before they are drained. A load balancer that tests the
/// port connects and leaves within less.
pub const STAYS_FOR: Duration = Duration::from_secs(1);

/// How long the former side goes on serving after a switch.
#[must_use]
pub fn drain_delay(drain: &DrainSpec) -> Duration {
    drain.delay.get().max(RULES_SETTLE)
}

/// When the former side may be drained, as far as the time is concerned.
#[must_use]
pub fn drains_from(routing: &Routing, drain: &DrainSpec) -> Option<Instant> {
    routing.since.map(|since| since + drain_delay(drain))
}

/// What is known of the gate that a command goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Since when it has had probe sessions without interruption; `None` if it has none.
    pub occupied_since: Option<Instant>,
    /// Its pod is being deleted, or it received SIGTERM.
    pub terminating: bool,
    /// The other side is being ended as well, and accepts probes until then.
    pub other_still_serves: bool,
    /// Since when the virtual Service has not led to it while it leads to another gate of the side; `None` if that is not so.
    pub out_since: Option<Instant>,
    /// It cannot serve.
    pub failed: bool,
    /// It can serve.
    pub serves: bool,
    /// The virtual Service would lead the probes to a gate of the other side that can serve.
    pub other_serves: bool,
    /// It was commanded to drop its sessions, and has not reported yet that it has.
    pub drops: bool,
    /// The command in force, if one was given.
    pub last: Option<GateMode>,
}

/// From when on gates may be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drains {
    /// New connections to the virtual Service have stopped leading to the side that does not serve.
    pub of_idle_side: bool,
    /// How long a gate goes on serving after it has left the virtual Service.
    pub delay: Duration,
}

/// The command for a gate of `side`.
///
/// A gate that was taken out of the virtual Service is emptied into the others of its side: at once if it has failed, and by a drain if it is
/// terminating, when the nodes no longer lead to it.
///
/// A side that serves, or is about to, admits. The gates of any other side are emptied once the switch is finished: by a drain if the
/// gate serves, or the side is up, recovering or terminating, and then not before `may_drain`; at once if it has failed, since its sessions lead
/// nowhere.
/// A drain that has begun goes on. A gate is never drained while the other side could not take the probes. It admits again when it is
/// empty, so that probes that know both addresses still find it while no operator runs.
///
/// A terminating gate is commanded to drain even when it is empty: only then does it know that the Service no longer points at it. If the
/// other side is terminating as well and still serves, the one that does not serve leaves first, so that its successor is there before the
/// other one leaves.
#[must_use]
pub fn mode_for(
    side: Side,
    routing: &Routing,
    sides: Sides<&SideHealth>,
    gate: Occupancy,
    drains: Drains,
    now: Instant,
) -> GateMode {
    if let Some(since) = gate.out_since {
        if gate.terminating && (gate.last == Some(GateMode::Drain) || now >= since + drains.delay) {
            return GateMode::Drain;
        }
        // A command that is still on its way must not meet the sessions that the gate gets when it is led to again.
        if gate.drops || (gate.failed && !gate.terminating && gate.occupied_since.is_some()) {
            return GateMode::Drop;
        }
    }
    let (this, other) = (sides[side], sides[side.other()]);
    let is_idle = routing.serving != side && routing.target != side;
    // One of several gates that fails makes the other side doubtful until it is taken out, and the rest of that side takes the probes.
    let goes_on = gate.last == Some(GateMode::Drain) && other.health == Health::Up && gate.other_serves;
    let is_taken_over = other.may_serve() || goes_on || (gate.terminating && gate.other_still_serves);
    if !is_idle || !is_taken_over || (gate.occupied_since.is_none() && !gate.terminating) {
        return GateMode::Admit;
    }
    let works = gate.terminating || this.recovers() || this.cause.is_some_and(Cause::sessions_work);
    let failed = this.health == Health::Down && !works && !gate.serves;
    if failed || gate.last == Some(GateMode::Drop) {
        return GateMode::Drop;
    }
    let stays = gate.terminating || gate.occupied_since.is_some_and(|since| now >= since + STAYS_FOR);
    if gate.last == Some(GateMode::Drain) || (drains.of_idle_side && stays) {
        GateMode::Drain
    } else {
        GateMode::Admit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::{Reading, Timing};

    fn mode(
        side: Side,
        routing: &Routing,
        this: &SideHealth,
        other: &SideHealth,
        gate: Occupancy,
        may_drain: bool,
    ) -> GateMode {
        let sides = match side {
            Side::Primary => Sides {
                primary: this,
                backup: other,
            },
            Side::Backup => Sides {
                primary: other,
                backup: this,
            },
        };
        mode_for(
            side,
            routing,
            sides,
            gate,
            drains(may_drain),
            Instant::now() + Duration::from_secs(3600),
        )
    }

    /// Sessions that have been there for an hour.
    fn occupied() -> Occupancy {
        Occupancy {
            occupied_since: Some(Instant::now()),
            terminating: false,
            other_still_serves: false,
            out_since: None,
            failed: false,
            serves: false,
            other_serves: false,
            drops: false,
            last: None,
        }
    }

    fn drains(of_idle_side: bool) -> Drains {
        Drains {
            of_idle_side,
            delay: RULES_SETTLE,
        }
    }

    const TIMING: Timing = Timing {
        interval: Duration::from_secs(1),
        unreachable_after: Duration::ZERO,
        unresponsive_after: Duration::from_secs(15),
        lost_after: Duration::from_secs(1),
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

    fn of_backup(this: &SideHealth, other: &SideHealth, sessions: u32, last: Option<GateMode>) -> GateMode {
        mode(
            Side::Backup,
            &routing(SETTLED, SETTLED),
            this,
            other,
            Occupancy {
                occupied_since: occupied().occupied_since.filter(|_| sessions > 0),
                terminating: this.cause == Some(Cause::ProxyTerminating),
                other_still_serves: other.cause == Some(Cause::ProxyTerminating),
                last,
                ..occupied()
            },
            true,
        )
    }

    #[test]
    fn the_serving_side_admits_whatever_it_has() {
        let commanded = mode(
            Side::Primary,
            &routing(SETTLED, SETTLED),
            &up(),
            &up(),
            occupied(),
            true,
        );
        assert_eq!(commanded, GateMode::Admit);
    }

    #[test]
    fn nothing_is_drained_before_the_switch_is_finished() {
        let under_way = routing(Side::Primary, Side::Backup);
        for side in Side::BOTH {
            let commanded = mode(side, &under_way, &up(), &up(), occupied(), true);
            assert_eq!(commanded, GateMode::Admit, "{side:?}");
        }
    }

    #[test]
    fn a_side_that_was_left_is_drained_when_the_service_no_longer_leads_there() {
        let routing = routing(SETTLED, SETTLED);
        let at = |gate, may_drain| mode(Side::Backup, &routing, &up(), &up(), gate, may_drain);
        assert_eq!(at(occupied(), false), GateMode::Admit);
        assert_eq!(at(occupied(), true), GateMode::Drain);
        let draining = Occupancy {
            last: Some(GateMode::Drain),
            ..occupied()
        };
        assert_eq!(at(draining, false), GateMode::Drain, "a drain that has begun goes on");
        let failed = mode(
            Side::Backup,
            &routing,
            &down(Cause::ProxyUnreachable),
            &up(),
            occupied(),
            false,
        );
        assert_eq!(failed, GateMode::Drop);
    }

    #[test]
    fn a_drain_goes_on_while_one_of_several_gates_of_the_other_side_is_being_taken_out() {
        let routing = routing(SETTLED, SETTLED);
        let doubted = up().step(&Reading::Doubtful { until: None }, &TIMING, Instant::now());
        let with = |last, other_serves| {
            let gate = Occupancy {
                last: Some(last),
                other_serves,
                ..occupied()
            };
            mode(Side::Backup, &routing, &up(), &doubted, gate, true)
        };
        assert_eq!(with(GateMode::Drain, true), GateMode::Drain);
        assert_eq!(
            with(GateMode::Drain, false),
            GateMode::Admit,
            "nobody would take the probes"
        );
        assert_eq!(with(GateMode::Admit, true), GateMode::Admit, "none begins in doubt");
    }

    #[test]
    fn a_gate_that_serves_is_drained_although_its_side_is_down() {
        let gate = Occupancy {
            serves: true,
            ..occupied()
        };
        let failed = down(Cause::ProxyUnreachable);
        let at = |gate, may_drain| {
            mode(
                Side::Backup,
                &routing(SETTLED, SETTLED),
                &failed,
                &up(),
                gate,
                may_drain,
            )
        };
        assert_eq!(at(gate, true), GateMode::Drain);
        assert_eq!(at(gate, false), GateMode::Admit);
        assert_eq!(at(occupied(), false), GateMode::Drop);
    }

    #[test]
    fn the_delay_that_is_declared_counts_when_it_is_longer_than_nodes_need() {
        let now = Instant::now();
        let routing = Routing {
            since: Some(now),
            ..routing(SETTLED, SETTLED)
        };
        let from = |delay: u64| {
            let drain = DrainSpec {
                delay: crate::api::Duration::from_millis(delay),
                ..DrainSpec::default()
            };
            drains_from(&routing, &drain).map(|from| from.duration_since(now))
        };
        assert_eq!(from(0), Some(RULES_SETTLE));
        assert_eq!(from(1000), Some(RULES_SETTLE));
        assert_eq!(from(180_000), Some(Duration::from_secs(180)));
    }

    #[test]
    fn a_connection_that_only_tests_the_port_of_an_idle_side_starts_no_drain() {
        let now = Instant::now();
        let gate = Occupancy {
            occupied_since: Some(now),
            last: Some(GateMode::Admit),
            ..occupied()
        };
        let (idle, serving) = (up(), up());
        let sides = Sides {
            primary: &serving,
            backup: &idle,
        };
        let at = |now| mode_for(Side::Backup, &routing(SETTLED, SETTLED), sides, gate, drains(true), now);
        assert_eq!(at(now), GateMode::Admit);
        assert_eq!(at(now + STAYS_FOR), GateMode::Drain);
    }

    #[test]
    fn a_gate_that_was_taken_out_is_drained_when_the_nodes_have_left_it_and_dropped_if_it_has_failed() {
        let since = Instant::now();
        let routing = routing(SETTLED, SETTLED);
        let (serving, idle) = (up(), up());
        let sides = Sides {
            primary: &serving,
            backup: &idle,
        };
        let at = |gate, after| mode_for(Side::Primary, &routing, sides, gate, drains(true), since + after);
        let out = Occupancy {
            out_since: Some(since),
            ..occupied()
        };
        let leaving = Occupancy {
            terminating: true,
            failed: true,
            ..out
        };
        assert_eq!(at(leaving, Duration::ZERO), GateMode::Admit);
        assert_eq!(at(leaving, RULES_SETTLE), GateMode::Drain);
        let failed = Occupancy { failed: true, ..out };
        assert_eq!(at(failed, Duration::ZERO), GateMode::Drop);
        let empty = Occupancy {
            occupied_since: None,
            ..failed
        };
        assert_eq!(at(empty, Duration::ZERO), GateMode::Admit, "what it reports stays true");
        let dropping = Occupancy { drops: true, ..out };
        assert_eq!(at(dropping, Duration::ZERO), GateMode::Drop);
        assert_eq!(at(out, RULES_SETTLE), GateMode::Admit, "it is good again");
        let still_in = Occupancy {
            out_since: None,
            ..leaving
        };
        assert_eq!(at(still_in, RULES_SETTLE), GateMode::Admit);
    }

    #[test]
    fn of_two_sides_that_terminate_the_idle_one_leaves_first() {
        let leaving = down(Cause::ProxyTerminating);
        assert_eq!(of_backup(&leaving, &leaving, 0, None), GateMode::Drain);
        let beside_a_dead_one = Occupancy {
            terminating: true,
            last: Some(GateMode::Drain),
            ..occupied()
        };
        let routing_to_it = routing(SETTLED, SETTLED);
        let idle = mode(
            Side::Backup,
            &routing_to_it,
            &leaving,
            &leaving,
            beside_a_dead_one,
            true,
        );
        assert_eq!(idle, GateMode::Admit, "the other side leaves and serves no longer");
        let serving = mode(
            Side::Primary,
            &routing(SETTLED, SETTLED),
            &leaving,
            &leaving,
            Occupancy {
                terminating: true,
                ..occupied()
            },
            true,
        );
        assert_eq!(serving, GateMode::Admit);
    }

    #[test]
    fn a_leaving_side_that_does_not_serve_is_let_go_even_when_it_is_empty() {
        let leaving = down(Cause::ProxyTerminating);
        assert_eq!(of_backup(&leaving, &up(), 3, None), GateMode::Drain);
        assert_eq!(of_backup(&leaving, &up(), 0, Some(GateMode::Drain)), GateMode::Drain);
        assert_eq!(of_backup(&leaving, &up(), 0, None), GateMode::Drain);
        assert_eq!(
            of_backup(&leaving, &down(Cause::ProxyMissing), 0, None),
            GateMode::Admit
        );
    }

    #[test]
    fn a_side_that_was_left_is_drained_until_nobody_is_on_it_and_admits_again_then() {
        assert_eq!(of_backup(&up(), &up(), 1, None), GateMode::Drain);
        assert_eq!(of_backup(&up(), &up(), 1, Some(GateMode::Drain)), GateMode::Drain);
        assert_eq!(of_backup(&up(), &up(), 0, Some(GateMode::Drain)), GateMode::Admit);
    }

    #[test]
    fn a_straggler_on_the_side_that_was_left_is_drained_again() {
        assert_eq!(of_backup(&up(), &up(), 1, Some(GateMode::Admit)), GateMode::Drain);
    }

    #[test]
    fn sessions_on_a_failed_side_are_dropped_and_on_a_leaving_one_drained() {
        assert_eq!(of_backup(&down(Cause::PathBroken), &up(), 1, None), GateMode::Drop);
        assert_eq!(
            of_backup(&down(Cause::ProxyTerminating), &up(), 1, None),
            GateMode::Drain
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
        assert_eq!(of_backup(&recovering, &up(), 1, Some(GateMode::Admit)), GateMode::Drain);
    }

    #[test]
    fn a_drain_that_would_leave_probes_nowhere_to_go_is_stopped() {
        assert_eq!(
            of_backup(&up(), &down(Cause::ObjectServerUnreachable), 5, Some(GateMode::Drain)),
            GateMode::Admit
        );
    }
}
