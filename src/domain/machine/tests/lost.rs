//! Gates that are lost: when they are declared so, and when that is withdrawn.

use super::*;
use crate::{api::LostGate, domain::evidence::Link};

/// The gate of the primary was silent with sessions on it, and the traffic has left it.
fn left_a_silent_gate() -> (World, world::Operator) {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 20;
    let mut operator = world.start();
    world.run(&mut operator);
    world.forget_calls();
    world.freeze(&mut operator, Side::Primary);
    world.pass(&mut operator, 20 * SECOND);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    (world, operator)
}

fn names(lost: &[LostGate]) -> Vec<&str> {
    lost.iter().map(|gate| gate.pod.as_str()).collect()
}

#[test]
fn a_silent_gate_that_the_traffic_has_left_is_declared_with_the_switch() {
    let (world, _) = left_a_silent_gate();
    let [lost] = world.status.lost_gates.as_slice() else {
        panic!("{:?}", world.status.lost_gates);
    };
    assert_eq!(
        (lost.side, lost.pod.as_str(), lost.address.as_str(), lost.connections),
        (Side::Primary, "proxy-v-primary-1", "10.0.0.1", 20)
    );
    assert_eq!(lost.node.as_deref(), Some("node-primary"));
    let written: Vec<_> = world.calls().iter().filter(|call| call.starts_with("status")).collect();
    assert_eq!(written.len(), 2, "it costs a write of its own: {written:?}");
}

#[test]
fn a_gate_is_not_declared_lost_while_the_traffic_is_on_its_side_or_before_it_ever_was() {
    for (side, frozen) in [(Side::Primary, Side::Primary), (Side::Primary, Side::Backup)] {
        let mut world = World::settled(side);
        world.sessions[frozen] = 20;
        let mut operator = world.start();
        world.kill(&mut operator, frozen.other());
        world.freeze(&mut operator, frozen);
        world.pass(&mut operator, 60 * SECOND);
        assert_eq!(names(&world.status.lost_gates), [""; 0], "{frozen:?}");
    }
}

#[test]
fn a_gate_whose_kernel_refuses_is_not_declared_lost() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 20;
    let mut operator = world.start();
    world.run(&mut operator);
    world.end_process(&mut operator, Side::Primary);
    world.pass(&mut operator, 60 * SECOND);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_eq!(names(&world.status.lost_gates), [""; 0]);
}

#[test]
fn a_process_that_had_ended_before_its_machine_fell_silent_leaves_no_sessions() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 20;
    let mut operator = world.start();
    world.run(&mut operator);
    world.end_process(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.link(&mut operator, Side::Primary, |since| Link::Silent { since });
    world.pass(&mut operator, 60 * SECOND);
    assert_eq!(world.status.lost_gates[0].connections, 0);
    let conditions = &world.status.conditions;
    assert!(
        conditions.iter().all(|known| known.reason != "GateLost"),
        "{conditions:?}"
    );
}

#[test]
fn the_declaration_outlives_the_pod_and_the_operator_and_ends_with_its_time() {
    let (mut world, operator) = left_a_silent_gate();
    drop(operator);
    let mut operator = world.start_with(|machine| machine.with_node_agents(true));
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(SECOND));
    world.pass(&mut operator, 5 * SECOND);
    world.replace_pods(&mut operator, Side::Primary);
    world.revive(&mut operator, Side::Primary);
    world.pass(&mut operator, 50 * 60 * SECOND);
    assert_eq!(names(&world.status.lost_gates), ["proxy-v-primary-1"]);
    world.pass(&mut operator, 11 * 60 * SECOND);
    assert_eq!(names(&world.status.lost_gates), [""; 0]);
}

#[test]
fn it_is_withdrawn_when_the_gate_is_heard_again() {
    let (mut world, mut operator) = left_a_silent_gate();
    world.revive(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(names(&world.status.lost_gates), [""; 0]);
}

#[test]
fn it_is_withdrawn_when_kubelet_has_ended_the_pod() {
    let (mut world, mut operator) = left_a_silent_gate();
    world.change_pod(&mut operator, Side::Primary, |pod| pod.terminating = Some(SECOND));
    world.pass(&mut operator, SECOND);
    assert_eq!(names(&world.status.lost_gates), ["proxy-v-primary-1"]);
    world.remove_pods(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(names(&world.status.lost_gates), [""; 0]);
}

#[test]
fn it_is_withdrawn_when_another_pod_of_the_pair_has_the_address() {
    let (mut world, mut operator) = left_a_silent_gate();
    world.change_pod(&mut operator, Side::Primary, |pod| {
        pod.uid = "primary-9".to_owned();
        pod.name = "proxy-v-primary-9".to_owned();
    });
    world.run(&mut operator);
    assert_eq!(names(&world.status.lost_gates), [""; 0]);
}

#[test]
fn without_node_agents_the_pair_is_not_ready_while_sessions_hang() {
    let ready = |world: &World| {
        let conditions = &world.status.conditions;
        conditions.iter().find(|known| known.type_ == "Ready").unwrap().clone()
    };
    let (mut world, operator) = left_a_silent_gate();
    assert_eq!(ready(&world).reason, "GateLost");
    assert!(
        ready(&world).message.contains("the 20 sessions"),
        "{}",
        ready(&world).message
    );
    assert!(
        world.announced.iter().any(|event| event.contains("GateLost")),
        "{:?}",
        world.announced
    );
    drop(operator);
    let mut operator = world.start_with(|machine| machine.with_node_agents(true));
    world.run(&mut operator);
    assert_eq!(ready(&world).reason, "Serving");
}

#[test]
fn a_machine_that_no_route_leads_to_is_lost_sooner_than_one_that_is_silent() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 20;
    let mut operator = world.start();
    world.run(&mut operator);
    world.link(&mut operator, Side::Primary, |since| Link::Failed {
        since,
        fault: crate::domain::evidence::Fault::Unroutable,
        message: "no route to host".to_owned(),
    });
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_eq!(world.status.lost_gates[0].connections, 20);
}
