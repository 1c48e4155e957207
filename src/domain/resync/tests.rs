//! Answers of two ObjectServers, and what is concluded from them.

use super::*;

const LASTS: Duration = Duration::from_secs(2);
const OURS: &str = "failover_gate";

struct Clock(Instant);

impl Clock {
    fn at(&self, milliseconds: u64) -> Instant {
        self.0 + Duration::from_millis(milliseconds)
    }

    /// An answer that took 10 ms.
    fn state(&self, asked: u64, acting_primary: Option<bool>, gateways: &[(&str, &str)]) -> ServerState {
        let gateways = gateways
            .iter()
            .map(|(id, description)| GatewaySession {
                id: (*id).to_owned(),
                description: (*description).to_owned(),
            })
            .collect();
        ServerState {
            asked: self.at(asked),
            answered: self.at(asked + 10),
            acting_primary,
            gateways: Some(Ok(gateways)),
            attached_since: None,
        }
        .after(None, OURS, LASTS)
    }

    fn missing(&self, primary: &ServerState, backup: &ServerState, now: u64) -> Vec<Missing> {
        missing(Some(primary), Some(backup), OURS, LASTS, self.at(now))
    }
}

fn clock() -> Clock {
    Clock(Instant::now())
}

#[test]
fn in_step_when_attached_to_both_and_the_backup_does_not_act_as_primary() {
    let clock = clock();
    let primary = clock.state(0, Some(true), &[("7", OURS)]);
    let backup = clock.state(500, Some(false), &[("3", OURS)]);
    assert_eq!(clock.missing(&primary, &backup, 600), []);
}

#[test]
fn names_the_side_without_a_gateway_and_the_gateway_that_has_another_description() {
    let clock = clock();
    let (none, ours) = (
        clock.state(500, Some(true), &[]),
        clock.state(500, Some(false), &[("3", OURS)]),
    );
    assert_eq!(clock.missing(&none, &ours, 600), [Missing::Gateway(Side::Primary)]);
    let other = clock.state(0, Some(true), &[("1", "stock"), ("2", "stock")]);
    assert_eq!(
        clock.missing(&other, &none, 600),
        [
            Missing::Description(Side::Primary, vec!["stock".to_owned()]),
            Missing::Gateway(Side::Backup)
        ]
    );
}

#[test]
fn waits_while_the_backup_acts_as_primary_or_does_not_say() {
    let clock = clock();
    let primary = clock.state(0, Some(true), &[("7", OURS)]);
    let acting = clock.state(500, Some(true), &[("3", OURS)]);
    assert_eq!(clock.missing(&primary, &acting, 600), [Missing::ActingPrimary]);
    let mute = clock.state(500, None, &[("3", OURS)]);
    assert_eq!(clock.missing(&primary, &mute, 600), [Missing::Property]);
}

#[test]
fn believes_nothing_stale_and_nothing_one_sided() {
    let clock = clock();
    let primary = clock.state(0, Some(true), &[("7", OURS)]);
    let backup = clock.state(500, Some(false), &[("3", OURS)]);
    assert_eq!(clock.missing(&primary, &backup, 2100), [Missing::Answer(Side::Primary)]);
    assert_eq!(
        missing(None, Some(&backup), OURS, LASTS, clock.at(600)),
        [Missing::Answer(Side::Primary)]
    );
    let not_asked = ServerState {
        gateways: None,
        ..backup
    };
    assert_eq!(
        clock.missing(&primary, &not_asked, 600),
        [Missing::Answer(Side::Backup)]
    );
}

#[test]
fn a_false_from_before_the_gateway_came_back_to_the_primary_is_not_believed() {
    let clock = clock();
    let before = clock.state(0, Some(false), &[("3", OURS)]);
    let primary = clock.state(5, Some(true), &[("8", OURS)]);
    assert_eq!(clock.missing(&primary, &before, 100), [Missing::Confirmation]);
    let asked_after = clock
        .state(20, Some(false), &[("3", OURS)])
        .after(Some(&before), OURS, LASTS);
    assert_eq!(clock.missing(&primary, &asked_after, 100), []);
}

#[test]
fn a_quick_restart_begins_anew_although_the_gateway_has_the_same_connection_number() {
    let clock = clock();
    let mut before = clock.state(0, Some(true), &[("1", OURS)]);
    let backup = clock.state(500, Some(false), &[("3", OURS)]);
    assert_eq!(clock.missing(&before, &backup, 600), []);
    before.end_session();
    assert_eq!(clock.missing(&before, &backup, 600), [Missing::Answer(Side::Primary)]);
    let restarted = clock
        .state(800, Some(true), &[("1", OURS)])
        .after(Some(&before), OURS, LASTS);
    assert_eq!(clock.missing(&restarted, &backup, 900), [Missing::Confirmation]);
}

#[test]
fn answers_that_alternate_stay_in_step() {
    let clock = clock();
    let mut primary = clock.state(0, Some(true), &[("7", OURS)]);
    let mut backup = clock.state(500, Some(false), &[("3", OURS)]);
    for second in 1..10 {
        primary = clock
            .state(second * 1000, Some(true), &[("7", OURS)])
            .after(Some(&primary), OURS, LASTS);
        assert_eq!(clock.missing(&primary, &backup, second * 1000 + 20), []);
        backup = clock
            .state(second * 1000 + 500, Some(false), &[("3", OURS)])
            .after(Some(&backup), OURS, LASTS);
        assert_eq!(clock.missing(&primary, &backup, second * 1000 + 520), []);
    }
}

#[test]
fn a_gateway_that_was_away_or_came_by_a_new_session_begins_anew() {
    let clock = clock();
    let first = clock.state(0, Some(true), &[("7", OURS)]);
    let backup = clock.state(500, Some(false), &[("3", OURS)]);
    let other_session = clock
        .state(1000, Some(true), &[("8", OURS)])
        .after(Some(&first), OURS, LASTS);
    assert_eq!(clock.missing(&other_session, &backup, 1100), [Missing::Confirmation]);
    let after_a_pause = clock
        .state(5000, Some(true), &[("7", OURS)])
        .after(Some(&first), OURS, LASTS);
    let backup = clock.state(4500, Some(false), &[("3", OURS)]);
    assert_eq!(clock.missing(&after_a_pause, &backup, 5100), [Missing::Confirmation]);
}

#[test]
fn a_refused_question_is_told_in_the_servers_states() {
    let clock = clock();
    let refused = ServerState {
        gateways: Some(Err("permission denied".to_owned())),
        ..clock.state(0, Some(true), &[])
    };
    let backup = clock.state(500, Some(false), &[("3", OURS)]);
    assert_eq!(
        clock.missing(&refused, &backup, 600),
        [Missing::Sight(Side::Primary, "permission denied".to_owned())]
    );
}
