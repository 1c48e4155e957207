//! What the agent knows of ProxyPairs and their Services, and which connections are to be reset for it. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt;

use super::matching::{Frontend, PairKey, Target};
use crate::{
    api::{LABEL_PAIR, LostGate},
    domain::children::PROXY_PORT,
};

/// What is declared and what is exposed, of each pair.
#[derive(Debug, Default)]
pub struct View {
    /// The lost gates of each pair, most often none.
    lost: BTreeMap<PairKey, Vec<LostGate>>,
    /// The frontends of each Service of each pair.
    frontends: BTreeMap<PairKey, BTreeMap<String, BTreeSet<Frontend>>>,
}

impl View {
    /// Takes in the lost gates that a pair declares now.
    pub fn declare(&mut self, pair: PairKey, lost: Vec<LostGate>) {
        self.lost.insert(pair, lost);
    }

    /// Takes in that a pair is gone.
    pub fn forget(&mut self, pair: &PairKey) {
        self.lost.remove(pair);
    }

    /// Takes in a Service. One without the label of a pair is nobody's.
    pub fn expose(&mut self, service: &Service) {
        let Some(pair) = owner(service) else { return };
        let services = self.frontends.entry(pair).or_default();
        services.insert(service.name_any(), frontends(service));
    }

    /// Takes in that a Service is gone.
    pub fn withdraw(&mut self, service: &Service) {
        let Some(pair) = owner(service) else { return };
        if let Some(services) = self.frontends.get_mut(&pair) {
            services.remove(&service.name_any());
            if services.is_empty() {
                self.frontends.remove(&pair);
            }
        }
    }

    /// Forgets all pairs but these, after a list of all. Returns those that were known.
    pub fn keep_pairs(&mut self, listed: &BTreeSet<PairKey>) -> Vec<PairKey> {
        let gone = self.lost.keys().filter(|pair| !listed.contains(*pair));
        let gone: Vec<_> = gone.cloned().collect();
        for pair in &gone {
            self.lost.remove(pair);
        }
        gone
    }

    /// Forgets all Services but these, after a list of all.
    pub fn keep_services(&mut self, listed: &BTreeSet<(PairKey, String)>) {
        self.frontends.retain(|pair, services| {
            services.retain(|name, _| listed.contains(&(pair.clone(), name.clone())));
            !services.is_empty()
        });
    }

    /// What is to be reset: the pairs that have a lost gate. A pair without Services is not among them.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let target = |(pair, lost): (&PairKey, &Vec<LostGate>)| {
            let frontends: BTreeSet<_> = self.frontends.get(pair)?.values().flatten().copied().collect();
            let gates: BTreeSet<_> = lost.iter().filter_map(gate).collect();
            let is_empty = frontends.is_empty() || gates.is_empty();
            let pair = pair.clone();
            (!is_empty).then_some(Target { pair, gates, frontends })
        };
        self.lost.iter().filter_map(target).collect()
    }
}

/// The pair that a Service was made for, by its label.
pub fn owner(service: &Service) -> Option<PairKey> {
    Some(PairKey {
        namespace: service.namespace()?,
        name: service.labels().get(LABEL_PAIR)?.clone(),
    })
}

/// Where probes were answered by a lost gate. `None` if the address is none.
fn gate(lost: &LostGate) -> Option<SocketAddr> {
    let address: IpAddr = lost.address.parse().ok()?;
    Some(SocketAddr::new(address.to_canonical(), PROXY_PORT))
}

/// Everything that clients of a Service connect to. A port on which a load balancer asks for the health of a node is no frontend.
fn frontends(service: &Service) -> BTreeSet<Frontend> {
    let spec = service.spec.clone().unwrap_or_default();
    let ingress = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten()
        .filter_map(|ingress| ingress.ip.clone());
    // A headless Service has the cluster IP "None", which is no address.
    let addresses: Vec<IpAddr> = spec
        .cluster_ip
        .into_iter()
        .chain(spec.cluster_ips.unwrap_or_default())
        .chain(spec.external_ips.unwrap_or_default())
        .chain(ingress)
        .filter_map(|address| address.parse().ok())
        .collect();
    let of_port = |port: ServicePort| {
        let number = u16::try_from(port.port).ok();
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
        let at = |port| addresses.iter().map(move |address| SocketAddr::new(*address, port));
        let node_port = node_port.filter(|port| *port != 0).map(Frontend::NodePort);
        number
            .into_iter()
            .flat_map(at)
            .map(Frontend::Address)
            .chain(node_port)
            .collect::<Vec<_>>()
    };
    spec.ports.unwrap_or_default().into_iter().flat_map(of_port).collect()
}

#[cfg(test)]
mod tests;
