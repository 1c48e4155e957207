//! What is wrong in operation is in a condition and in one Event, from when it begins until it ends.

use serde_json::json;

use super::*;
use crate::domain::evidence::Link;

/// Status, reason and message of a condition in the stored status.
fn condition(world: &World, type_: &str) -> (String, String, String) {
    let found = world.status.conditions.iter().find(|known| known.type_ == type_);
    let found = found.unwrap_or_else(|| panic!("no {type_}: {:?}", world.status));
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn assert_condition(world: &World, type_: &str, status: &str, reason: &str) {
    let (found_status, found_reason, message) = condition(world, type_);
    assert_eq!(
        (found_status.as_str(), found_reason.as_str()),
        (status, reason),
        "{message}"
    );
}

#[test]
fn a_rejected_command_is_said_at_once_and_given_again_until_it_is_accepted() {
    for side in Side::BOTH {
        let mut world = World::settled(Side::Primary);
        let mut operator = world.start();
        world.run(&mut operator);
        world.reject(&mut operator, side, "term 1 of op-1 is over");
        world.run(&mut operator);
        assert_condition(&world, "Ready", "False", "CommandRejected");
        assert!(condition(&world, "Ready").2.contains("term 1 of op-1 is over"));
        assert_eq!(world.announced, ["CommandRejected"]);
        world.commands.clear();
        world.pass(&mut operator, 20 * SECOND);
        let again = world.commands.iter().filter(|(of, _)| *of == side).count();
        assert!((3..=6).contains(&again), "{again} times in 20 s");
        // It is rejected again; then somebody has taken away what was in the way.
        world.reject(&mut operator, side, "term 1 of op-1 is over");
        world.answer_ping(&mut operator, side);
        world.run(&mut operator);
        assert_condition(&world, "Ready", "False", "CommandRejected");
        world.pass(&mut operator, 31 * SECOND);
        for _ in 0..3 {
            world.answer_ping(&mut operator, side);
        }
        world.run(&mut operator);
        assert_condition(&world, "Ready", "True", "Serving");
        assert_eq!(world.announced, ["CommandRejected"], "once");
        world.commands.clear();
        world.pass(&mut operator, 60 * SECOND);
        assert!(world.commands.is_empty(), "{:?}", world.commands);
    }
}

#[test]
fn a_gate_that_is_terminating_may_reject_a_command() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.terminate(&mut operator, Side::Backup);
    world.reject(&mut operator, Side::Backup, "the gate is terminating");
    world.run(&mut operator);
    assert_condition(&world, "Ready", "True", "Serving");
    assert_eq!(world.announced, [""; 0]);
}

#[test]
fn a_serving_gate_whose_port_is_closed_is_not_ready_before_it_counts_as_down() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.declare(&mut operator, json!({"healthCheck": {"unreachableAfter": "10s"}}));
    world.run(&mut operator);
    world.close_port(&mut operator, Side::Primary, Some("no certificate"));
    world.pass(&mut operator, 2 * SECOND);
    assert_condition(&world, "Ready", "False", "PortClosed");
    assert!(condition(&world, "Ready").2.contains("no certificate"));
    assert_eq!(world.announced, ["PortClosed"]);
    world.close_port(&mut operator, Side::Primary, None);
    world.run(&mut operator);
    assert_condition(&world, "Ready", "True", "Serving");
}

#[test]
fn an_idle_gate_whose_port_is_closed_protects_nobody() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.declare(&mut operator, json!({"healthCheck": {"unreachableAfter": "10s"}}));
    world.run(&mut operator);
    world.close_port(&mut operator, Side::Backup, Some("no certificate"));
    world.pass(&mut operator, 2 * SECOND);
    assert_condition(&world, "Ready", "True", "Serving");
    assert_condition(&world, "Protected", "False", "PortClosed");
    world.pass(&mut operator, 10 * SECOND);
    assert_condition(&world, "Protected", "False", "OneSideOnly");
}

/// The gate of the backup has drained, and is commanded to admit probes again.
fn admitted_again() -> (World, world::Operator) {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.sessions.backup = 3;
    world.observe(&mut operator);
    world.pass(&mut operator, 3 * SECOND);
    assert_eq!(world.mode(Side::Backup), Some("Drain"));
    world.report_drained(&mut operator, Side::Backup);
    assert_eq!(world.mode(Side::Backup), Some("Admit"));
    (world, operator)
}

#[test]
fn what_a_gate_said_before_it_was_commanded_to_admit_is_no_refusal() {
    let (mut world, mut operator) = admitted_again();
    world.link(&mut operator, Side::Backup, |since| Link::Silent { since });
    world.pass(&mut operator, 10 * SECOND);
    let health = &operator.machine.sides().backup.health;
    assert_eq!((health.health, health.cause), (Health::Up, None));
    assert_eq!(world.announced, [""; 0]);
    world.pass(&mut operator, 10 * SECOND);
    let health = &operator.machine.sides().backup.health;
    assert_eq!(health.cause, Some(Cause::ProxyUnresponsive));
}

#[test]
fn a_gate_that_accepts_nobody_after_it_was_commanded_to_admit_refuses() {
    let (mut world, mut operator) = admitted_again();
    world.report_drained(&mut operator, Side::Backup);
    world.pass(&mut operator, 2 * SECOND);
    let health = &operator.machine.sides().backup.health;
    assert_eq!(health.cause, Some(Cause::ProxyUnreachable));
    assert_eq!(world.announced[0], "PortClosed");
}

#[test]
fn probes_that_stay_on_the_idle_side_longer_than_a_drain_takes_are_said() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.sessions.backup = 3;
    world.observe(&mut operator);
    // 1.5 s until the drain, 30 s for it, and a margin of 5 s.
    world.pass(&mut operator, 36 * SECOND);
    assert_condition(&world, "Ready", "True", "Serving");
    world.pass(&mut operator, SECOND);
    assert_condition(&world, "Ready", "False", "ProbesLeftBehind");
    assert_eq!(world.announced, ["ProbesLeftBehind"]);
    let mut operator = world.start();
    world.pass(&mut operator, SECOND);
    assert_condition(&world, "Ready", "False", "ProbesLeftBehind");
    world.sessions.backup = 0;
    world.observe(&mut operator);
    world.pass(&mut operator, 11 * SECOND);
    assert_condition(&world, "Ready", "True", "Serving");
}

#[test]
fn probes_that_left_in_time_are_not_said_to_be_there() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.sessions.backup = 3;
    world.observe(&mut operator);
    world.pass(&mut operator, 30 * SECOND);
    world.sessions.backup = 0;
    world.observe(&mut operator);
    // The time for a drain and its margin is over while the side is still remembered to have been occupied.
    world.pass(&mut operator, 20 * SECOND);
    assert_condition(&world, "Ready", "True", "Serving");
    assert_eq!(world.announced, [""; 0]);
}

#[test]
fn a_probe_that_is_closed_and_comes_back_is_still_the_same_one() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    for _ in 0..10 {
        for sessions in [1, 0] {
            world.sessions.backup = sessions;
            world.observe(&mut operator);
            world.pass(&mut operator, 2 * SECOND);
        }
    }
    assert_condition(&world, "Ready", "False", "ProbesLeftBehind");
}

#[test]
fn probes_that_nobody_else_could_serve_are_not_left_behind() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.sessions.backup = 3;
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    world.pass(&mut operator, 100 * SECOND);
    assert_condition(&world, "Ready", "True", "Serving");
}

#[test]
fn both_proxies_on_one_node_do_not_protect_each_other() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    assert_condition(&world, "Protected", "True", "BothUp");
    world.change_pod(&mut operator, Side::Backup, |pod| {
        pod.node = Some("node-primary".to_owned());
    });
    world.run(&mut operator);
    assert_condition(&world, "Protected", "False", "SameNode");
    assert!(condition(&world, "Protected").2.contains("node-primary"));
    assert_condition(&world, "Ready", "True", "Serving");
    assert_eq!(world.announced, ["SameNode"]);
}

#[test]
fn a_side_that_stays_down_is_announced_and_so_is_a_pair_that_nobody_serves() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.kill(&mut operator, Side::Backup);
    world.pass(&mut operator, 29 * SECOND);
    assert_eq!(world.announced, [""; 0]);
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(world.announced, ["OneSideOnly"]);
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(world.announced, ["OneSideOnly", "ObjectServerUnreachable"]);
}

#[test]
fn a_drain_of_a_node_that_waits_for_the_other_side_is_in_status() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Backup);
    world.run(&mut operator);
    assert_condition(&world, "Protected", "False", "OneSideOnly");
    let message = condition(&world, "Protected").2;
    assert!(
        message.contains("PodDisruptionBudget proxy-v lets a drain of the node wait"),
        "{message}"
    );
}

#[test]
fn what_keeps_the_pair_from_being_as_declared_is_announced_once() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    for message in ["Service proxy-v exists", "Service proxy-v exists, still"] {
        let problem = Problem {
            reason: Reason::NameTaken,
            message: message.to_owned(),
        };
        world.feed(&mut operator, Input::Problem(Some(problem)));
        world.run(&mut operator);
    }
    assert_condition(&world, "Ready", "False", "NameTaken");
    assert_eq!(world.announced, ["NameTaken"]);
}

#[test]
fn sessions_that_come_and_go_on_the_idle_side_are_written_as_counts_are() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.forget_calls();
    world.commands.clear();
    for knock in 0..40 {
        world.sessions.backup = knock % 2;
        world.observe(&mut operator);
        world.pass(&mut operator, SECOND / 4);
    }
    assert!(world.calls().len() <= 6, "{:?}", world.calls());
    assert!(world.commands.is_empty(), "no drain for a knock: {:?}", world.commands);
}

#[test]
fn a_service_that_cannot_be_switched_is_said_and_tried_again() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    let mut refused = 0;
    while refused < 6 {
        let call = world.take_call(&mut operator);
        let is_patch = matches!(call, Call::PatchSelector(_));
        refused += usize::from(is_patch);
        world.answer(&mut operator, call, if is_patch { Fault::Refused } else { Fault::None });
        while !operator.is_calling() {
            world.pass_without_calls(&mut operator, SECOND);
        }
    }
    assert_condition(&world, "Ready", "False", "Switching");
    assert!(
        condition(&world, "Ready").2.contains("cannot be patched"),
        "{:?}",
        world.status
    );
    assert_eq!(world.announced, ["Forbidden"]);
    let writes = world.calls().iter().filter(|call| **call == "status").count();
    assert_eq!(writes, 1, "{:?}", world.calls());
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_condition(&world, "Ready", "True", "Serving");
}

#[test]
fn a_selector_that_need_not_be_patched_any_more_is_not_said_to_be_refused() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.kill(&mut operator, Side::Primary);
    let refuse = |world: &mut World, operator: &mut world::Operator| {
        while operator.is_calling() {
            let call = world.take_call(operator);
            let fault = match call {
                Call::PatchSelector(_) => Fault::Refused,
                _ => Fault::None,
            };
            world.answer(operator, call, fault);
        }
    };
    for _ in 0..50 {
        refuse(&mut world, &mut operator);
        world.pass_without_calls(&mut operator, SECOND / 10);
    }
    assert!(condition(&world, "Ready").2.contains("cannot be patched"));
    // The target dies and the primary is back: the switch is withdrawn.
    world.kill(&mut operator, Side::Backup);
    world.revive(&mut operator, Side::Primary);
    for _ in 0..100 {
        refuse(&mut world, &mut operator);
        world.pass_without_calls(&mut operator, SECOND / 10);
    }
    assert_eq!(world.status.target, Some(Side::Primary));
    assert_condition(&world, "Ready", "True", "Serving");
}
