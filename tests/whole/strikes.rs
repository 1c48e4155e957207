//! The faults, as they begin and end.

use std::{net::IpAddr, time::Duration};

use fake_api_server::{ApiServer, Fault as Answer, Match, Verb};
use k8s_openapi::{
    ByteString,
    api::{coordination::v1::Lease, core::v1::Secret},
};
use kube::ResourceExt;
use proxypair::{
    api::{ProxyPair, Side},
    net::network,
};

use super::{
    faults::{ApiFault, Fault, How, Link, Which},
    kubernetes::{Gate, NAMESPACE},
    manifest::{self, LOGIN},
    object_server::{PASSWORD, Process},
    places::{OPERATORS, host_of, operator_address, probe_address, server_address},
    world::{LEASE, PAIR, World},
};

/// How long a packet takes on a link that was slow.
const USUAL: Duration = Duration::from_millis(1);

impl World {
    /// Whether there is something to strike.
    pub(super) fn begin(&mut self, number: usize, fault: Fault, now: Duration) -> bool {
        let struck = self.struck_by(fault);
        let gates: Vec<_> = struck.iter().flatten().map(|gate| gate.address).collect();
        if struck.is_some() && gates.is_empty() {
            return false;
        }
        let strikes = match fault {
            Fault::OperatorKilled(operator) => {
                self.operators.kill(&mut self.sim, operator);
                true
            }
            Fault::OperatorRetired(operator) => {
                self.operators.stop(operator);
                true
            }
            Fault::ImageRolled => {
                self.operators.image.set(self.operators.image.get() + 1);
                (0..OPERATORS).for_each(|operator| self.operators.stop(operator));
                true
            }
            Fault::LeaseDeleted => self.api.delete::<Lease>(NAMESPACE, LEASE),
            Fault::Api(operator, fault) => {
                self.begin_api_fault(operator, fault);
                true
            }
            Fault::WatchesEnd => {
                self.api.end_watches();
                true
            }
            Fault::HistoryForgotten => {
                self.api.forget_history();
                self.api.end_watches();
                true
            }
            Fault::ServerMoved(side) => {
                self.machines[side] = 1 - self.machines[side];
                self.set_server(side, now);
                true
            }
            Fault::ServerKilled(side)
            | Fault::ServerStalled(side)
            | Fault::WrongServer(side)
            | Fault::LoginRefused(side)
            | Fault::NameGone(side) => {
                self.set_server(side, now);
                true
            }
            Fault::GateKilled(..) => {
                for gate in struck.iter().flatten() {
                    self.log
                        .say(now, format_args!("the gate of pod {} is killed", gate.pod));
                    self.sim.crash(gate.address);
                }
                true
            }
            Fault::PodDeleted(..) | Fault::PodEvicted(..) => {
                if let Fault::PodEvicted(_, _, longer) = fault {
                    let until = self.active[&number];
                    self.kubernetes.slow_down_starts(Duration::from_millis(longer), until);
                }
                for gate in struck.iter().flatten() {
                    self.log.say(now, format_args!("pod {} is deleted", gate.pod));
                    self.kubernetes.end_pod(&gate.pod);
                }
                true
            }
            Fault::NodeLost(..) => {
                for gate in struck.iter().flatten() {
                    self.log.say(now, format_args!("the node of pod {} is lost", gate.pod));
                    self.kubernetes.set_lost(&gate.pod, true);
                    self.lost.entry(number).or_default().push(gate.pod.clone());
                }
                let links = gates.iter().flat_map(|gate| self.all_links_of(*gate)).collect();
                self.cut_links(number, How::Silent, links)
            }
            Fault::Cut(link, how) => {
                let links = self.ends_of(link, &gates);
                self.cut_links(number, how, links)
            }
            Fault::Edited(edit) => manifest::edit(&self.api, &self.plan, edit, number, false),
            Fault::PairRecreated => self.api.delete::<ProxyPair>(NAMESPACE, PAIR),
            Fault::KeysDeleted(which) => self
                .keys(which)
                .is_some_and(|name| self.api.delete::<Secret>(NAMESPACE, &name)),
            Fault::KeysDamaged(which) => self.keys(which).is_some_and(|name| {
                self.log.say(now, format_args!("Secret {name} is damaged"));
                self.api.modify::<Secret>(NAMESPACE, &name, |secret| {
                    for value in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
                        *value = ByteString(b"garbage".to_vec());
                    }
                });
                true
            }),
            Fault::LoginDeleted => self.api.delete::<Secret>(NAMESPACE, LOGIN),
            Fault::LoginDamaged => {
                manifest::declare_login(&self.api, "garbage");
                true
            }
        };
        if strikes {
            self.touch(number, fault, &gates, now);
        }
        strikes
    }

    pub(super) fn end(&mut self, number: usize, fault: Fault, now: Duration) {
        match fault {
            Fault::OperatorKilled(operator) if !self.lasts(fault) => self.operators.killed[operator] = false,
            Fault::Api(..) => self.end_api_fault(),
            Fault::ServerKilled(side)
            | Fault::ServerStalled(side)
            | Fault::WrongServer(side)
            | Fault::LoginRefused(side)
            | Fault::NameGone(side) => self.set_server(side, now),
            Fault::NodeLost(..) | Fault::Cut(..) => self.mend_links(number),
            Fault::Edited(edit) if !self.lasts(fault) => {
                manifest::edit(&self.api, &self.plan, edit, number, true);
            }
            Fault::PairRecreated if !self.lasts(fault) => manifest::declare(&self.api, &self.plan),
            Fault::LoginDeleted | Fault::LoginDamaged => manifest::declare_login(&self.api, PASSWORD),
            _ => {}
        }
    }

    /// Whether that fault has begun and is not over.
    fn lasts(&self, fault: Fault) -> bool {
        self.active.keys().any(|number| self.plan.faults[*number].2 == fault)
    }

    /// Has an ObjectServer be as the faults want it that last.
    fn set_server(&mut self, side: Side, now: Duration) {
        let machine = self.machines[side];
        let is_down = self.lasts(Fault::ServerKilled(side));
        let process = (!is_down).then(|| Process {
            machine,
            is_other: self.lasts(Fault::WrongServer(side)),
        });
        match is_down {
            true => drop(self.down[side].get_or_insert(now)),
            false => self.down[side] = None,
        }
        let mut server = self.servers[side].borrow_mut();
        server.is_stalled = self.lasts(Fault::ServerStalled(side));
        server.refuses_login = self.lasts(Fault::LoginRefused(side));
        server.process.send_if_modified(|known| {
            let differs = *known != process;
            *known = process;
            differs
        });
        let is_gone = self.lasts(Fault::NameGone(side));
        network(|network| match is_gone {
            true => drop(network.names.remove(host_of(side))),
            false => drop(
                network
                    .names
                    .insert(host_of(side).to_owned(), server_address(side, machine)),
            ),
        });
    }

    /// The gates that a fault strikes; `None` if it strikes something else.
    fn struck_by(&self, fault: Fault) -> Option<Vec<Gate>> {
        let (Fault::GateKilled(side, which)
        | Fault::PodDeleted(side, which)
        | Fault::PodEvicted(side, which, _)
        | Fault::NodeLost(side, which)
        | Fault::Cut(
            Link::OperatorGate(_, side, which) | Link::GateServer(side, which) | Link::ProbeGate(_, side, which),
            _,
        )) = fault
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

    /// Both ends of each connection that a link stands for.
    fn ends_of(&self, link: Link, gates: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
        let from = |other| gates.iter().map(move |gate| (other, *gate));
        match link {
            Link::OperatorGate(operator, ..) => from(operator_address(operator)).collect(),
            Link::ProbeGate(probe, ..) => from(probe_address(probe)).collect(),
            Link::OperatorServer(operator, side) => {
                vec![(operator_address(operator), server_address(side, self.machines[side]))]
            }
            Link::GateServer(side, _) => {
                let server = server_address(side, self.machines[side]);
                from(server).map(|(server, gate)| (gate, server)).collect()
            }
        }
    }

    /// All that is connected to a gate.
    fn all_links_of(&self, gate: IpAddr) -> Vec<(IpAddr, IpAddr)> {
        let operators = (0..OPERATORS).map(operator_address);
        let probes = (0..self.probes.len()).map(probe_address);
        let servers = Side::BOTH
            .into_iter()
            .flat_map(|side| [0, 1].map(|machine| server_address(side, machine)));
        operators
            .chain(probes)
            .chain(servers)
            .map(|other| (other, gate))
            .collect()
    }

    fn cut_links(&mut self, number: usize, how: How, links: Vec<(IpAddr, IpAddr)>) -> bool {
        let strikes = !links.is_empty();
        self.cut.insert(number, (how, links));
        self.set_links(number);
        strikes
    }

    fn mend_links(&mut self, number: usize) {
        for pod in self.lost.remove(&number).unwrap_or_default() {
            self.kubernetes.set_lost(&pod, false);
        }
        let Some(mended) = self.cut.remove(&number) else { return };
        self.release(&mended.1);
        // What other faults have cut stays so.
        let others: Vec<_> = self.cut.keys().copied().collect();
        for other in others {
            if self.cut[&other].1.iter().any(|link| mended.1.contains(link)) {
                self.set_links(other);
            }
        }
    }

    fn set_links(&self, number: usize) {
        let (how, links) = &self.cut[&number];
        let since = Some(self.plan.faults[number].0);
        for (one, other) in links {
            match how {
                How::Silent => {
                    self.sim.hold(*one, *other);
                    network(|network| network.set_silent(*one, *other, since));
                }
                How::Deaf => network(|network| network.set_one_way(*one, *other, since)),
                How::Mute => network(|network| network.set_one_way(*other, *one, since)),
                How::Slow(millis) => self.sim.set_link_latency(*one, *other, Duration::from_millis(*millis)),
            }
        }
    }

    fn release(&self, links: &[(IpAddr, IpAddr)]) {
        for (one, other) in links {
            self.sim.release(*one, *other);
            self.sim.set_link_latency(*one, *other, USUAL);
            network(|network| {
                network.set_silent(*one, *other, None);
                network.set_one_way(*one, *other, None);
                network.set_one_way(*other, *one, None);
            });
        }
    }

    /// The name of one of the pair's Secrets with keys.
    fn keys(&self, which: usize) -> Option<String> {
        let mut names: Vec<_> = self.api.list::<Secret>().iter().map(ResourceExt::name_any).collect();
        names.retain(|name| name != LOGIN);
        (!names.is_empty()).then(|| names.swap_remove(which % names.len()))
    }

    fn begin_api_fault(&self, operator: Option<usize>, fault: ApiFault) {
        for (number, network) in self.operators.networks.iter().enumerate() {
            if operator.is_none_or(|operator| operator == number) {
                begin_api_fault(network, fault);
            }
        }
    }

    /// The script of an API server can only be emptied: what lasts on is written again.
    fn end_api_fault(&self) {
        for network in &self.operators.networks {
            network.clear_faults();
        }
        for number in self.active.keys() {
            if let Fault::Api(operator, fault) = self.plan.faults[*number].2 {
                self.begin_api_fault(operator, fault);
            }
        }
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
