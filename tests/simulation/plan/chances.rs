//! Which faults strike, and when.

use std::time::Duration;

use proxypair::{api::Side, domain::machine::Selects};

use super::{
    super::{
        clock::Time,
        network::{Condition, Link},
        random::Random,
    },
    ApiTrouble, CallKind, Death, Fault, PairPlan, PlannedFault, SETTLING, When,
};

/// In some histories one side of each pair is gone for good when everything else is repaired.
pub(super) fn dead(pairs: &[PairPlan], random: &mut Random) -> Vec<(usize, Side, Death)> {
    if !random.one_in(4) {
        return Vec::new();
    }
    let death = |(number, pair): (usize, &PairPlan)| {
        let death = random.pick(&[Death::Killed, Death::Stalled, Death::CutOff]);
        // Without a login a process that hangs cannot be told from an idle one.
        let has_login = pair.pair.spec.health_check.login.is_some();
        let death = if death == Death::Stalled && !has_login {
            Death::Killed
        } else {
            death
        };
        (
            number,
            random.pick(&[Side::Primary, Side::Primary, Side::Backup]),
            death,
        )
    };
    pairs.iter().enumerate().map(death).collect()
}

impl PlannedFault {
    pub(super) fn of(pairs: &[PairPlan], operators: usize, calm_from: Time, random: &mut Random) -> Self {
        let at = Time::ZERO + random.span(SETTLING, calm_from.since_start());
        let kinds = [
            CallKind::Intent,
            CallKind::Selector,
            CallKind::Fact,
            CallKind::Read,
            CallKind::Command,
        ];
        let when = if random.one_in(3) {
            let longest = random.pick(&[0, 20, 3000]);
            let after = random.millis(0, longest);
            When::OnCall(random.pick(&kinds), random.below(3), after)
        } else {
            When::At(at)
        };
        let pair = random.below(pairs.len());
        let pace = pairs[pair].pace();
        let unresponsive = pairs[pair].pair.spec.health_check.unresponsive_after.get();
        let lasts = match random.below(3) {
            0 => random.mostly_short(pace),
            1 => random.span(Duration::ZERO, pace * 2),
            _ => unresponsive + random.millis(0, 400),
        };
        let fault = Fault::of(pair, operators, random);
        Self { when, lasts, fault }
    }
}

impl Fault {
    pub(super) fn of(pair: usize, operators: usize, random: &mut Random) -> Self {
        let side = random.pick(&[Side::Primary, Side::Primary, Side::Backup]);
        let operator = random.below(operators);
        let busy = Duration::from_secs(random.pick(&[1, 2, 5, 120]));
        match random.below(39) {
            0..=4 => Self::ServerKilled(pair, side),
            5..=6 => Self::ServerStalled(pair, side),
            7 => Self::LoginRefused(pair, side),
            8 => Self::WrongServer(pair, side),
            9..=10 => Self::GateKilled(pair, side),
            11 => Self::GateFrozen(pair, side),
            12 => Self::PortClosed(pair, side),
            13 => Self::PodDeleted(pair, side),
            14 => random.pick(&[Self::PodDeleted(pair, side), Self::PodsDeleted(pair, side)]),
            15 => Self::PodForced(pair, side),
            16 => Self::NodeLost(pair, side),
            17 => Self::GateCut(pair, side, Condition::of(random)),
            18..=20 => Self::Link(Link::of(pair, side, operator, random), Condition::of(random)),
            21 => Self::GatewayStopped(pair),
            22..=24 => Self::OperatorKilled(operator),
            25 => Self::OperatorStopped(operator),
            26 => Self::Api(ApiTrouble::Slow(random.millis(10, 4000))),
            27..=28 => Self::Api(random.pick(&[
                ApiTrouble::AnswersLost,
                ApiTrouble::Refuses,
                ApiTrouble::Busy(busy),
                ApiTrouble::RefusesStatus,
                ApiTrouble::RefusesServices,
                ApiTrouble::RefusesPods,
                ApiTrouble::Silent,
            ])),
            29 => Self::WatchesStalled(operator),
            30 => random.pick(&[Self::LeaseDeleted, Self::LeaseRestored]),
            31 => Self::SelectorEdited(pair, random.pick(&[Selects::Other, Selects::Side(side)])),
            32 => random.pick(&[
                Self::ServiceDeleted(pair),
                Self::SpecEdited(pair),
                Self::TemplateEdited(pair),
                Self::PairRecreated(pair),
            ]),
            33 => Self::OperatorRetired(operator),
            34 => Self::OperatorBlind(operator),
            35 => Self::PodDeletedWithin(pair, side, random.millis(2000, 20_000)),
            36 => Self::AllPodsDeleted(pair),
            37 => Self::WatchesLag(operator, random.millis(500, 4000)),
            _ => Self::ClockAhead(operator, random.pick(&[-3600, -10, 10, 3600])),
        }
    }
}
