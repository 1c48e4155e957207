//! What must come true once the faults are over, within a time that follows from the specs: the pair serves from a side that can serve, every
//! probe is on it, status says so, and nothing is written any more.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use proxypair::{
    api::{FailbackMode, Health, Side},
    domain::machine::Selects,
};

use super::super::{
    plan::{ApiTrouble, Death, Fault, PairPlan, Plan, PlannedFault},
    pod::Pod,
    truth::Sight,
    world::World,
};

/// How long it must be at rest after that.
const REST: Duration = Duration::from_secs(8);
/// After this much rest, and a few intervals in which everything is asked once more, nothing may be written any more.
const SETTLED: Duration = Duration::from_secs(4);

/// How long it may take until everything is as it should be, after the last fault: the sum of what may have to happen one after the other.
pub fn bound(plan: &Plan) -> Duration {
    let refuses = plan
        .faults
        .iter()
        .any(|fault| matches!(fault.fault, Fault::LoginRefused(..)));
    let rolls = plan
        .faults
        .iter()
        .any(|fault| matches!(fault.fault, Fault::TemplateEdited(_)));
    let of_pair = |pair: &PairPlan| {
        let longest =
            |of: fn(&proxypair::api::ProxyPairSpec) -> Duration| of(&pair.pair.spec).max(of(&pair.edited.spec));
        let check = longest(|spec| {
            let check = &spec.health_check;
            check.unresponsive_after.get() * 2
                + check.healthy_after.get()
                + check.unreachable_after.get()
                + check.interval.get() * 8
        });
        let failback = longest(|spec| spec.failback.stable_for.get() + spec.failback.minimum_on_backup.get());
        let drain = longest(|spec| spec.failback.drain.grace_period.get() + spec.failback.drain.delay.get());
        // A pod that is being deleted ends, its successor starts; with a rollout on both sides.
        let pods = (drain * 2 + Duration::from_secs(10)) * if rolls { 4 } else { 1 };
        let switches = Duration::from_secs(5 + 5 + 2) + drain * 2;
        let timeouts = pair
            .probes
            .iter()
            .map(|probe| probe.network_timeout)
            .max()
            .unwrap_or_default();
        check * if rolls { 3 } else { 1 } + failback * 2 + pods + switches + pair.resync + timeouts * 2
    };
    let pairs = plan.pairs.iter().map(of_pair).max().unwrap_or_default();
    let login = Duration::from_secs(if refuses { 61 } else { 0 });
    let is_busy = |fault: &PlannedFault| matches!(fault.fault, Fault::Api(ApiTrouble::Busy(_)));
    let busy = Duration::from_secs(if plan.faults.iter().any(is_busy) { 30 } else { 0 });
    // A new pair waits for its primary.
    let first = Duration::from_secs(if plan.dead.is_empty() { 0 } else { 35 });
    // A leader is found, and the first reconciliation may fail.
    plan.lease * 4 + Duration::from_secs(20) + login + busy + first + pairs
}

fn longest_interval(plan: &Plan) -> Duration {
    let intervals = plan.pairs.iter().map(|pair| pair.pair.spec.health_check.interval.get());
    intervals.max().unwrap_or_default()
}

/// How long a gate whose ObjectServer is gone for good may take to say all about it: that nothing has come, and that no dial is answered.
fn dies_within(plan: &Plan) -> Duration {
    let of_pair = |(pair, ..): &(usize, Side, Death)| {
        plan.pairs[*pair].pair.spec.health_check.unresponsive_after.get() * 2 + Duration::from_secs(6)
    };
    plan.dead.iter().map(of_pair).max().unwrap_or_default()
}

impl World {
    /// Whether the history is over: everything has been at rest for long enough, or it is violated that it comes to rest in time.
    pub fn is_over(&mut self) -> bool {
        let now = self.now;
        if now < self.watchdog.next_look {
            return false;
        }
        self.watchdog.next_look = now + Duration::from_millis(500);
        if let Some((rule, text)) = self.unrest() {
            self.watchdog.at_rest = None;
            if now > self.watchdog.restless_after {
                self.violate(rule, text);
                return true;
            }
            return false;
        }
        let (since, writes) = *self.watchdog.at_rest.get_or_insert((now, self.watchdog.writes));
        let settled = SETTLED + longest_interval(&self.plan) * 3 + dies_within(&self.plan);
        if now.after(since) < settled {
            self.watchdog.at_rest = Some((since, self.watchdog.writes));
        } else {
            self.guarantee_14_an_idle_pair_writes_nothing(writes);
        }
        let is_over = now.after(since) >= settled + REST;
        if is_over {
            self.guarantee_09_no_event_is_lost();
        }
        is_over
    }

    /// 14: an idle pair writes nothing to the API server. `writes` is how many there were when everything had come to rest.
    fn guarantee_14_an_idle_pair_writes_nothing(&mut self, writes: u64) {
        if self.watchdog.writes != writes {
            let what = self.api.last_write.map_or("nothing", |(_, what)| what);
            self.violate(
                "guarantee 14: an idle pair writes nothing",
                format!("it has written {what}"),
            );
        }
    }

    /// 9: every event that was acknowledged is in an ObjectServer.
    fn guarantee_09_no_event_is_lost(&mut self) {
        for pair in 0..self.pairs.len() {
            let world = &self.pairs[pair];
            let is_stored = |event: &(usize, u64)| {
                world
                    .servers
                    .iter()
                    .any(|(_, server)| server.stored.contains_key(event))
            };
            let probes = world.probes.iter().enumerate();
            let lost = probes
                .flat_map(|(probe, found)| found.acknowledged.iter().map(move |event| (probe, *event)))
                .find(|event| !is_stored(event));
            if let Some((probe, event)) = lost {
                let text = format!("pair {pair}: event {event} of probe {probe} is in no ObjectServer");
                self.violate("guarantee 9: no acknowledged event is lost", text);
            }
        }
    }

    /// What is not as it must be when all faults are over.
    fn unrest(&self) -> Option<(&'static str, String)> {
        let Some(leader) = (0..self.operators.len()).find(|operator| self.claims(*operator).is_some()) else {
            return Some(("once the faults are over an operator leads", "none does".to_owned()));
        };
        let is_behind =
            |pair: &usize| !self.plan.stays_behind(*pair) && self.pairs[*pair].gateway.behind_since.is_some();
        if (0..self.pairs.len()).any(|pair| is_behind(&pair)) {
            return Some((
                "once the faults are over the gateway resynchronises",
                "it has not".to_owned(),
            ));
        }
        let ends = |pod: &&Pod| pod.terminating.is_some();
        if let Some(pod) = self.pairs.iter().flat_map(|pair| &pair.pods).find(ends) {
            let text = format!("pod {} is still there", pod.id);
            return Some(("once the faults are over a pod that is deleted ends", text));
        }
        // Whether its login is accepted now changes what is said of a side that is gone for good.
        let is_tried_later = |pair: &usize| {
            let worker = self.worker(leader, *pair);
            worker.is_some_and(|worker| worker.refused_until.iter().any(|(_, until)| *until > self.now))
        };
        if (0..self.pairs.len()).any(|pair| self.plan.dead_side(pair).is_some() && is_tried_later(&pair)) {
            let text = "it is to be tried again".to_owned();
            return Some(("once the faults are over a login that was refused is tried again", text));
        }
        if self.now < self.watchdog.waits_until {
            let text = "it was asked to wait".to_owned();
            return Some(("once the faults are over an operator says what it has seen", text));
        }
        (0..self.pairs.len())
            .find_map(|pair| self.unserved(leader, pair))
            .or_else(|| (0..self.pairs.len()).find_map(|pair| self.guarantee_10_no_probe_is_left_behind(pair)))
            .or_else(|| (0..self.pairs.len()).find_map(|pair| self.wrong_status(pair)))
    }

    /// Once the faults are over, the pair serves from a side that can serve: with Automatic the primary.
    fn unserved(&self, leader: usize, pair: usize) -> Option<(&'static str, String)> {
        let rule = "once the faults are over the pair serves from a side that can serve";
        let status = &self.api.objects[pair].status;
        let Selects::Side(side) = self.selected(pair) else {
            return Some((
                rule,
                format!("pair {pair}: the Service selects {:?}", self.selected(pair)),
            ));
        };
        if status.serving != Some(side) || status.target != Some(side) || status.switching.is_some() {
            let (serving, target) = (status.serving, status.target);
            return Some((
                rule,
                format!("pair {pair}: selected {side:?}, serving {serving:?}, target {target:?}"),
            ));
        }
        let dead = self.plan.dead_side(pair);
        if dead == Some(side) {
            let text = format!("pair {pair}: the {} serves, which is gone for good", side.label());
            return Some((rule, text));
        }
        let is_automatic = self.plan.pairs[pair].pair.spec.failback.mode == FailbackMode::Automatic;
        if side == Side::Backup && is_automatic && dead.is_none() {
            let waits = status.failback.as_ref().map(|failback| failback.waiting_for.join("; "));
            let text = format!("pair {pair}: the backup serves, and a failback waits for {waits:?}");
            return Some(("once the faults are over a failback restores the primary", text));
        }
        for side in Side::BOTH.into_iter().filter(|side| dead != Some(*side)) {
            let sight = self.watchdog.truth.of(leader, pair, side).sight;
            if sight != Sight::Good {
                return Some((rule, format!("pair {pair}: the {} is {sight:?}", side.label())));
            }
        }
        None
    }

    /// 10: after a failback no probe stays on the backup; nor does one stay anywhere else.
    fn guarantee_10_no_probe_is_left_behind(&self, pair: usize) -> Option<(&'static str, String)> {
        let Selects::Side(side) = self.selected(pair) else {
            return None;
        };
        let world = &self.pairs[pair];
        world.probes.iter().enumerate().find_map(|(number, probe)| {
            let session = world.sessions.iter().find(|session| Some(session.id) == probe.session);
            match session {
                Some(session) if session.side == side => None,
                Some(session) => {
                    let text = format!("pair {pair}: probe {number} is still on the {}", session.side.label());
                    Some(("guarantee 10: after a failback no probe stays on the backup", text))
                }
                None => {
                    let text = format!("pair {pair}: probe {number} has no session");
                    Some(("once the faults are over every probe is served", text))
                }
            }
        })
    }

    /// `Ready`, `Protected`, the health of the sides and the sessions in status agree with the world.
    fn wrong_status(&self, pair: usize) -> Option<(&'static str, String)> {
        let rule = "status agrees with the world";
        let status = &self.api.objects[pair].status;
        let dead = self.plan.dead_side(pair);
        for wanted in ["Ready", "Protected"] {
            let condition = status.conditions.iter().find(|condition| condition.type_ == wanted);
            // A node that came back has ended the sessions of a gate whose pod was deleted without grace; the operator cannot know that.
            if wanted == "Protected" && dead.is_some() {
                if condition.is_none_or(|condition| condition.status != "False") {
                    let text = format!("pair {pair}: one side is gone for good, and {wanted} is {condition:?}");
                    return Some((rule, text));
                }
                continue;
            }
            let may_hang = !status.lost_gates.is_empty();
            let is_true = |condition: &_| {
                let Condition { status, reason, .. } = condition;
                status == "True" || may_hang && reason == "GateLost"
            };
            if !condition.is_some_and(is_true) {
                return Some((rule, format!("pair {pair}: {wanted} is {condition:?}")));
            }
        }
        for side in Side::BOTH {
            let shown = status.side(side)?;
            let sessions = self.pairs[pair]
                .sessions
                .iter()
                .filter(|session| session.side == side)
                .count();
            let health = if dead == Some(side) { Health::Down } else { Health::Up };
            if shown.health != health || usize::try_from(shown.connections).ok() != Some(sessions) {
                let (health, connections) = (shown.health, shown.connections);
                let text = format!(
                    "pair {pair}: the {} is {health:?} with {connections} sessions in status, and has {sessions}",
                    side.label()
                );
                return Some((rule, text));
            }
            if dead == Some(side) {
                continue;
            }
            let living = |pod: &&Pod| pod.ip.is_some() && pod.terminating.is_none();
            let mut pods: Vec<_> = self.pods_of(pair, side).filter(living).map(Pod::uid).collect();
            pods.sort();
            let gates: Vec<_> = shown
                .gates
                .iter()
                .filter(|gate| gate.routed)
                .map(|gate| gate.pod.clone())
                .collect();
            if gates != pods {
                let text = format!(
                    "pair {pair}: status has the gates {gates:?} of the {}, and there are {pods:?}",
                    side.label()
                );
                return Some((rule, text));
            }
        }
        None
    }
}
