//! Pods, and the controllers of Kubernetes that make and end them: Deployment, kubelet, EndpointSlices, kube-proxy.

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use proxypair::{
    api::Side,
    domain::machine::{PodView, Selects},
};

use super::{
    clock::Time,
    gate::Gate,
    operator::Kind,
    probe::SessionEnd,
    world::{Event, World},
};

/// A proxy pod.
pub struct Pod {
    pub id: u64,
    pub side: Side,
    pub ip: Option<IpAddr>,
    pub created: Timestamp,
    pub template: u64,
    /// Its label says that the virtual Service leads to it.
    pub routed: bool,
    pub terminating: Option<Terminating>,
    /// Its process; `None` before it has started and after it has ended.
    pub gate: Option<Gate>,
}

/// A pod that is being deleted.
#[derive(Clone, Copy, Debug)]
pub struct Terminating {
    pub since: Time,
    /// `metadata.deletionTimestamp`.
    pub until: Time,
    /// `metadata.deletionGracePeriodSeconds`.
    pub grace: Duration,
}

/// The Deployment of one side, as far as it matters here.
#[derive(Default)]
pub struct Deployment {
    /// The pod template that it has; `None` before it is made.
    pub template: Option<u64>,
}

/// What happens to a pod.
#[derive(Clone, Debug)]
pub enum PodEvent {
    /// It has an address, and its gate starts.
    Starts,
    /// kubelet starts the gate again.
    Restarts,
    /// The process receives SIGTERM.
    Terminates,
    /// It ends, by itself or by SIGKILL.
    Ends,
}

impl Pod {
    pub fn uid(&self) -> String {
        format!("pod-{}", self.id)
    }

    /// What the API server shows of it.
    pub fn view(&self) -> PodView {
        PodView {
            uid: self.uid(),
            name: self.uid(),
            ip: self.ip,
            node: Some(format!("node-{}", self.id)),
            created: Some(self.created),
            terminating: self.terminating.map(|terminating| terminating.grace),
            failure: None,
            template: Some(self.template.to_string()),
            routed: self.routed,
        }
    }
}

impl World {
    pub fn pod(&self, id: u64) -> Option<(usize, &Pod)> {
        self.pairs
            .iter()
            .enumerate()
            .find_map(|(pair, world)| Some((pair, world.pods.iter().find(|pod| pod.id == id)?)))
    }

    pub fn pod_mut(&mut self, id: u64) -> Option<&mut Pod> {
        self.pairs
            .iter_mut()
            .find_map(|pair| pair.pods.iter_mut().find(|pod| pod.id == id))
    }

    pub fn pods_of(&self, pair: usize, side: Side) -> impl Iterator<Item = &Pod> {
        self.pairs[pair].pods.iter().filter(move |pod| pod.side == side)
    }

    /// The Deployment controller. A pod that terminates is replaced at once. A single one with an old template is deleted, and replaced when it
    /// is gone (strategy Recreate); of several, each is deleted when its successor runs.
    pub fn deploy(&mut self, pair: usize, side: Side) {
        let Some(template) = self.pairs[pair].deployments[side].template else {
            return;
        };
        self.scale_down(pair, side);
        let replicas = usize::try_from(self.plan.pairs[pair].pair.replicas(side)).unwrap_or(1);
        match replicas {
            1 => self.deploy_one(pair, side, template),
            _ => self.deploy_several(pair, side, template, replicas),
        }
    }

    /// Of pods with the newest template that are too many the youngest is deleted.
    fn scale_down(&mut self, pair: usize, side: Side) {
        let Some(template) = self.pairs[pair].deployments[side].template else {
            return;
        };
        let replicas = usize::try_from(self.plan.pairs[pair].pair.replicas(side)).unwrap_or(1);
        let is_it = |pod: &&Pod| pod.terminating.is_none() && pod.template == template;
        let living: Vec<_> = self.pods_of(pair, side).filter(is_it).map(|pod| pod.id).collect();
        let grace = self.grace(pair);
        for pod in living.into_iter().skip(replicas) {
            self.delete_pod(pod, grace);
        }
    }

    fn deploy_several(&mut self, pair: usize, side: Side, template: u64, replicas: usize) {
        let living = |pod: &&Pod| pod.terminating.is_none();
        let count = self.pods_of(pair, side).filter(living).count();
        let is_new = |pod: &&Pod| pod.template == template;
        let new = self.pods_of(pair, side).filter(living).filter(is_new).count();
        let runs = |pod: &Pod| pod.gate.is_some();
        let all_run = self.pods_of(pair, side).filter(living).filter(is_new).all(runs);
        let old = self
            .pods_of(pair, side)
            .filter(living)
            .find(|pod| !is_new(pod))
            .map(|pod| pod.id);
        if count < replicas || (new < replicas && count == replicas) {
            self.create_pod(pair, side, template);
        } else if count > replicas
            && all_run
            && let Some(old) = old
        {
            let grace = self.grace(pair);
            self.delete_pod(old, grace);
        } else if count == replicas {
            return;
        }
        // One step at a time, and a pod that does not start is waited for.
        self.later(Duration::from_millis(500), Event::Deploy(pair, side));
    }

    fn deploy_one(&mut self, pair: usize, side: Side, template: u64) {
        let old: Vec<_> = self
            .pods_of(pair, side)
            .filter(|pod| pod.template != template)
            .map(|pod| pod.id)
            .collect();
        for id in &old {
            if self.pod(*id).is_some_and(|(_, pod)| pod.terminating.is_none()) {
                let grace = self.grace(pair);
                self.delete_pod(*id, grace);
            }
        }
        let has_pod = self.pods_of(pair, side).any(|pod| pod.terminating.is_none());
        if old.is_empty() && !has_pod {
            self.create_pod(pair, side, template);
        }
    }

    /// `terminationGracePeriodSeconds`, as src/domain/children/deployment.rs makes it.
    pub fn grace(&self, pair: usize) -> Duration {
        let drain = &self.plan.pairs[pair].pair.spec.failback.drain;
        let grace = (drain.delay.get() + drain.grace_period.get()) * 2 + Duration::from_secs(5);
        Duration::from_secs(grace.as_secs())
    }

    fn create_pod(&mut self, pair: usize, side: Side, template: u64) {
        let id = self.new_id();
        let created = Timestamp::from_second(self.now.wall().as_second()).unwrap_or_default();
        self.pairs[pair].pods.push(Pod {
            id,
            side,
            ip: None,
            created,
            template,
            routed: true,
            terminating: None,
            gate: None,
        });
        let starts = self.random.millis(200, 2500);
        self.later(starts, Event::Pod(id, PodEvent::Starts));
        self.pods_changed(pair, side);
    }

    /// Deletes a pod. What is being deleted already can only be deleted sooner.
    pub fn delete_pod(&mut self, id: u64, grace: Duration) {
        let now = self.now;
        let until = now + grace;
        let Some(pod) = self.pod_mut(id) else { return };
        if pod.terminating.is_some_and(|known| known.until <= until) {
            return;
        }
        let since = pod.terminating.map_or(now, |known| known.since);
        pod.terminating = Some(Terminating { since, until, grace });
        let side = pod.side;
        let Some((pair, _)) = self.pod(id) else { return };
        self.note(format_args!("pod {id}"), format_args!("is deleted, within {grace:?}"));
        self.later(Duration::from_millis(20), Event::Pod(id, PodEvent::Terminates));
        self.at(until + Duration::from_millis(50), Event::Pod(id, PodEvent::Ends));
        if grace.is_zero() {
            self.forget_pod(pair, id);
        }
        self.pods_changed(pair, side);
    }

    /// The API server has no such pod any more. On a node that is cut off its process goes on, and nobody can reach it.
    fn forget_pod(&mut self, pair: usize, id: u64) {
        if !self.network.is_lost(id) {
            return self.later(Duration::from_millis(1), Event::Pod(id, PodEvent::Ends));
        }
        self.end_sessions_of(id, SessionEnd::GateGone);
        self.pairs[pair].pods.retain(|pod| pod.id != id);
        self.note(format_args!("pod {id}"), format_args!("is forgotten"));
    }

    pub fn pod_event(&mut self, id: u64, event: PodEvent) {
        let Some((pair, pod)) = self.pod(id) else { return };
        let side = pod.side;
        // kubelet learns of nothing, and nobody learns of what it does. The sandbox and its process live on.
        if self.network.is_lost(id) {
            self.later(Duration::from_millis(500), Event::Pod(id, event));
            return;
        }
        match event {
            PodEvent::Starts => {
                if pod.terminating.is_some() || pod.ip.is_some() {
                    return;
                }
                let octet = |shift: u64| u8::try_from((id >> shift) & 0xff).unwrap_or(0);
                let new = IpAddr::from([10, octet(16), octet(8), octet(0)]);
                let is_reused = self.random.one_in(2);
                let ip = self.pairs[pair].free_addresses.pop_if(|_| is_reused).unwrap_or(new);
                if let Some(pod) = self.pod_mut(id) {
                    pod.ip = Some(ip);
                }
                self.start_gate(id);
                self.pods_changed(pair, side);
            }
            PodEvent::Restarts => {
                if pod.terminating.is_some() {
                    // Nothing is started any more, and there is nothing left to wait for.
                    self.later(Duration::from_millis(50), Event::Pod(id, PodEvent::Ends));
                } else if pod.gate.is_none() && pod.ip.is_some() {
                    self.start_gate(id);
                }
            }
            PodEvent::Terminates => self.terminate_gate(id),
            PodEvent::Ends => {
                let is_early = pod.terminating.is_some_and(|known| self.now < known.until);
                if pod.terminating.is_none() || (is_early && pod.gate.is_some()) {
                    return;
                }
                let freed = pod.ip;
                self.guarantee_09_kubelet_cuts_nothing(pair, id);
                self.end_gate(id, "SIGKILL");
                self.pairs[pair].free_addresses.extend(freed);
                self.pairs[pair].pods.retain(|pod| pod.id != id);
                self.note(format_args!("pod {id}"), format_args!("is gone"));
                self.pods_changed(pair, side);
            }
        }
    }

    pub fn pods_changed(&mut self, pair: usize, side: Side) {
        self.is_disturbed = true;
        let (deploys, slices) = (self.random.millis(20, 300), self.random.millis(1, 60));
        self.later(deploys, Event::Deploy(pair, side));
        self.later(slices, Event::Slices(pair));
        self.tell_operators(pair, Kind::Pods);
    }

    /// Writes the label by which the virtual Service leads to a pod.
    pub fn label_pod(&mut self, id: u64, routed: bool) {
        let Some((pair, _)) = self.pod(id) else { return };
        if !routed {
            self.guarantee_18_the_last_gate_stays(pair, id);
        }
        let Some(pod) = self.pod_mut(id) else { return };
        pod.routed = routed;
        let side = pod.side;
        let place = if routed { "in" } else { "out" };
        self.note(format_args!("pod {id}"), format_args!("is taken {place}"));
        self.pods_changed(pair, side);
    }

    /// The EndpointSlice controller: pods with an address that the selector selects, also those that terminate.
    pub fn renew_slices(&mut self, pair: usize) {
        self.is_disturbed = true;
        let Some(Selects::Side(side)) = self.api.services[pair].map(|service| service.selects) else {
            self.set_slices(pair, Vec::new());
            return;
        };
        let pods = self
            .pods_of(pair, side)
            .filter(|pod| pod.ip.is_some() && pod.routed)
            .map(|pod| pod.id)
            .collect();
        self.set_slices(pair, pods);
    }

    fn set_slices(&mut self, pair: usize, pods: Vec<u64>) {
        if self.pairs[pair].slices == pods {
            return;
        }
        self.pairs[pair].slices.clone_from(&pods);
        self.tell_operators(pair, Kind::Endpoints);
        for probe in 0..self.pairs[pair].probes.len() {
            // docs/failover.md assumes that nodes apply a change within 1.5 s.
            let lag = self.random.mostly_short(Duration::from_millis(1400));
            let at = (self.now + lag).max(self.pairs[pair].probes[probe].rules_at);
            self.pairs[pair].probes[probe].rules_at = at;
            self.at(at, Event::Rules(pair, probe, pods.clone()));
        }
        for operator in 0..self.operators.len() {
            let lag = self.random.mostly_short(Duration::from_millis(1400));
            let at = (self.now + lag).max(self.operators[operator].rules_at);
            self.operators[operator].rules_at = at;
            self.at(at, Event::OperatorRules(pair, operator, pods.clone()));
        }
    }

    /// The addresses in the EndpointSlices.
    pub fn slice_addresses(&self, pair: usize) -> Vec<IpAddr> {
        let slices = &self.pairs[pair].slices;
        let pods = self.pairs[pair].pods.iter().filter(|pod| slices.contains(&pod.id));
        let mut addresses: Vec<_> = pods.filter_map(|pod| pod.ip).collect();
        addresses.sort();
        addresses
    }
}
