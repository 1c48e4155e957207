//! The controllers of Deployments and ReplicaSets, and what collects the objects of a ProxyPair that is no more.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Secret, Service},
    },
};
use kube::{Resource, ResourceExt};
use proxypair::{api::ProxyPair, domain::children::gate_image};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Kubernetes, Log, NAMESPACE, pods::PodProcess};

/// The pods of a Deployment that nobody has asked to end.
#[derive(Default)]
struct Living {
    /// Those of the newest template, and those of an older one.
    current: Vec<String>,
    old: Vec<String>,
    /// How many of both count as available.
    available: usize,
    /// There is one of an older template that ends.
    old_ends: bool,
}

impl Kubernetes {
    /// As for ReplicaSets: a pod that ends does not count, so that its successor is made at once. Strategy `Recreate` waits for the end of all pods
    /// of an older template, `RollingUpdate` replaces one by one.
    pub(super) fn keep_deployments(&mut self, now: Duration, log: &mut Log) {
        for deployment in self.objects.deployments.clone() {
            let name = deployment.name_any();
            let spec = deployment.spec.unwrap_or_default();
            let template = json!(spec.template);
            let replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
            let settled = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).unsigned_abs().into());
            let strategy = spec.strategy.and_then(|strategy| strategy.type_);
            let stops_first = strategy.as_deref() == Some("Recreate");
            let living = self.living(&name, &template, settled, now);
            let (current, old) = (living.current.len(), living.old.len());
            let may_be_made = match stops_first {
                true if old > 0 || living.old_ends => 0,
                true => replicas,
                false => replicas.min((replicas + 1).saturating_sub(old)),
            };
            for _ in current..may_be_made {
                self.create_pod(&name, template.clone(), settled, now, log);
            }
            let surplus = living.current.iter().rev().take(current.saturating_sub(replicas));
            let replaced = match stops_first {
                true => old,
                false => old.min(living.available.saturating_sub(replicas)),
            };
            for pod in surplus.chain(living.old.iter().take(replaced)) {
                log.say(now, format_args!("pod {pod} is no longer wanted"));
                self.end_pod(pod);
            }
        }
    }

    fn living(&self, deployment: &str, template: &Value, settled: Duration, now: Duration) -> Living {
        let mut living = Living::default();
        let mut pods: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.deployment == deployment)
            .collect();
        pods.sort_by_key(|(_, pod)| pod.number);
        for (name, pod) in pods {
            let Some(object) = self.objects.pods.get(name) else {
                continue;
            };
            let is_old = pod.template != *template;
            if object.metadata.deletion_timestamp.is_some() {
                living.old_ends |= is_old;
                continue;
            }
            let is_available = pod.runs_since.is_some_and(|since| since + settled <= now);
            living.available += usize::from(is_available);
            let list = if is_old { &mut living.old } else { &mut living.current };
            list.push(name.clone());
        }
        living
    }

    /// What is left to do of the rollouts; `image` is that of the newest gates.
    pub fn unfinished(&self, image: u32) -> Option<String> {
        let unfinished = self.objects.deployments.iter().find_map(|deployment| {
            let name = deployment.name_any();
            let spec = deployment.spec.clone().unwrap_or_default();
            let living = self.living(&name, &json!(spec.template), Duration::ZERO, Duration::MAX);
            let wanted = usize::try_from(spec.replicas.unwrap_or(1)).ok();
            let is_newest = gate_image(deployment).is_some_and(|found| found == format!("proxypair:{image}"));
            let is_finished = is_newest && living.old.is_empty() && Some(living.current.len()) == wanted;
            (!is_finished).then(|| format!("{name} has {} pods of {wanted:?}", living.current.len()))
        });
        let ends = || self.pods.iter().find(|(_, pod)| !pod.has_started || pod.ends());
        unfinished.or_else(|| ends().map(|(name, _)| format!("pod {name} starts or ends")))
    }

    /// Asks for the end of a pod, with the grace of its template.
    pub fn end_pod(&self, name: &str) {
        let Some(pod) = self.pods.get(name) else { return };
        if self.api.json::<Pod>(NAMESPACE, name).is_none() {
            return;
        }
        let ends = json!({"metadata": {
            "deletionTimestamp": "2026-11-01T00:00:00Z",
            "deletionGracePeriodSeconds": pod.template["spec"]["terminationGracePeriodSeconds"],
        }});
        self.api.merge::<Pod>(NAMESPACE, name, &ends);
    }

    fn create_pod(&mut self, deployment: &str, template: Value, settled: Duration, now: Duration, log: &mut Log) {
        self.made += 1;
        let name = format!("{deployment}-{}", self.made);
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
        let object = self.api.put::<Pod>(&serde_json::from_value(object).expect("a pod"));
        self.objects.pods.insert(name.clone(), object);
        let longer = match self.slow_starts {
            Some((longer, until)) if now < until => longer,
            _ => Duration::ZERO,
        };
        let starts_at = now + longer + Duration::from_millis(self.chance.u64(300..2000));
        // Its pods prefer different nodes.
        let node = (1..).find(|node| self.pods.values().all(|pod| pod.node != *node));
        let pod = PodProcess::new(
            (deployment.to_owned(), template),
            (self.made, IpAddr::V4(Ipv4Addr::new(10, 4, 0, self.made))),
            node.unwrap_or_default(),
            starts_at,
            settled,
        );
        log.say(
            now,
            format_args!("pod {name} is created, to start in {:?}", starts_at - now),
        );
        self.pods.insert(name, pod);
    }

    /// Deletes what belongs to a ProxyPair that is no more.
    pub(super) fn collect_garbage(&mut self, now: Duration, log: &mut Log) {
        let living = self.api.uids::<ProxyPair>();
        if self.living.is_empty() {
            self.living.clone_from(&living);
        }
        if self.living == living {
            return;
        }
        self.must_look = true;
        self.collect::<Deployment>(&living, now, log);
        self.collect::<Service>(&living, now, log);
        self.collect::<Secret>(&living, now, log);
        let deployments: Vec<_> = self
            .api
            .list::<Deployment>()
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        for (name, pod) in &self.pods {
            let stays = self
                .objects
                .pods
                .get(name)
                .is_some_and(|object| object.metadata.deletion_timestamp.is_none());
            if stays && !deployments.contains(&pod.deployment) {
                self.end_pod(name);
            }
        }
    }

    fn collect<K>(&self, living: &[String], now: Duration, log: &mut Log)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned,
    {
        for object in self.api.list::<K>() {
            let owner = object.owner_references().iter().find(|owner| owner.kind == "ProxyPair");
            if owner.is_some_and(|owner| !living.contains(&owner.uid)) {
                let name = object.name_any();
                log.say(now, format_args!("{} {name} is collected", K::kind(&())));
                self.api.delete::<K>(NAMESPACE, &name);
            }
        }
    }
}
