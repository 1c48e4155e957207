//! The child objects of a pair, built without a client. Each builder returns the whole object for a server-side apply.

mod budget;
mod deployment;
mod kinds;
mod labels;
mod probes;
mod services;

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

pub use budget::disruption_budget;
pub use deployment::{
    ADMIN_PORT, CHECK_PORT, CONTROL_PORT, GateImage, PROXY_PORT, deployment, gate_image, template_of,
};
pub use kinds::{Child, is_orphan, is_owned, owners_after_adoption};
pub use labels::{routed_selector, selector, side_selector};
pub use probes::{Nodes, OMNI_DAT, PROBE_PROPS, Reach, probes, reach};
pub use services::{side_service, virtual_selector, virtual_service};

use self::labels::Map;
use super::pair::Pair;

/// `own` are the labels by which the object is found, `annotations` those that are declared for it.
fn metadata(pair: &Pair, name: String, own: Map, annotations: Map) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(pair.namespace.clone()),
        labels: Some(labels::of_child(pair, own)),
        annotations: labels::annotations(pair, annotations),
        owner_references: Some(vec![pair.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The ServiceAccount of the proxy pods. It has no permissions, and no token is mounted.
pub fn service_account(pair: &Pair) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(pair, pair.service_account_name(), selector(pair), Map::new()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// A Secret of type `kubernetes.io/tls` with a `ca.crt`.
pub fn tls_secret(pair: &Pair, name: String, data: BTreeMap<String, String>) -> Secret {
    Secret {
        metadata: metadata(pair, name, selector(pair), Map::new()),
        type_: Some("kubernetes.io/tls".to_owned()),
        // Not stringData, of which a key that is applied no longer would stay.
        data: Some(
            data.into_iter()
                .map(|(key, text)| (key, ByteString(text.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    }
}
