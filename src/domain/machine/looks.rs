//! A second pair of eyes: what other gates of the pair see of one that is silent.
//!
//! That nothing comes back to the operator may be the fault of the way between. So each gate looks at the others now and then, and at one that the
//! operator hears nothing from at once, while the operator itself looks whether its machine still answers.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Effect, Gate, Machine, Now};
use crate::{
    api::{Reason, Side},
    domain::{
        children::ADMIN_PORT,
        defect::Defect,
        evidence::{Link, Looks},
    },
    protocol::{LookAt, Seen},
};

/// How long another gate must have seen one that the operator does not hear.
const DIFFERS_FOR: Duration = Duration::from_secs(1);

/// What a gate, and the check of it, were told to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// The question about this gate itself; 0: none.
    question: u64,
    look_at: Vec<LookAt>,
}

/// Where the numbers of questions begin: above those of an earlier operator, whose answers a gate may still report.
pub(super) fn first_question(now: Now) -> u64 {
    u64::try_from(now.wall.as_millisecond()).unwrap_or_default()
}

impl Gate {
    /// Where others ask it whether it accepts probes.
    fn admin_address(&self) -> Option<SocketAddr> {
        self.pod.ip.map(|ip| SocketAddr::new(ip, ADMIN_PORT))
    }

    /// Takes in what the operator saw of its machine, if that is what it was asked last.
    pub(super) fn take_look(&mut self, question: u64, seen: Seen) {
        if self.question == question {
            self.evidence.looks.own = seen;
        }
    }

    /// When it is said that others see it, and the operator does not. One that goes on after it was stopped is heard a moment later.
    pub(super) fn differs_at(&self) -> Option<Instant> {
        self.seen_since.map(|since| since + DIFFERS_FOR)
    }

    /// What this gate sees of another one.
    fn sight_of(&self, address: SocketAddr, question: u64) -> Option<Seen> {
        if self.evidence.control != Link::Answering {
            return None;
        }
        let sights = &self.report()?.sights;
        let sight = sights
            .iter()
            .find(|sight| sight.address == address && sight.question == question)?;
        Some(sight.seen)
    }
}

/// The more, the more came back.
const fn amount(seen: Seen) -> u8 {
    match seen {
        Seen::Untried => 0,
        Seen::Nothing => 1,
        Seen::Host => 2,
        Seen::Ready => 3,
    }
}

impl Machine {
    /// Takes in what is seen of the gates that are silent, and begins a question about each that has just become so.
    pub(super) fn take_looks(&mut self, now: Instant) {
        for side in Side::BOTH {
            for at in 0..self.sides[side].gates.len() {
                let gate = &self.sides[side].gates[at];
                let others = gate.admin_address().and_then(|address| {
                    let gates = Side::BOTH.into_iter().flat_map(|side| &self.sides[side].gates);
                    let others = gates.filter(|other| other.pod.uid != gate.pod.uid);
                    let seen = others.filter_map(|other| other.sight_of(address, gate.question));
                    seen.max_by_key(|seen| amount(*seen))
                });
                let gate = &mut self.sides[side].gates[at];
                let silent_since = gate.evidence.control.silent_since();
                if silent_since == gate.asked_since {
                    if silent_since.is_some() {
                        gate.evidence.looks.others = others.unwrap_or_default();
                        let differ = gate.evidence.looks.differ();
                        gate.seen_since = differ.then(|| gate.seen_since.unwrap_or(now));
                    }
                    continue;
                }
                // What was seen of it is about another silence.
                gate.asked_since = silent_since;
                gate.evidence.looks = Looks::NONE;
                gate.seen_since = None;
                gate.question = 0;
                if silent_since.is_some() {
                    self.memory.questions += 1;
                    gate.question = self.memory.questions;
                }
            }
        }
    }

    /// Tells each gate, and the check of it, what to look at.
    pub(super) fn ask_for_looks(&mut self, effects: &mut Vec<Effect>) {
        let mut all: Vec<_> = Side::BOTH
            .into_iter()
            .flat_map(|side| &self.sides[side].gates)
            .filter_map(|gate| {
                let address = gate.admin_address()?;
                let question = gate.question;
                Some(LookAt { address, question })
            })
            .collect();
        all.sort_by_key(|look| look.address);
        for side in Side::BOTH {
            for gate in &mut self.sides[side].gates {
                let Some(own) = gate.admin_address() else { continue };
                let outlook = Outlook {
                    question: gate.question,
                    look_at: all.iter().filter(|look| look.address != own).cloned().collect(),
                };
                if gate.outlook.as_ref() != Some(&outlook) {
                    effects.push(Effect::Look {
                        side,
                        gate: gate.pod.uid.clone(),
                        question: outlook.question,
                        look_at: outlook.look_at.clone(),
                    });
                    gate.outlook = Some(outlook);
                }
            }
        }
    }

    /// Gates that the operator hears nothing from and that serve, as others see.
    pub(super) fn differing_views(&self, now: Instant) -> impl Iterator<Item = Defect> {
        Side::BOTH.into_iter().filter_map(move |side| {
            let gates = &self.sides[side].gates;
            let gate = gates.iter().find(|gate| gate.differs_at().is_some_and(|at| at <= now))?;
            let node = gate.pod.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
            Some(Defect {
                side: Some(side),
                reason: Reason::ViewsDiffer,
                message: format!(
                    "the operator hears nothing from the gate in pod {}{node}, and another gate of the pair sees that it accepts probes: it goes \
                     on serving; look for what is wrong between the operator's node and that one",
                    gate.pod.name
                ),
            })
        })
    }
}
