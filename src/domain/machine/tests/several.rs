//! Several gates on one side: what happens to one alone moves no traffic to the other side.

use super::*;
use crate::domain::{
    evidence::{Fault as LinkFault, Link},
    machine::tests::world::Life,
};

/// A pair whose primary serves with two gates.
fn with_two_gates() -> (World, world::Operator) {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.add_pod(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.observe(&mut operator);
    world.forget_calls();
    world.commanded.clear();
    (world, operator)
}

fn places(world: &World) -> Vec<&String> {
    let is_place = |call: &&String| call.ends_with(" out") || call.ends_with(" in");
    world.calls().iter().filter(is_place).collect()
}

/// Lets time pass, while every gate reports each half second.
fn pass_observed(world: &mut World, operator: &mut world::Operator, seconds: u32) {
    for _ in 0..seconds * 2 {
        world.pass(operator, SECOND / 2);
        world.observe(operator);
        world.run(operator);
    }
}

fn assert_nothing_moved(world: &World) {
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
    assert!(
        !world.calls().iter().any(|call| call.starts_with("selector")),
        "{:?}",
        world.calls()
    );
}

#[test]
fn a_gate_whose_process_ends_is_taken_out_at_once_and_back_in_when_it_is_good_again() {
    let (mut world, mut operator) = with_two_gates();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    world.run(&mut operator);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
    assert!(operator.machine.sides().primary.health.may_serve());
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    pass_observed(&mut world, &mut operator, 3);
    assert_eq!(places(&world), ["proxy-v-primary-1 out", "proxy-v-primary-1 in"]);
    assert_eq!(world.announced, ["GateTakenOut", "GateReturned"]);
    assert_nothing_moved(&world);
}

#[test]
fn a_gate_that_is_down_for_long_is_in_again_only_when_it_has_been_good_for_healthy_after() {
    let (mut world, mut operator) = with_two_gates();
    world.declare(
        &mut operator,
        serde_json::json!({"healthCheck": {"healthyAfter": "5s"}}),
    );
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    pass_observed(&mut world, &mut operator, 10);
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    pass_observed(&mut world, &mut operator, 4);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
    pass_observed(&mut world, &mut operator, 2);
    assert_eq!(places(&world), ["proxy-v-primary-1 out", "proxy-v-primary-1 in"]);
}

#[test]
fn a_gate_that_alone_cannot_reach_the_objectserver_is_taken_out_when_another_one_has_confirmed_that_it_can() {
    let (mut world, mut operator) = with_two_gates();
    world.sessions.primary = 5;
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Cut { since });
    world.run(&mut operator);
    assert_eq!(places(&world), [""; 0], "the other one may only know it later");
    pass_observed(&mut world, &mut operator, 1);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
    assert!(
        world.commanded.contains(&("primary-1".to_owned(), "Drop")),
        "{:?}",
        world.commanded
    );
    assert!(
        !world.commanded.iter().any(|(gate, _)| gate == "primary-2"),
        "{:?}",
        world.commanded
    );
    pass_observed(&mut world, &mut operator, 60);
    assert_nothing_moved(&world);
}

#[test]
fn an_objectserver_that_dies_is_left_and_no_gate_is_taken_out() {
    let (mut world, mut operator) = with_two_gates();
    // Of both gates one knows it first.
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Dead { since });
    world.run(&mut operator);
    world.kill(&mut operator, Side::Primary);
    pass_observed(&mut world, &mut operator, 3);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_eq!(places(&world), [""; 0]);
}

#[test]
fn a_side_is_left_when_none_of_its_gates_is_left() {
    let (mut world, mut operator) = with_two_gates();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    pass_observed(&mut world, &mut operator, 2);
    assert_nothing_moved(&world);
    world.set_gate(&mut operator, Side::Primary, 1, |since| Life::Ended { since });
    pass_observed(&mut world, &mut operator, 2);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"], "the last one stays");
}

#[test]
fn a_gate_that_returns_is_led_to_at_once_when_there_is_no_other_one() {
    let (mut world, mut operator) = with_two_gates();
    world.declare(
        &mut operator,
        serde_json::json!({"healthCheck": {"healthyAfter": "60s", "unreachableAfter": "5s"}}),
    );
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    pass_observed(&mut world, &mut operator, 10);
    world.set_gate(&mut operator, Side::Primary, 1, |since| Life::Ended { since });
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    world.run(&mut operator);
    assert_eq!(
        places(&world),
        ["proxy-v-primary-1 out", "proxy-v-primary-1 in", "proxy-v-primary-2 out"]
    );
    pass_observed(&mut world, &mut operator, 10);
    assert_nothing_moved(&world);
}

#[test]
fn a_terminating_gate_is_taken_out_and_drained_into_the_other_one() {
    let (mut world, mut operator) = with_two_gates();
    world.sessions.primary = 5;
    world.observe(&mut operator);
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(65 * SECOND));
    world.run(&mut operator);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
    assert_eq!(world.commanded, [], "the nodes may still lead to it");
    pass_observed(&mut world, &mut operator, 3);
    assert_eq!(world.commanded, [("primary-1".to_owned(), "Drain")]);
    assert_nothing_moved(&world);
}

#[test]
fn a_gate_of_an_idle_side_is_not_drained_for_its_siblings_sake_when_the_side_that_serves_is_down() {
    let mut world = World::settled(Side::Backup);
    world.set_failback(FailbackMode::Never);
    let mut operator = world.start();
    world.add_pod(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.sessions.primary = 5;
    world.kill(&mut operator, Side::Backup);
    // The API server does not answer, so that the traffic stays where it is.
    world.commanded.clear();
    world.change_pod(&mut operator, Side::Primary, |pod| {
        pod.terminating = Some(65 * SECOND);
        pod.routed = false;
    });
    world.observe(&mut operator);
    world.pass_without_calls(&mut operator, 5 * SECOND);
    let is_drained = |(gate, mode): &(String, &str)| gate == "primary-1" && *mode == "Drain";
    assert!(!world.commanded.iter().any(is_drained), "{:?}", world.commanded);
}

#[test]
fn a_silent_gate_is_taken_out_declared_lost_and_deleted() {
    let (mut world, mut operator) = with_two_gates();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Frozen { since });
    pass_observed(&mut world, &mut operator, 14);
    assert_eq!(places(&world), [""; 0], "a busy gate is not a dead one");
    pass_observed(&mut world, &mut operator, 3);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
    assert_eq!(world.status.lost_gates.len(), 1, "{:?}", world.calls());
    assert!(
        world.calls().contains(&"delete proxy-v-primary-1".to_owned()),
        "{:?}",
        world.calls()
    );
    assert_nothing_moved(&world);
}

#[test]
fn a_gate_that_cannot_be_taken_out_costs_the_side_in_the_end_and_that_is_said() {
    let (mut world, mut operator) = with_two_gates();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    for _ in 0..24 {
        while operator.is_calling() {
            let is_label = matches!(world.peek_call(&operator), Call::LabelPod { .. });
            world.answer_if_calling(&mut operator, if is_label { Fault::Refused } else { Fault::None });
        }
        world.pass_without_calls(&mut operator, SECOND / 2);
        world.observe(&mut operator);
    }
    assert!(
        world.announced.contains(&"Forbidden".to_owned()),
        "{:?}",
        world.announced
    );
    assert_eq!(world.status.serving, Some(Side::Backup), "{:?}", world.calls());
}

#[test]
fn pods_of_an_earlier_version_get_the_label_before_the_selector_asks_for_it() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    for side in Side::BOTH {
        world.change_pod(&mut operator, side, |pod| pod.routed = false);
    }
    world.selects = Selects::Other;
    let mut operator = world.start();
    world.run(&mut operator);
    assert_eq!(
        world
            .calls()
            .iter()
            .filter(|call| *call != "status")
            .collect::<Vec<_>>(),
        ["proxy-v-primary-1 in", "selector Primary", "proxy-v-backup-1 in"]
    );
}

#[test]
fn a_side_is_left_when_the_only_gate_that_serves_cannot_be_led_to() {
    let (mut world, mut operator) = with_two_gates();
    // The other one is being replaced, and its successor has no address.
    world.change_pod_at(&mut operator, Side::Primary, 1, |pod| pod.ip = None);
    world.change_pod(&mut operator, Side::Primary, |pod| pod.routed = false);
    for _ in 0..10 {
        while operator.is_calling() {
            let is_label = matches!(world.peek_call(&operator), Call::LabelPod { .. });
            world.answer_if_calling(&mut operator, if is_label { Fault::Refused } else { Fault::None });
        }
        world.pass_without_calls(&mut operator, SECOND / 2);
        world.observe(&mut operator);
    }
    assert_eq!(world.status.serving, Some(Side::Backup), "{:?}", world.calls());
}

#[test]
fn that_there_is_no_way_to_the_machine_of_a_gate_must_last_and_be_confirmed() {
    let (mut world, mut operator) = with_two_gates();
    world.declare(
        &mut operator,
        serde_json::json!({"healthCheck": {"unreachableAfter": "5s"}}),
    );
    world.link(&mut operator, Side::Primary, |since| Link::Failed {
        since,
        fault: LinkFault::Unroutable,
        message: "no route to host".to_owned(),
    });
    for _ in 0..8 {
        world.pass(&mut operator, SECOND / 2);
        world.observe_pod(&mut operator, Side::Primary, 1);
        world.run(&mut operator);
    }
    assert_eq!(places(&world), [""; 0]);
    assert_eq!(world.status.lost_gates, []);
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(places(&world), [""; 0], "the other one has not been asked since");
    world.observe_pod(&mut operator, Side::Primary, 1);
    world.run(&mut operator);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
}

#[test]
fn a_gate_whose_label_was_written_with_an_unknown_outcome_is_not_relied_on() {
    let (mut world, mut operator) = with_two_gates();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    world.answer_if_calling(&mut operator, Fault::Overloaded(SECOND));
    // What was written may still come: it may be led to, or not.
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    world.set_gate(&mut operator, Side::Primary, 1, |since| Life::Ended { since });
    pass_observed(&mut world, &mut operator, 3);
    assert_eq!(places(&world), ["proxy-v-primary-1 in", "proxy-v-primary-2 out"]);
}

#[test]
fn a_port_that_was_closed_before_does_not_show_that_a_command_to_drop_has_arrived() {
    let (mut world, mut operator) = with_two_gates();
    world.sessions.primary = 5;
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Cut { since });
    world.run(&mut operator);
    world.pass(&mut operator, SECOND / 2);
    world.observe_pod(&mut operator, Side::Primary, 1);
    world.run(&mut operator);
    assert!(
        world.commanded.contains(&("primary-1".to_owned(), "Drop")),
        "{:?}",
        world.commanded
    );
    world.observe_pod(&mut operator, Side::Primary, 0);
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    pass_observed(&mut world, &mut operator, 5);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
}

#[test]
fn how_long_a_gate_has_had_its_login_refused_says_nothing_about_a_failure_that_follows() {
    let (mut world, mut operator) = with_two_gates();
    let uid = "primary-1".to_owned();
    let refused = |since| Link::Failed {
        since,
        fault: LinkFault::Login,
        message: "refused".to_owned(),
    };
    let since = world.now.monotonic;
    let path = Input::Gate(Side::Primary, uid, GateObservation::Path(refused(since)));
    world.feed(&mut operator, path);
    world.pass(&mut operator, 30 * SECOND);
    world.observe_pod(&mut operator, Side::Primary, 1);
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Ended { since });
    world.run(&mut operator);
    assert_eq!(places(&world), ["proxy-v-primary-1 out"]);
    assert_nothing_moved(&world);
}

#[test]
fn a_gate_that_learns_later_than_its_sibling_that_their_objectserver_is_back_stays_in() {
    let mut world = World::settled(Side::Backup);
    world.set_failback(FailbackMode::Never);
    let mut operator = world.start();
    world.add_pod(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.kill(&mut operator, Side::Primary);
    world.pass(&mut operator, 5 * SECOND);
    world.set_gate(&mut operator, Side::Primary, 1, |_| Life::Alive);
    world.run(&mut operator);
    assert_eq!(places(&world), [""; 0], "it may only know it sooner");
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    pass_observed(&mut world, &mut operator, 5);
    assert_eq!(places(&world), [""; 0]);
}
