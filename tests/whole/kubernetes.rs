//! What Kubernetes does with the objects that the operator writes: a pod for each Deployment, its files, its process and its end; EndpointSlices; and
//! the rules of the nodes, which follow them later.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use fake_api_server::ApiServer;
use fastrand::Rng;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;
use proxypair::{
    api::{LABEL_SIDE, Side},
    gate::{self, args::GateArgs},
    net::network,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use turmoil::Sim;

use super::world::{Log, NAMESPACE};

/// Longest time from a change of an EndpointSlice to the rules of the nodes.
const RULES_AFTER: u64 = 750;

/// The controllers, one kubelet and one kube-proxy.
pub struct Kubernetes {
    api: ApiServer,
    chance: Rng,
    directory: PathBuf,
    pods: BTreeMap<String, PodProcess>,
    made: u8,
    services: BTreeMap<String, Routes>,
    /// The version of the API server that was looked at last.
    seen: u64,
}

/// A pod, as its kubelet knows it.
struct PodProcess {
    deployment: String,
    side: Side,
    address: IpAddr,
    template: Value,
    starts_at: Duration,
    has_started: bool,
    restarts_at: Option<Duration>,
    ends_at: Option<Duration>,
    stop: watch::Sender<bool>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// Where connections to a Service lead: as its EndpointSlice is to say, and as the nodes do it.
struct Routes {
    address: IpAddr,
    pods: Vec<IpAddr>,
    slice_at: Option<Duration>,
    rules_at: Option<(Duration, Option<IpAddr>)>,
}

#[derive(Parser)]
struct Gate {
    #[command(flatten)]
    args: GateArgs,
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
            seen: 0,
        }
    }

    /// The address of a Service, once it exists.
    pub fn service(&self, name: &str) -> Option<IpAddr> {
        self.services.get(name).map(|routes| routes.address)
    }

    /// The side of the pod with an address.
    pub fn side_of(&self, address: IpAddr) -> Option<Side> {
        self.pods
            .values()
            .find(|pod| pod.address == address)
            .map(|pod| pod.side)
    }

    /// The running gate of a side.
    pub fn gate(&self, side: Side) -> Option<(String, IpAddr)> {
        let pod = self.pods.iter().find(|(_, pod)| pod.side == side && pod.has_started)?;
        Some((pod.0.clone(), pod.1.address))
    }

    /// Does what is due.
    pub fn step(&mut self, sim: &mut Sim<'static>, now: Duration, log: &mut Log) {
        if !self.is_due(now, sim) {
            return;
        }
        self.seen = self.api.version();
        self.keep_deployments(now, log);
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for name in names {
            if !self.keep_pod(&name, sim, now, log) {
                self.pods.remove(&name);
                log.say(now, format_args!("pod {name} is gone"));
            }
        }
        self.keep_services(now);
    }

    /// Whether an object or a process has changed, or it is time for something.
    fn is_due(&self, now: Duration, sim: &mut Sim<'static>) -> bool {
        let of_pods = self.pods.values().any(|pod| {
            let runs = pod.has_started && sim.is_host_running(pod.address);
            pod.starts_at <= now && !runs || pod.ends_at.is_some()
        });
        let of_services = self
            .services
            .values()
            .any(|routes| routes.slice_at.is_some() || routes.rules_at.is_some());
        of_pods || of_services || self.api.version() != self.seen
    }

    /// Strategy Recreate: the old pod goes before the new one comes.
    fn keep_deployments(&mut self, now: Duration, log: &mut Log) {
        for deployment in self.api.list::<Deployment>() {
            let name = deployment.name_any();
            let spec = deployment.spec.unwrap_or_default();
            let template = json!(spec.template);
            let Some((pod, known)) = self.pods.iter().find(|(_, pod)| pod.deployment == name) else {
                self.create_pod(&name, template, now, log);
                continue;
            };
            let is_there = self.api.get::<Pod>(NAMESPACE, pod);
            if known.template != template && is_there.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()) {
                let grace = template["spec"]["terminationGracePeriodSeconds"].clone();
                let ends = json!({"metadata": {
                    "deletionTimestamp": "2026-11-01T00:00:00Z",
                    "deletionGracePeriodSeconds": grace,
                }});
                self.api.merge::<Pod>(NAMESPACE, pod, &ends);
                log.say(now, format_args!("pod {pod} is replaced"));
            }
        }
    }

    fn create_pod(&mut self, deployment: &str, template: Value, now: Duration, log: &mut Log) {
        self.made += 1;
        let name = format!("{deployment}-{}", self.made);
        let side = match template["metadata"]["labels"][LABEL_SIDE].as_str() {
            Some("backup") => Side::Backup,
            _ => Side::Primary,
        };
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": template["metadata"]["labels"],
                "annotations": template["metadata"]["annotations"],
                "creationTimestamp": "2026-11-01T00:00:00Z",
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        });
        self.api.put::<Pod>(&serde_json::from_value(object).expect("a pod"));
        log.say(now, format_args!("pod {name} is created"));
        let pod = PodProcess {
            deployment: deployment.to_owned(),
            side,
            address: IpAddr::V4(Ipv4Addr::new(10, 4, 0, self.made)),
            template,
            starts_at: now + Duration::from_millis(self.chance.u64(300..2000)),
            has_started: false,
            restarts_at: None,
            ends_at: None,
            stop: watch::Sender::new(false),
            files: BTreeMap::new(),
        };
        self.pods.insert(name, pod);
    }

    /// Whether the pod is still there.
    fn keep_pod(&mut self, name: &str, sim: &mut Sim<'static>, now: Duration, log: &mut Log) -> bool {
        let object = self.api.get::<Pod>(NAMESPACE, name);
        let Some(pod) = self.pods.get_mut(name) else {
            return false;
        };
        let is_running = pod.has_started && sim.is_host_running(pod.address);
        let Some(object) = object else {
            // It was deleted without grace.
            if is_running {
                sim.crash(pod.address);
            }
            return false;
        };
        if object.metadata.deletion_timestamp.is_some() {
            let seconds = object.metadata.deletion_grace_period_seconds.unwrap_or(30);
            let ends_at = now + Duration::from_secs(seconds.unsigned_abs());
            let ends_at = pod.ends_at.map_or(ends_at, |known| known.min(ends_at));
            pod.ends_at = Some(ends_at);
            pod.stop.send_replace(true);
            if is_running && now < ends_at {
                return true;
            }
            if is_running {
                sim.crash(pod.address);
            }
            self.api.delete::<Pod>(NAMESPACE, name);
            return false;
        }
        if !pod.has_started {
            if now >= pod.starts_at && files(&self.api, pod, &self.directory.join(name)) {
                start(sim, pod, &self.directory.join(name));
                pod.has_started = true;
                let status = json!({"status": {
                    "phase": "Running",
                    "podIP": pod.address,
                    "podIPs": [{"ip": pod.address}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                }, "spec": {"nodeName": format!("node-{}", pod.side.label())}});
                self.api.merge::<Pod>(NAMESPACE, name, &status);
                log.say(
                    now,
                    format_args!("pod {name} of the {} runs at {}", pod.side.label(), pod.address),
                );
            }
            return true;
        }
        if !is_running {
            network(|network| network.refusing.insert(pod.address));
            let due = *pod.restarts_at.get_or_insert(now + Duration::from_secs(1));
            if now >= due {
                pod.restarts_at = None;
                sim.bounce(pod.address);
                network(|network| network.refusing.remove(&pod.address));
                log.say(now, format_args!("pod {name} restarts its gate"));
            }
        } else {
            files(&self.api, pod, &self.directory.join(name));
        }
        true
    }

    fn keep_services(&mut self, now: Duration) {
        let pods = self.api.list::<Pod>();
        for service in self.api.list::<Service>() {
            let name = service.name_any();
            let count = u8::try_from(self.services.len()).unwrap_or(u8::MAX);
            let routes = self.services.entry(name.clone()).or_insert_with(|| Routes {
                address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, count + 1)),
                pods: Vec::new(),
                slice_at: Some(now),
                rules_at: None,
            });
            let spec = service.spec.clone().unwrap_or_default();
            if spec.cluster_ip.is_none() {
                let address = json!({"spec": {"clusterIP": routes.address, "clusterIPs": [routes.address]}});
                self.api.merge::<Service>(NAMESPACE, &name, &address);
                network(|network| network.services.insert(routes.address, None));
            }
            let selector = spec.selector.unwrap_or_default();
            let is_selected = |pod: &&Pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
            let addresses = pods.iter().filter(is_selected).filter_map(|pod| {
                let address = pod.status.as_ref()?.pod_ip.as_ref()?;
                address.parse::<IpAddr>().ok()
            });
            let selected: Vec<_> = addresses.collect();
            if selected != routes.pods {
                routes.pods = selected;
                let lag = Duration::from_millis(self.chance.u64(5..150));
                routes.slice_at.get_or_insert(now + lag);
            }
            if routes.slice_at.is_some_and(|at| at <= now) {
                routes.slice_at = None;
                self.api.put(&slice(&service, &routes.pods));
                let lag = Duration::from_millis(self.chance.u64(5..RULES_AFTER));
                routes.rules_at = Some((now + lag, routes.pods.first().copied()));
            }
            if let Some((at, pod)) = routes.rules_at
                && at <= now
            {
                routes.rules_at = None;
                network(|network| network.services.insert(routes.address, pod));
            }
        }
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        // Of interest to nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn slice(service: &Service, pods: &[IpAddr]) -> EndpointSlice {
    let name = service.name_any();
    let mut labels = service.labels().clone();
    labels.insert("kubernetes.io/service-name".to_owned(), name.clone());
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| json!({"addresses": [pod], "conditions": {"ready": true}}))
        .collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-x"), "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "proxy", "port": 4400, "protocol": "TCP"}],
    });
    serde_json::from_value(object).expect("an EndpointSlice")
}

/// Writes what is mounted from Secrets. False while a Secret is missing.
fn files(api: &ApiServer, pod: &mut PodProcess, directory: &Path) -> bool {
    let spec = &pod.template["spec"];
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    for volume in volumes {
        let Some(secret) = volume["secret"]["secretName"].as_str() else {
            continue;
        };
        let Some(secret) = api.get::<Secret>(NAMESPACE, secret) else {
            return false;
        };
        let mount = directory.join(volume["name"].as_str().unwrap_or_default());
        fs::create_dir_all(&mount).expect("a directory for a volume");
        for (key, content) in secret.data.unwrap_or_default() {
            let path = mount.join(key);
            if pod.files.get(&path) != Some(&content.0) {
                fs::write(&path, &content.0).expect("a file of a volume");
                pod.files.insert(path, content.0);
            }
        }
    }
    true
}

/// Starts the gate with the arguments of its container, its volumes being where [`files`] puts them.
fn start(sim: &mut Sim<'static>, pod: &PodProcess, directory: &Path) {
    let containers = pod.template["spec"]["containers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let container = containers
        .iter()
        .find(|container| container["name"] == "gate")
        .expect("each proxy pod has a gate");
    let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
    let arguments: Vec<String> = container["args"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|argument| {
            let mut argument = argument.as_str().unwrap_or_default().to_owned();
            for mount in &mounts {
                let (path, name) = (mount["mountPath"].as_str(), mount["name"].as_str());
                let mounted = directory.join(name.unwrap_or_default());
                argument = argument.replace(path.unwrap_or_default(), &mounted.to_string_lossy());
            }
            argument
        })
        .collect();
    let Gate { args } = Gate::parse_from(arguments);
    let stop = pod.stop.subscribe();
    sim.host(pod.address, move || {
        let (args, mut stop) = (args.clone(), stop.clone());
        async move {
            let stopped = async move {
                // The sender lives as long as the world.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            gate::run_until(args, stopped).await?;
            Ok(())
        }
    });
}
