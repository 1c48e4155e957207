//! Which connections are to be reset: those that lead through a Service of a pair to a gate of that pair that is lost. A pure function.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::conntrack::{Entry, Family};

/// A ProxyPair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a client connects to when it uses a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    /// A cluster IP, an external IP or an IP of a load balancer.
    Address(SocketAddr),
    /// A node port, at any address of a node.
    NodePort(u16),
}

/// A pair with lost gates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pair.
    pub pair: PairKey,
    /// The port for probes at the addresses of its lost gates.
    pub gates: BTreeSet<SocketAddr>,
    /// The frontends of its Services.
    pub frontends: BTreeSet<Frontend>,
}

impl Target {
    /// Whether a connection is to be reset. `local` are the addresses of this node.
    ///
    /// All of this must hold:
    ///
    /// - what answers is the port for probes of a lost gate of this pair;
    /// - the connection was translated: its client connected to something else;
    /// - that was a frontend of a Service of this pair. A node port counts at the node's own addresses alone.
    ///
    /// So a connection to another pod that has been given the address of the gate is not reset: its client came through another Service, or
    /// connected to the pod itself.
    #[must_use]
    pub fn covers(&self, entry: &Entry, local: &BTreeSet<IpAddr>) -> bool {
        let (server, frontend) = (entry.reply.source, entry.original.destination);
        self.gates.contains(&server) && server != frontend && self.has_frontend(frontend, local)
    }

    /// Where its connections are.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.gates.iter().map(|gate| Family::of(*gate))
    }

    fn has_frontend(&self, address: SocketAddr, local: &BTreeSet<IpAddr>) -> bool {
        let is_node_port = || self.frontends.contains(&Frontend::NodePort(address.port()));
        self.frontends.contains(&Frontend::Address(address)) || (local.contains(&address.ip()) && is_node_port())
    }
}

#[cfg(test)]
mod tests;
