//! A second pair of eyes before a switch on silence.

use super::{
    world::{Life, Operator},
    *,
};
use crate::domain::evidence::Link;

/// A pair with one gate on each side, whose primary serves.
fn settled() -> (World, Operator) {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    (world, operator)
}

/// Lets time pass, while everything is observed each 100 ms.
fn pass(world: &mut World, operator: &mut Operator, millis: u64) {
    for _ in 0..millis / 100 {
        world.pass(operator, SECOND / 10);
        world.observe(operator);
        world.run(operator);
    }
}

#[test]
fn a_machine_of_which_nobody_sees_anything_is_given_up_after_lost_after() {
    let (mut world, mut operator) = settled();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Lost { since });
    pass(&mut world, &mut operator, 900);
    assert_eq!(world.status.serving, Some(Side::Primary));
    pass(&mut world, &mut operator, 200);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    assert_eq!(world.status.lost_gates.len(), 1);
}

#[test]
fn a_machine_that_still_acknowledges_has_unresponsive_after() {
    let (mut world, mut operator) = settled();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Frozen { since });
    pass(&mut world, &mut operator, 14_900);
    assert_eq!(world.status.serving, Some(Side::Primary));
    pass(&mut world, &mut operator, 200);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
}

#[test]
fn while_no_other_gate_can_say_silence_has_unresponsive_after() {
    let (mut world, mut operator) = settled();
    world.gates_look = false;
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Lost { since });
    pass(&mut world, &mut operator, 14_900);
    assert_eq!(world.status.serving, Some(Side::Primary));
    pass(&mut world, &mut operator, 200);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
}

#[test]
fn a_gate_that_another_one_sees_serving_goes_on_and_that_is_said_within_three_seconds() {
    let (mut world, mut operator) = settled();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Hidden { since });
    pass(&mut world, &mut operator, 3000);
    assert_eq!(world.announced, ["ViewsDiffer"]);
    let protected = world
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Protected");
    assert_eq!(
        protected.map(|condition| condition.reason.as_str()),
        Some("ViewsDiffer")
    );
    pass(&mut world, &mut operator, 57_000);
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
    assert_eq!(world.status.lost_gates, []);
    // It fails, and the operator still does not see it.
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Frozen { since });
    pass(&mut world, &mut operator, 200);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
}

#[test]
fn an_answer_to_an_earlier_question_says_nothing() {
    let (mut world, mut operator) = settled();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Lost { since });
    pass(&mut world, &mut operator, 500);
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    pass(&mut world, &mut operator, 100);
    // Nobody looks any more, and what was seen before is about another silence.
    world.gates_look = false;
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Lost { since });
    pass(&mut world, &mut operator, 5000);
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
}

#[test]
fn a_lost_gate_costs_its_side_nothing_while_a_sibling_serves() {
    let (mut world, mut operator) = settled();
    world.add_pod(&mut operator, Side::Primary);
    world.observe(&mut operator);
    world.run(&mut operator);
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Lost { since });
    pass(&mut world, &mut operator, 1200);
    assert!(
        world.calls().contains(&"proxy-v-primary-1 out".to_owned()),
        "{:?}",
        world.calls()
    );
    assert_eq!(world.status.lost_gates.len(), 1, "{:?}", world.calls());
    pass(&mut world, &mut operator, 30_000);
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
}

#[test]
fn a_path_that_was_silent_with_its_gate_is_not_broken_when_that_is_heard_again() {
    let (mut world, mut operator) = settled();
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Hidden { since });
    pass(&mut world, &mut operator, 20_000);
    // The connection of the path check is made again a little later.
    world.link(&mut operator, Side::Primary, |_| Link::Answering);
    world.pass(&mut operator, SECOND);
    world.set_gate(&mut operator, Side::Primary, 0, |_| Life::Alive);
    pass(&mut world, &mut operator, 5000);
    assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
    assert!(world.status.history.is_empty());
}

#[test]
fn the_questions_of_a_successor_are_others() {
    let (mut world, mut operator) = settled();
    let asked = |world: &World| world.question("primary-1");
    world.set_gate(&mut operator, Side::Primary, 0, |since| Life::Hidden { since });
    let before = asked(&world);
    world.now = world.later(SECOND);
    let mut successor = world.start();
    world.observe(&mut successor);
    assert_ne!(before, 0);
    assert!(asked(&world) > before, "{} after {before}", asked(&world));
}
