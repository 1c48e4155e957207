//! Checks that are started anew in the middle of a switch, because the spec has changed.

use super::*;

/// A failback whose selector is patched, while the EndpointSlices still show the backup.
fn patched() -> (World, world::Operator) {
    let mut world = World::settled(Side::Backup);
    world.endpoints_follow = false;
    let mut operator = world.start();
    world.pass_until(&mut operator, 70 * SECOND, |world| {
        world.selects == Selects::Side(Side::Primary)
    });
    world.forget_calls();
    (world, operator)
}

#[test]
fn withdraw_no_switch_whose_target_was_good() {
    let mut world = World::settled(Side::Backup);
    let mut operator = world.start();
    world.pass_without_calls(&mut operator, 70 * SECOND);
    let intent = world.take_call(&mut operator);
    world.restart_checks(&mut operator);
    // The backup is observed first.
    world.revive(&mut operator, Side::Backup);
    world.answer(&mut operator, intent, Fault::None);
    world.run(&mut operator);
    assert_eq!(world.calls(), ["status target=Primary"]);
    world.revive(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.assert_moved(Side::Primary, SwitchKind::Failback);
}

#[test]
fn neither_finish_nor_turn_back_a_switch_before_they_have_observed_its_target() {
    let (mut world, mut operator) = patched();
    world.restart_checks(&mut operator);
    world.revive(&mut operator, Side::Backup);
    world.pass(&mut operator, 6 * SECOND);
    assert_eq!(world.calls(), [""; 0]);
    world.revive(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.assert_moved(Side::Primary, SwitchKind::Failback);
}

#[test]
fn turn_back_a_switch_whose_target_has_failed_meanwhile() {
    let (mut world, mut operator) = patched();
    world.restart_checks(&mut operator);
    world.revive(&mut operator, Side::Backup);
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(world.calls(), ["selector Backup", "status target=Backup"]);
}

#[test]
fn turn_back_a_switch_whose_target_they_never_observe() {
    let (mut world, mut operator) = patched();
    world.restart_checks(&mut operator);
    world.revive(&mut operator, Side::Backup);
    world.pass(&mut operator, 16 * SECOND);
    assert_eq!(world.calls()[..2], ["selector Backup", "status target=Backup"]);
}
