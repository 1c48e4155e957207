use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> PairKey {
    PairKey {
        namespace: "netcool".to_owned(),
        name: name.to_owned(),
    }
}

fn lost(address: &str) -> LostGate {
    serde_json::from_value(json!({
        "side": "Primary", "pod": "proxy-v-primary-0", "address": address, "since": "2026-12-01T06:00:00Z",
    }))
    .unwrap()
}

fn service(name: &str, pair: &str, spec: Value, status: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "netcool", "labels": {"proxypair.dev/pair": pair}},
        "spec": spec, "status": status,
    }))
    .unwrap()
}

fn cluster_ip(name: &str, pair: &str, address: &str) -> Service {
    let spec = json!({"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 4100}]});
    service(name, pair, spec, json!({}))
}

fn addresses(texts: &[&str]) -> BTreeSet<Frontend> {
    texts
        .iter()
        .map(|text| Frontend::Address(text.parse().unwrap()))
        .collect()
}

#[test]
fn every_way_into_a_service_is_a_frontend() {
    let exposed = service(
        "proxy-v",
        "proxy-v",
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000,
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::a"], "externalIPs": ["203.0.113.7"],
            "ports": [{"port": 4100, "nodePort": 31_400, "targetPort": "proxy"}],
        }),
        json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"hostname": "lb.example.com"}]}}),
    );
    let mut expected = addresses(&[
        "10.96.0.10:4100",
        "[fd00:96::a]:4100",
        "203.0.113.7:4100",
        "198.51.100.7:4100",
    ]);
    expected.insert(Frontend::NodePort(31_400));
    assert_eq!(frontends(&exposed), expected);
}

#[test]
fn a_headless_service_has_no_frontend() {
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 4100}]});
    assert_eq!(
        frontends(&service("proxy-v", "proxy-v", headless, json!({}))),
        BTreeSet::new()
    );
}

#[test]
fn a_lost_gate_is_reached_through_all_services_of_its_pair_and_no_other() {
    let mut view = View::default();
    view.expose(&cluster_ip("proxy-v", "proxy-v", "10.96.0.10"));
    view.expose(&cluster_ip("proxy-v-primary", "proxy-v", "10.96.0.11"));
    view.expose(&cluster_ip("other", "other", "10.96.0.12"));
    assert_eq!(view.targets(), []);
    view.declare(
        key("proxy-v"),
        vec![lost("10.244.1.5"), lost("fd00::5"), lost("no address")],
    );
    let gates = ["10.244.1.5:4400", "[fd00::5]:4400"].map(|gate| gate.parse().unwrap());
    let target = Target {
        pair: key("proxy-v"),
        gates: gates.into(),
        frontends: addresses(&["10.96.0.10:4100", "10.96.0.11:4100"]),
    };
    assert_eq!(view.targets(), [target]);
}

#[test]
fn what_is_withdrawn_is_forgotten_at_once() {
    let mut view = View::default();
    let exposed = cluster_ip("proxy-v", "proxy-v", "10.96.0.10");
    view.expose(&exposed);
    view.declare(key("proxy-v"), vec![lost("10.244.1.5")]);
    assert_eq!(view.targets().len(), 1);
    view.withdraw(&exposed);
    assert_eq!(view.targets(), []);
    view.expose(&exposed);
    view.declare(key("proxy-v"), vec![]);
    assert_eq!(view.targets(), []);
    view.declare(key("proxy-v"), vec![lost("10.244.1.5")]);
    view.forget(&key("proxy-v"));
    assert_eq!(view.targets(), []);
}

#[test]
fn what_a_list_no_longer_has_is_forgotten() {
    let mut view = View::default();
    for name in ["proxy-v", "other"] {
        view.expose(&cluster_ip(name, name, "10.96.0.10"));
        view.declare(key(name), vec![lost("10.244.1.5")]);
    }
    view.declare(key("quiet"), vec![]);
    assert_eq!(view.keep_pairs(&[key("proxy-v")].into()), [key("other"), key("quiet")]);
    assert_eq!(view.targets().len(), 1);
    view.keep_services(&[(key("other"), "other".to_owned())].into());
    assert_eq!(view.targets(), []);
}

#[test]
fn a_service_that_changes_its_address_is_found_at_the_new_one_alone() {
    let mut view = View::default();
    view.declare(key("proxy-v"), vec![lost("10.244.1.5")]);
    view.expose(&cluster_ip("proxy-v", "proxy-v", "10.96.0.10"));
    view.expose(&cluster_ip("proxy-v", "proxy-v", "10.96.0.11"));
    assert_eq!(view.targets()[0].frontends, addresses(&["10.96.0.11:4100"]));
}

proptest! {
    #[test]
    fn ports_out_of_range_are_no_frontend(port: i32, node_port: Option<i32>) {
        let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": port, "nodePort": node_port}]});
        for frontend in frontends(&service("proxy-v", "proxy-v", spec, json!({}))) {
            match frontend {
                Frontend::Address(address) => prop_assert_eq!(i32::from(address.port()), port),
                Frontend::NodePort(found) => prop_assert!(found != 0 && node_port == Some(found.into())),
            }
        }
    }
}
