use serde_json::{Value as Json, json};

use super::*;
use crate::domain::{
    children::{side_service, virtual_service},
    pair::fixture::pair,
};

fn of_type(type_: &str) -> Pair {
    pair(json!({"service": {"type": type_}}))
}

/// The Service as an API server has it, with `status` and node port.
fn stored(mut service: Service, node_port: i32, ingress: Json) -> Service {
    if let Some(port) = service
        .spec
        .as_mut()
        .and_then(|spec| spec.ports.as_mut())
        .and_then(|ports| ports.first_mut())
    {
        port.node_port = Some(node_port);
    }
    service.status = Some(serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap());
    service
}

/// The `omni.dat` of a pair whose Services have node ports 30001 to 30003 and these addresses at their load balancers.
fn written(pair: &Pair, ingress: [Json; 3], nodes: [Option<&str>; 2]) -> String {
    let [of_pair, of_primary, of_backup] = ingress;
    let services = [
        stored(virtual_service(pair, Side::Primary), 30001, of_pair),
        stored(side_service(pair, Side::Primary), 30002, of_primary),
        stored(side_service(pair, Side::Backup), 30003, of_backup),
    ];
    let [primary, backup] = nodes.map(|node| node.map(str::to_owned));
    let sides = Sides {
        primary: &services[1],
        backup: &services[2],
    };
    let reach = reach(pair, &services[0], sides, &Sides { primary, backup });
    probes(pair, &reach).data.unwrap()[OMNI_DAT].clone()
}

fn entries(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

fn comments(text: &str) -> String {
    text.lines().filter(|line| line.starts_with('#')).collect()
}

const NOWHERE: [Json; 3] = [Json::Null, Json::Null, Json::Null];

fn props(pair: &Pair) -> String {
    let nothing = Reach {
        pair: None,
        sides: Sides::default(),
    };
    probes(pair, &nothing).data.unwrap()[PROBE_PROPS].clone()
}

fn set(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect()
}

#[test]
fn inside_the_cluster_services_have_names() {
    let text = written(&of_type("ClusterIP"), NOWHERE, [Some("192.0.2.1"), None]);
    assert_eq!(
        entries(&text),
        "[PROXY_V]\n{\nPrimary: proxy-v.netcool.svc 4400\nBackup: proxy-v-backup.netcool.svc 4400\n}\n\
         [PROXY_P]\n{\nPrimary: proxy-v-primary.netcool.svc 4400\n}\n\
         [PROXY_B]\n{\nPrimary: proxy-v-backup.netcool.svc 4400\n}\n"
    );
}

#[test]
fn with_node_ports_each_has_the_node_of_its_side() {
    let text = written(&of_type("NodePort"), NOWHERE, [Some("192.0.2.1"), Some("192.0.2.2")]);
    assert_eq!(
        entries(&text),
        "[PROXY_V]\n{\nPrimary: 192.0.2.1 30001\nBackup: 192.0.2.2 30003\n}\n\
         [PROXY_P]\n{\nPrimary: 192.0.2.1 30002\n}\n\
         [PROXY_B]\n{\nPrimary: 192.0.2.2 30003\n}\n"
    );
}

#[test]
fn one_node_is_enough_for_node_ports() {
    let text = written(&of_type("NodePort"), NOWHERE, [None, Some("192.0.2.2")]);
    assert!(
        entries(&text).contains("Primary: 192.0.2.2 30001\nBackup: 192.0.2.2 30003\n"),
        "{text}"
    );
    let text = written(&of_type("NodePort"), NOWHERE, [None, None]);
    assert_eq!(entries(&text), "");
    assert!(
        comments(&text).contains("PROXY_V is not here: no node of the proxy pods is known yet."),
        "{text}"
    );
}

#[test]
fn a_load_balancer_has_an_address_or_a_name() {
    let ingress = [
        json!([{"ip": "198.51.100.1"}]),
        json!([{"hostname": "p.lb.example.com"}]),
        json!([{"ip": "2001:db8::1", "hostname": "b.lb.example.com"}]),
    ];
    let text = written(&of_type("LoadBalancer"), ingress, [None, None]);
    assert_eq!(
        entries(&text),
        "[PROXY_V]\n{\nPrimary: 198.51.100.1 4400\nBackup: 2001:db8::1 4400\n}\n\
         [PROXY_P]\n{\nPrimary: p.lb.example.com 4400\n}\n\
         [PROXY_B]\n{\nPrimary: 2001:db8::1 4400\n}\n"
    );
}

#[test]
fn a_load_balancer_without_an_address_is_said_to_have_none() {
    let [none, ingress] = [Json::Null, json!([{"ip": "198.51.100.1"}])];
    let text = written(&of_type("LoadBalancer"), [ingress.clone(), ingress, none], [None, None]);
    assert_eq!(
        entries(&text),
        "[PROXY_V]\n{\nPrimary: 198.51.100.1 4400\n}\n[PROXY_P]\n{\nPrimary: 198.51.100.1 4400\n}\n"
    );
    for words in [
        "PROXY_B is not here: its load balancer has no address yet.",
        "PROXY_V has no second address",
    ] {
        assert!(comments(&text).contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn ports_that_speak_tls_are_marked() {
    let spec = json!({"service": {"port": 4401}, "proxy": {"tls": {"secretName": "proxy-tls"}}});
    let text = written(&pair(spec), NOWHERE, [None, None]);
    assert!(
        entries(&text).contains("Primary: proxy-v.netcool.svc ssl 4401\nBackup: proxy-v-backup.netcool.svc ssl 4401\n"),
        "{text}"
    );
    assert_eq!(entries(&text).matches(" ssl ").count(), 4);
}

#[test]
fn sets_the_properties_that_a_pair_needs() {
    assert_eq!(
        set(&props(&pair(json!({})))),
        [
            "Server: 'PROXY_V'",
            "ServerBackup: ''",
            "NetworkTimeout: 20",
            "PollServer: 0",
            "RetryConnectionCount: 1",
            "RetryConnectionTimeOut: 5",
            "StoreAndForward: 1",
            "AutoSAF: 1",
        ]
    );
}

#[test]
fn each_property_has_its_reason() {
    let text = props(&pair(json!({"healthCheck": {"unresponsiveAfter": "2500ms"}})));
    for block in text.split("\n\n").skip(1) {
        assert!(
            block.starts_with("# ") && block.lines().any(|line| !line.starts_with('#')),
            "{block}"
        );
    }
    assert!(
        text.contains("NetworkTimeout: 8\n") && text.contains("unresponsiveAfter of 2500ms"),
        "{text}"
    );
}

#[test]
fn names_the_certificates_that_probes_see() {
    let names = |spec: Json| {
        let text = props(&pair(spec));
        set(&text)
            .into_iter()
            .find_map(|line| line.strip_prefix("SSLServerCommonName: "))
            .map(str::to_owned)
    };
    let tls = json!({"tls": {"caBundle": {"secretName": "ca"}}});
    let sides = json!({"primary": {"objectServer": tls}, "backup": {"objectServer": tls}});
    let with = |proxy: Json| {
        let mut spec = sides.clone();
        spec["proxy"] = proxy;
        spec
    };
    assert_eq!(names(sides.clone()), None);
    let terminate = with(json!({"tls": {"secretName": "proxy-tls"}}));
    assert_eq!(names(terminate).as_deref(), Some("'PROXY_P,PROXY_B'"));
    let through_a_relay = with(json!({"tls": {"mode": "PassThrough"}}));
    assert_eq!(names(through_a_relay).as_deref(), Some("'AGG_P,AGG_B'"));
    let to_a_proxy =
        with(json!({"tls": {"secretName": "proxy-tls"}, "engine": "Proxyserv", "image": "nco", "secretName": "s"}));
    assert_eq!(names(to_a_proxy).as_deref(), Some("'PROXY_P,PROXY_B'"));
}

#[test]
fn the_services_of_the_sides_are_reached_from_where_the_virtual_one_is() {
    let spec = json!({"service": {
        "type": "LoadBalancer",
        "nodePort": 30440,
        "loadBalancerClass": "example.com/internal",
        "annotations": {"example.com/zone": "dmz"},
    }});
    let pair = pair(spec);
    let of_pair = virtual_service(&pair, Side::Primary);
    for side in Side::BOTH {
        let of_side = side_service(&pair, side);
        assert_eq!(of_side.metadata.annotations, of_pair.metadata.annotations);
        let (of_side, of_pair) = (of_side.spec.unwrap(), of_pair.spec.clone().unwrap());
        assert_eq!(of_side.type_, of_pair.type_);
        assert_eq!(of_side.load_balancer_class, of_pair.load_balancer_class);
        assert_eq!(of_side.ports.unwrap()[0].node_port, None);
        assert_eq!(of_pair.ports.unwrap()[0].node_port, Some(30440));
    }
}
