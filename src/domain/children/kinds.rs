//! What all kinds of child objects have in common.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

use super::labels;
use crate::domain::pair::Pair;

/// A kind of object that the operator makes for a pair.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Whether an object belongs to that ProxyPair, by the owner's `uid`.
#[must_use]
pub fn is_owned<K: Resource>(pair: &Pair, object: &K) -> bool {
    owners(object).any(|owner| owner.uid == pair.uid)
}

/// Whether an object was made for a ProxyPair of this name, and has no owner any more: after a restore from a backup, or a deletion with
/// `--cascade=orphan`. Its labels say for whom it was made. An owner of the same kind and name with another `uid` was deleted.
#[must_use]
pub fn is_orphan<K: Resource>(pair: &Pair, object: &K) -> bool {
    let made_for_it = labels::made_for(pair);
    let labels = object.meta().labels.as_ref();
    let has_labels = made_for_it
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let is_controlled = owners(object).any(|owner| owner.controller == Some(true) && !is_former(pair, owner));
    has_labels && !is_controlled && !is_owned(pair, object)
}

/// The owners of an orphan when the ProxyPair has adopted it.
#[must_use]
pub fn owners_after_adoption<K: Resource>(pair: &Pair, object: &K) -> Vec<OwnerReference> {
    let others = owners(object).filter(|owner| !is_former(pair, owner)).cloned();
    others.chain([pair.owner.clone()]).collect()
}

fn owners<K: Resource>(object: &K) -> impl Iterator<Item = &OwnerReference> {
    object.meta().owner_references.iter().flatten()
}

fn is_former(pair: &Pair, owner: &OwnerReference) -> bool {
    let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
    let same_kind = owner.kind == pair.owner.kind && group(&owner.api_version) == group(&pair.owner.api_version);
    same_kind && owner.name == pair.name && owner.uid != pair.uid
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{children, pair::fixture};

    fn service(labels: &Value, owners: &Value) -> Service {
        let metadata = json!({"name": "proxy-v", "labels": labels, "ownerReferences": owners});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn owner(kind: &str, name: &str, uid: &str, controller: bool) -> Value {
        json!({"apiVersion": "proxypair.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": controller})
    }

    #[test]
    fn only_what_was_made_for_a_pair_of_that_name_and_is_nobodys_is_an_orphan() {
        let pair = fixture::pair(json!({}));
        let labels =
            json!({"app.kubernetes.io/managed-by": "proxypair", "proxypair.dev/pair": pair.name, "team": "noc"});
        let is_orphan = |labels: &Value, owners: Value| is_orphan(&pair, &service(labels, &owners));
        let former = owner("ProxyPair", &pair.name, "deleted", true);
        for owners in [
            json!([]),
            json!([former]),
            json!([owner("Application", "x", "y", false), former]),
        ] {
            assert!(is_orphan(&labels, owners.clone()), "{owners}");
        }
        for owners in [
            json!([owner("ProxyPair", &pair.name, &pair.uid, true)]),
            json!([owner("ProxyPair", "another", "deleted", true)]),
            json!([owner("Application", &pair.name, "y", true)]),
            json!([former, owner("Application", "x", "y", true)]),
        ] {
            assert!(!is_orphan(&labels, owners.clone()), "{owners}");
        }
        for labels in [
            json!({}),
            json!({"proxypair.dev/pair": pair.name}),
            json!({"app.kubernetes.io/managed-by": "Helm", "proxypair.dev/pair": pair.name}),
            json!({"app.kubernetes.io/managed-by": "proxypair", "proxypair.dev/pair": "another"}),
        ] {
            assert!(!is_orphan(&labels, json!([])), "{labels}");
        }
    }

    #[test]
    fn an_orphan_keeps_its_other_owners() {
        let pair = fixture::pair(json!({}));
        let other = owner("Application", "x", "y", false);
        let service = service(
            &json!({}),
            &json!([owner("ProxyPair", &pair.name, "deleted", true), other]),
        );
        let owners = owners_after_adoption(&pair, &service);
        let uids: Vec<_> = owners.iter().map(|owner| owner.uid.as_str()).collect();
        assert_eq!(uids, ["y", pair.uid.as_str()]);
    }

    #[test]
    fn each_child_has_the_labels_by_which_it_is_adopted() {
        let pair = fixture::pair(json!({}));
        let mut account = children::service_account(&pair);
        account.metadata.owner_references = None;
        assert!(is_orphan(&pair, &account));
    }
}
