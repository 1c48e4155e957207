//! The virtual Service, and one Service for each side.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{labels, metadata, side_labels};
use crate::{
    api::{LABEL_ROLE, PORT_PROXY, ROLE_SIDE, ROLE_VIRTUAL, ServiceType, Side},
    domain::pair::Pair,
};

/// What the virtual Service selects while `side` serves.
pub fn virtual_selector(pair: &Pair, side: Side) -> BTreeMap<String, String> {
    side_labels(pair, side)
}

/// The virtual Service while `side` serves.
///
/// It publishes addresses that are not ready. The operator proves a side itself before it points here, the gate refuses what it cannot
/// serve, and a pod that is leaving goes on serving until it has been left: kubelet's slower word could only take the one endpoint away.
pub fn virtual_service(pair: &Pair, side: Side) -> Service {
    let declared = &pair.spec.service;
    let mut labels = labels(pair);
    labels.insert(LABEL_ROLE.to_owned(), ROLE_VIRTUAL.to_owned());
    let mut metadata = metadata(pair, pair.service_name(), labels);
    metadata.annotations = Some(declared.annotations.clone()).filter(|annotations| !annotations.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(declared.type_.as_str().to_owned()),
            load_balancer_class: declared
                .load_balancer_class
                .clone()
                .filter(|_| declared.type_ == ServiceType::LoadBalancer),
            publish_not_ready_addresses: Some(true),
            selector: Some(virtual_selector(pair, side)),
            ports: Some(vec![ServicePort {
                node_port: declared.node_port,
                ..port(declared.port)
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The Service of one side, under whose address probes that know both sides find it without an operator. It is reached from where the
/// virtual Service is reached: it has the same type, annotations and class. A node port that the user chose is the virtual Service's alone.
pub fn side_service(pair: &Pair, side: Side) -> Service {
    let mut labels = side_labels(pair, side);
    labels.insert(LABEL_ROLE.to_owned(), ROLE_SIDE.to_owned());
    let declared = &pair.spec.service;
    let mut metadata = metadata(pair, pair.side_name(side), labels);
    metadata.annotations = Some(declared.annotations.clone()).filter(|annotations| !annotations.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(declared.type_.as_str().to_owned()),
            load_balancer_class: declared
                .load_balancer_class
                .clone()
                .filter(|_| declared.type_ == ServiceType::LoadBalancer),
            publish_not_ready_addresses: Some(true),
            selector: Some(side_labels(pair, side)),
            ports: Some(vec![port(declared.port)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(port: i32) -> ServicePort {
    ServicePort {
        name: Some(PORT_PROXY.to_owned()),
        protocol: Some("TCP".to_owned()),
        port,
        target_port: Some(IntOrString::String(PORT_PROXY.to_owned())),
        ..ServicePort::default()
    }
}
