//! What gates are commanded, and what checks are asked beside their usual questions.

use std::time::Instant;

use super::{Effect, Gate, Machine, Now, Phase, RouteEvidence, Selects, SideState, Step};
use crate::{
    api::{Cause, Side},
    domain::{
        failover::Routing,
        gate_mode::{Drains, GateMode, Occupancy, drain_delay, drains_from, mode_for},
    },
};

impl Machine {
    pub(super) fn command_gates(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let routing = self.commanded_routing();
        let drain = &self.pair.spec.failback.drain;
        let drains = Drains {
            of_idle_side: drains_from(&routing, drain).is_none_or(|from| now.monotonic >= from)
                && self.api.selects == Selects::Side(routing.serving)
                && self.nodes_know_at().is_none_or(|at| now.monotonic >= at)
                && self.route.allows_drain(routing.serving, now.monotonic),
            delay: drain_delay(drain),
        };
        for side in Side::BOTH {
            let health = self.sides.each_ref().map(|side| &side.health);
            let other = &self.sides[side.other()].gates;
            let other_still_serves = other.iter().any(Gate::still_serves);
            let other_serves = other.iter().any(|gate| gate.is_in() && gate.serves());
            let occupancy = |gate: &Gate| Occupancy {
                other_still_serves,
                other_serves,
                // It has left the Service, and a sibling takes what it had.
                out_since: gate.out_since.filter(|_| self.has_good_sibling(side, gate)),
                ..gate.occupancy()
            };
            let commands: Vec<_> = self.sides[side]
                .gates
                .iter()
                .map(|gate| mode_for(side, &routing, health, occupancy(gate), drains, now.monotonic))
                .collect();
            for (gate, mode) in self.sides[side].gates.iter_mut().zip(commands) {
                let request = gate.request(mode, drain, now.monotonic);
                if gate.command(mode, &request, now.monotonic) {
                    effects.push(Effect::Command {
                        side,
                        gate: gate.pod.uid.clone(),
                        request,
                    });
                }
                if gate.take_recheck() {
                    effects.push(Effect::Recheck(side, gate.pod.uid.clone()));
                }
            }
        }
    }

    /// Takes note of a change of what the virtual Service selects, whoever made it.
    pub(super) fn note_selector(&mut self, now: Instant) {
        let selects = self.api.selects;
        let since = match self.memory.selected {
            Some((known, since)) if known == selects => since,
            // It has just been told, and nothing has changed.
            None | Some((Selects::NoService, None)) => None,
            Some(_) => Some(now),
        };
        self.memory.selected = Some((selects, since));
    }

    /// When the nodes have had `drain.delay` to follow the newest change of the virtual Service.
    pub(super) fn nodes_know_at(&self) -> Option<Instant> {
        let (_, since) = self.memory.selected?;
        since.map(|since| since + drain_delay(&self.pair.spec.failback.drain))
    }

    /// The routing on which gates are commanded. A target that is terminating, like the side that it is to replace, does not take over before
    /// its successor is there: as long as the Service has not been patched, it is as idle as if there were no switch.
    fn commanded_routing(&self) -> Routing {
        let routing = self.phase.recorded();
        let is_terminating = |side: &SideState| side.health.cause == Some(Cause::ProxyTerminating);
        let both = self.sides.iter().all(|(_, side)| is_terminating(side));
        if both && self.phase.selected() == routing.serving {
            return Routing {
                target: routing.serving,
                ..routing
            };
        }
        routing
    }

    /// Connections to the virtual Service are observed from the patch on, until the side that was left is being emptied.
    pub(super) fn watch_route(&mut self, effects: &mut Vec<Effect>) {
        let wanted = match &self.phase {
            Phase::Switching { step, .. } => matches!(step, Step::Endpoints { .. } | Step::Fact),
            Phase::Settled { serving, .. } => {
                let waits = |gate: &Gate| {
                    let known = gate.occupancy();
                    (known.occupied_since.is_some() || known.terminating)
                        && !matches!(known.last, Some(GateMode::Drain | GateMode::Drop))
                };
                self.sides[*serving].health.may_serve() && self.sides[serving.other()].gates.iter().any(waits)
            }
        };
        if std::mem::replace(&mut self.memory.watches_route, wanted) != wanted {
            self.route = RouteEvidence::default();
            effects.push(Effect::WatchRoute(wanted));
        }
    }

    /// `catalog.connections` is read only while a failback waits for the gateways.
    pub(super) fn ask_for_gateways(&mut self, effects: &mut Vec<Effect>) {
        let wanted = self.resync.is_some() && self.phase.routing().serving == Side::Backup;
        for side in Side::BOTH {
            if std::mem::replace(&mut self.memory.reads_gateways[side], wanted) != wanted {
                effects.push(Effect::ReadGateways(side, wanted));
            }
        }
    }
}
