//! The steps of a switch: one method for each.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    Gate, Machine,
    input::{Call, Effect, Selects},
    phase::{PendingSwitch, Phase, Step, Timeline},
};
use crate::{
    api::{Cause, Side, Switch, SwitchKind},
    domain::{failover::Decision, notice::Notice, now::Now, status},
};

/// How long the EndpointSlices may take to show the new side. After that the switch goes on: the Service has been patched.
const ENDPOINTS: Duration = Duration::from_secs(5);

impl Machine {
    /// Takes the next step of the routing. Called while no call is under way.
    pub(super) fn route(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let decision = self.decision.clone();
        match (self.phase.clone(), decision) {
            (Phase::Settled { .. }, Decision::Begin { to, kind, cause }) => self.begin(to, kind, cause, now, effects),
            (Phase::Settled { serving, since }, _) => self.stay(serving, since, now, effects),
            (Phase::Switching { switch, step }, decision) => self.go_on(switch, step, &decision, now, effects),
        }
    }

    fn begin(&mut self, to: Side, kind: SwitchKind, cause: Option<Cause>, now: Now, effects: &mut Vec<Effect>) {
        self.phase = Phase::Switching {
            switch: PendingSwitch {
                to,
                kind,
                cause,
                started_at: MicroTime(now.wall_micros()),
                served_since: self.phase.routing().since,
                timeline: Timeline {
                    decided: Some(now.monotonic),
                    ..Timeline::default()
                },
            },
            step: Step::Intent,
        };
        self.write_status(None, now, effects);
    }

    /// Nothing moves. Takes note of the first time that a side serves, and repairs a selector that somebody else has changed.
    fn stay(&mut self, serving: Side, since: Option<Instant>, now: Now, effects: &mut Vec<Effect>) {
        if since.is_none() && self.sides[serving].health.may_serve() {
            self.phase = Phase::Settled {
                serving,
                since: Some(now.monotonic),
            };
        }
        let is_wrong = match self.api.selects {
            // It leads nowhere, or as an earlier version of the operator has it: then the labels of the pods come first.
            Selects::Other => {
                let gates = &self.sides[serving].gates;
                gates.iter().any(Gate::is_in) || gates.iter().all(|gate| gate.pod.ip.is_none())
            }
            Selects::Side(side) => side != serving && self.sides[serving].health.may_serve(),
            Selects::NoService => false,
        };
        if is_wrong {
            self.call(Call::PatchSelector(serving), effects);
        }
    }

    fn go_on(&mut self, switch: PendingSwitch, step: Step, decision: &Decision, now: Now, effects: &mut Vec<Effect>) {
        let step = match (step, decision) {
            // The target can serve again before it was given up.
            (Step::Revert, Decision::Finish) => Step::Patch,
            (Step::Patch | Step::Endpoints { .. } | Step::Revert, Decision::Withdraw) => Step::Revert,
            (step, _) => step,
        };
        self.phase = Phase::Switching {
            switch: switch.clone(),
            step,
        };
        match step {
            Step::Patch => self.patch(&switch, decision, now, effects),
            Step::Endpoints { until } => self.await_endpoints(switch, until, now, effects),
            Step::Revert => self.revert(&switch, decision, now, effects),
            // Their writes are under way, and a failed one leads to what was read.
            Step::Intent | Step::Fact | Step::Retract => {}
        }
    }

    fn patch(&mut self, switch: &PendingSwitch, decision: &Decision, now: Now, effects: &mut Vec<Effect>) {
        match (decision, self.api.selects) {
            (Decision::Finish, Selects::Side(side)) if side == switch.to => {
                self.selector_patched(side, now);
                self.route(now, effects);
            }
            (Decision::Finish, Selects::Side(_) | Selects::Other) => {
                self.say_defects(now, effects);
                if self.is_idle() {
                    self.call(Call::PatchSelector(switch.to), effects);
                }
            }
            // Neither side can serve, or the Service is still to be made.
            _ => {}
        }
    }

    fn await_endpoints(&mut self, mut switch: PendingSwitch, until: Instant, now: Now, effects: &mut Vec<Effect>) {
        let is_shown = self.endpoints_show(switch.to) || now.monotonic >= until;
        if !is_shown || self.sides[switch.to].is_looked_at_anew() {
            return;
        }
        switch.timeline.shown = Some(now.monotonic);
        let finished = finished(&switch, now);
        self.phase = Phase::Switching {
            switch,
            step: Step::Fact,
        };
        self.write_status(Some(&finished), now, effects);
    }

    fn revert(&mut self, switch: &PendingSwitch, decision: &Decision, now: Now, effects: &mut Vec<Effect>) {
        let from = switch.to.other();
        match (decision, self.api.selects) {
            (_, Selects::Side(side)) if side == from => {
                self.phase = Phase::Switching {
                    switch: switch.clone(),
                    step: Step::Retract,
                };
                self.write_status(None, now, effects);
            }
            (Decision::Withdraw, Selects::Side(_) | Selects::Other) => self.call(Call::PatchSelector(from), effects),
            // Neither side can serve, or the Service is still to be made.
            _ => {}
        }
    }

    /// Writes what is wrong before a patch that fails again and again is tried once more. Otherwise no write may hold up a switch.
    fn say_defects(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.unpatched().is_none() {
            return;
        }
        let status = self.rendered(None, &self.phase, now);
        if status.conditions != self.api.status.conditions {
            self.call(Call::WriteStatus(status), effects);
        }
    }

    /// The status of the present step. At [`Step::Fact`] and [`Step::Retract`] it is the one of the phase that follows.
    fn write_status(&mut self, finished: Option<&Switch>, now: Now, effects: &mut Vec<Effect>) {
        let status = self.rendered(finished, &self.following(), now);
        self.call(Call::WriteStatus(status), effects);
    }

    /// The phase once the write under way has succeeded.
    fn following(&self) -> Phase {
        match &self.phase {
            Phase::Switching {
                switch,
                step: Step::Fact,
            } => Phase::Settled {
                serving: switch.to,
                since: switch.timeline.shown,
            },
            Phase::Switching {
                switch,
                step: Step::Retract,
            } => Phase::Settled {
                serving: switch.to.other(),
                since: switch.served_since,
            },
            phase => phase.clone(),
        }
    }

    /// A status that was called for is stored.
    pub(super) fn status_written(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let following = self.following();
        let before = std::mem::replace(&mut self.phase, following);
        match before {
            Phase::Switching {
                mut switch,
                step: Step::Intent,
            } => {
                switch.timeline.intended = Some(now.monotonic);
                self.phase = Phase::Switching {
                    switch,
                    step: Step::Patch,
                };
            }
            Phase::Switching {
                switch,
                step: Step::Fact,
            } => {
                if let Some(switch_done) = self.api.status.history.first().cloned() {
                    effects.extend(self.finished(switch_done, switch.timeline));
                }
            }
            Phase::Switching {
                switch,
                step: Step::Retract,
            } => effects.push(Effect::Publish(self.withdrawn(&switch, now))),
            Phase::Settled { .. } | Phase::Switching { .. } => {}
        }
    }

    /// What is said of a switch that was given up.
    fn withdrawn(&self, switch: &PendingSwitch, now: Now) -> Notice {
        let target = &self.sides[switch.to].health;
        let why = match (target.may_serve(), self.missing_resync(now.monotonic).first()) {
            (true, Some(missing)) => format!("it waits for {}", status::waiting_for_resync(missing, &self.pair)),
            _ => target.message.clone().unwrap_or_else(|| "it went down".to_owned()),
        };
        Notice::Withdrawn { to: switch.to, why }
    }

    /// The virtual Service is known to select `side`.
    pub(super) fn selector_patched(&mut self, side: Side, now: Now) {
        if let Phase::Switching { switch, step } = &mut self.phase
            && *step == Step::Patch
            && side == switch.to
        {
            switch.timeline.patched = Some(now.monotonic);
            *step = Step::Endpoints {
                until: now.monotonic + ENDPOINTS,
            };
        }
    }

    /// Whether the EndpointSlices show gates of that side, and nothing else. Without the address of a gate there is nothing to wait for.
    fn endpoints_show(&self, side: Side) -> bool {
        let gates = self.addresses(side);
        let shown = &self.endpoints;
        gates.is_empty() || (!shown.is_empty() && shown.iter().all(|address| gates.contains(address)))
    }
}

fn finished(switch: &PendingSwitch, now: Now) -> Switch {
    let finished_at = MicroTime(now.wall_micros());
    let took = finished_at.0.duration_since(switch.started_at.0);
    Switch {
        kind: switch.kind,
        to: switch.to,
        cause: switch.cause,
        started_at: switch.started_at.clone(),
        duration: took.max(jiff::SignedDuration::ZERO).unsigned_abs().into(),
        finished_at,
    }
}
