//! The virtual Service, and one Service for each side.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, routed_selector, selector, side_selector};
use crate::{
    api::{LABEL_ROLE, PORT_PROXY, ROLE_SIDE, ROLE_VIRTUAL, ServiceType, Side},
    domain::pair::Pair,
};

/// The selector of the virtual Service while `side` serves: the gates of the side, without those that were taken out.
pub fn virtual_selector(pair: &Pair, side: Side) -> BTreeMap<String, String> {
    routed_selector(pair, side)
}

/// The virtual Service while `side` serves.
///
/// It publishes addresses that are not ready: the operator checks a side itself before the Service points at it, the
/// gate rejects what it cannot forward, and a terminating pod keeps serving until the traffic has moved. The operator
/// takes out a gate that cannot serve while another one of its side can. Readiness, which kubelet reports later, could
/// also remove the last endpoint.
pub fn virtual_service(pair: &Pair, side: Side) -> Service {
    let role = Role {
        name: pair.service_name(),
        role: ROLE_VIRTUAL,
        labels: selector(pair),
        selector: virtual_selector(pair, side),
        node_port: pair.spec.service.node_port,
    };
    service(pair, role)
}

/// The Service of one side. Probes that know the addresses of both sides use it without the operator.
///
/// It has the type, the annotations and the class of the virtual Service, so that it is reachable from the same places.
/// A node port that the user chose belongs to the virtual Service.
pub fn side_service(pair: &Pair, side: Side) -> Service {
    let role = Role {
        name: pair.side_name(side),
        role: ROLE_SIDE,
        labels: side_selector(pair, side),
        selector: side_selector(pair, side),
        node_port: None,
    };
    service(pair, role)
}

/// In what the Services of a pair differ.
struct Role {
    name: String,
    /// Value of [`LABEL_ROLE`].
    role: &'static str,
    labels: BTreeMap<String, String>,
    selector: BTreeMap<String, String>,
    node_port: Option<i32>,
}

fn service(pair: &Pair, role: Role) -> Service {
    let declared = &pair.spec.service;
    let Role {
        name,
        role,
        mut labels,
        selector,
        node_port,
    } = role;
    labels.insert(LABEL_ROLE.to_owned(), role.to_owned());
    let has_class = declared.type_ == ServiceType::LoadBalancer;
    Service {
        metadata: metadata(pair, name, labels, declared.annotations.clone()),
        spec: Some(ServiceSpec {
            type_: Some(declared.type_.as_str().to_owned()),
            load_balancer_class: declared.load_balancer_class.clone().filter(|_| has_class),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ports: Some(vec![ServicePort {
                name: Some(PORT_PROXY.to_owned()),
                protocol: Some("TCP".to_owned()),
                port: declared.port,
                node_port,
                target_port: Some(IntOrString::String(PORT_PROXY.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
