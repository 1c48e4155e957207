//! Decisions on a made-up clock.

use super::*;
use crate::domain::evidence::{Reading, Timing};
use proptest::prelude::*;

const POLICY: Policy = Policy {
    failback: FailbackMode::Automatic,
    stable_for: Duration::from_secs(60),
    minimum_on_backup: Duration::from_secs(0),
    first_start: Duration::from_secs(15),
};

const TIMING: Timing = Timing {
    interval: Duration::from_secs(1),
    unreachable_after: Duration::ZERO,
    unresponsive_after: Duration::from_secs(15),
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::ZERO,
};

fn up(since: Instant) -> SideHealth {
    SideHealth::unknown(since).step(&Reading::Good, &TIMING, since)
}

fn down(since: Instant, cause: Cause) -> SideHealth {
    up(since).step(
        &Reading::Bad {
            cause,
            message: String::new(),
            down_at: since,
        },
        &TIMING,
        since,
    )
}

fn doubtful(since: Instant) -> SideHealth {
    up(since).step(&Reading::Doubtful { until: None }, &TIMING, since)
}

fn serving(side: Side, since: Instant) -> Routing {
    Routing {
        serving: side,
        target: side,
        since: Some(since),
    }
}

const DEAD: Cause = Cause::ObjectServerUnreachable;

#[test]
fn stays_while_both_sides_are_up() {
    let now = Instant::now();
    let decision = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &up(now),
            backup: &up(now),
        },
        &[],
        &POLICY,
        now,
    );
    assert_eq!(
        decision,
        Decision::Stay {
            waiting: vec![],
            look_again: None
        }
    );
}

#[test]
fn fails_over_when_the_serving_side_is_down_and_the_other_is_up() {
    let now = Instant::now();
    let decision = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &down(now, DEAD),
            backup: &up(now),
        },
        &[],
        &POLICY,
        now,
    );
    assert_eq!(
        decision,
        Decision::Begin {
            to: Side::Backup,
            kind: SwitchKind::Failover,
            cause: Some(DEAD)
        }
    );
    let decision = decide(
        &serving(Side::Backup, now),
        Sides {
            primary: &up(now),
            backup: &down(now, DEAD),
        },
        &[],
        &POLICY,
        now,
    );
    assert_eq!(
        decision,
        Decision::Begin {
            to: Side::Primary,
            kind: SwitchKind::Failover,
            cause: Some(DEAD)
        }
    );
}

#[test]
fn a_leaving_pod_is_a_move_and_not_a_failure() {
    let now = Instant::now();
    let decision = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &down(now, Cause::ProxyTerminating),
            backup: &up(now),
        },
        &[],
        &POLICY,
        now,
    );
    assert_eq!(
        decision,
        Decision::Begin {
            to: Side::Backup,
            kind: SwitchKind::Switchover,
            cause: Some(Cause::ProxyTerminating)
        }
    );
}

#[test]
fn stays_when_both_are_down_and_moves_to_whichever_comes_up_first() {
    let now = Instant::now();
    let both = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &down(now, DEAD),
            backup: &down(now, DEAD),
        },
        &[],
        &POLICY,
        now,
    );
    assert_eq!(
        both,
        Decision::Stay {
            waiting: vec![],
            look_again: None
        }
    );
    let backup_first = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &down(now, DEAD),
            backup: &up(now),
        },
        &[],
        &POLICY,
        now,
    );
    assert!(matches!(backup_first, Decision::Begin { to: Side::Backup, .. }));
}

#[test]
fn never_goes_to_a_side_that_is_up_but_not_proved_by_the_newest_reading() {
    let now = Instant::now();
    for unproven in [doubtful(now), SideHealth::unknown(now)] {
        let decision = decide(
            &serving(Side::Primary, now),
            Sides {
                primary: &down(now, DEAD),
                backup: &unproven,
            },
            &[],
            &POLICY,
            now,
        );
        assert!(matches!(decision, Decision::Stay { .. }), "{decision:?}");
    }
}

#[test]
fn restores_the_primary_when_it_has_been_up_for_stable_for() {
    let start = Instant::now();
    let backup = serving(Side::Backup, start);
    let early = decide(
        &backup,
        Sides {
            primary: &up(start),
            backup: &up(start),
        },
        &[],
        &POLICY,
        start + Duration::from_secs(59),
    );
    let at = start + Duration::from_secs(60);
    assert_eq!(
        early,
        Decision::Stay {
            waiting: vec![Waiting::PrimaryStable],
            look_again: Some(at)
        }
    );
    let due = decide(
        &backup,
        Sides {
            primary: &up(start),
            backup: &up(start),
        },
        &[],
        &POLICY,
        at,
    );
    assert_eq!(
        due,
        Decision::Begin {
            to: Side::Primary,
            kind: SwitchKind::Failback,
            cause: None
        }
    );
}

#[test]
fn waits_for_the_longer_of_stable_for_and_minimum_on_backup() {
    let start = Instant::now();
    let policy = Policy {
        minimum_on_backup: Duration::from_secs(100),
        ..POLICY
    };
    let decision = decide(
        &serving(Side::Backup, start),
        Sides {
            primary: &up(start),
            backup: &up(start),
        },
        &[],
        &policy,
        start + Duration::from_secs(10),
    );
    let look_again = Some(start + Duration::from_secs(100));
    assert_eq!(
        decision,
        Decision::Stay {
            waiting: vec![Waiting::PrimaryStable, Waiting::MinimumOnBackup],
            look_again
        }
    );
}

#[test]
fn mode_never_keeps_the_backup_but_still_leaves_it_when_it_fails() {
    let start = Instant::now();
    let policy = Policy {
        failback: FailbackMode::Never,
        ..POLICY
    };
    let late = start + Duration::from_secs(3600);
    let decision = decide(
        &serving(Side::Backup, start),
        Sides {
            primary: &up(start),
            backup: &up(start),
        },
        &[],
        &policy,
        late,
    );
    assert_eq!(
        decision,
        Decision::Stay {
            waiting: vec![Waiting::ModeNever],
            look_again: None
        }
    );
    let decision = decide(
        &serving(Side::Backup, start),
        Sides {
            primary: &up(start),
            backup: &down(start, DEAD),
        },
        &[],
        &policy,
        late,
    );
    assert!(matches!(
        decision,
        Decision::Begin {
            to: Side::Primary,
            kind: SwitchKind::Failover,
            ..
        }
    ));
}

#[test]
fn a_new_pair_gives_its_primary_time_to_start() {
    let start = Instant::now();
    let missing = down(start, Cause::ProxyMissing);
    let at = start + POLICY.first_start;
    assert_eq!(
        decide(
            &Routing::NEW,
            Sides {
                primary: &missing,
                backup: &up(start)
            },
            &[],
            &POLICY,
            start
        ),
        Decision::Stay {
            waiting: vec![],
            look_again: Some(at)
        }
    );
    assert!(matches!(
        decide(
            &Routing::NEW,
            Sides {
                primary: &missing,
                backup: &up(start)
            },
            &[],
            &POLICY,
            at
        ),
        Decision::Begin { to: Side::Backup, .. }
    ));
}

#[test]
fn a_successor_finishes_a_switch_whose_target_is_up_and_withdraws_one_whose_target_died() {
    let now = Instant::now();
    let under_way = Routing {
        serving: Side::Primary,
        target: Side::Backup,
        since: Some(now),
    };
    assert_eq!(
        decide(
            &under_way,
            Sides {
                primary: &down(now, DEAD),
                backup: &up(now)
            },
            &[],
            &POLICY,
            now
        ),
        Decision::Finish
    );
    assert_eq!(
        decide(
            &under_way,
            Sides {
                primary: &up(now),
                backup: &up(now)
            },
            &[],
            &POLICY,
            now
        ),
        Decision::Finish
    );
    assert_eq!(
        decide(
            &under_way,
            Sides {
                primary: &up(now),
                backup: &down(now, DEAD)
            },
            &[],
            &POLICY,
            now
        ),
        Decision::Withdraw
    );
    let nothing_seen = SideHealth::unknown(now);
    assert!(matches!(
        decide(
            &under_way,
            Sides {
                primary: &nothing_seen,
                backup: &nothing_seen
            },
            &[],
            &POLICY,
            now
        ),
        Decision::Stay { .. }
    ));
}

fn any_side_health(start: Instant) -> impl Strategy<Value = SideHealth> {
    (0u8..4, 0u64..100).prop_map(move |(kind, age)| {
        let since = start + Duration::from_secs(age);
        match kind {
            0 => up(since),
            1 => down(since, DEAD),
            2 => doubtful(since),
            _ => SideHealth::unknown(since),
        }
    })
}

proptest! {
    #[test]
    fn the_traffic_only_ever_goes_to_a_side_that_may_serve(
        (primary, backup) in { let start = Instant::now(); (any_side_health(start), any_side_health(start)) },
        on_backup: bool, to_other: bool, age in 0u64..200,
    ) {
        let now = primary.since.max(backup.since) + Duration::from_secs(age);
        let side = if on_backup { Side::Backup } else { Side::Primary };
        let target = if to_other { side.other() } else { side };
        let routing = Routing { serving: side, target, since: Some(primary.since) };
        let of = |side| if side == Side::Primary { &primary } else { &backup };
        match decide(&routing, Sides { primary: &primary, backup: &backup }, &[], &POLICY, now) {
            Decision::Begin { to, .. } => prop_assert!(of(to).may_serve() && to != side),
            Decision::Finish => prop_assert!(of(target).may_serve()),
            Decision::Withdraw => prop_assert!(of(side).may_serve() && !of(target).may_serve()),
            Decision::Stay { look_again, .. } => prop_assert!(look_again.is_none_or(|at| at > now)),
        }
    }
}

#[test]
fn a_refused_login_on_the_serving_side_moves_nothing_and_keeps_the_side_from_being_chosen() {
    let now = Instant::now();
    let refused = down(now, Cause::LoginRefused);
    let decision = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &refused,
            backup: &up(now),
        },
        &[],
        &POLICY,
        now,
    );
    assert!(matches!(decision, Decision::Stay { .. }), "{decision:?}");
    let decision = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &down(now, DEAD),
            backup: &refused,
        },
        &[],
        &POLICY,
        now,
    );
    assert!(matches!(decision, Decision::Stay { .. }), "{decision:?}");
}

#[test]
fn another_server_behind_the_address_is_left() {
    let now = Instant::now();
    let stranger = down(now, Cause::WrongObjectServer);
    let decision = decide(
        &serving(Side::Primary, now),
        Sides {
            primary: &stranger,
            backup: &up(now),
        },
        &[],
        &POLICY,
        now,
    );
    assert!(
        matches!(decision, Decision::Begin { to: Side::Backup, .. }),
        "{decision:?}"
    );
}

#[test]
fn a_failback_waits_until_the_objectservers_are_in_step_and_a_failover_does_not() {
    let start = Instant::now();
    let now = start + Duration::from_secs(600);
    let missing = [Missing::ActingPrimary];
    let on_backup = serving(Side::Backup, start);
    let decision = decide(
        &on_backup,
        Sides {
            primary: &up(start),
            backup: &up(start),
        },
        &missing,
        &POLICY,
        now,
    );
    assert_eq!(
        decision,
        Decision::Stay {
            waiting: vec![Waiting::Resync(Missing::ActingPrimary)],
            look_again: None
        }
    );
    let decision = decide(
        &on_backup,
        Sides {
            primary: &up(start),
            backup: &up(start),
        },
        &[],
        &POLICY,
        now,
    );
    assert!(
        matches!(
            decision,
            Decision::Begin {
                kind: SwitchKind::Failback,
                ..
            }
        ),
        "{decision:?}"
    );
    let decision = decide(
        &on_backup,
        Sides {
            primary: &up(start),
            backup: &down(now, DEAD),
        },
        &missing,
        &POLICY,
        now,
    );
    assert!(
        matches!(
            decision,
            Decision::Begin {
                kind: SwitchKind::Failover,
                ..
            }
        ),
        "{decision:?}"
    );
}
