//! What must hold: the guarantees of docs/failover.md, each as a function with its number, and what must come true once the faults are over.
//!
//! An operator cannot know what has just happened. Where a guarantee is about what is true, it is violated only if that has been so for longer
//! than the operator may need to notice.

pub mod causes;
mod drains;
mod gates;
mod knowledge;
mod over_time;
mod promises;
mod rest;

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;
use proxypair::{
    api::{Cause, ProxyPairStatus, ResyncPolicy, Side},
    domain::machine::{PendingSwitch, Selects},
    gate::mode::ClosedBy,
    protocol::Request,
};

use super::{
    clock::Time,
    network::{Link, Passage},
    plan::{Fault, Plan, PlannedFault},
    probe::SessionEnd,
    truth::{Sight, Truth, solid_after},
    world::World,
};

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub text: String,
    pub at: Time,
}

/// What the invariants need to remember.
pub struct Watchdog {
    pub truth: Truth,
    /// Writes to the API server, without those of the Lease.
    pub writes: u64,
    templates: Vec<u64>,
    /// Since when each side has been the one that serves, by status.
    serving_since: Vec<Option<(Side, Time)>>,
    /// Since when each side has been the target, by status.
    target_since: Vec<Option<(Side, Time)>>,
    /// Since when each virtual Service has selected what it selects, and had then when its side became the one that serves.
    pub selected_since: Vec<Time>,
    serving_from: Vec<Time>,
    /// How far the clock was ahead by which status has that.
    serving_skew: Vec<SignedDuration>,
    /// Until when an operator does nothing because the API server has asked for it.
    pub waits_until: Time,
    /// Since when there has been nothing left to do, and the writes until then.
    at_rest: Option<(Time, u64)>,
    /// When a worker has deleted a pod last: its number, the pod, and whether that was without grace.
    deleted: BTreeMap<(u64, u64, bool), Time>,
    next_look: Time,
    next_patrol: Time,
    restless_after: Time,
}

/// How soon an operator notices what a kernel says, over a slow link and with a watch that lags.
const NOTICED: Duration = Duration::from_millis(1700);
/// What a clock may be off when two moments are compared.
const SLACK: Duration = Duration::from_millis(20);

impl Watchdog {
    pub fn new(plan: &Plan) -> Self {
        let pairs = plan.pairs.len();
        Self {
            truth: Truth::new(plan),
            writes: 0,
            templates: vec![1; pairs],
            serving_since: vec![None; pairs],
            target_since: vec![None; pairs],
            selected_since: vec![Time::ZERO; pairs],
            serving_from: vec![Time::ZERO; pairs],
            serving_skew: vec![SignedDuration::ZERO; pairs],
            waits_until: Time::ZERO,
            at_rest: None,
            deleted: BTreeMap::new(),
            next_look: plan.calm_from,
            next_patrol: Time::ZERO,
            restless_after: plan.calm_from + rest::bound(plan),
        }
    }

    pub fn template(&self, pair: usize) -> u64 {
        self.templates[pair]
    }

    pub fn edit_template(&mut self, pair: usize) {
        self.templates[pair] += 1;
    }

    /// The pair was made anew.
    pub fn recreated(&mut self, pair: usize) {
        self.serving_since[pair] = None;
    }
}

impl World {
    /// 1: a switch never leaves the Service without an endpoint.
    pub fn guarantee_01_a_switch_has_an_endpoint(&mut self, _operator: usize, pair: usize, side: Side) {
        if self.selected(pair) == Selects::Other {
            return;
        }
        if let Some(since) = self.watchdog.truth.missing_since[pair][side]
            && self.now.after(since) > NOTICED
        {
            let text = format!(
                "pair {pair}: the {} has had no pod for {:?}",
                side.label(),
                self.now.after(since)
            );
            self.violate(
                "guarantee 1: a switch never leaves the Service without an endpoint",
                text,
            );
        }
    }

    /// 2: traffic is never switched to a side that may not serve. A selector that leads nowhere is repaired in any case.
    pub fn guarantee_02_only_to_a_side_that_may_serve(&mut self, operator: usize, pair: usize, side: Side) {
        if self.selected(pair) == Selects::Other {
            return;
        }
        if let Some((sight, lasts)) = self.known_ill(operator, pair, side) {
            let text = format!(
                "pair {pair}: the {} is {sight:?} and has not been good for {lasts:?}",
                side.label()
            );
            self.violate(
                "guarantee 2: traffic is never switched to a side that may not serve",
                text,
            );
        }
    }

    /// 3: a gate accepts no probe while it cannot reach its ObjectServer.
    pub fn guarantee_03_refuses_without_its_objectserver(&mut self, pair: usize, pod: u64) {
        let Some((_, found)) = self.pod(pod) else { return };
        let (side, thawed) = (found.side, found.gate.as_ref().map_or(self.now, |gate| gate.thawed));
        let Some((since, is_silent)) = self.watchdog.truth.away_since[pair][side] else {
            return;
        };
        let unresponsive = self.timing(pair).unresponsive_after;
        // A gate alone may meet silence where the others are refused.
        let is_cut =
            |planned: &PlannedFault| matches!(planned.fault, Fault::GateCut(of, at, _) if (of, at) == (pair, side));
        let allowed = if is_silent || self.plan.faults.iter().any(is_cut) {
            unresponsive + Duration::from_secs(4)
        } else {
            Duration::from_secs(1)
        };
        let lasts = self.now.after(since.max(thawed));
        if lasts > allowed {
            let text = format!("pair {pair}: pod {pod} accepts a probe {lasts:?} after it lost its ObjectServer");
            self.violate(
                "guarantee 3: a gate accepts no probe while it cannot reach its ObjectServer",
                text,
            );
        }
    }

    /// 5: silence shorter than `unresponsiveAfter` causes no switch, nor does a failure shorter than `unreachableAfter`, nor an error of the
    /// operator's own machine.
    pub fn guarantee_05_silence_has_lasted(&mut self, operator: usize, pair: usize, switch: &PendingSwitch) {
        let from = switch.to.other();
        let record = *self.watchdog.truth.of(operator, pair, from);
        // A pod that is being deleted counts at once, and what becomes of it goes on from there.
        if record.was_leaving || switch.cause.is_none() || record.solid_until == Time::ZERO {
            return;
        }
        // Another server has answered in the meantime, which is no silence.
        if switch.cause == Some(Cause::WrongObjectServer) && self.was_another_server_there(pair, from) {
            return;
        }
        if !record.was_ill {
            let text = format!(
                "pair {pair}: the {} is left, {:?}, and nothing of it has failed",
                from.label(),
                switch.cause
            );
            self.violate("guarantee 5: an error of the operator's machine causes no switch", text);
            return;
        }
        let timing = self.timing(pair);
        let (needed, what) = match record.only_silent {
            _ if self.is_seen_by_nobody(pair, from) => {
                (timing.lost_after.min(timing.unreachable_after), "seen by nobody")
            }
            true => (timing.unresponsive_after, "silent"),
            false => (timing.unreachable_after, "not good"),
        };
        let lasts = self.now.after(record.good_until);
        if lasts + SLACK < needed {
            let text = format!(
                "pair {pair}: the {} is left after it was {what} for {lasts:?}: {:?}",
                from.label(),
                switch.cause
            );
            self.violate(
                "guarantee 5: silence shorter than unresponsiveAfter causes no switch",
                text,
            );
        }
    }

    /// The machines of all gates of a side are cut off from everything.
    fn is_seen_by_nobody(&self, pair: usize, side: Side) -> bool {
        let mut pods = self.pods_of(pair, side).filter(|pod| pod.ip.is_some());
        pods.all(|pod| self.network.is_lost(pod.id))
    }

    /// 6: what the selector is changed to is in status first, so that a successor finds it.
    pub fn guarantee_06_intent_comes_first(&mut self, operator: usize, pair: usize, side: Side, is_late: bool) {
        let status = &self.api.objects[pair].status;
        let is_known = [status.serving, status.target].contains(&Some(side));
        if !is_known && (status.serving.is_some() || side == Side::Backup) {
            let text = format!(
                "pair {pair}: operator {operator} has{} the Service select the {}, and status has serving {:?} and target {:?}",
                if is_late { ", too late," } else { "" },
                side.label(),
                status.serving,
                status.target
            );
            self.violate("guarantee 6: the intent is written before the selector", text);
        }
    }

    /// 6: a switch that is finished stands in the history.
    pub fn guarantee_06_no_switch_is_lost(&mut self, operator: usize, pair: usize, next: &ProxyPairStatus) {
        let stored = &self.api.objects[pair].status;
        let is_recorded = next.history.first() != stored.history.first()
            && next
                .history
                .first()
                .is_some_and(|switch| Some(switch.to) == next.serving);
        if stored.serving.is_some() && next.serving != stored.serving && !is_recorded {
            let text = format!(
                "pair {pair}: serving becomes {:?} and the history does not tell",
                next.serving
            );
            self.violate("guarantee 6: a switch that is finished stands in the history", text);
        }
        if self.watchdog.target_since[pair].map(|(side, _)| side) != next.target {
            self.watchdog.target_since[pair] = next.target.map(|side| (side, self.now));
        }
        let known = self.watchdog.serving_since[pair];
        if known.map(|(side, _)| side) != next.serving {
            self.watchdog.serving_from[pair] = self.watchdog.selected_since[pair];
            self.watchdog.serving_skew[pair] = self.operators[operator].skew;
            self.watchdog.serving_since[pair] = next.serving.map(|side| (side, self.now));
        }
    }

    /// 6: whoever leads finishes a switch whose target may serve. It is withdrawn only for want of that, and the selector first.
    pub fn guarantee_06_withdrawn_for_a_reason(&mut self, operator: usize, pair: usize) {
        let Some(target) = self.api.objects[pair].status.target else {
            return;
        };
        let service = self.worker(operator, pair).and_then(|worker| worker.service);
        if service.is_some_and(|service| service.selects == Selects::Side(target)) {
            let text = format!("pair {pair}: the Service still selects the {}", target.label());
            self.violate("guarantee 6: a switch is withdrawn once the selector is set back", text);
        }
        if self.fails_back_without_proof(operator, pair) {
            return;
        }
        let record = *self.watchdog.truth.of(operator, pair, target);
        let lasts = self.now.after(record.since);
        let healthy_after = self.plan.pairs[pair].pair.spec.health_check.healthy_after.get();
        let known_after = solid_after(&self.timing(pair)) + healthy_after;
        if self.is_informed(operator) && record.sight == Sight::Good && lasts > known_after {
            let text = format!(
                "pair {pair}: operator {operator} withdraws the switch to the {}, which has been good for {lasts:?}",
                target.label()
            );
            self.violate("guarantee 6: a switch whose target may serve is finished", text);
        }
    }

    /// 7: two operators never both write.
    pub fn guarantee_07_one_leader(&mut self) {
        let leaders: Vec<_> = (0..self.operators.len())
            .filter(|operator| self.claims(*operator).is_some())
            .collect();
        if leaders.len() > 1 {
            let text = format!("operators {leaders:?} lead at the same time");
            self.violate("guarantee 7: two operators never both write", text);
        }
    }

    /// 7: gates never accept commands of a former leader.
    pub fn guarantee_07_commanded(&mut self, pod: u64, operator: usize, term: u64) {
        let highest = self.gate(pod).map_or(0, |gate| gate.highest_term);
        if term < highest {
            let text = format!("pod {pod} obeys operator {operator} of term {term} and has met term {highest}");
            self.violate("guarantee 7: gates never accept commands of a former leader", text);
        }
    }

    /// 8: no failback before the ObjectServers are in sync, by answers that are not too old.
    pub fn guarantee_08_no_failback_before_the_resync(&mut self, _operator: usize, pair: usize) {
        let declared = &self.plan.pairs[pair].pair.spec;
        let is_required = declared
            .resync()
            .is_some_and(|resync| resync.policy == ResyncPolicy::Required);
        let Some(since) = self.pairs[pair].gateway.behind_since.filter(|_| is_required) else {
            return;
        };
        let lasts = self.now.after(since);
        if lasts > self.timing(pair).answer_lasts() + NOTICED {
            let text = format!("pair {pair}: the ObjectServers have differed for {lasts:?}");
            self.violate("guarantee 8: no failback before the ObjectServers are in sync", text);
        }
    }

    /// 9: a drain cuts no request, unless that outlasts the drain.
    pub fn guarantee_09_no_request_is_cut(&mut self, pair: usize, session: usize, end: SessionEnd) {
        let session = &self.pairs[pair].sessions[session];
        let Some((event, since)) = session.outstanding else {
            return;
        };
        // An ObjectServer that does not answer, or whose answers do not arrive, makes any request outlast the drain.
        let link = self
            .network
            .at_pod(session.pod, Link::GateServer(pair, session.side), false);
        let is_silent = matches!(link, Passage::Silent | Passage::OneWay);
        let is_stalled = self.pairs[pair].servers[session.side].is_stalled;
        let is_unanswered = is_stalled || is_silent || session.was_held_up(self.now);
        let grace = self.drain_lasts(pair, session.pod);
        let lasts = self.now.after(since);
        let is_cut = match end {
            SessionEnd::DrainedIdle => true,
            SessionEnd::DrainDeadline => !is_unanswered && lasts + Duration::from_millis(1200) < grace,
            SessionEnd::Closed(ClosedBy::Command) => !is_unanswered && self.is_known_good(pair, session.pod),
            SessionEnd::GateGone | SessionEnd::Closed(_) | SessionEnd::ServerGone | SessionEnd::ProbeGone => false,
        };
        if is_cut {
            let text = format!(
                "pair {pair}: the drain of pod {} cuts event {event} of probe {}, which has lasted {lasts:?}",
                session.pod, session.probe
            );
            self.violate("guarantee 9: a drain cuts no request that does not outlast it", text);
        }
    }

    /// 11: nobody is driven off a side while no other side could serve.
    pub fn guarantee_11_nobody_is_driven_off_without_a_way_out(
        &mut self,
        operator: usize,
        pair: usize,
        (side, gate): (Side, &str),
        request: &Request,
    ) {
        if !matches!(request, Request::Drain { .. } | Request::Drop) {
            return;
        }
        // Of several gates of a side the others are the way out.
        let is_sibling = |pod: &&super::pod::Pod| pod.routed && pod.ip.is_some() && pod.uid() != gate;
        let may_serve = |pod| !self.is_known_ill(operator, pair, pod);
        if self.pods_of(pair, side).filter(is_sibling).any(may_serve) {
            return;
        }
        if let Some((sight, lasts)) = self.known_ill(operator, pair, side.other()) {
            // Until it ends a pod that is being deleted serves, and the other one goes first.
            let closed_since = self.watchdog.truth.closed_since[pair][side.other()];
            if sight == Sight::Leaving && closed_since.is_none_or(|since| self.now.after(since) < NOTICED) {
                return;
            }
            let text = format!(
                "pair {pair}: the {} is commanded {request:?}, and the other side is {sight:?} and has not been good for {lasts:?}",
                side.label()
            );
            self.violate("guarantee 11: a drain is stopped if no other side could serve", text);
        }
    }

    /// 13: sessions on the side that serves are not ended by a command.
    pub fn guarantee_13_the_serving_side_keeps_its_sessions(&mut self, pair: usize, session: usize, end: SessionEnd) {
        let session = &self.pairs[pair].sessions[session];
        let status = &self.api.objects[pair].status;
        // One that was taken out is emptied into the others of its side.
        let is_leaving = self
            .pod(session.pod)
            .is_none_or(|(_, pod)| pod.terminating.is_some() || !pod.routed);
        let is_commanded = matches!(
            end,
            SessionEnd::DrainedIdle | SessionEnd::DrainDeadline | SessionEnd::Closed(ClosedBy::Command)
        );
        let serves = status.serving == Some(session.side) && status.target == Some(session.side);
        let since = self.watchdog.serving_since[pair].map_or(self.now, |(_, since)| since);
        // One that was there before has been told by then, if it can be reached.
        let is_told = session.since > since || self.is_reached(pair, session.pod, self.now.after(since));
        if is_commanded && serves && !is_leaving && self.now.after(since) > NOTICED && is_told {
            let text = format!("pair {pair}: {end:?} on pod {} of the side that serves", session.pod);
            self.violate("guarantee 13: traffic continues to the side that serves", text);
        }
    }
}
