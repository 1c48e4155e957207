//! What the kernel of this node says about itself: its addresses, and whether sessions can be reset by its connection table at all.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::ifaddrs::getifaddrs;
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};

use super::conntrack::{Conntrack, ConntrackError};

/// Whether a TCP connection of which only the middle is seen gets an entry: 1, the kernel's default, or 0.
const TCP_LOOSE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";

/// The virtual servers of IPVS.
const IPVS: &str = "/proc/net/ip_vs";

/// How long the API server's kernel may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Why sessions cannot be reset on this node.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The connection table cannot be used.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// A session without an entry gets none.
    #[error(
        "{TCP_LOOSE} is 0: packets of a session whose entry was deleted are not translated, and its probe is not reset; set it to 1"
    )]
    Strict,
    /// Services lead through IPVS.
    #[error(
        "Services lead through IPVS, which keeps their connections outside of the connection table: kube-proxy must run in mode nftables or iptables"
    )]
    Ipvs,
    /// Services lead through something else, such as eBPF programs.
    #[error(
        "Services are not translated through the kernel's connection table: a connection to {0} has no entry in it, as in a cluster without kube-proxy"
    )]
    Untracked(SocketAddr),
}

/// How this node translates a connection to the cluster IP of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// By the connection table.
    Tracked,
    /// Not at all: the address is that of the server. It says nothing about Services.
    Direct,
    /// By something else: the connection is not in the table under the address that was connected to.
    Untracked,
}

/// The addresses of this node.
///
/// # Errors
///
/// The kernel's.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = getifaddrs().map_err(io::Error::from)?;
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| Some(IpAddr::from(address.as_sockaddr_in6()?.ip())))
    };
    Ok(interfaces.filter_map(address).collect())
}

/// Looks for what keeps sessions from being reset. `service` is the cluster IP of a Service that every node can connect to.
///
/// # Errors
///
/// [`Obstacle`].
pub async fn inspect(service: Option<SocketAddr>) -> Result<(), Obstacle> {
    let translation = match service {
        Some(service) => translation(service).await?.map(|translation| (service, translation)),
        None => None,
    };
    if fs::read_to_string(TCP_LOOSE).is_ok_and(|value| value.trim() == "0") {
        return Err(Obstacle::Strict);
    }
    if fs::read_to_string(IPVS).is_ok_and(|table| has_virtual_servers(&table)) {
        return Err(Obstacle::Ipvs);
    }
    match translation {
        Some((service, Translation::Untracked)) => Err(Obstacle::Untracked(service)),
        Some((_, Translation::Tracked | Translation::Direct)) | None => Ok(()),
    }
}

/// Connects to a Service and looks for that connection in the table. `None` if it does not accept a connection now.
///
/// # Errors
///
/// [`ConntrackError`] if the table cannot be used.
pub async fn translation(service: SocketAddr) -> Result<Option<Translation>, ConntrackError> {
    let connected = timeout(CONNECT_WITHIN, TcpStream::connect(service)).await;
    let connection = connected.ok().and_then(Result::ok);
    let client = connection.as_ref().and_then(|connection| connection.local_addr().ok());
    // The table is used even if nothing accepts, so that it is known whether it may be.
    let from = client.unwrap_or(service);
    let found = spawn_blocking(move || Conntrack::open()?.find(from, service)).await;
    let found = found.map_err(|error| ConntrackError::Open(io::Error::other(error)))??;
    Ok(client.map(|_| match found {
        Some(entry) if entry.reply.source == service => Translation::Direct,
        Some(_) => Translation::Tracked,
        None => Translation::Untracked,
    }))
}

/// After the headings each line is a virtual server, or one of the servers behind it.
fn has_virtual_servers(table: &str) -> bool {
    let is_server = |line: &str| {
        ["TCP ", "UDP ", "SCTP ", "FWM "]
            .iter()
            .any(|protocol| line.starts_with(protocol))
    };
    table.lines().any(is_server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipvs_is_in_use_when_it_has_a_virtual_server() {
        let headings = "IP Virtual Server version 1.2.1 (size=4096)\n\
                        Prot LocalAddress:Port Scheduler Flags\n  \
                        -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
        assert!(!has_virtual_servers(headings));
        assert!(has_virtual_servers(&format!("{headings}TCP  0A60000A:1004 rr\n")));
    }

    #[test]
    fn the_loopback_address_is_local() {
        assert!(local_addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
