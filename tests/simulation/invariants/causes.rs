//! What is a reason to leave a side, and what is none.

use std::time::Duration;

use proxypair::{
    api::{Cause, Side},
    domain::{evidence::Timing, machine::PendingSwitch},
};

use super::super::{
    network::{Link, Passage},
    plan::PairPlan,
    truth::{Sight, solid_after},
    world::World,
};

/// How long another server may answer before the side is left: it is seen, it counts, and what was wrong with the other side is forgotten; then
/// there are a few calls to make.
pub fn patience(pair: &PairPlan) -> Duration {
    let check = &pair.pair.spec.health_check;
    check.unreachable_after.get()
        + check.healthy_after.get()
        + check.unresponsive_after.get()
        + solid_after(&Timing::from(check))
        + Duration::from_secs(12)
}

impl World {
    /// 4: a server of another name is left as soon as the other side may serve.
    pub fn guarantee_04_another_server_is_left(&mut self, pair: usize) {
        let status = &self.api.objects[pair].status;
        let (Some(serving), Some(_)) = (status.serving, &status.since) else {
            return;
        };
        let check = &self.plan.pairs[pair].pair.spec.health_check;
        if !self.pairs[pair].servers[serving].is_other || check.login.is_none() {
            return;
        }
        let patience = patience(&self.plan.pairs[pair]);
        let truth = &self.watchdog.truth;
        let leader = (0..self.operators.len())
            .find(|operator| truth.informed_since[*operator].is_some_and(|since| self.now.after(since) > patience));
        let Some(leader) = leader else { return };
        // After a login that was rejected the next one waits for a minute: until then neither the name nor what else answers is known.
        let Some(worker) = self.worker(leader, pair) else {
            return;
        };
        let is_tried_late = |side: Side| self.now < worker.refused_until[side] + patience;
        if Side::BOTH.into_iter().any(is_tried_late) {
            return;
        }
        let is_so = |side: Side, sight: Sight| {
            let record = truth.of(leader, pair, side);
            record.sight == sight && self.now.after(record.since) > patience
        };
        if is_so(serving, Sight::Broken) && is_so(serving.other(), Sight::Good) {
            let text = format!(
                "pair {pair}: the {} serves, another server has answered there for more than {patience:?}, and the other side is good",
                serving.label()
            );
            self.violate(
                "guarantee 4: a server that reports another name causes a failover",
                text,
            );
        }
    }

    /// Another server has answered there so lately that what it was can still be the newest that is known.
    pub(super) fn was_another_server_there(&self, pair: usize, side: Side) -> bool {
        let check = &self.plan.pairs[pair].pair.spec.health_check;
        let lasts = solid_after(&Timing::from(check)) + check.healthy_after.get();
        let until = self.watchdog.truth.other_until[pair][side];
        until.is_some_and(|until| self.now.after(until) <= lasts)
    }

    /// 12: a refused login causes no switch.
    pub fn guarantee_12_a_refused_login_causes_no_switch(
        &mut self,
        operator: usize,
        pair: usize,
        switch: &PendingSwitch,
    ) {
        let from = switch.to.other();
        let record = *self.watchdog.truth.of(operator, pair, from);
        let server = &self.pairs[pair].servers[from];
        let is_refused = server.refuses_login && server.is_alive;
        // What has failed before is no reason any more once the refusal must have been seen.
        let seen_after = self.timing(pair).unreachable_after + self.tolerance(pair, true);
        let is_well = self.now.after(record.ill_until) > seen_after;
        if switch.cause == Some(Cause::LoginRefused)
            || (is_refused && is_well && self.reaches_server(operator, pair, from))
        {
            let text = format!("pair {pair}: the {} is left: {:?}", from.label(), switch.cause);
            self.violate("guarantee 12: a refused login causes no switch", text);
        }
    }

    /// Whether the operator and the gates of that side can connect wherever they have to.
    fn reaches_server(&self, operator: usize, pair: usize, side: Side) -> bool {
        let links = [Link::OperatorGate(operator, pair, side), Link::GateServer(pair, side)];
        links.map(|link| self.network.connect(link)) == [Passage::Free(Duration::ZERO); 2]
    }
}
