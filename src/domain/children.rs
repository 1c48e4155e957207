//! The child objects of a pair, built without a client. Each builder gives the whole object that the operator declares; server-side apply
//! compares.

mod budget;
mod deployment;
mod kinds;
mod probes;
mod services;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

pub use budget::disruption_budget;
pub use deployment::{CHECK_PORT, CONTROL_PORT, GateImage, deployment, template_of};
pub use kinds::{Child, is_owned};
pub use probes::{Nodes, OMNI_DAT, PROBE_PROPS, Reach, probes, reach};
pub use services::{side_service, virtual_selector, virtual_service};

use super::pair::Pair;
use crate::api::{LABEL_MANAGED_BY, LABEL_PAIR, LABEL_PART_OF, LABEL_SIDE, MANAGED_BY, Side};

/// Labels that tell the children of this pair from all other objects.
pub fn labels(pair: &Pair) -> BTreeMap<String, String> {
    [
        (LABEL_MANAGED_BY, MANAGED_BY),
        (LABEL_PART_OF, "netcool"),
        (LABEL_PAIR, &pair.name),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// [`labels`] and the side.
pub fn side_labels(pair: &Pair, side: Side) -> BTreeMap<String, String> {
    let mut labels = labels(pair);
    labels.insert(LABEL_SIDE.to_owned(), side.label().to_owned());
    labels
}

fn metadata(pair: &Pair, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(pair.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![pair.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The ServiceAccount of the proxy pods. It has no rights, and no token is mounted.
pub fn service_account(pair: &Pair) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(pair, pair.service_account_name(), labels(pair)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// A Secret of type `kubernetes.io/tls` with a `ca.crt`.
pub fn tls_secret(pair: &Pair, name: String, data: BTreeMap<String, String>) -> Secret {
    Secret {
        metadata: metadata(pair, name, labels(pair)),
        type_: Some("kubernetes.io/tls".to_owned()),
        string_data: Some(data),
        ..Secret::default()
    }
}
