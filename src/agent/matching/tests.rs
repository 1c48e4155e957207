use proptest::prelude::*;

use super::*;
use crate::agent::conntrack::{Flow, entry};

const GATE: &str = "10.244.1.5:4400";
const OTHER_GATE: &str = "10.244.2.5:4400";
const CLUSTER_IP: &str = "10.96.0.10:4100";
const NODE: &str = "192.168.1.7";
const NODE_PORT: u16 = 31_400;
const CLIENT: &str = "10.244.3.9:40000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn target() -> Target {
    Target {
        pair: PairKey {
            namespace: "netcool".to_owned(),
            name: "proxy-v".to_owned(),
        },
        gates: [address(GATE), address("[fd00::1:5]:4400")].into(),
        frontends: [
            Frontend::Address(address(CLUSTER_IP)),
            Frontend::Address(address("[fd00:96::a]:4100")),
            Frontend::NodePort(NODE_PORT),
        ]
        .into(),
    }
}

fn local() -> BTreeSet<IpAddr> {
    [NODE.parse().unwrap(), "fd00::7".parse().unwrap()].into()
}

/// A connection of a client to `frontend` that `server` answers.
fn connection(frontend: SocketAddr, server: SocketAddr) -> Entry {
    let client = address(CLIENT);
    let original = Flow {
        source: client,
        destination: frontend,
    };
    let reply = Flow {
        source: server,
        destination: client,
    };
    entry(original, reply, 7, None)
}

fn covered(frontend: &str, server: &str) -> bool {
    target().covers(&connection(address(frontend), address(server)), &local())
}

#[test]
fn a_connection_through_any_frontend_of_the_pair_to_a_lost_gate_is_reset() {
    assert!(covered(CLUSTER_IP, GATE));
    assert!(covered("192.168.1.7:31400", GATE));
    assert!(covered("[fd00:96::a]:4100", "[fd00::1:5]:4400"));
    assert!(covered("[fd00::7]:31400", "[fd00::1:5]:4400"));
}

#[test]
fn one_to_a_gate_that_lives_is_not() {
    assert!(!covered(CLUSTER_IP, OTHER_GATE));
    assert!(!covered("192.168.1.7:31400", OTHER_GATE));
}

#[test]
fn one_to_another_port_of_the_pod_is_not() {
    assert!(!covered(CLUSTER_IP, "10.244.1.5:4401"));
}

#[test]
fn one_that_leads_to_the_pod_itself_is_not() {
    assert!(!covered(GATE, GATE));
    // Not even if somebody makes the pod's address a frontend.
    let mut target = target();
    target.frontends.insert(Frontend::Address(address(GATE)));
    assert!(!target.covers(&connection(address(GATE), address(GATE)), &local()));
}

#[test]
fn one_of_a_stranger_that_has_been_given_the_address_is_not() {
    assert!(!covered("10.96.7.7:4100", GATE), "another Service");
    assert!(!covered("10.96.0.10:80", GATE), "another port");
    assert!(
        !covered("10.96.7.7:31400", GATE),
        "a Service whose port is our node port"
    );
    assert!(
        !covered("192.168.1.7:4100", GATE),
        "a port of the node that is our Service's port"
    );
}

/// Addresses that are alike: each is one of those above, or differs from one in the port or in the last byte.
fn nearby() -> Vec<SocketAddr> {
    let ips = [
        "10.244.1.5",
        "10.244.1.6",
        "10.244.2.5",
        "10.96.0.10",
        "10.96.0.11",
        NODE,
        "192.168.1.8",
        "fd00::1:5",
        "fd00:96::a",
        "fd00::7",
        "::ffff:10.244.1.5",
    ];
    let ports = [4100, 4400, 4401, NODE_PORT, NODE_PORT + 1];
    let at = |ip: &str| ports.map(|port| SocketAddr::new(ip.parse().unwrap(), port));
    ips.into_iter().flat_map(at).collect()
}

/// All connections from one such address to another.
fn connections() -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
    nearby()
        .into_iter()
        .flat_map(|frontend| nearby().into_iter().map(move |server| (frontend, server)))
}

#[test]
fn nothing_is_reset_but_what_was_translated_from_a_frontend_of_the_pair_to_a_lost_gate() {
    for (frontend, server) in connections() {
        let is_lost = [GATE, "[fd00::1:5]:4400"].map(address).contains(&server);
        let is_service = [CLUSTER_IP, "[fd00:96::a]:4100"].map(address).contains(&frontend);
        let is_node = local().contains(&frontend.ip());
        let expected = is_lost && (is_service || is_node && frontend.port() == NODE_PORT);
        let covers = target().covers(&connection(frontend, server), &local());
        assert_eq!(covers, expected, "{frontend} {server}");
    }
}

proptest! {
    #[test]
    fn nothing_of_others_is_reset(frontend: u32, port: u16, server: u32, server_port: u16) {
        let [frontend, server] = [(frontend, port), (server, server_port)]
            .map(|(ip, port)| SocketAddr::new(IpAddr::from(ip.to_be_bytes()), port));
        prop_assert!(!target().covers(&connection(frontend, server), &local()));
        prop_assert!(!target().covers(&connection(address(CLUSTER_IP), server), &local()));
        prop_assert!(!target().covers(&connection(frontend, address(GATE)), &local()));
    }
}

#[test]
fn nothing_is_reset_while_no_gate_is_lost_or_without_a_service() {
    let no_gate = Target {
        gates: BTreeSet::new(),
        ..target()
    };
    let no_service = Target {
        frontends: BTreeSet::new(),
        ..target()
    };
    for (frontend, server) in connections() {
        let connection = connection(frontend, server);
        assert!(!no_gate.covers(&connection, &local()) && !no_service.covers(&connection, &local()));
    }
}
