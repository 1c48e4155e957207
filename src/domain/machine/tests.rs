//! The machine against a world of its own: what the API server holds, who is alive, and what the gates were commanded.

mod defects;
mod failback;
mod looks;
mod lost;
mod pods;
mod restarts;
mod several;
mod world;

use std::time::Duration;

use self::world::{Fault, Moment, World};
use super::*;
use crate::api::{Cause, FailbackMode, Health, Reason, SwitchKind};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn intent_patch_endpoints_and_fact_follow_each_other() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(
        world.calls(),
        ["status target=Backup", "selector Backup", "status serving=Backup"]
    );
    let switch = &world.status.history[0];
    assert_eq!(
        (switch.kind, switch.to, switch.cause),
        (SwitchKind::Failover, Side::Backup, Some(Cause::ObjectServerUnreachable))
    );
    assert_eq!(world.announced, ["FailoverObjectServerUnreachable"]);
}

#[test]
fn a_settled_pair_whose_status_says_all_makes_no_call() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.forget_calls();
    world.observe(&mut operator);
    world.run(&mut operator);
    world.pass(&mut operator, 60 * SECOND);
    assert_eq!(world.calls(), [""; 0]);
}

#[test]
fn a_target_that_dies_while_the_intent_is_being_written_gets_no_traffic() {
    let mut world = World::settled(Side::Backup);
    let mut operator = world.start();
    world.pass_without_calls(&mut operator, 70 * SECOND);
    // The write of the intent is under way; its answer comes after the primary has died again.
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert!(
        !world.calls().contains(&"selector Primary".to_owned()),
        "{:?}",
        world.calls()
    );
    assert_eq!(world.selects, Selects::Side(Side::Backup));
    assert_eq!(
        (world.status.serving, world.status.target),
        (Some(Side::Backup), Some(Side::Backup))
    );
    assert_eq!(world.announced, ["SwitchWithdrawn"]);
}

#[test]
fn a_target_that_dies_after_the_patch_is_left_again_before_the_switch_is_recorded() {
    let mut world = World::settled(Side::Primary);
    world.endpoints_follow = false;
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(world.selects, Selects::Side(Side::Backup));
    world.revive(&mut operator, Side::Primary);
    world.kill(&mut operator, Side::Backup);
    world.run(&mut operator);
    assert_eq!(world.selects, Selects::Side(Side::Primary));
    assert_eq!(
        (world.status.serving, world.status.target),
        (Some(Side::Primary), Some(Side::Primary))
    );
    assert!(world.status.history.is_empty());
}

#[test]
fn a_switch_goes_on_when_the_endpoints_do_not_follow_in_time() {
    let mut world = World::settled(Side::Primary);
    world.endpoints_follow = false;
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(world.status.serving, Some(Side::Primary));
    world.pass(&mut operator, 5 * SECOND);
    assert_eq!(world.status.serving, Some(Side::Backup));
}

#[test]
fn with_both_sides_down_an_intent_waits_for_whichever_comes_back() {
    for back in Side::BOTH {
        let mut world = World::settled(Side::Primary);
        let mut operator = world.start();
        world.kill(&mut operator, Side::Primary);
        let call = world.take_call(&mut operator);
        world.kill(&mut operator, Side::Backup);
        world.answer(&mut operator, call, Fault::None);
        world.run(&mut operator);
        assert_eq!(
            world.selects,
            Selects::Side(Side::Primary),
            "nothing moves with both down"
        );
        world.revive(&mut operator, back);
        world.run(&mut operator);
        assert_eq!((world.status.serving, world.selects), (Some(back), Selects::Side(back)));
    }
}

#[test]
fn commands_to_gates_do_not_wait_for_a_call() {
    let mut world = World::settled(Side::Backup);
    world.sessions.primary = 3;
    let mut operator = world.start();
    world.run(&mut operator);
    // A write that never answers is under way.
    world.kill(&mut operator, Side::Backup);
    let _call = world.take_call(&mut operator);
    world.revive(&mut operator, Side::Backup);
    assert!(operator.is_calling());
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
}

#[test]
fn a_target_is_not_told_to_admit_before_its_intent_is_stored() {
    let mut world = World::settled(Side::Backup);
    world.sessions.primary = 3;
    let mut operator = world.start();
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
    world.kill(&mut operator, Side::Backup);
    let call = world.take_call(&mut operator);
    world.revive(&mut operator, Side::Backup);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
    world.kill(&mut operator, Side::Backup);
    world.answer(&mut operator, call, Fault::None);
    assert_eq!(world.mode(Side::Primary), Some("Admit"));
}

#[test]
fn nothing_is_drained_before_the_fact_is_stored() {
    let mut world = World::settled(Side::Primary);
    world.sessions.primary = 5;
    let mut operator = world.start();
    world.run(&mut operator);
    world.terminate(&mut operator, Side::Primary);
    for _ in 0..3 {
        world.pass_without_calls(&mut operator, 2 * SECOND);
        assert_ne!(world.mode(Side::Primary), Some("Drain"));
        let call = world.take_call(&mut operator);
        world.answer(&mut operator, call, Fault::None);
    }
    assert_eq!(world.status.serving, Some(Side::Backup));
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
}

#[test]
fn a_write_of_unknown_outcome_is_followed_by_reads_until_one_succeeds_and_by_nothing_else() {
    for nth in 0..3 {
        let mut world = World::settled(Side::Primary);
        let mut operator = world.start();
        world.kill(&mut operator, Side::Primary);
        for _ in 0..nth {
            let call = world.take_call(&mut operator);
            world.answer(&mut operator, call, Fault::None);
        }
        let call = world.take_call(&mut operator);
        world.answer(&mut operator, call, Fault::AnswerLost);
        let before = (world.status.clone(), world.selects);
        for _ in 0..5 {
            world.pass_without_calls(&mut operator, 3 * SECOND);
            let read = world.take_call(&mut operator);
            assert_eq!(read, Call::Read, "after write {nth}");
            world.answer(&mut operator, read, Fault::Refused);
        }
        assert_eq!((&world.status, world.selects), (&before.0, before.1));
        world.pass(&mut operator, 3 * SECOND);
        world.assert_moved(Side::Backup, SwitchKind::Failover);
    }
}

#[test]
fn a_switch_whose_last_answer_was_lost_is_announced_once() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    for _ in 0..2 {
        let call = world.take_call(&mut operator);
        world.answer(&mut operator, call, Fault::None);
    }
    let fact = world.take_call(&mut operator);
    world.answer(&mut operator, fact, Fault::AnswerLost);
    world.run(&mut operator);
    assert_eq!(world.announced, ["FailoverObjectServerUnreachable"]);
    assert_eq!(world.switched, 1);
    assert_eq!(world.status.history.len(), 1);
}

#[test]
fn a_refused_intent_moves_nothing_and_is_decided_anew() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    let intent = world.take_call(&mut operator);
    world.answer(&mut operator, intent, Fault::Refused);
    assert_eq!(world.take_call(&mut operator), Call::Read);
    assert_eq!(world.selects, Selects::Side(Side::Primary));
    world.answer(&mut operator, Call::Read, Fault::None);
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
}

#[test]
fn calls_that_fail_in_a_row_are_spaced_out() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    let intent = world.take_call(&mut operator);
    world.answer(&mut operator, intent, Fault::Refused);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let read = world.take_call(&mut operator);
        world.answer(&mut operator, read, Fault::Refused);
        let wake = operator.machine.wake_at().unwrap();
        waits.push(wake.duration_since(world.now.monotonic).as_millis());
        world.now = world.later(wake.duration_since(world.now.monotonic));
        world.tick(&mut operator);
    }
    assert_eq!(waits, [200, 400, 800, 1600, 2000, 2000, 2000]);
}

#[test]
fn an_api_server_that_asks_to_be_left_alone_is_but_not_for_ever() {
    for (wanted, granted) in [(7, 7), (3600, 30)] {
        let mut world = World::settled(Side::Primary);
        let mut operator = world.start();
        world.kill(&mut operator, Side::Primary);
        let intent = world.take_call(&mut operator);
        world.answer(&mut operator, intent, Fault::Overloaded(Duration::from_secs(wanted)));
        assert!(!operator.is_calling());
        let wake = operator.machine.wake_at().unwrap();
        assert_eq!(wake - world.now.monotonic, Duration::from_secs(granted));
        world.pass(&mut operator, Duration::from_secs(granted));
        world.assert_moved(Side::Backup, SwitchKind::Failover);
    }
}

#[test]
fn a_time_that_status_cuts_to_seconds_is_not_taken_for_an_earlier_one() {
    let mut world = World::settled(Side::Backup);
    // The switch was finished 0.1 s ago, and status has the second in which that was.
    let now = world.now.wall;
    world.status.since = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        now - jiff::SignedDuration::from_millis(999),
    ));
    world.sessions.primary = 3;
    let mut operator = world.start();
    world.pass(&mut operator, Duration::from_millis(1400));
    assert_ne!(world.mode(Side::Primary), Some("Drain"));
    world.pass(&mut operator, SECOND);
    assert_eq!(world.mode(Side::Primary), Some("Drain"));
}

#[test]
fn a_pair_that_is_gone_ends_its_machine() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    let intent = world.take_call(&mut operator);
    world.answer(&mut operator, intent, Fault::Refused);
    let read = world.take_call(&mut operator);
    world.answer(&mut operator, read, Fault::Gone);
    assert_eq!(operator.stopped, Some(StopReason::Gone));
    assert!(!operator.is_calling());
}

#[test]
fn a_selector_that_somebody_else_changed_is_patched_back() {
    for other in [Selects::Other, Selects::Side(Side::Backup)] {
        let mut world = World::settled(Side::Primary);
        let mut operator = world.start();
        world.run(&mut operator);
        world.selects = other;
        world.feed(&mut operator, Input::Service(other));
        world.run(&mut operator);
        assert_eq!(world.selects, Selects::Side(Side::Primary));
    }
}

#[test]
fn a_target_in_status_that_no_operator_wrote_is_no_switch() {
    let mut world = World::settled(Side::Primary);
    world.status.target = Some(Side::Backup);
    world.status.switching = None;
    let mut operator = world.start();
    world.run(&mut operator);
    assert_eq!(world.selects, Selects::Side(Side::Primary));
    assert_eq!(world.status.target, Some(Side::Primary));
}

#[test]
fn while_there_is_no_service_a_switch_waits_for_it() {
    let mut world = World::settled(Side::Primary);
    world.selects = Selects::NoService;
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert_eq!(world.calls(), ["status target=Backup"]);
    // It is made with the selector that stands until the patch.
    assert_eq!(operator.machine.snapshot().selected, Some(Side::Primary));
    world.selects = Selects::Side(Side::Primary);
    world.feed(&mut operator, Input::Service(world.selects));
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
}

#[test]
fn a_gate_that_answers_nothing_is_replaced_once_a_minute_at_the_most() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.freeze(&mut operator, Side::Primary);
    world.pass(&mut operator, 20 * SECOND);
    world.assert_moved(Side::Backup, SwitchKind::Failover);
    let deletions = |world: &World| world.calls().iter().filter(|call| call.starts_with("delete")).count();
    assert_eq!(deletions(&world), 1);
    world.pass(&mut operator, 30 * SECOND);
    assert_eq!(deletions(&world), 1);
    world.pass(&mut operator, 40 * SECOND);
    assert_eq!(deletions(&world), 2);
}

#[test]
fn a_deletion_that_failed_is_tried_again_soon() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.freeze(&mut operator, Side::Primary);
    world.pass_until(&mut operator, 20 * SECOND, |world| {
        world.calls().iter().any(|call| call.starts_with("status serving"))
    });
    let delete = world.take_call(&mut operator);
    assert!(
        matches!(
            delete,
            Call::DeletePod {
                side: Side::Primary,
                ..
            }
        ),
        "{delete:?}"
    );
    world.answer(&mut operator, delete, Fault::Refused);
    world.pass(&mut operator, 2 * SECOND);
    assert_eq!(
        world.calls().iter().filter(|call| call.starts_with("delete")).count(),
        1
    );
}

#[test]
fn session_counts_alone_are_written_every_two_seconds_at_the_most() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.forget_calls();
    for sessions in 1..=20 {
        world.sessions.primary = sessions;
        world.observe(&mut operator);
        world.pass(&mut operator, SECOND / 10);
    }
    assert!(world.calls().len() <= 2, "{:?}", world.calls());
    world.pass(&mut operator, 3 * SECOND);
    assert_eq!(world.status.connections, 20);
}

#[test]
fn a_new_leader_waits_with_status_for_observations_but_not_with_a_problem() {
    let world = World::settled(Side::Primary);
    let stored = Stored {
        status: world.status.clone(),
        selects: world.selects,
    };
    let pair = Arc::new(crate::domain::pair::fixture::pair(serde_json::json!({})));
    let mut machine = Machine::resume(pair, &stored, world.now);
    let writes = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Call(Call::WriteStatus(_))))
    };
    assert!(!writes(&machine.handle(Input::Tick, world.now)));
    let problem = Problem {
        reason: Reason::NameTaken,
        message: "Service proxy-v exists".to_owned(),
    };
    assert!(writes(&machine.handle(Input::Problem(Some(problem)), world.now)));
}

#[test]
fn a_report_of_the_other_sides_gate_says_nothing_good_about_this_side() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.mistake_gate(&mut operator, Side::Backup);
    world.pass(&mut operator, SECOND);
    let health = &operator.machine.sides().backup.health;
    assert_eq!(
        (health.health, health.cause),
        (Health::Down, Some(Cause::ProxyUnreachable))
    );
}

#[test]
fn a_terminating_pod_stands_for_its_side_until_its_successor_is_good() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.run(&mut operator);
    world.terminate(&mut operator, Side::Primary);
    world.run(&mut operator);
    world.assert_moved(Side::Backup, SwitchKind::Switchover);
    assert_eq!(
        operator.machine.sides().primary.health.cause,
        Some(Cause::ProxyTerminating)
    );
    world.add_pod(&mut operator, Side::Primary);
    world.run(&mut operator);
    assert!(
        world.calls().contains(&"proxy-v-primary-1 out".to_owned()),
        "{:?}",
        world.calls()
    );
    assert_eq!(operator.machine.sides().primary.health.health, Health::Up);
    // Kubelet has not ended it 10 s after it should have.
    world.pass(&mut operator, 76 * SECOND);
    let deleted = "delete proxy-v-primary-1 without grace".to_owned();
    assert!(world.calls().contains(&deleted), "{:?}", world.calls());
}

#[test]
fn a_failback_that_is_disabled_never_begins() {
    let mut world = World::settled(Side::Backup);
    world.set_failback(FailbackMode::Never);
    let mut operator = world.start();
    world.pass(&mut operator, 600 * SECOND);
    assert_eq!(world.status.serving, Some(Side::Backup));
}

/// What happens to a pair that is settled at first, and where it ends.
struct Story {
    name: &'static str,
    before: Side,
    event: fn(&mut World, &mut world::Operator),
    after: Side,
    kind: SwitchKind,
}

const STORIES: [Story; 3] = [
    Story {
        name: "failover",
        before: Side::Primary,
        event: |world, operator| world.kill(operator, Side::Primary),
        after: Side::Backup,
        kind: SwitchKind::Failover,
    },
    Story {
        name: "failback",
        before: Side::Backup,
        event: |world, operator| world.pass_without_calls(operator, 70 * SECOND),
        after: Side::Primary,
        kind: SwitchKind::Failback,
    },
    Story {
        name: "planned move",
        before: Side::Primary,
        event: |world, operator| world.terminate(operator, Side::Primary),
        after: Side::Backup,
        kind: SwitchKind::Switchover,
    },
];

impl Story {
    /// Runs the story with an operator that crashes at the given moment. Returns how many effects there were.
    fn run(&self, crash: Option<(usize, Moment)>) -> usize {
        let mut world = World::settled(self.before);
        world.sessions[self.before] = 4;
        world.drains_finish = true;
        let mut operator = world.start();
        world.effects = 0;
        world.crash_at = crash;
        (self.event)(&mut world, &mut operator);
        world.run(&mut operator);
        let effects = world.effects;
        world.crash_at = None;
        if operator.is_dead() {
            operator = world.start();
        }
        world.pass(&mut operator, 70 * SECOND);
        let what = format!("{} crashed at {crash:?}: {:?}", self.name, world.calls());
        assert_eq!(world.status.serving, Some(self.after), "{what}");
        assert_eq!(world.status.target, world.status.serving, "{what}");
        assert_eq!(world.selects, Selects::Side(self.after), "{what}");
        assert_eq!(world.status.switching, None, "{what}");
        let history: Vec<_> = world.status.history.iter().map(|switch| switch.kind).collect();
        assert_eq!(history, [self.kind], "{what}");
        assert_eq!(world.sessions[self.after.other()], 0, "nobody is left behind: {what}");
        effects
    }
}

#[test]
fn an_operator_that_crashes_before_or_after_any_effect_leaves_what_its_successor_finishes() {
    for story in &STORIES {
        let effects = story.run(None);
        assert!(effects > 3, "{} has {effects} effects", story.name);
        for nth in 0..effects {
            for moment in [Moment::Before, Moment::After] {
                story.run(Some((nth, moment)));
            }
        }
    }
}

#[test]
fn a_successor_withdraws_no_switch_before_it_has_observed_the_target() {
    let mut world = World::settled(Side::Primary);
    let mut operator = world.start();
    world.kill(&mut operator, Side::Primary);
    let intent = world.take_call(&mut operator);
    world.answer(&mut operator, intent, Fault::None);
    // The primary is back when the successor starts, and what is observed of it comes first.
    world.revive(&mut operator, Side::Primary);
    let mut successor = world.start();
    world.run(&mut successor);
    assert_eq!(world.status.serving, Some(Side::Backup), "{:?}", world.calls());
    assert_eq!(world.status.history[0].to, Side::Backup);
}

mod any_history {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Event {
        Kill(Side),
        Revive(Side),
        Pass(u64),
        Lose,
        Refuse,
        Answer,
        Crash,
    }

    fn event() -> impl Strategy<Value = Event> {
        let side = prop_oneof![Just(Side::Primary), Just(Side::Backup)];
        prop_oneof![
            side.clone().prop_map(Event::Kill),
            side.prop_map(Event::Revive),
            (1..90_000_u64).prop_map(Event::Pass),
            Just(Event::Lose),
            Just(Event::Refuse),
            Just(Event::Answer),
            Just(Event::Crash),
        ]
    }

    proptest! {
        /// [`World`] checks after each call that the selector goes to no side that cannot serve, and never without a stored intent.
        #[test]
        fn ends_where_the_probes_can_be_served(events in prop::collection::vec(event(), 1..40)) {
            let mut world = World::settled(Side::Primary);
            let mut operator = world.start();
            for event in events {
                match event {
                    Event::Kill(side) => world.kill(&mut operator, side),
                    Event::Revive(side) => world.revive(&mut operator, side),
                    Event::Pass(millis) => world.pass_without_calls(&mut operator, Duration::from_millis(millis)),
                    Event::Lose => world.answer_if_calling(&mut operator, Fault::AnswerLost),
                    Event::Refuse => world.answer_if_calling(&mut operator, Fault::Refused),
                    Event::Answer => world.answer_if_calling(&mut operator, Fault::None),
                    Event::Crash => operator = world.start(),
                }
            }
            world.revive(&mut operator, Side::Primary);
            world.revive(&mut operator, Side::Backup);
            world.pass(&mut operator, Duration::from_secs(200));
            prop_assert_eq!(world.status.serving, Some(Side::Primary), "{:?}", world.calls());
            prop_assert_eq!(world.selects, Selects::Side(Side::Primary));
            prop_assert_eq!(world.status.target, Some(Side::Primary));
        }
    }
}
