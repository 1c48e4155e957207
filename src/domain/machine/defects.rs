//! Looks for what is wrong beside the health of the sides, and announces it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Effect, Gate, Machine, Phase, Selects, SideState};
use crate::{
    api::{CONDITION_READY, Cause, Health, ProxyPairStatus, Reason, Side, Sides},
    domain::{
        defect::{Defect, Defects},
        evidence::{ADMITS_WITHIN, Link, PodState},
        gate_mode::drain_delay,
        notice::Notice,
    },
};

/// Time in addition to the longest drain before sessions count as left behind.
const LEFT_MARGIN: Duration = Duration::from_secs(5);
/// A side is empty when it has been so for this long: a probe that is closed and comes back is the same one.
const EMPTY_FOR: Duration = Duration::from_secs(10);
/// How long the idle side must be down before that is announced. A pod that is replaced is back sooner.
const UNPROTECTED_FOR: Duration = Duration::from_secs(30);
/// Patches of the selector that must fail in a row before that is said. One that fails is tried again at once.
const UNPATCHED_AFTER: u32 = 3;
/// A defect that comes back within this time is not announced again.
const SAME_DEFECT: Duration = Duration::from_secs(60);

/// What is remembered of earlier moments.
#[derive(Debug, Default)]
pub(super) struct DefectMemory {
    /// Sessions on a side that does not serve.
    left: Sides<Option<Left>>,
    /// The predecessor of this operator has found sessions that were left behind.
    found_left: bool,
    /// When each defect that was announced was last there.
    announced: HashMap<(Option<Side>, Reason), Instant>,
}

/// Sessions on a side that does not serve.
#[derive(Clone, Copy, Debug)]
struct Left {
    since: Instant,
    empty_since: Option<Instant>,
    /// The predecessor of this operator has waited long enough.
    found: bool,
}

impl Left {
    /// Whether they stayed for longer than `limit`. Those that left sooner did not, however long they are remembered.
    fn is_over(self, limit: Duration, now: Instant) -> bool {
        self.found || self.empty_since.unwrap_or(now) >= self.since + limit
    }
}

impl DefectMemory {
    /// What the stored status says of earlier moments.
    pub(super) fn resumed(status: &ProxyPairStatus) -> Self {
        let left = Reason::ProbesLeftBehind.as_str();
        let is_left = |known: &Condition| known.type_ == CONDITION_READY && known.reason == left;
        Self {
            found_left: status.conditions.iter().any(is_left),
            ..Self::default()
        }
    }
}

impl Machine {
    /// Looks for everything that is wrong, and announces what is new. Returns when to look again.
    pub(super) fn look_for_defects(&mut self, now: Instant, effects: &mut Vec<Effect>) -> Option<Instant> {
        self.remember_left(now);
        self.forget_refused_patches();
        let limit = self.leaves_within();
        let serving = self.phase.routing().serving;
        let mut defects = Defects::default();
        for side in Side::BOTH {
            defects.ready.extend(rejected(side, &self.sides[side]));
        }
        defects.ready.extend(self.unpatched());
        defects.ready.extend(self.unlabelled());
        defects.ready.extend(self.both_terminate());
        for side in Side::BOTH {
            let list = if side == serving {
                &mut defects.ready
            } else {
                &mut defects.protected
            };
            list.extend(closed(side, &self.sides[side], now));
        }
        defects.ready.extend(self.left_behind(limit, now));
        defects.protected.extend(same_node(&self.sides));
        defects.protected.extend(self.differing_views(now));
        for (defect, is_of_ready) in self.defects_of_lost_gates() {
            let list = if is_of_ready {
                &mut defects.ready
            } else {
                &mut defects.health
            };
            list.push(defect);
        }
        defects.health.extend(self.nobody_serves());
        defects.health.extend(self.unprotected(now));
        self.defects = defects;
        self.announce(now, effects);
        let left = self.memory.defects.left.iter().filter_map(|(_, left)| left.as_ref());
        let of_left = left.flat_map(|left| {
            [
                Some(left.since + limit),
                left.empty_since.map(|since| since + EMPTY_FOR),
            ]
        });
        let idle = &self.sides[serving.other()].health;
        let of_idle = (idle.health == Health::Down).then(|| idle.since + UNPROTECTED_FOR);
        of_left.chain([of_idle]).flatten().filter(|at| *at > now).min()
    }

    /// A switch that was withdrawn, and a selector that is what it should be, need no patch any more.
    fn forget_refused_patches(&mut self) {
        if let Phase::Settled { serving, .. } = self.phase
            && self.api.selects == Selects::Side(serving)
        {
            self.api.unpatched = None;
        }
    }

    /// How long sessions may stay on a side that does not serve.
    fn leaves_within(&self) -> Duration {
        let drain = &self.pair.spec.failback.drain;
        drain_delay(drain) + drain.grace_period.get() + LEFT_MARGIN
    }

    fn remember_left(&mut self, now: Instant) {
        let routing = self.phase.routing();
        for side in Side::BOTH {
            let is_idle = routing.serving != side && routing.target != side;
            // While the other side cannot take them, they are where they should be.
            let may_leave = is_idle && self.sides[side.other()].health.health == Health::Up;
            let is_occupied = self.sides[side].sessions() > 0;
            let found = self.memory.defects.found_left;
            self.memory.defects.found_left &= !may_leave || self.sides[side].is_unobserved();
            let left = &mut self.memory.defects.left[side];
            *left = match (*left, is_occupied) {
                _ if !may_leave => None,
                (None, false) => None,
                (known, true) => Some(Left {
                    since: known.map_or(now, |left| left.since),
                    empty_since: None,
                    found: known.map_or(found, |left| left.found),
                }),
                (Some(left), false) => {
                    let empty_since = left.empty_since.unwrap_or(now);
                    (now < empty_since + EMPTY_FOR).then_some(Left {
                        empty_since: Some(empty_since),
                        ..left
                    })
                }
            };
        }
    }

    fn left_behind(&self, limit: Duration, now: Instant) -> Option<Defect> {
        let is_over = |left: &Option<Left>| left.is_some_and(|left| left.is_over(limit, now));
        let (side, _) = self.memory.defects.left.iter().find(|(_, left)| is_over(left))?;
        let why = if self.route.leads_away_from(side.other(), now) {
            "; connections to the virtual Service still lead there: check kube-proxy, or the load balancer and \
             failback.drain.delay"
        } else {
            "; failback.connectionsRemaining counts them"
        };
        Some(Defect {
            side: Some(side),
            reason: Reason::ProbesLeftBehind,
            message: format!(
                "probes are still connected to the {} side, which does not serve{why}",
                side.label()
            ),
        })
    }

    /// The virtual Service stays where it is although it is to be switched.
    pub(super) fn unpatched(&self) -> Option<Defect> {
        let (reason, _) = self.api.unpatched.filter(|(_, times)| *times >= UNPATCHED_AFTER)?;
        Some(Defect {
            side: None,
            reason,
            message: format!(
                "the selector of Service {} cannot be patched, so the traffic stays where it is; the operator's log has the words of \
                 the API server",
                self.pair.service_name()
            ),
        })
    }

    fn both_terminate(&self) -> Option<Defect> {
        let is_terminating = |state: &SideState| state.health.cause == Some(Cause::ProxyTerminating);
        let serving = self.phase.selected();
        let both = self.sides.iter().all(|(_, state)| is_terminating(state));
        both.then(|| Defect {
            side: None,
            reason: Reason::BothTerminating,
            message: format!(
                "the pods of both sides are being deleted: that of the {} side leaves first, and the {} side serves until its \
                 successor is up; restart one Deployment at a time",
                serving.other().label(),
                serving.label()
            ),
        })
    }

    /// A pair that has served before serves no longer, and nothing can be done about it.
    fn nobody_serves(&self) -> Option<Defect> {
        let Phase::Settled {
            serving,
            since: Some(_),
        } = self.phase
        else {
            return None;
        };
        let (health, other) = (&self.sides[serving].health, &self.sides[serving.other()].health);
        let cause = health.cause.filter(|cause| *cause != Cause::ProxyTerminating)?;
        let nobody = health.health == Health::Down && other.health == Health::Down;
        nobody.then(|| Defect {
            side: Some(serving),
            reason: Reason::Down(cause),
            message: format!(
                "no side can serve; the {} side: {}",
                serving.label(),
                health.message.as_deref().unwrap_or_default()
            ),
        })
    }

    fn unprotected(&self, now: Instant) -> Option<Defect> {
        let Phase::Settled {
            serving,
            since: Some(_),
        } = self.phase
        else {
            return None;
        };
        let health = &self.sides[serving.other()].health;
        let is_due = health.health == Health::Down && now >= health.since + UNPROTECTED_FOR;
        let is_served = self.sides[serving].health.health == Health::Up;
        (is_due && is_served).then(|| Defect {
            side: Some(serving.other()),
            reason: Reason::OneSideOnly,
            message: format!(
                "the {} side is down: {}: {}",
                serving.other().label(),
                health.cause.map_or("", Cause::as_str),
                health.message.as_deref().unwrap_or_default()
            ),
        })
    }

    /// Publishes an Event for each defect that is new, and for what keeps the pair from being as declared.
    fn announce(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let problem = self.problem.as_ref().map(|problem| Defect {
            side: None,
            reason: problem.reason,
            message: problem.message.clone(),
        });
        let announced = &mut self.memory.defects.announced;
        for defect in self.defects.iter().chain(&problem) {
            if announced.insert((defect.side, defect.reason), now).is_none() {
                effects.push(Effect::Publish(Notice::Defect(defect.clone())));
            }
        }
        announced.retain(|_, last| now < *last + SAME_DEFECT);
    }
}

/// A gate that rejects the command in force does not do what the operator decides.
fn rejected(side: Side, state: &SideState) -> Option<Defect> {
    let (gate, message) = state.gates.iter().find_map(|gate| Some((gate, gate.rejection()?)))?;
    Some(Defect {
        side: Some(side),
        reason: Reason::CommandRejected,
        message: format!("the gate in pod {} rejects a command: {message}", gate.pod.name),
    })
}

/// A gate whose ObjectServer can be reached accepts no probes although it is commanded to.
fn closed(side: Side, state: &SideState, now: Instant) -> Option<Defect> {
    let is_closed = |gate: &&Gate| {
        let is_due = gate
            .evidence
            .refusing_since
            .is_some_and(|since| now >= since + ADMITS_WITHIN);
        is_due && !gate.is_terminating() && !matches!(gate.evidence.control, Link::Failed { .. })
    };
    let gate = state.gates.iter().find(is_closed)?;
    let why = gate.report().and_then(|report| report.listen_error.as_deref());
    Some(Defect {
        side: Some(side),
        reason: Reason::PortClosed,
        message: format!(
            "the gate in pod {} accepts no probes{}",
            gate.pod.name,
            why.map(|why| format!(": {why}")).unwrap_or_default()
        ),
    })
}

/// All gates of the pair, or of a side that has several, run on one node, whose failure stops the traffic or costs the side.
fn same_node(sides: &Sides<SideState>) -> Option<Defect> {
    let running = |side: Side| {
        sides[side]
            .gates
            .iter()
            .filter(|gate| gate.evidence.pod == PodState::Running)
    };
    let shared = |gates: &mut dyn Iterator<Item = &Gate>| {
        let mut nodes = gates.map(|gate| gate.pod.node.as_ref());
        let first = nodes.next()??;
        let others: Vec<_> = nodes.collect();
        let all = !others.is_empty() && others.iter().all(|node| *node == Some(first));
        all.then(|| first.clone())
    };
    let (primary, backup) = (running(Side::Primary), running(Side::Backup));
    let has_both = Side::BOTH.into_iter().all(|side| running(side).next().is_some());
    if has_both && let Some(node) = shared(&mut primary.chain(backup)) {
        return Some(Defect {
            side: None,
            reason: Reason::SameNode,
            message: format!(
                "the proxies of both sides run on node {node}, whose failure would stop the traffic: delete the pod of the side \
                 that does not serve when another node can take it"
            ),
        });
    }
    Side::BOTH.into_iter().find_map(|side| {
        let node = shared(&mut running(side))?;
        Some(Defect {
            side: Some(side),
            reason: Reason::SameNode,
            message: format!(
                "all proxies of the {} side run on node {node}, whose failure would cost the side: delete one of its pods when another node \
                 can take it",
                side.label()
            ),
        })
    })
}
