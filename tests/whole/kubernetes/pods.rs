//! The kubelets: the files of a pod, the process of its gate, and its end.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use fake_api_server::ApiServer;
use k8s_openapi::api::core::v1::{Pod, Secret};
use proxypair::{
    api::{LABEL_SIDE, Side},
    gate::{self, args::GateArgs},
    net::network,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use turmoil::Sim;

use super::{Kubernetes, Log, NAMESPACE};

/// Time from the end of a gate's process to the next.
const RESTARTS_AFTER: Duration = Duration::from_secs(1);

/// A pod, as its kubelet knows it.
pub struct PodProcess {
    pub deployment: String,
    pub template: Value,
    pub number: u8,
    pub side: Side,
    pub address: IpAddr,
    pub node: u32,
    pub has_started: bool,
    pub runs_since: Option<Duration>,
    /// Its node is lost: its kubelet does nothing, whatever becomes of the object.
    pub is_lost: bool,
    starts_at: Duration,
    settled: Duration,
    restarts_at: Option<Duration>,
    ends_at: Option<Duration>,
    stop: watch::Sender<bool>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The version of the Secrets that the files are of.
    files_at: u64,
}

#[derive(Parser)]
struct Gate {
    #[command(flatten)]
    args: GateArgs,
}

impl PodProcess {
    pub fn new(
        (deployment, template): (String, Value),
        (number, address): (u8, IpAddr),
        node: u32,
        starts_at: Duration,
        settled: Duration,
    ) -> Self {
        let side = match template["metadata"]["labels"][LABEL_SIDE].as_str() {
            Some("backup") => Side::Backup,
            _ => Side::Primary,
        };
        Self {
            deployment,
            template,
            number,
            side,
            address,
            node,
            has_started: false,
            runs_since: None,
            is_lost: false,
            starts_at,
            settled,
            restarts_at: None,
            ends_at: None,
            stop: watch::Sender::new(false),
            files: BTreeMap::new(),
            files_at: 0,
        }
    }

    /// Whether it was asked to end.
    pub const fn ends(&self) -> bool {
        self.ends_at.is_some()
    }

    /// Whether it is time for something: it starts, starts again, ends, or counts as available.
    pub fn is_due(&self, now: Duration, is_running: bool) -> bool {
        if self.is_lost {
            return false;
        }
        let is_settling = self.runs_since.is_some_and(|since| now <= since + self.settled);
        let starts = !self.has_started && self.starts_at <= now;
        let ended = self.has_started && !is_running && (self.restarts_at.is_none_or(|at| at <= now));
        starts || ended || is_settling || self.ends_at.is_some_and(|at| at <= now)
    }
}

impl Kubernetes {
    /// The node of a pod is lost, or found again.
    pub fn set_lost(&mut self, pod: &str, is_lost: bool) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.is_lost = is_lost;
            // Then its kubelet looks at once.
            self.must_look = true;
        }
    }

    /// Whether the pod is still there.
    pub(super) fn keep_pod(&mut self, name: &str, sim: &mut Sim<'static>, now: Duration, log: &mut Log) -> bool {
        let object = self.objects.pods.get(name);
        let Some(pod) = self.pods.get_mut(name) else {
            return false;
        };
        if pod.is_lost {
            return true;
        }
        let is_running = pod.has_started && sim.is_host_running(pod.address);
        let Some(object) = object else {
            // It was deleted without grace.
            end(sim, pod, is_running);
            return false;
        };
        if object.metadata.deletion_timestamp.is_some() {
            let seconds = object.metadata.deletion_grace_period_seconds.unwrap_or(30);
            let ends_at = now + Duration::from_secs(seconds.unsigned_abs());
            let ends_at = pod.ends_at.map_or(ends_at, |known| known.min(ends_at));
            if pod.ends_at.is_none() {
                log.say(
                    now,
                    format_args!("pod {name} is asked to end within {:?}", ends_at - now),
                );
            }
            pod.ends_at = Some(ends_at);
            pod.stop.send_replace(true);
            if is_running && now < ends_at {
                return true;
            }
            end(sim, pod, is_running);
            self.api.delete::<Pod>(NAMESPACE, name);
            return false;
        }
        if !pod.has_started {
            if now >= pod.starts_at && files(&self.api, pod, &self.directory.join(name)) {
                start(sim, pod, &self.directory.join(name));
                (pod.has_started, pod.runs_since) = (true, Some(now));
                let status = json!({"status": {
                    "phase": "Running",
                    "podIP": pod.address,
                    "podIPs": [{"ip": pod.address}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                }, "spec": {"nodeName": format!("node-{}", pod.node)}});
                self.api.merge::<Pod>(NAMESPACE, name, &status);
                let (side, address, node) = (pod.side.label(), pod.address, pod.node);
                log.say(
                    now,
                    format_args!("pod {name} of the {side} runs at {address} on node {node}"),
                );
            }
            return true;
        }
        if is_running {
            let version = self.api.version_of::<Secret>();
            if pod.files_at != version {
                pod.files_at = version;
                files(&self.api, pod, &self.directory.join(name));
            }
            return true;
        }
        network(|network| network.refusing.insert(pod.address));
        pod.runs_since = None;
        let due = *pod.restarts_at.get_or_insert(now + RESTARTS_AFTER);
        if now >= due {
            pod.restarts_at = None;
            sim.bounce(pod.address);
            network(|network| network.refusing.remove(&pod.address));
            pod.runs_since = Some(now);
            log.say(now, format_args!("pod {name} restarts its gate"));
        }
        true
    }
}

/// Nothing is left at its address.
fn end(sim: &mut Sim<'static>, pod: &mut PodProcess, is_running: bool) {
    if is_running {
        sim.crash(pod.address);
    }
    network(|network| network.refusing.insert(pod.address));
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
        for (key, content) in secret.data.unwrap_or_default() {
            let path = mount.join(key);
            if pod.files.get(&path) != Some(&content.0) {
                fs::create_dir_all(&mount).expect("a directory for a volume");
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
