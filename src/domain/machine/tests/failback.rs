//! Failbacks that wait for the resync.

use super::{world::Operator, *};
use crate::domain::resync::{GatewaySession, ServerState};

/// A pair with a login, whose backup serves.
fn on_backup() -> (World, Operator) {
    let mut world = World::settled(Side::Backup);
    let mut operator = world.start();
    world.declare(
        &mut operator,
        serde_json::json!({"healthCheck": {"login": {"secretName": "check"}}, "failback": {"stableFor": "10s"}}),
    );
    (world, operator)
}

/// Both ObjectServers answer. The gateway is attached to the backup, and to the primary if `is_attached`.
fn answer(world: &mut World, operator: &mut Operator, is_attached: bool) {
    for side in Side::BOTH {
        let session = GatewaySession {
            id: "7".to_owned(),
            description: "failover_gate".to_owned(),
        };
        let is_there = is_attached || side == Side::Backup;
        let state = ServerState {
            asked: world.now.monotonic,
            answered: world.now.monotonic,
            acting_primary: Some(side == Side::Primary),
            gateways: Some(Ok(is_there.then_some(session).into_iter().collect())),
            attached_since: None,
        };
        world.feed(operator, Input::Server(side, ServerObservation::State(state)));
    }
}

/// In step for as long as it takes until the intent of the failback is being written.
fn until_intent(world: &mut World, operator: &mut Operator) {
    for _ in 0..20 {
        answer(world, operator, true);
        while operator.is_calling() {
            if matches!(world.peek_call(operator), Call::WriteStatus(status) if status.target == Some(Side::Primary)) {
                return;
            }
            world.answer_if_calling(operator, Fault::None);
        }
        world.pass_without_calls(operator, SECOND);
    }
    panic!("no failback began: {:?}", world.calls());
}

#[test]
fn a_failback_that_has_moved_nothing_is_given_up_when_the_gateway_leaves() {
    let (mut world, mut operator) = on_backup();
    until_intent(&mut world, &mut operator);
    answer(&mut world, &mut operator, false);
    world.run(&mut operator);
    assert!(
        !world.calls().contains(&"selector Primary".to_owned()),
        "{:?}",
        world.calls()
    );
    assert_eq!(
        (world.status.serving, world.status.target),
        (Some(Side::Backup), Some(Side::Backup))
    );
    assert!(
        world.announced.contains(&"SwitchWithdrawn".to_owned()),
        "{:?}",
        world.announced
    );
}

#[test]
fn a_successor_finishes_a_failback_only_when_the_objectservers_have_said_that_they_are_in_step() {
    let (mut world, mut operator) = on_backup();
    until_intent(&mut world, &mut operator);
    let call = world.take_call(&mut operator);
    world.answer(&mut operator, call, Fault::None);
    world.forget_calls();
    let mut successor = world.start();
    world.observe(&mut successor);
    world.pass(&mut successor, SECOND);
    assert_eq!(world.selects, Selects::Side(Side::Backup), "{:?}", world.calls());
    answer(&mut world, &mut successor, true);
    world.pass(&mut successor, SECOND / 2);
    answer(&mut world, &mut successor, true);
    world.run(&mut successor);
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
}

#[test]
fn a_failback_is_finished_without_a_resync_when_the_backup_fails_meanwhile() {
    let (mut world, mut operator) = on_backup();
    until_intent(&mut world, &mut operator);
    world.kill(&mut operator, Side::Backup);
    world.run(&mut operator);
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
}
