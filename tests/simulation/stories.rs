//! Faults that belong together: what single faults, drawn one by one, would hardly ever make in the right order.

use std::time::Duration;

use proxypair::api::Side;

use super::{
    clock::Time,
    network::{Condition, Link},
    plan::{CallKind, Fault, PairPlan, PlannedFault, When},
    random::Random,
};

/// One of the stories, about one of the pairs, from some time before `calm_from` on.
pub fn story(pairs: &[PairPlan], operators: usize, calm_from: Time, random: &mut Random) -> Vec<PlannedFault> {
    let pair = random.below(pairs.len());
    let begin = Time::ZERO + random.span(Duration::from_secs(3), calm_from.since_start() / 2);
    match random.below(2) {
        0 => second_failure(pair, &pairs[pair], operators, begin, random),
        _ => late_command(pair, operators, random),
    }
}

/// The primary ObjectServer returns and fails again, while no operator hears of it any more.
fn second_failure(
    number: usize,
    pair: &PairPlan,
    operators: usize,
    begin: Time,
    random: &mut Random,
) -> Vec<PlannedFault> {
    let check = &pair.pair.spec.health_check;
    let down = check.unreachable_after.get() + Duration::from_secs(2);
    let resync = pair.resync + check.healthy_after.get();
    let dies_again = begin + down + resync + random.span(Duration::ZERO, Duration::from_secs(10));
    let dies = |at, lasts| PlannedFault {
        when: When::At(at),
        lasts,
        fault: Fault::ServerKilled(number, Side::Primary),
    };
    let hidden_at = dies_again - random.millis(100, 3000);
    let links = (0..operators).flat_map(|operator| {
        Side::BOTH.map(|side| Fault::Link(Link::OperatorServer(operator, number, side), Condition::Silent))
    });
    let hidden = links.map(|fault| PlannedFault {
        when: When::At(hidden_at),
        lasts: Duration::from_secs(60),
        fault,
    });
    let short = random.millis(10, 500);
    [dies(begin, down), dies(dies_again, short)]
        .into_iter()
        .chain(hidden)
        .collect()
}

/// A leader stops when it has just commanded a gate over a slow link: its successor may be there first.
fn late_command(pair: usize, operators: usize, random: &mut Random) -> Vec<PlannedFault> {
    let nth = random.below(12);
    let mut faults = Vec::new();
    for operator in 0..operators {
        let slow = Condition::Delayed(random.millis(100, 900));
        for side in Side::BOTH {
            if random.one_in(2) {
                faults.push(PlannedFault {
                    when: When::At(Time::ZERO),
                    lasts: Duration::from_secs(60),
                    fault: Fault::Link(Link::OperatorGate(operator, pair, side), slow),
                });
            }
        }
        faults.push(PlannedFault {
            when: When::OnCall(CallKind::Command, nth, random.millis(0, 1)),
            lasts: random.millis(500, 5000),
            fault: Fault::OperatorRetired(operator),
        });
    }
    faults
}
