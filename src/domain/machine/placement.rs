//! Which gates of a side the virtual Service leads to.
//!
//! All of them, by the label of their pods, but for those that cannot serve while another one of the side can: one that is terminating, or
//! that has failed alone. It is taken out, and then emptied; the side goes on, on the same ObjectServer. The last good gate is never taken
//! out, so that a side that fails as a whole is left as a whole, and a Service is never without an endpoint.
//!
//! Pods are made with the label, so that one that is replaced while no operator runs is led to.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Effect, Gate, Machine, Now, SideState,
    input::{Call, CallDone, CallError},
};
use crate::{
    api::{Cause, GateStatus, Reason, Side},
    domain::{
        defect::Defect,
        evidence::{GateReport, Reading, Timing},
        gate_mode::drain_delay,
        notice::Notice,
        status::count,
    },
};

/// How long a bad gate may stay an endpoint of a side that has a good one, before the side counts as bad itself.
pub(super) const TAKEN_OUT_WITHIN: Duration = Duration::from_secs(10);
/// How long a side may be without a gate that the virtual Service leads to, while one is to be led to, before the side counts as bad.
pub(super) const LED_TO_WITHIN: Duration = Duration::from_secs(3);
/// How much later than one gate another one may notice that the ObjectServer of both died.
pub(super) const CONFIRMED_AFTER: Duration = Duration::from_millis(50);
/// Shortest time between two writes of the label of one pod: the cache has the first by then.
const LABEL_EVERY: Duration = Duration::from_secs(2);
/// Time from a write that failed to the next attempt; it doubles with each.
const LABEL_AGAIN: Duration = Duration::from_millis(200);
/// Longest time from a write that failed to the next attempt.
const LONGEST_LABEL_AGAIN: Duration = Duration::from_secs(10);
/// Writes that must fail in a row before that is said.
const UNLABELLED_AFTER: u32 = 3;

/// How many `status.<side>.gates` holds: three, their successors, and what a lost node has left behind.
const GATES_MAX: usize = 8;

/// What is remembered of the label of a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Labelling {
    routed: bool,
    /// When it may be written again.
    next: Instant,
    /// Why the newest write failed, and how many have in a row.
    failed: Option<(Reason, u32)>,
}

/// What the label of a pod is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The Service does not lead to the gate.
    Out,
    /// It does.
    In,
    /// The same, and no other gate of the side is good.
    InAtOnce,
}

/// A pod whose label was written.
pub(super) struct LabelledPod {
    pub uid: String,
    pub routed: bool,
}

/// What all gates of a side say together.
///
/// It is good if one to which the virtual Service leads is, and no other one there is bad. A bad one beside a good one is doubtful for as long
/// as it takes to take it out. Of several that are bad the one counts that is to go down last.
///
/// While the Service leads to none that serves, and one that does is to be led to, that is doubtful for as long as its label may take:
/// `deserted_since` says since when.
pub(super) fn read_all(gates: &[Gate], deserted_since: Option<Instant>, now: Instant) -> Reading {
    let led_to: Vec<_> = gates.iter().filter(|gate| gate.is_in()).collect();
    let bad_for_long = |gate: &Gate| gate.bad_since.is_some_and(|since| now >= since + TAKEN_OUT_WITHIN);
    if led_to.iter().any(|gate| gate.serves()) {
        let Some(other) = led_to.iter().find(|gate| !gate.serves()) else {
            let refused = led_to.iter().find(|gate| !gate.is_good());
            return refused.map_or(Reading::Good, |gate| gate.reading.clone());
        };
        let overstays = led_to.iter().find(|gate| !gate.serves() && bad_for_long(gate));
        return match (overstays, other.bad_since) {
            (Some(gate), _) => gate.reading.clone(),
            (None, Some(since)) => Reading::Doubtful {
                until: Some(since + TAKEN_OUT_WITHIN),
            },
            (None, None) => match &other.reading {
                Reading::Bad { down_at, .. } => Reading::Doubtful { until: Some(*down_at) },
                reading => reading.clone(),
            },
        };
    }
    let to_be_led_to = gates.iter().find(|gate| gate.is_good() && !gate.pod.routed);
    if let Some(gate) = to_be_led_to
        && !led_to.iter().any(|gate| bad_for_long(gate))
    {
        let until = deserted_since.unwrap_or(now) + LED_TO_WITHIN;
        if now < until {
            return Reading::Doubtful { until: Some(until) };
        }
        return Reading::Bad {
            cause: Cause::ProxyUnreachable,
            message: format!(
                "the virtual Service leads to no gate that serves, and the label of pod {}, by which it would, is not written",
                gate.pod.name
            ),
            down_at: until,
        };
    }
    let with_address: Vec<_> = gates.iter().filter(|gate| gate.pod.ip.is_some()).collect();
    let asked = [led_to, with_address, gates.iter().collect()]
        .into_iter()
        .find(|gates| !gates.is_empty());
    let asked = asked.unwrap_or_default();
    let undecided = asked.iter().find(|gate| !matches!(gate.reading, Reading::Bad { .. }));
    let decided = undecided.or_else(|| asked.iter().max_by_key(|gate| last_to_go(gate, now)));
    decided.map_or(Reading::Unknown, |gate| gate.reading.clone())
}

impl Gate {
    /// The virtual Service leads to it while its side serves, and no write that may still come changes that.
    const fn is_surely_in(&self) -> bool {
        self.is_in() && !self.is_label_unsure
    }

    fn shown(&self) -> GateStatus {
        GateStatus {
            pod: self.pod.name.clone(),
            node: self.pod.node.clone(),
            health: self.health.health,
            cause: self.health.cause,
            routed: self.pod.routed,
            connections: count(self.sessions()),
        }
    }

    /// What is said of its new place. A gate that has just started, and is not ready yet, is no news.
    fn placed(&mut self) -> Option<Notice> {
        let pod = self.pod.name.clone();
        if self.pod.routed {
            return std::mem::take(&mut self.is_missed).then_some(Notice::GateReturned { pod });
        }
        self.is_missed = self.has_served;
        let why = match &self.reading {
            Reading::Bad { message, .. } => message.clone(),
            _ => "it is terminating".to_owned(),
        };
        self.is_missed.then_some(Notice::GateTakenOut { pod, why })
    }
}

/// Orders bad gates: one that is terminating in time still serves; then the one that goes down last.
fn last_to_go(gate: &Gate, now: Instant) -> (u8, Option<Instant>) {
    let Reading::Bad { cause, down_at, .. } = &gate.reading else {
        return (3, None);
    };
    let rank = match cause {
        _ if gate.is_overdue(now) => 0,
        Cause::ProxyTerminating => 2,
        _ => 1,
    };
    (rank, Some(*down_at))
}

impl SideState {
    /// The pod template that all its gates have which are not terminating.
    pub(super) fn template(&self) -> Option<String> {
        let mut templates = self
            .gates
            .iter()
            .filter(|gate| gate.pod.terminating.is_none())
            .map(|gate| gate.pod.template.as_ref());
        let first = templates.next()??;
        templates.all(|other| other == Some(first)).then(|| first.clone())
    }

    /// Each gate, for status.
    pub(super) fn shown(&self) -> Vec<GateStatus> {
        let mut shown: Vec<_> = self.gates.iter().map(Gate::shown).collect();
        shown.sort_by(|a, b| a.pod.cmp(&b.pod));
        shown.truncate(GATES_MAX);
        shown
    }

    /// Gates whose label is to be another one, the most urgent first, and their new places.
    fn misplaced(&self, timing: &Timing, now: Instant) -> impl Iterator<Item = (&Gate, Place)> {
        let good_in = || self.gates.iter().filter(|gate| gate.is_surely_in() && gate.serves());
        let is_deserted = good_in().next().is_none();
        let goes_in = self.gates.iter().filter(move |gate| {
            // One that has served before, and failed, is not trusted at once.
            let trusted_at = |since| {
                since
                    + match gate.is_missed {
                        true => timing.healthy_after,
                        false => Duration::ZERO,
                    }
            };
            let is_trusted = gate.good_since.is_some_and(|since| trusted_at(since) <= now);
            let is_out = !gate.pod.routed || gate.is_label_unsure;
            let may_go_in = is_out && gate.pod.ip.is_some() && gate.is_good() && !gate.drops();
            may_go_in && (is_deserted || is_trusted)
        });
        let goes_out = self.gates.iter().filter(move |gate| {
            let is_in = gate.is_in() || gate.is_label_unsure;
            is_in && good_in().any(|other| other.pod.uid != gate.pod.uid && has_failed_alone(gate, other, now))
        });
        let place = if is_deserted { Place::InAtOnce } else { Place::In };
        goes_in
            .map(move |gate| (gate, place))
            .chain(goes_out.map(|gate| (gate, Place::Out)))
    }
}

/// Whether `gate` cannot serve, and `sibling` can, which does not only know it later.
fn has_failed_alone(gate: &Gate, sibling: &Gate, now: Instant) -> bool {
    if gate.is_terminating() {
        return true;
    }
    let (Reading::Bad { cause, .. }, Some(since)) = (&gate.reading, gate.bad_since) else {
        return false;
    };
    let has_said_so = |report: &GateReport| report.at >= since + CONFIRMED_AFTER;
    // Both may have been bad, and the other one only know sooner that they are not any more.
    let lasts = sibling.serves_since.is_some_and(|since| now >= since + CONFIRMED_AFTER);
    let confirmed = lasts && sibling.evidence.report.as_ref().is_some_and(has_said_so);
    match cause {
        cause if gate.is_known_gone(*cause) => true,
        // The other one may only know it later.
        Cause::ProxyMissing
        | Cause::ProxyTerminating
        | Cause::ProxyUnreachable
        | Cause::ProxyUnresponsive
        | Cause::ObjectServerUnreachable
        | Cause::ObjectServerUnresponsive
        | Cause::PathBroken
        | Cause::TlsRejected
        | Cause::WrongObjectServer => confirmed && now >= since + CONFIRMED_AFTER,
        Cause::LoginRefused | Cause::ProtocolError => false,
    }
}

impl Machine {
    /// Writes the label of the pod whose gate is to be led to, or no longer. Called while no call need be under way.
    pub(super) fn place_gates(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let sides = [self.phase.selected(), self.phase.selected().other()];
        let due = sides.into_iter().find_map(|side| {
            let mut wanted = self.sides[side].misplaced(&self.timing, now.monotonic);
            let (gate, place) = wanted.find(|(gate, place)| self.may_label(gate, *place, now.monotonic))?;
            Some((side, gate.pod.name.clone(), gate.pod.uid.clone(), place != Place::Out))
        });
        if let Some((side, name, uid, routed)) = due.filter(|_| self.is_idle()) {
            self.call(
                Call::LabelPod {
                    side,
                    name,
                    uid,
                    routed,
                },
                effects,
            );
        }
    }

    /// A gate that comes and goes is taken out each time, and in not so often.
    fn may_label(&self, gate: &Gate, place: Place, now: Instant) -> bool {
        let Some(known) = self.memory.labels.get(&gate.pod.uid) else {
            return true;
        };
        let is_another = match place {
            Place::Out => known.routed,
            Place::InAtOnce => !known.routed,
            Place::In => false,
        };
        is_another && known.failed.is_none() || known.next <= now
    }

    /// When a gate that was taken out may be drained.
    pub(super) fn taken_out_due(&self, now: Instant) -> Option<Instant> {
        let delay = drain_delay(&self.pair.spec.failback.drain);
        let gates = self.sides.iter().flat_map(|(_, side)| &side.gates);
        let due = gates.filter_map(|gate| gate.out_since.map(|since| since + delay));
        due.filter(|at| *at > now).min()
    }

    /// When a label that could not be written may be written again.
    pub(super) fn labels_due(&self, now: Instant) -> Option<Instant> {
        let known = self.memory.labels.values().map(|known| known.next);
        known.filter(|next| *next > now).min()
    }

    pub(super) fn pod_labelled(
        &mut self,
        pod: LabelledPod,
        outcome: &Result<CallDone, CallError>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let times = self.memory.labels.get(&pod.uid).and_then(|known| known.failed);
        let times = times.map_or(0, |(_, times)| times);
        let (next, failed) = match outcome {
            Ok(_) => (LABEL_EVERY, None),
            Err(CallError::Failed { retry_after, reason }) => {
                let wait = LABEL_AGAIN.saturating_mul(1 << times.min(8)).min(LONGEST_LABEL_AGAIN);
                let wait = retry_after.map_or(wait, |wanted| wanted.min(LONGEST_LABEL_AGAIN).max(wait));
                (wait, Some((*reason, times.saturating_add(1))))
            }
            Err(CallError::Stop(_)) => return,
        };
        let known = Labelling {
            routed: pod.routed,
            next: now.monotonic + next,
            failed,
        };
        self.memory.labels.insert(pod.uid.clone(), known);
        let gates = self.sides.iter_mut().flat_map(|(_, side)| &mut side.gates);
        for gate in gates.filter(|gate| gate.pod.uid == pod.uid) {
            gate.is_label_unsure = matches!(outcome, Err(error) if error.is_unknown_outcome());
            if matches!(outcome, Ok(CallDone::Written)) {
                gate.pod.routed = pod.routed;
                effects.extend(gate.placed().map(Effect::Publish));
            }
        }
    }

    /// Forgets labels of pods that are gone.
    pub(super) fn forget_labels(&mut self) {
        let sides = &self.sides;
        let is_there = |uid: &String| {
            let mut gates = sides.iter().flat_map(|(_, side)| &side.gates);
            gates.any(|gate| gate.pod.uid == *uid)
        };
        self.memory.labels.retain(|uid, _| is_there(uid));
    }

    /// A gate that cannot be taken out, or in.
    pub(super) fn unlabelled(&self) -> impl Iterator<Item = Defect> {
        Side::BOTH.into_iter().flat_map(|side| &self.sides[side].gates).filter_map(|gate| {
            let known = self.memory.labels.get(&gate.pod.uid)?;
            let (reason, _) = known.failed.filter(|(_, times)| *times >= UNLABELLED_AFTER)?;
            (known.routed != gate.pod.routed).then(|| Defect {
                side: None,
                reason,
                message: format!(
                    "the label of pod {} cannot be written, so that new connections {}; the operator's log has the words of the API server",
                    gate.pod.name,
                    match known.routed {
                        true => "do not lead to it",
                        false => "still lead to it",
                    }
                ),
            })
        })
    }

    /// Whether another gate of that side than this one takes what comes to the virtual Service.
    pub(super) fn has_good_sibling(&self, side: Side, gate: &Gate) -> bool {
        let is_sibling = |other: &&Gate| other.pod.uid != gate.pod.uid && other.is_surely_in() && other.serves();
        self.phase.selected() == side && self.sides[side].gates.iter().any(|other| is_sibling(&other))
    }

    /// The addresses of the gates that the virtual Service is to lead to.
    pub(super) fn addresses(&self, side: Side) -> Vec<IpAddr> {
        self.sides[side].gates.iter().filter_map(|gate| gate.pod.ip).collect()
    }
}
