//! Pods that end, and what follows for their gates: deletions, drains, and the end of both sides at once.

use serde_json::json;

use super::*;
use crate::protocol::Request;

fn deletions(world: &World) -> Vec<&String> {
    world.calls().iter().filter(|call| call.starts_with("delete")).collect()
}

/// Lets time pass until a pod is to be deleted. Labels are refused, and every other call succeeds.
fn until_deletion(world: &mut World, operator: &mut world::Operator) {
    while !operator.is_calling() || !matches!(world.peek_call(operator), Call::DeletePod { .. }) {
        let fault = match operator.is_calling() && matches!(world.peek_call(operator), Call::LabelPod { .. }) {
            true => Fault::Refused,
            false => Fault::None,
        };
        world.answer_if_calling(operator, fault);
        world.pass_without_calls(operator, SECOND / 10);
    }
}

/// The node of the primary's pod is lost: the pod is deleted and stays, and its successor runs on another node.
fn with_a_lost_node() -> (World, world::Operator) {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.freeze(&mut operator, Side::Primary);
    world.pass(&mut operator, 20 * SECOND);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(SECOND));
    world.add_pod(&mut operator, Side::Primary);
    world.revive(&mut operator, Side::Primary);
    world.forget_calls();
    (world, operator)
}

#[test]
fn a_dead_pod_that_is_still_an_endpoint_is_taken_out_and_deleted() {
    let (mut world, mut operator) = with_a_lost_node();
    world.run(&mut operator);
    assert!(
        world.calls().contains(&"proxy-v-primary-1 out".to_owned()),
        "{:?}",
        world.calls()
    );
    assert_eq!(operator.machine.sides().primary.health.health, Health::Up);
    world.pass(&mut operator, 15 * SECOND);
    assert_eq!(deletions(&world), ["delete proxy-v-primary-1 without grace"]);
    world.pass(&mut operator, 55 * SECOND);
    world.assert_moved(Side::Primary, SwitchKind::Failback);
}

#[test]
fn a_dead_pod_that_cannot_be_taken_out_keeps_its_side_from_serving_until_it_is_deleted() {
    let (mut world, mut operator) = with_a_lost_node();
    until_deletion(&mut world, &mut operator);
    let primary = &operator.machine.sides().primary;
    assert!(!primary.health.may_serve(), "{:?}", primary.health);
    world.run(&mut operator);
    assert_eq!(operator.machine.sides().primary.health.health, Health::Up);
}

#[test]
fn while_the_dead_pod_cannot_be_deleted_nothing_is_switched_to_its_side() {
    let (mut world, mut operator) = with_a_lost_node();
    let mut waits = Vec::new();
    until_deletion(&mut world, &mut operator);
    for _ in 0..7 {
        let call = world.take_call(&mut operator);
        let asked = world.now.monotonic;
        world.answer(&mut operator, call, Fault::Refused);
        until_deletion(&mut world, &mut operator);
        waits.push((world.now.monotonic - asked).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(world.selects, Selects::Side(Side::Backup));
}

#[test]
fn a_dead_pod_on_the_serving_side_is_taken_out_and_nothing_moves() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.add_pod(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(
        operator.machine.sides().primary.health.health,
        Health::Up,
        "two gates that work"
    );
    world.forget_calls();
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(SECOND));
    world.pass(&mut operator, 20 * SECOND);
    let (place, deletion) = ("proxy-v-primary-1 out", "delete proxy-v-primary-1 without grace");
    assert_eq!(world.calls(), [place, "status", deletion, "status"]);
    assert_eq!(world.status.serving, Some(Side::Primary));
}

#[test]
fn the_end_of_a_pod_is_measured_from_when_it_was_seen_and_not_by_two_clocks() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    // The wall clock of the operator is a day ahead of that of the API server.
    world.now.wall += jiff::SignedDuration::from_hours(24);
    world.terminate(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Switchover);
    world.add_pod(&mut operator, Side::Primary);
    world.pass(&mut operator, 64 * SECOND);
    assert_eq!(deletions(&world), [""; 0]);
    world.pass(&mut operator, 12 * SECOND);
    assert_eq!(deletions(&world), ["delete proxy-v-primary-1 without grace"]);
}

#[test]
fn a_pod_that_is_deleted_with_less_time_is_drained_in_that_time() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 5;
    let mut operator = world.start();
    world.run(&mut operator);
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(10 * SECOND));
    world.pass(&mut operator, 5 * SECOND);
    let drains: Vec<_> = world
        .commands
        .iter()
        .filter_map(|(side, request)| match request {
            Request::Drain { grace_period_ms, .. } => Some((*side, *grace_period_ms)),
            _ => None,
        })
        .collect();
    // 10 s without the 1.5 s until the drain, and without the 2 s that the gate needs to end.
    assert_eq!(drains, [(Side::Primary, 6500)]);
}

#[test]
fn a_pod_that_is_deleted_again_with_less_time_is_drained_faster() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 5;
    let mut operator = world.start();
    world.run(&mut operator);
    world.terminate(&mut operator, Side::Primary);
    world.pass(&mut operator, 5 * SECOND);
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(4 * SECOND));
    world.pass(&mut operator, SECOND);
    let drain = |millis| {
        let request = Request::Drain {
            grace_period_ms: millis,
            connections_per_second: 100,
        };
        (Side::Primary, request)
    };
    let drains = world
        .commands
        .iter()
        .filter(|(_, request)| matches!(request, Request::Drain { .. }));
    assert_eq!(drains.cloned().collect::<Vec<_>>(), [drain(30_000), drain(2000)]);
}

#[test]
fn an_edited_drain_acts_on_one_under_way() {
    let mut world = World::settled(Side::Backup);
    world.sessions.primary = 5;
    let mut operator = world.start();
    world.pass(&mut operator, 3 * SECOND);
    world.commands.clear();
    world.declare(
        &mut operator,
        json!({"failback": {"drain": {"gracePeriod": "5s", "connectionsPerSecond": 7}}}),
    );
    world.run(&mut operator);
    let request = Request::Drain {
        grace_period_ms: 5000,
        connections_per_second: 7,
    };
    assert_eq!(world.commands, [(Side::Primary, request)]);
}

#[test]
fn when_both_sides_terminate_the_idle_one_leaves_at_once_and_its_successor_takes_over() {
    // The second one is deleted while the intent to switch to it is being written, which fails or succeeds.
    for fault in [Fault::Refused, Fault::None] {
        let mut world = World::settled(Side::Primary);
        world.sessions.primary = 5;
        let mut operator = world.start();
        world.run(&mut operator);
        world.terminate(&mut operator, Side::Primary);
        let call = world.take_call(&mut operator);
        world.terminate(&mut operator, Side::Backup);
        world.answer(&mut operator, call, fault);
        world.run(&mut operator);
        assert_eq!(world.selects, Selects::Side(Side::Primary), "{fault:?}");
        let modes = (world.mode(Side::Primary), world.mode(Side::Backup));
        assert_eq!(modes, (Some("Admit"), Some("Drain")), "{fault:?}");
        let ready = world.status.conditions.iter().find(|known| known.type_ == "Ready");
        let ready = ready.unwrap();
        assert_eq!(ready.status, "False", "{fault:?}");
        assert!(
            ready.message.contains("the backup side leaves first"),
            "{fault:?}: {}",
            ready.message
        );
        assert_eq!(world.announced, ["BothTerminating"], "{fault:?}");
        world.pass(&mut operator, 5 * SECOND);
        world.replace_pods(&mut operator, Side::Backup);
        world.run(&mut operator);
        world.assert_moved(Side::Backup, SwitchKind::Switchover);
        world.pass(&mut operator, 2 * SECOND);
        assert_eq!(world.mode(Side::Primary), Some("Drain"), "{fault:?}");
    }
}

#[test]
fn when_both_sides_terminate_the_idle_one_keeps_its_probes_if_the_other_cannot_serve() {
    let mut world = World::settled(Side::Primary);
    world.sessions.backup = 5;
    let mut operator = world.start();
    world.run(&mut operator);
    world.terminate(&mut operator, Side::Primary);
    world.terminate(&mut operator, Side::Backup);
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(world.mode(Side::Backup), Some("Admit"));
}

#[test]
fn sessions_of_a_process_that_is_gone_are_not_counted_and_its_successor_is_not_told_to_drop_them() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 412;
    let mut operator = world.start();
    world.run(&mut operator);
    assert_eq!(world.status.connections, 412);
    world.end_process(&mut operator, Side::Primary);
    world.pass(&mut operator, 3 * SECOND);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_eq!(world.status.connections, 0);
    assert_eq!(world.mode(Side::Primary), Some("Admit"));
}

#[test]
fn the_side_that_was_left_is_drained_when_the_service_is_seen_to_lead_elsewhere() {
    let (old, new) = ("PROXY_P", "PROXY_B");
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 5;
    let mut operator = world.start();
    world.run(&mut operator);
    world.terminate(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Switchover);
    assert!(world.watches_route);
    let mut see = |world: &mut World, gate: &str| {
        world.feed(&mut operator, Input::Route(Some(gate.to_owned())));
        world.pass(&mut operator, SECOND / 4);
    };
    for _ in 0..40 {
        see(&mut world, old);
        assert_eq!(world.mode(Side::Primary), Some("Admit"));
    }
    see(&mut world, new);
    see(&mut world, new);
    assert_eq!(world.mode(Side::Primary), Some("Admit"));
    see(&mut world, new);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
    assert!(!world.watches_route);
}

#[test]
fn the_declared_delay_of_a_drain_is_kept_where_the_route_cannot_be_seen() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 5;
    let mut operator = world.start();
    world.declare(&mut operator, json!({"failback": {"drain": {"delay": "3m"}}}));
    world.run(&mut operator);
    world.change_pod(&mut operator, Side::Primary, |pod| {
        pod.terminating = Some(Duration::from_secs(425));
    });
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Switchover);
    world.pass(&mut operator, 179 * SECOND);
    assert_eq!(world.mode(Side::Primary), Some("Admit"));
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
}

#[test]
fn a_drain_waits_for_the_nodes_also_after_a_selector_that_somebody_else_has_changed() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.sessions.backup = 3;
    world.observe(&mut operator);
    world.selects = Selects::Side(Side::Backup);
    world.feed(&mut operator, Input::Service(Selects::Side(Side::Backup)));
    world.pass(&mut operator, SECOND);
    assert_eq!(world.selects, Selects::Side(Side::Primary), "{:?}", world.calls());
    assert_ne!(
        world.mode(Side::Backup),
        Some("Drain"),
        "probes were led there until just now"
    );
    world.pass(&mut operator, SECOND);
    assert_eq!(world.mode(Side::Backup), Some("Drain"));
}
