//! What Kubernetes does with the objects that the operator writes: pods for each Deployment, their nodes, files, processes and ends;
//! EndpointSlices; and the rules of the nodes, which follow them later.

mod deployments;
mod objects;
mod pods;
mod services;

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf, time::Duration};

use fake_api_server::ApiServer;
use fastrand::Rng;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use proxypair::api::{LABEL_ROUTED, ROUTED, Side};
use turmoil::Sim;

pub use self::services::name_of;
use self::{objects::Objects, pods::PodProcess, services::Routes};
use super::log::Log;

/// The namespace of all objects.
pub const NAMESPACE: &str = "netcool";

/// The controllers, the kubelets and one kube-proxy.
pub struct Kubernetes {
    api: ApiServer,
    chance: Rng,
    directory: PathBuf,
    pods: BTreeMap<String, PodProcess>,
    made: u8,
    services: BTreeMap<String, Routes>,
    /// The uids of the first ProxyPairs.
    living: Vec<String>,
    /// How many Services there have been.
    published: u8,
    /// How much longer than others the next pods need to start, and until when.
    slow_starts: Option<(Duration, Duration)>,
    /// What is stored, as it was looked at last.
    objects: Objects,
    /// There is something to look at, whatever has changed.
    must_look: bool,
}

/// A pod as the rules see it.
#[derive(Clone, Debug)]
pub struct Gate {
    pub pod: String,
    pub side: Side,
    pub address: IpAddr,
    /// Since when its process has run without a break; `None` while it does not run.
    pub runs_since: Option<Duration>,
    /// Its object is there, and nobody has asked for its end.
    pub stays: bool,
    /// The virtual Service may lead to it.
    pub is_routed: bool,
    /// Its node is lost.
    pub is_lost: bool,
}

impl Kubernetes {
    pub fn new(api: ApiServer, seed: u64) -> Self {
        let directory = std::env::temp_dir().join(format!("proxypair-whole-{}", std::process::id()));
        Self {
            api,
            chance: Rng::with_seed(seed ^ 0x6b75_6265),
            directory,
            pods: BTreeMap::new(),
            made: 0,
            services: BTreeMap::new(),
            living: Vec::new(),
            published: 0,
            slow_starts: None,
            objects: Objects::default(),
            must_look: true,
        }
    }

    /// The side of the pod with an address.
    pub fn side_of(&self, address: IpAddr) -> Option<Side> {
        self.pods
            .values()
            .find(|pod| pod.address == address)
            .map(|pod| pod.side)
    }

    /// All gates that have started, in the order in which their pods were made.
    pub fn gates(&self) -> Vec<Gate> {
        let mut gates: Vec<_> = self.pods.iter().filter(|(_, pod)| pod.has_started).collect();
        gates.sort_by_key(|(_, pod)| pod.number);
        let gate = |(name, pod): (&String, &PodProcess)| {
            let object = self.objects.pods.get(name);
            Gate {
                pod: name.clone(),
                side: pod.side,
                address: pod.address,
                runs_since: pod.runs_since,
                stays: object.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()),
                is_routed: object
                    .is_some_and(|pod| pod.labels().get(LABEL_ROUTED).is_some_and(|routed| routed == ROUTED)),
                is_lost: pod.is_lost,
            }
        };
        gates.into_iter().map(gate).collect()
    }

    /// The gates of a side that a fault may strike.
    pub fn gates_of(&self, side: Side) -> Vec<Gate> {
        let mut gates = self.gates();
        gates.retain(|gate| gate.side == side && gate.stays && !gate.is_lost && gate.runs_since.is_some());
        gates
    }

    /// Pods that are made before `until` need `longer` than others to start.
    pub fn slow_down_starts(&mut self, longer: Duration, until: Duration) {
        self.slow_starts = Some((longer, until));
    }

    /// Does what is due.
    pub fn step(&mut self, sim: &mut Sim<'static>, now: Duration, log: &mut Log) {
        let has_changed = self.objects.refresh(&self.api);
        if !has_changed && !self.must_look && !self.is_due(now, sim) {
            return;
        }
        self.must_look = false;
        self.collect_garbage(now, log);
        self.keep_deployments(now, log);
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for name in names {
            if !self.keep_pod(&name, sim, now, log) {
                self.pods.remove(&name);
                log.say(now, format_args!("pod {name} is gone"));
            }
        }
        // What each of these writes counts for the others.
        self.must_look |= self.objects.refresh(&self.api);
        self.keep_services(now, log);
        self.must_look |= self.objects.refresh(&self.api);
    }

    /// The pods that are stored.
    pub fn pods(&self) -> &BTreeMap<String, Pod> {
        &self.objects.pods
    }

    /// Whether a process has ended, or it is time for something.
    fn is_due(&self, now: Duration, sim: &mut Sim<'static>) -> bool {
        self.services.values().any(|routes| routes.is_due(now))
            || self
                .pods
                .values()
                .any(|pod| pod.is_due(now, pod.has_started && sim.is_host_running(pod.address)))
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        // Of interest to nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
