//! The hand-over of leadership, searched completely up to a number of steps: every order in which calls take effect, are answered, fail, or are
//! given up and take effect later, in which processes die and machines stop, and in which commands reach a gate.
//!
//! The decisions are the product's: [`Election`](proxypair::leader::election::Election) and the terms and commands of a gate. The clock goes on in
//! steps of a third of a second with a `leaseDuration` of two seconds. What happens between two steps happens in every order.
//!
//! | module | owns |
//! |---|---|
//! | `state` | what there is at one moment |
//! | `model` | what can happen next, and what must hold |
//! | `process` | what a candidate does, and its calls and commands |
//! | `server`, `gate` | the API server with the Lease, and a gate |
//!
//! `cargo test --test handover -- --nocapture` prints how much was searched, `STEPS=12` searches further.

mod gate;
mod model;
mod process;
mod server;
mod state;

use std::{env, time::Instant};

use stateright::{Checker, Expectation, Model, Path};

use self::{
    model::{Begins, Handover},
    state::Faults,
};

/// When a lost leader is replaced at the latest, in steps of the clock, if no call fails and each takes as long as it may: the Lease was renewed
/// when it died, a standby sees that one read later, and once more so that it has not changed; then it acquires the Lease.
const REPLACED: u32 = 12;

const NONE: Faults = Faults {
    refusals: 0,
    timeouts: 0,
    deletions: 0,
    replacements: 0,
    crashes: 0,
    stops: 0,
    retirements: 0,
};

/// Two candidates, of which the first leads.
fn two(steps: u32) -> Handover {
    Handover {
        rates: vec![1000, 1000],
        faults: NONE,
        begins: Begins::Led,
        has_gate: false,
        steps,
        led_by: None,
        zero: Instant::now(),
    }
}

/// Searches everything. What is wrong is told as what happened until then.
fn search(what: &str, mut model: Handover) {
    if let Some(steps) = env::var("STEPS").ok().and_then(|steps| steps.parse().ok()) {
        model.steps = steps;
    }
    let (steps, begun) = (model.steps, Instant::now());
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{what}: {} states in {steps} steps of the clock, {} actions deep, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        match property.expectation {
            Expectation::Sometimes => assert!(found.is_some(), "never in {what}: {}", property.name),
            Expectation::Always | Expectation::Eventually => {
                let actions = found.map(Path::into_actions);
                assert!(
                    actions.is_none(),
                    "not always in {what}: {}, as after {actions:?}",
                    property.name
                );
            }
        }
    }
}

#[test]
fn answers_that_come_too_late() {
    let faults = Faults { timeouts: 3, ..NONE };
    search("late answers", Handover { faults, ..two(9) });
}

#[test]
fn a_lease_that_is_deleted() {
    let faults = Faults {
        timeouts: 1,
        deletions: 1,
        ..NONE
    };
    search("a deleted Lease", Handover { faults, ..two(8) });
}

/// A Lease without a holder that a user has put in the place of the leader's is no returned one: the leader may still write.
#[test]
fn an_empty_lease_in_the_place_of_another_one() {
    let faults = Faults {
        timeouts: 1,
        replacements: 1,
        ..NONE
    };
    search("an empty Lease", Handover { faults, ..two(8) });
}

#[test]
fn a_machine_that_stops_for_a_while() {
    let faults = Faults {
        timeouts: 1,
        stops: 1,
        ..NONE
    };
    search("a stopped machine", Handover { faults, ..two(8) });
}

#[test]
fn processes_that_die_and_start_again_under_their_names() {
    let faults = Faults {
        timeouts: 1,
        crashes: 1,
        ..NONE
    };
    search("crashes", Handover { faults, ..two(8) });
}

#[test]
fn a_leader_that_returns_the_lease() {
    let faults = Faults {
        timeouts: 1,
        refusals: 1,
        retirements: 1,
        ..NONE
    };
    search("a returned Lease", Handover { faults, ..two(6) });
}

#[test]
fn orders_that_reach_a_gate_after_the_change_of_leader() {
    let faults = Faults { timeouts: 2, ..NONE };
    search(
        "late orders",
        Handover {
            faults,
            has_gate: true,
            ..two(9)
        },
    );
}

/// A leader's clock is slow by a twentieth, and a standby's is fast by a twentieth.
#[test]
fn clocks_that_run_at_different_rates() {
    let faults = Faults { timeouts: 2, ..NONE };
    let rates = vec![950, 1050];
    search(
        "clocks at different rates",
        Handover {
            faults,
            rates,
            ..two(10)
        },
    );
}

#[test]
fn a_dead_leader_is_replaced_by_one_of_two() {
    let replaced = Handover {
        rates: vec![1000; 3],
        begins: Begins::LeaderDies,
        led_by: Some(REPLACED),
        ..two(REPLACED)
    };
    search("a dead leader", replaced);
}

#[test]
fn without_a_lease_one_of_two_leads() {
    let empty = Handover {
        begins: Begins::Empty,
        led_by: Some(REPLACED),
        ..two(REPLACED)
    };
    search("no Lease", empty);
}
