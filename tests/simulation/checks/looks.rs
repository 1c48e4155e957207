//! A second pair of eyes: the operator's own new connections to the machine of a silent gate, and what other gates see of it. They stand for
//! src/lookout.rs.

use std::time::Duration;

use proxypair::{
    domain::machine::{GateObservation, Input},
    protocol::{LookAt, Seen, Sight},
};

use super::{
    super::{
        clock::Time,
        network::{Link, Passage},
        operator::OperatorEvent,
        world::World,
    },
    CheckKind, TRIP,
};

/// How long a round of connections lasts to which nothing comes back.
const ROUND: Duration = Duration::from_millis(700);
/// Time from one round to the next.
const AGAIN: Duration = Duration::from_millis(300);

/// What the check of a gate, and the gate, were told to look at.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// The question about this gate; 0: none.
    question: u64,
    /// The others, each with since when it is in question.
    others: Vec<(LookAt, Time)>,
}

impl World {
    /// A worker has its gate, and the check of it, look at others.
    pub fn look(&mut self, operator: usize, pair: usize, gate: &str, question: u64, look_at: Vec<LookAt>) {
        let now = self.now;
        let Some(worker) = self.worker_mut(operator, pair) else {
            return;
        };
        let number = worker.number;
        let is_it =
            |check: &&mut super::Check| matches!(check.kind, CheckKind::Control(pod) if format!("pod-{pod}") == gate);
        let Some(check) = worker.checks.iter_mut().find(is_it) else {
            return;
        };
        let known = std::mem::take(&mut check.outlook);
        let since = |look: &LookAt| {
            let known = known.others.iter().find(|(known, _)| known == look);
            known.map_or(now, |(_, since)| *since)
        };
        check.outlook = Outlook {
            question,
            others: look_at.iter().map(|look| (look.clone(), since(look))).collect(),
        };
        let check = check.number;
        if question != 0 && question != known.question {
            self.operator_later(operator, ROUND, OperatorEvent::Look(pair, number, check, question));
        }
    }

    /// A round of the operator's own connections has ended.
    pub fn looked(&mut self, operator: usize, pair: usize, worker: u64, check: u64, question: u64) {
        let Some(found) = self.worker(operator, pair).filter(|found| found.number == worker) else {
            return;
        };
        let asked = |found: &&super::Check| found.number == check && found.outlook.question == question;
        let Some((side, kind)) = found.checks.iter().find(asked).map(|found| (found.side, found.kind)) else {
            return;
        };
        let CheckKind::Control(pod) = kind else { return };
        let seen = match self.network.at_pod(pod, Link::OperatorGate(operator, pair, side), true) {
            _ if self.operators[operator].is_blind => Seen::Untried,
            Passage::Free(_) | Passage::Refused => Seen::Host,
            Passage::OneWay | Passage::Silent => Seen::Nothing,
        };
        let observation = GateObservation::Host(question, seen);
        self.feed(operator, pair, Input::Gate(side, format!("pod-{pod}"), observation));
        self.operator_later(
            operator,
            AGAIN + ROUND,
            OperatorEvent::Look(pair, worker, check, question),
        );
    }

    /// What a gate reports of the others that it was told to look at.
    pub fn sights_of_others(&self, pair: usize, outlook: &Outlook) -> Vec<Sight> {
        let sight = |(look, since): &(LookAt, Time)| {
            let LookAt { address, question } = *look;
            let seen = self.seen_from_a_gate(pair, look);
            let takes = if seen == Seen::Nothing { ROUND } else { TRIP };
            (self.now.after(*since) >= takes).then_some(Sight {
                address,
                question,
                seen,
            })
        };
        outlook.others.iter().filter_map(sight).collect()
    }

    fn seen_from_a_gate(&self, pair: usize, look: &LookAt) -> Seen {
        let pods = &self.pairs[pair].pods;
        let Some(pod) = pods.iter().find(|pod| pod.ip == Some(look.address.ip())) else {
            return Seen::Nothing;
        };
        if self.network.is_lost(pod.id) {
            return Seen::Nothing;
        }
        match &pod.gate {
            Some(gate) if !gate.is_frozen && gate.accepts() => Seen::Ready,
            Some(_) | None => Seen::Host,
        }
    }
}
