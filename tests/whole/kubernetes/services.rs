//! EndpointSlices, and the rules of the nodes.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;
use proxypair::net::network;
use serde_json::json;

use super::{Kubernetes, Log, NAMESPACE};

/// Longest time from a change of an EndpointSlice to the rules of the nodes.
const RULES_AFTER: u64 = 750;

/// Where connections to a Service lead: as its EndpointSlice is to say, and as the nodes do it.
pub struct Routes {
    address: IpAddr,
    pods: Vec<IpAddr>,
    slice_at: Option<Duration>,
    rules_at: Option<(Duration, Vec<IpAddr>)>,
}

impl Routes {
    /// Whether it is time for something.
    pub fn is_due(&self, now: Duration) -> bool {
        let rules_at = self.rules_at.as_ref().map(|(at, _)| *at);
        [self.slice_at, rules_at].into_iter().flatten().any(|at| at <= now)
    }
}

/// The name of a Service.
pub fn name_of(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc")
}

impl Kubernetes {
    pub(super) fn keep_services(&mut self, now: Duration, log: &mut Log) {
        let services = self.objects.services.clone();
        let api = self.api.clone();
        self.services.retain(|name, routes| {
            let is_there = services.iter().any(|service| service.name_any() == *name);
            if !is_there {
                api.delete::<EndpointSlice>(NAMESPACE, &slice_of(name));
                network(|network| {
                    network.services.insert(routes.address, Vec::new());
                    network.names.remove(&name_of(name));
                });
            }
            is_there
        });
        for service in services {
            let name = service.name_any();
            if !self.services.contains_key(&name) {
                self.publish(&name, now);
            }
            let Some(routes) = self.services.get_mut(&name) else {
                continue;
            };
            let spec = service.spec.clone().unwrap_or_default();
            if spec.cluster_ip.is_none() {
                let address = json!({"spec": {"clusterIP": routes.address, "clusterIPs": [routes.address]}});
                self.api.merge::<Service>(NAMESPACE, &name, &address);
            }
            let selector = spec.selector.unwrap_or_default();
            let is_selected = |pod: &&Pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
            let addresses = self.objects.pods.values().filter(is_selected).filter_map(|pod| {
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
                let at = routes.rules_at.take().map_or(now + lag, |(at, _)| at);
                routes.rules_at = Some((at, routes.pods.clone()));
            }
            if let Some((_, pods)) = routes.rules_at.take_if(|(at, _)| *at <= now) {
                log.say(now, format_args!("connections to {name} lead to {pods:?}"));
                network(|network| network.services.insert(routes.address, pods));
            }
        }
    }

    fn publish(&mut self, name: &str, now: Duration) {
        self.published += 1;
        let address = IpAddr::V4(Ipv4Addr::new(10, 96, 0, self.published));
        network(|network| {
            network.services.insert(address, Vec::new());
            network.names.insert(name_of(name), address);
        });
        let routes = Routes {
            address,
            pods: Vec::new(),
            slice_at: Some(now),
            rules_at: None,
        };
        self.services.insert(name.to_owned(), routes);
    }
}

fn slice_of(service: &str) -> String {
    format!("{service}-x")
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
        "metadata": {"name": slice_of(&name), "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "proxy", "port": 4400, "protocol": "TCP"}],
    });
    serde_json::from_value(object).expect("an EndpointSlice")
}
