//! Labels and annotations of the child objects.
//!
//! Selectors never change, because those of a Deployment cannot. Labels contain the selectors, the recommended labels of Kubernetes, and
//! what the user declares in `commonMetadata`, which wins over the recommended ones.

use std::collections::BTreeMap;

use crate::{
    api::{
        COMPONENT, LABEL_COMPONENT, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME, LABEL_PAIR, LABEL_PART_OF,
        LABEL_ROUTED, LABEL_SIDE, LABEL_VERSION, MANAGED_BY, NAME, PART_OF, ROUTED, Side,
    },
    domain::pair::Pair,
};

/// Labels or annotations.
pub type Map = BTreeMap<String, String>;

fn map<const N: usize>(pairs: [(&str, &str); N]) -> Map {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Selects the pods of this pair.
pub fn selector(pair: &Pair) -> Map {
    map([
        (LABEL_MANAGED_BY, MANAGED_BY),
        (LABEL_PART_OF, PART_OF),
        (LABEL_PAIR, &pair.name),
    ])
}

/// Selects the pods of one side.
pub fn side_selector(pair: &Pair, side: Side) -> Map {
    let mut selector = selector(pair);
    selector.insert(LABEL_SIDE.to_owned(), side.label().to_owned());
    selector
}

/// Selects the pods of one side that the virtual Service leads to while the side serves.
pub fn routed_selector(pair: &Pair, side: Side) -> Map {
    let mut selector = side_selector(pair, side);
    selector.insert(LABEL_ROUTED.to_owned(), ROUTED.to_owned());
    selector
}

/// By which an object is known as made for a ProxyPair of this name.
pub(super) fn made_for(pair: &Pair) -> Map {
    map([(LABEL_MANAGED_BY, MANAGED_BY), (LABEL_PAIR, &pair.name)])
}

/// Labels of a child object. `own` are those by which it is found.
pub(super) fn of_child(pair: &Pair, own: Map) -> Map {
    let mut labels = of_pod(pair, Map::new(), own);
    // Not on pods: a new version would replace them.
    let version = LABEL_VERSION.to_owned();
    labels
        .entry(version)
        .or_insert_with(|| env!("CARGO_PKG_VERSION").to_owned());
    labels
}

/// Labels of the proxy pods. `declared` are those that the user declares for pods alone.
pub(super) fn of_pod(pair: &Pair, declared: Map, own: Map) -> Map {
    let mut labels = map([
        (LABEL_NAME, NAME),
        (LABEL_INSTANCE, &pair.name),
        (LABEL_COMPONENT, COMPONENT),
    ]);
    labels.extend(pair.spec.common_metadata.labels.clone());
    labels.extend(declared);
    labels.extend(own);
    labels
}

/// Annotations of a child object or a pod: the common ones, and those that are declared for it.
pub(super) fn annotations(pair: &Pair, declared: Map) -> Option<Map> {
    let mut annotations = pair.spec.common_metadata.annotations.clone();
    annotations.extend(declared);
    Some(annotations).filter(|annotations| !annotations.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::pair::fixture;

    #[test]
    fn what_is_selected_by_stays_whatever_the_user_declares() {
        let plain = fixture::pair(json!({}));
        let declared = fixture::pair(json!({"commonMetadata": {
            "labels": {"team": "noc", "app.kubernetes.io/name": "omnibus"},
            "annotations": {"cost-center": "7"},
        }}));
        assert_eq!(selector(&plain), selector(&declared));
        let labels = of_child(&declared, side_selector(&declared, Side::Primary));
        assert!(
            side_selector(&plain, Side::Primary)
                .iter()
                .all(|label| labels.get_key_value(label.0) == Some(label))
        );
        assert_eq!(labels["team"], "noc");
        assert_eq!(labels[LABEL_NAME], "omnibus");
        assert_eq!(labels[LABEL_INSTANCE], declared.name);
        assert!(labels.contains_key(LABEL_VERSION));
        assert!(!of_pod(&declared, Map::new(), Map::new()).contains_key(LABEL_VERSION));
    }

    #[test]
    fn what_is_declared_for_pods_wins_over_what_is_common() {
        let pair = fixture::pair(json!({"commonMetadata": {"labels": {"team": "noc"}, "annotations": {"a": "1"}}}));
        let declared = map([("team", "netcool")]);
        assert_eq!(of_pod(&pair, declared, Map::new())["team"], "netcool");
        assert_eq!(
            annotations(&pair, map([("a", "2"), ("b", "3")])),
            Some(map([("a", "2"), ("b", "3")]))
        );
        assert_eq!(annotations(&fixture::pair(json!({})), Map::new()), None);
    }
}
