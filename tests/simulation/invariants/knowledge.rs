//! What an operator must know, and how soon.

use std::time::Duration;

use proxypair::{
    api::{ResyncPolicy, Side, SwitchKind},
    domain::evidence::Timing,
};

use super::{
    super::{
        network::{Link, Passage},
        truth::Sight,
        world::World,
    },
    NOTICED,
};

impl World {
    pub fn timing(&self, pair: usize) -> Timing {
        // An operator that has not heard of an edit yet goes on as slowly as before.
        let planned = &self.plan.pairs[pair];
        Timing {
            interval: planned.slowest,
            ..Timing::from(&planned.pair.spec.health_check)
        }
    }

    /// How long a side that is not good may still seem so.
    pub(super) fn tolerance(&self, pair: usize, was_silent: bool) -> Duration {
        let timing = self.timing(pair);
        let has_login = self.plan.pairs[pair].pair.spec.health_check.login.is_some();
        // Without a login the gate alone asks its ObjectServer, and says so when that has been silent for `unresponsive_after`.
        let late = match has_login {
            true => timing.doubtful_after(),
            false => timing.doubtful_after().max(timing.unresponsive_after),
        };
        match was_silent {
            // The last answer, one more question, and the time until its lateness counts.
            true => timing.interval * 2 + late + NOTICED + Duration::from_secs(2),
            false => NOTICED,
        }
    }

    /// Since when `side` cannot serve, if the operator must have noticed.
    pub(super) fn known_ill(&self, operator: usize, pair: usize, side: Side) -> Option<(Sight, Duration)> {
        let record = self.watchdog.truth.of(operator, pair, side);
        let lasts = self.now.after(record.ill_since?);
        let sight = self.sight(operator, pair, side);
        if matches!(sight, Sight::Good | Sight::Doubtful) {
            return None;
        }
        // What was silent before is seen to be broken as soon as anything else.
        let is_plain = sight == record.sight && sight != Sight::Silent;
        let is_known = is_plain && self.now.after(record.since) > self.tolerance(pair, false);
        (is_known || lasts > self.tolerance(pair, true)).then_some((record.sight, lasts))
    }

    /// A failback is under way, and the ObjectServers differ or cannot tell the operator that they are in sync: it is given up.
    pub(super) fn fails_back_without_proof(&self, operator: usize, pair: usize) -> bool {
        let switching = self.api.objects[pair].status.switching.as_ref();
        let is_failback = switching.is_some_and(|switching| switching.kind == SwitchKind::Failback);
        let spec = &self.plan.pairs[pair].pair.spec;
        let is_required = spec
            .resync()
            .is_some_and(|resync| resync.policy == ResyncPolicy::Required);
        let is_silent = |side| {
            let link = self.network.connect(Link::OperatorServer(operator, pair, side));
            !matches!(link, Passage::Free(_)) || self.pairs[pair].servers[side].is_stalled
        };
        let lasts = self.timing(pair).answer_lasts() + NOTICED;
        let differ = self.pairs[pair].gateway.were_behind(lasts, self.now);
        is_failback && is_required && (differ || Side::BOTH.into_iter().any(is_silent))
    }

    /// Nothing keeps the API server's news from that operator.
    pub fn is_informed(&self, operator: usize) -> bool {
        let link = self.network.message(Link::OperatorApi(operator));
        !self.operators[operator].is_blind
            && self.operators[operator].watch_lag.is_zero()
            && !self.operators[operator].watches_stalled
            && self.api.trouble.iter().all(|trouble| trouble.is_harmless())
            && link.is_free()
    }
}
