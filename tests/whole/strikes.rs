//! The faults, as they begin and end.

use std::{net::IpAddr, time::Duration};

use fake_api_server::{ApiServer, Fault as Answer, Match, Verb};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use proxypair::{api::ProxyPair, net::network};
use serde_json::json;

use super::{
    kubernetes::{Gate, NAMESPACE},
    places::{host_of, operator_address, server_address},
    plan::{ApiFault, Fault, Link, Which},
    world::{LEASE, PAIR, World},
};

impl World {
    /// Whether there is something to strike.
    pub(super) fn begin(&mut self, number: usize, fault: Fault, now: Duration) -> bool {
        let struck = self.struck_by(fault);
        let gates: Vec<_> = struck.iter().flatten().map(|gate| gate.address).collect();
        if struck.is_some() && gates.is_empty() {
            return false;
        }
        self.touch(number, fault, &gates);
        match fault {
            Fault::OperatorKilled(operator) => {
                self.killed[operator] = true;
                self.sim.crash(operator_address(operator));
            }
            Fault::LeaseDeleted => return self.api.delete::<Lease>(NAMESPACE, LEASE),
            Fault::Api(operator, fault) => self.begin_api_fault(operator, fault),
            Fault::WatchesEnd => self.api.end_watches(),
            Fault::HistoryForgotten => {
                self.api.forget_history();
                self.api.end_watches();
            }
            Fault::ServerKilled(side) => {
                self.down[side].get_or_insert(now);
                self.servers[side].borrow().runs.send_replace(false);
            }
            Fault::ServerStalled(side) => self.servers[side].borrow_mut().is_stalled = true,
            Fault::NameGone(side) => drop(network(|network| network.names.remove(host_of(side)))),
            Fault::GateKilled(..) => {
                for gate in struck.iter().flatten() {
                    self.log
                        .say(now, format_args!("the gate of pod {} is killed", gate.pod));
                    self.sim.crash(gate.address);
                }
            }
            Fault::PodDeleted(..) => {
                for gate in struck.iter().flatten() {
                    self.log.say(now, format_args!("pod {} is deleted", gate.pod));
                    self.kubernetes.end_pod(&gate.pod);
                }
            }
            Fault::Silent(link) => {
                let ends = ends_of(link, &gates);
                for (one, other) in &ends {
                    self.sim.hold(*one, *other);
                    network(|network| network.set_silent(*one, *other, true));
                }
                self.cut.insert(number, ends);
            }
            Fault::PairEdited => {
                let interval = format!("{}ms", self.plan.timing.interval + 1);
                let edit = json!({"spec": {"healthCheck": {"interval": interval}}});
                self.api.merge::<ProxyPair>(NAMESPACE, PAIR, &edit);
            }
            Fault::KeysDeleted => return self.api.delete::<Secret>(NAMESPACE, &format!("{PAIR}-gate-tls")),
        }
        true
    }

    /// The gates that a fault strikes; `None` if it strikes something else.
    fn struck_by(&self, fault: Fault) -> Option<Vec<Gate>> {
        let (Fault::GateKilled(side, which)
        | Fault::PodDeleted(side, which)
        | Fault::Silent(Link::OperatorGate(_, side, which) | Link::GateServer(side, which))) = fault
        else {
            return None;
        };
        let mut gates = self.kubernetes.gates_of(side);
        if let Which::One(number) = which
            && !gates.is_empty()
        {
            gates = vec![gates.swap_remove(number % gates.len())];
        }
        Some(gates)
    }

    pub(super) fn end(&mut self, number: usize, fault: Fault) {
        let lasts_on = |fault: Fault| {
            let others = self.active.keys().map(|other| self.plan.faults[*other].2);
            others.into_iter().any(|other| other == fault)
        };
        match fault {
            Fault::OperatorKilled(operator) if !lasts_on(fault) => self.killed[operator] = false,
            Fault::Api(..) => self.end_api_fault(),
            Fault::ServerKilled(side) if !lasts_on(fault) => {
                self.down[side] = None;
                self.servers[side].borrow().runs.send_replace(true);
            }
            Fault::ServerStalled(side) if !lasts_on(fault) => self.servers[side].borrow_mut().is_stalled = false,
            Fault::NameGone(side) if !lasts_on(fault) => {
                network(|network| network.names.insert(host_of(side).to_owned(), server_address(side, 0)));
            }
            Fault::Silent(_) => {
                for link in self.cut.remove(&number).unwrap_or_default() {
                    if !self.cut.values().flatten().any(|other| *other == link) {
                        self.sim.release(link.0, link.1);
                        network(|network| network.set_silent(link.0, link.1, false));
                    }
                }
            }
            _ => {}
        }
    }

    fn begin_api_fault(&self, operator: Option<usize>, fault: ApiFault) {
        for (number, network) in self.networks.iter().enumerate() {
            if operator.is_none_or(|operator| operator == number) {
                begin_api_fault(network, fault);
            }
        }
    }

    /// The script of an API server can only be emptied: what lasts on is written again.
    fn end_api_fault(&self) {
        for network in &self.networks {
            network.clear_faults();
        }
        for number in self.active.keys() {
            if let Fault::Api(operator, fault) = self.plan.faults[*number].2 {
                self.begin_api_fault(operator, fault);
            }
        }
    }
}

/// Both ends of each connection that a link stands for.
fn ends_of(link: Link, gates: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let with_gates = |other| gates.iter().map(|gate| (other, *gate)).collect();
    match link {
        Link::OperatorGate(operator, ..) => with_gates(operator_address(operator)),
        Link::OperatorServer(operator, side) => vec![(operator_address(operator), server_address(side, 0))],
        Link::GateServer(side, _) => with_gates(server_address(side, 0)),
    }
}

fn begin_api_fault(network: &ApiServer, fault: ApiFault) {
    let every = || Match::any().always();
    let written = |kind: &str, code| {
        for verb in [Verb::Create, Verb::Patch, Verb::Update] {
            network.fault(Match::new(verb, kind).always(), Answer::status(code));
        }
    };
    match fault {
        ApiFault::Slow => network.fault(every(), Answer::SlowAnswer(Duration::from_millis(1500))),
        ApiFault::LostBefore => network.fault(every(), Answer::DisconnectBefore),
        ApiFault::LostAfter => network.fault(every(), Answer::DisconnectAfter),
        ApiFault::Busy => network.fault(every(), Answer::too_many_requests(1)),
        ApiFault::Failing => network.fault(every(), Answer::status(500)),
        ApiFault::Silent => network.fault(every(), Answer::SilenceBefore),
        ApiFault::Forbids(kind) => written(kind, 403),
        ApiFault::Rejects(kind) => written(kind, 422),
    }
}
