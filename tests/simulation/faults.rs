//! Faults strike, and are over.

use std::time::Duration;

use jiff::SignedDuration;
use proxypair::{api::Side, domain::machine::Selects};

use super::{
    network::{Condition, Link},
    operator::Kind,
    plan::{ApiTrouble, Death, Fault, sides_of},
    pod::PodEvent,
    truth::CONNECTS_WITHIN,
    world::{Event, World},
};

impl World {
    pub fn strike(&mut self, number: usize) {
        if self.now >= self.plan.calm_from {
            return;
        }
        let planned = self.plan.faults[number].clone();
        self.counts.faults += 1;
        self.note(
            format_args!("fault {number}"),
            format_args!("{:?}, for {:?}", planned.fault, planned.lasts),
        );
        self.is_disturbed = true;
        self.begin_fault(&planned.fault);
        self.later(planned.lasts, Event::Repair(number));
    }

    fn begin_fault(&mut self, fault: &Fault) {
        match *fault {
            Fault::ServerKilled(pair, side) => self.kill_server(pair, side),
            Fault::ServerStalled(pair, side) => self.pairs[pair].servers[side].is_stalled = true,
            Fault::LoginRefused(pair, side) => self.pairs[pair].servers[side].refuses_login = true,
            Fault::WrongServer(pair, side) => {
                self.pairs[pair].servers[side].is_other = true;
                self.replace_server(pair, side);
            }
            Fault::GateKilled(pair, side) => {
                for pod in self.struck(pair, side) {
                    if !self.network.is_lost(pod) {
                        self.end_gate(pod, "it is killed");
                        let again = self.random.millis(300, 3000);
                        self.later(again, Event::Pod(pod, PodEvent::Restarts));
                    }
                }
            }
            Fault::GateFrozen(pair, side) => {
                for pod in self.struck(pair, side) {
                    self.freeze_gate(pod, true);
                }
            }
            Fault::PortClosed(pair, side) => self.close_port(pair, side, true),
            Fault::PodDeleted(pair, side) => {
                let grace = self.grace(pair);
                self.delete_newest(pair, side, grace);
            }
            Fault::PodsDeleted(pair, side) => {
                let grace = self.grace(pair);
                for pod in self.ids_of(pair, side) {
                    self.delete_pod(pod, grace);
                }
            }
            Fault::PodDeletedWithin(pair, side, grace) => self.delete_newest(pair, side, grace.min(self.grace(pair))),
            Fault::AllPodsDeleted(pair) => {
                let grace = self.grace(pair);
                for side in Side::BOTH {
                    for pod in self.ids_of(pair, side) {
                        self.delete_pod(pod, grace);
                    }
                }
            }
            Fault::PodForced(pair, side) => self.delete_newest(pair, side, Duration::ZERO),
            Fault::NodeLost(pair, side) => {
                for pod in self.struck(pair, side) {
                    self.network.lose_pod(pod);
                }
            }
            Fault::GateCut(pair, side, condition) => {
                for pod in self.struck(pair, side).into_iter().take(1) {
                    self.network.cut_pod(pod, condition);
                }
            }
            Fault::Link(link, condition) => self.network.disturb(link, condition),
            Fault::GatewayStopped(pair) => self.pairs[pair].gateway.is_running = false,
            Fault::OperatorKilled(operator) => {
                if self.operators[operator].is_running {
                    self.restart_operator(operator);
                }
            }
            Fault::OperatorStopped(operator) => self.kill_operator(operator),
            Fault::LeaderRetired => {
                if let Some(leader) = self.leader() {
                    self.stop_operator(leader);
                }
            }
            Fault::LeaderKilled => {
                if let Some(leader) = self.leader() {
                    self.restart_operator(leader);
                }
            }
            Fault::Api(trouble) => self.api.trouble.push(trouble),
            Fault::WatchesStalled(operator) => self.operators[operator].watches_stalled = true,
            Fault::WatchesLag(operator, by) => self.operators[operator].watch_lag = by,
            Fault::OperatorRetired(operator) => self.stop_operator(operator),
            Fault::OperatorBlind(operator) => self.operators[operator].is_blind = true,
            Fault::LeaseDeleted => self.api.lease = None,
            Fault::LeaseRestored => self.api.trouble.push(ApiTrouble::Silent),
            Fault::SelectorEdited(pair, selects) => {
                if self.api.services[pair].is_some() {
                    self.set_selector(pair, selects);
                }
            }
            Fault::ServiceDeleted(pair) => {
                if self.api.services[pair].take().is_some() {
                    self.service_changed(pair);
                }
            }
            Fault::SpecEdited(pair) => self.edit_spec(pair),
            Fault::TemplateEdited(pair) => {
                self.watchdog.edit_template(pair);
                // The edit is one of the object as well.
                let version = self.api.next_version();
                self.api.objects[pair].version = version;
                self.tell_operators(pair, Kind::Object);
            }
            Fault::PairRecreated(pair) => self.recreate_pair(pair),
            Fault::ClockAhead(operator, seconds) => {
                self.operators[operator].skew = SignedDuration::from_secs(seconds);
            }
        }
    }

    pub fn repair(&mut self, number: usize) {
        if self.now >= self.plan.calm_from {
            return;
        }
        let fault = self.plan.faults[number].fault.clone();
        self.note(format_args!("fault {number}"), format_args!("is over: {fault:?}"));
        self.is_disturbed = true;
        match fault {
            Fault::ServerKilled(pair, side) => self.start_server(pair, side),
            Fault::ServerStalled(pair, side) => self.pairs[pair].servers[side].is_stalled = false,
            Fault::LoginRefused(pair, side) => self.pairs[pair].servers[side].refuses_login = false,
            Fault::WrongServer(pair, side) => self.right_server(pair, side),
            Fault::GateFrozen(pair, side) => self.freeze(pair, side, false),
            Fault::PortClosed(pair, side) => self.close_port(pair, side, false),
            Fault::NodeLost(..) => {
                for pod in self.network.find_pods() {
                    self.gate_is_back(pod);
                }
            }
            Fault::GateCut(..) => self.network.mend_pods(),
            Fault::Link(link, condition) => self.network.repair(link, condition),
            Fault::GatewayStopped(pair) => self.pairs[pair].gateway.is_running = true,
            Fault::OperatorStopped(operator) => self.start_operator(operator, Duration::ZERO),
            Fault::OperatorRetired(operator) => self.replace_operator(operator),
            Fault::LeaderRetired => {
                for operator in 0..self.operators.len() {
                    if !self.operators[operator].is_running {
                        self.start_operator(operator, Duration::ZERO);
                    }
                }
            }
            Fault::OperatorBlind(operator) => self.operators[operator].is_blind = false,
            Fault::LeaseRestored => {
                self.end_trouble(ApiTrouble::Silent);
                self.restore_lease();
            }
            Fault::Api(trouble) => self.end_trouble(trouble),
            Fault::WatchesStalled(operator) => self.operators[operator].watches_stalled = false,
            Fault::WatchesLag(operator, _) => self.operators[operator].watch_lag = Duration::ZERO,
            Fault::GateKilled(..)
            | Fault::PodDeleted(..)
            | Fault::PodsDeleted(..)
            | Fault::PodDeletedWithin(..)
            | Fault::AllPodsDeleted(_)
            | Fault::PodForced(..)
            | Fault::OperatorKilled(_)
            | Fault::LeaderKilled
            | Fault::LeaseDeleted
            | Fault::SelectorEdited(..)
            | Fault::ServiceDeleted(_)
            | Fault::SpecEdited(_)
            | Fault::TemplateEdited(_)
            | Fault::PairRecreated(_)
            | Fault::ClockAhead(..) => {}
        }
    }

    /// Everything is repaired.
    pub fn calm(&mut self) {
        self.note(format_args!("world"), format_args!("everything is repaired"));
        self.is_disturbed = true;
        self.network.repair_all();
        self.api.trouble.clear();
        for (pair, side) in sides_of(self.pairs.len()) {
            self.start_server(pair, side);
            let server = &mut self.pairs[pair].servers[side];
            server.is_stalled = false;
            server.refuses_login = false;
            self.right_server(pair, side);
            self.freeze(pair, side, false);
            self.close_port(pair, side, false);
            self.pairs[pair].gateway.is_running = true;
            for pod in self.ids_of(pair, side) {
                self.later(Duration::ZERO, Event::Pod(pod, PodEvent::Restarts));
            }
        }
        self.die_for_good();
        for operator in 0..self.operators.len() {
            self.operators[operator].watches_stalled = false;
            self.operators[operator].watch_lag = Duration::ZERO;
            self.operators[operator].is_blind = false;
            self.replace_operator(operator);
        }
    }

    /// What is never repaired fails now.
    fn die_for_good(&mut self) {
        for (pair, side, death) in self.plan.dead.clone() {
            self.note(
                format_args!("world"),
                format_args!("pair {pair}: the {} is {death:?} for good", side.label()),
            );
            match death {
                Death::Killed => self.kill_server(pair, side),
                Death::Stalled => {
                    self.pairs[pair].servers[side].is_stalled = true;
                    self.network
                        .disturb(Link::GatewayServer(pair, side), Condition::Refuses);
                }
                Death::CutOff => self.network.disturb(Link::GateServer(pair, side), Condition::Silent),
            }
        }
    }

    fn end_trouble(&mut self, trouble: ApiTrouble) {
        if let Some(at) = self.api.trouble.iter().position(|known| *known == trouble) {
            self.api.trouble.remove(at);
        }
    }

    /// Starts a process if none runs. One that is told to stop is not waited for.
    fn replace_operator(&mut self, operator: usize) {
        if self.operators[operator].is_stopping {
            self.kill_operator(operator);
        }
        self.start_operator(operator, Duration::ZERO);
    }

    /// Which operator leads.
    fn leader(&self) -> Option<usize> {
        (0..self.operators.len()).find(|operator| self.claims(*operator).is_some())
    }

    fn ids_of(&self, pair: usize, side: Side) -> Vec<u64> {
        self.pods_of(pair, side).map(|pod| pod.id).collect()
    }

    /// Those of a side that a fault strikes: all, or one alone.
    fn struck(&mut self, pair: usize, side: Side) -> Vec<u64> {
        let all = self.ids_of(pair, side);
        if all.len() < 2 || self.random.one_in(3) {
            return all;
        }
        vec![self.random.pick(&all)]
    }

    fn right_server(&mut self, pair: usize, side: Side) {
        if std::mem::take(&mut self.pairs[pair].servers[side].is_other) {
            self.replace_server(pair, side);
        }
    }

    fn replace_server(&mut self, pair: usize, side: Side) {
        let now = self.now;
        let server = &mut self.pairs[pair].servers[side];
        server.replaced = now;
        server.incarnation += 1;
        // Then it is looked at again.
        self.later(CONNECTS_WITHIN, Event::Slices(pair));
    }

    fn freeze(&mut self, pair: usize, side: Side, is_frozen: bool) {
        for pod in self.ids_of(pair, side) {
            self.freeze_gate(pod, is_frozen);
            // What it was told meanwhile reaches it when it goes on.
            if !is_frozen && self.pod(pod).is_some_and(|(_, pod)| pod.terminating.is_some()) {
                self.later(Duration::ZERO, Event::Pod(pod, PodEvent::Terminates));
            }
        }
    }

    fn close_port(&mut self, pair: usize, side: Side, is_closed: bool) {
        self.pairs[pair].port_closed[side] = is_closed;
        for pod in self.ids_of(pair, side) {
            self.port_changed(pod, is_closed);
        }
    }

    fn delete_newest(&mut self, pair: usize, side: Side, grace: Duration) {
        let newest = self
            .pods_of(pair, side)
            .filter(|pod| pod.terminating.is_none())
            .map(|pod| pod.id)
            .max();
        if let Some(pod) = newest {
            self.delete_pod(pod, grace);
        }
    }

    /// What the virtual Service of a pair selects.
    pub fn selected(&self, pair: usize) -> Selects {
        self.api.services[pair].map_or(Selects::NoService, |service| service.selects)
    }
}
