//! One failover, one failback and one planned move, with the operator killed before and after every single call to the API server and every
//! command to a gate.

use std::{sync::Arc, time::Duration};

use proxypair::{
    api::{FailbackMode, Side},
    domain::pair::Pair,
};

use super::{
    clock::Time,
    history::{Ended, run},
    plan::{Fault, Plan, PlannedFault, When},
    world::Kill,
};

/// A switch, as the faults that lead to it.
#[derive(Clone, Copy, Debug)]
pub enum Scenario {
    /// The primary's ObjectServer dies and comes back: failover and failback.
    FailoverAndFailback,
    /// The primary's pods are deleted: a switchover and a failback.
    PlannedMove,
    /// One pod of several is: it is taken out, and nothing is switched.
    GateReplaced,
}

impl Scenario {
    pub const ALL: [Self; 3] = [Self::FailoverAndFailback, Self::PlannedMove, Self::GateReplaced];

    fn is_about(self, pair: &Pair) -> bool {
        let is_several = pair.replicas(Side::Primary) > 1;
        pair.spec.failback.mode == FailbackMode::Automatic && (is_several || !matches!(self, Self::GateReplaced))
    }

    /// The plan of a seed with two operators, with only this fault.
    fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        plan.operators = 2;
        plan.lease = Duration::from_secs(2);
        plan.pairs.truncate(1);
        // Each switch goes both ways.
        let mut seeds = seed..;
        while !self.is_about(&plan.pairs[0].pair) {
            if let Some(other) = seeds.next().map(Plan::of) {
                plan.pairs[0] = other.pairs[0].clone();
            }
        }
        let check = &Arc::clone(&plan.pairs[0].pair).spec.health_check;
        let lasts = check.unreachable_after.get() + Duration::from_secs(6);
        let fault = match self {
            Self::FailoverAndFailback => Fault::ServerKilled(0, Side::Primary),
            Self::PlannedMove => Fault::PodsDeleted(0, Side::Primary),
            Self::GateReplaced => Fault::PodDeleted(0, Side::Primary),
        };
        let when = When::At(Time::ZERO + Duration::from_secs(8));
        plan.faults = vec![PlannedFault { when, lasts, fault }];
        plan.dead.clear();
        plan.calm_from = Time::ZERO + Duration::from_secs(8) + lasts + Duration::from_secs(1);
        plan
    }
}

/// Runs a scenario once for each place at which the operator can be killed. Returns how many there are, and the first that violates something.
pub fn run_all(scenario: Scenario, seed: u64) -> (usize, Option<(Plan, Kill, Ended)>) {
    let plan = scenario.plan(seed);
    let orders = run(&plan, false, None).orders;
    for order in 0..orders {
        for is_after in [false, true] {
            let kill = Kill { order, is_after };
            let ended = run(&plan, false, Some(kill));
            if ended.violation.is_some() {
                let told = run(&plan, true, Some(kill));
                return (orders * 2, Some((plan, kill, told)));
            }
        }
    }
    (orders * 2, None)
}
