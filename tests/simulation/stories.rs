//! Faults that belong together: what single faults, drawn one by one, would hardly ever make in the right order.

use std::time::Duration;

use proxypair::api::Side;

use super::{
    clock::Time,
    invariants::causes::patience,
    network::{Condition, Link},
    plan::{ApiTrouble, CallKind, Fault, PairPlan, PlannedFault, When},
    random::Random,
};

/// A story, and the moment until which it is told.
pub struct Story {
    pub faults: Vec<PlannedFault>,
    pub until: Time,
}

/// One of the stories, about one of the pairs, from some time before `calm_from` on.
pub fn story(pairs: &[PairPlan], operators: usize, calm_from: Time, random: &mut Random) -> Story {
    let number = random.below(pairs.len());
    let begin = Time::ZERO + random.span(Duration::from_secs(3), calm_from.since_start() / 2);
    let told = Told {
        number,
        pair: &pairs[number],
        operators,
        begin: begin.max(Time::ZERO + Duration::from_secs(8)),
    };
    match random.below(7) {
        0 => second_failure(&told, random),
        1 => late_command(&told, random),
        2 => hidden_gateway(&told, random),
        3 => closed_port(&told, random),
        4 => target_dies(&told, random),
        5 => another_server(&told),
        _ => leader_dies_in_a_failback(&told, random),
    }
}

/// What a story is about.
struct Told<'a> {
    number: usize,
    pair: &'a PairPlan,
    operators: usize,
    begin: Time,
}

impl Told<'_> {
    /// How long a side has to fail so that it is left.
    fn down(&self) -> Duration {
        self.pair.pair.spec.health_check.unreachable_after.get() + Duration::from_secs(2)
    }

    /// From when the primary can serve again until a failback.
    fn until_failback(&self) -> Duration {
        let spec = &self.pair.pair.spec;
        spec.health_check.healthy_after.get() + spec.failback.stable_for.get() + spec.failback.minimum_on_backup.get()
    }

    /// No operator hears of the ObjectServers any more.
    fn hidden(&self, at: Time, lasts: Duration) -> impl Iterator<Item = PlannedFault> {
        let number = self.number;
        let links = (0..self.operators).flat_map(move |operator| {
            Side::BOTH.map(|side| Fault::Link(Link::OperatorServer(operator, number, side), Condition::Silent))
        });
        links.map(move |fault| planned(When::At(at), lasts, fault))
    }
}

const fn planned(when: When, lasts: Duration, fault: Fault) -> PlannedFault {
    PlannedFault { when, lasts, fault }
}

/// Longer than any story.
const LONG: Duration = Duration::from_secs(60);

/// The primary ObjectServer returns and fails again, while no operator hears of it any more.
fn second_failure(told: &Told, random: &mut Random) -> Story {
    let down = told.down();
    let resync = told.pair.resync + told.pair.pair.spec.health_check.healthy_after.get();
    let dies_again = told.begin + down + resync + random.span(Duration::ZERO, Duration::from_secs(10));
    let dies = |at, lasts| planned(When::At(at), lasts, Fault::ServerKilled(told.number, Side::Primary));
    let hidden_at = dies_again - random.millis(100, 3000);
    let short = random.millis(10, 500);
    Story {
        faults: [dies(told.begin, down), dies(dies_again, short)]
            .into_iter()
            .chain(told.hidden(hidden_at, LONG))
            .collect(),
        until: dies_again + told.until_failback(),
    }
}

/// A leader is told to stop when it has just commanded a gate over a slow link: its successor may be there first.
fn late_command(told: &Told, random: &mut Random) -> Story {
    let down = told.down();
    let mut faults = vec![planned(
        When::At(told.begin),
        down,
        Fault::ServerKilled(told.number, Side::Primary),
    )];
    for operator in 0..told.operators {
        let slow = Condition::Delayed(random.millis(500, 950));
        for side in Side::BOTH {
            if random.one_in(2) {
                let link = Link::OperatorGate(operator, told.number, side);
                faults.push(planned(When::At(Time::ZERO), LONG, Fault::Link(link, slow)));
            }
        }
    }
    let when = When::OnCall(CallKind::Drain, random.below(2), random.millis(0, 10));
    faults.push(planned(when, random.millis(500, 5000), Fault::LeaderRetired));
    Story {
        faults,
        until: told.begin + down + told.pair.resync + told.until_failback() + Duration::from_secs(20),
    }
}

/// The primary's pods are replaced, and the gateway is lost before the failback, while no operator hears of it.
fn hidden_gateway(told: &Told, random: &mut Random) -> Story {
    let check = &told.pair.pair.spec.health_check;
    let heard = check.interval.get() * 3 + Duration::from_secs(1);
    let hidden_at = told.begin + heard + random.mostly_short(Duration::from_secs(8));
    let lost_at = hidden_at + random.millis(5, 100);
    let pods = planned(
        When::At(told.begin),
        LONG,
        Fault::PodsDeleted(told.number, Side::Primary),
    );
    let gateway = planned(When::At(lost_at), LONG, Fault::GatewayStopped(told.number));
    Story {
        faults: [pods, gateway]
            .into_iter()
            .chain(told.hidden(hidden_at, LONG))
            .collect(),
        until: lost_at + told.until_failback() + Duration::from_secs(15),
    }
}

/// The gate of the idle side starts again with a certificate that it cannot use, and its port stays closed. Then the other side fails.
fn closed_port(told: &Told, random: &mut Random) -> Story {
    let at = |by: u64| When::At(told.begin + Duration::from_millis(by));
    let closed = planned(at(0), LONG, Fault::PortClosed(told.number, Side::Backup));
    let killed = planned(at(10), Duration::ZERO, Fault::GateKilled(told.number, Side::Backup));
    let fails = told.begin + told.down() + Duration::from_secs(5) + random.millis(0, 5000);
    let failed = planned(When::At(fails), LONG, Fault::ServerKilled(told.number, Side::Primary));
    Story {
        faults: vec![closed, killed, failed],
        until: fails + told.down() + Duration::from_secs(5),
    }
}

/// The target of a failover or of a failback dies when that has been decided, and the API server is slow.
fn target_dies(told: &Told, random: &mut Random) -> Story {
    let (nth, target) = random.pick(&[(0, Side::Backup), (1, Side::Primary)]);
    let down = told.down();
    let failed = planned(
        When::At(told.begin),
        down,
        Fault::ServerKilled(told.number, Side::Primary),
    );
    let slow = ApiTrouble::Slow(random.millis(1000, 4000));
    let slow = planned(When::At(told.begin), LONG, Fault::Api(slow));
    let kind = random.pick(&[CallKind::Intent, CallKind::Intent, CallKind::Selector]);
    let when = When::OnCall(kind, nth, random.millis(0, 100));
    let dies = planned(when, LONG, Fault::ServerKilled(told.number, target));
    Story {
        faults: vec![failed, slow, dies],
        until: told.begin + down + told.pair.resync + told.until_failback() + Duration::from_secs(20),
    }
}

/// Another server answers in the place of the primary ObjectServer for so long that it must have been left.
fn another_server(told: &Told) -> Story {
    let left_by = told.begin + patience(told.pair) + Duration::from_secs(2);
    let other = planned(
        When::At(told.begin),
        LONG * 10,
        Fault::WrongServer(told.number, Side::Primary),
    );
    // Something has to happen then, so that somebody looks.
    let look = planned(
        When::At(left_by),
        Duration::from_millis(1),
        Fault::GatewayStopped(told.number),
    );
    Story {
        faults: vec![other, look],
        until: left_by + Duration::from_secs(2),
    }
}

/// The leader dies in the middle of a failback.
fn leader_dies_in_a_failback(told: &Told, random: &mut Random) -> Story {
    let failed = planned(
        When::At(told.begin),
        told.down(),
        Fault::ServerKilled(told.number, Side::Primary),
    );
    let kind = random.pick(&[CallKind::Intent, CallKind::Selector, CallKind::Fact]);
    let when = When::OnCall(kind, 1, random.millis(0, 20));
    let dies = planned(when, random.millis(500, 5000), Fault::LeaderKilled);
    Story {
        faults: vec![failed, dies],
        until: told.begin + told.down() + told.pair.resync + told.until_failback() + Duration::from_secs(20),
    }
}
