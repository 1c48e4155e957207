//! The PodDisruptionBudget: never both sides at once.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{labels::Map, metadata, selector};
use crate::domain::pair::Pair;

/// One budget over both sides: a node may be drained while the other side is ready. A pod that is not ready may always
/// be evicted.
pub fn disruption_budget(pair: &Pair) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(pair, pair.name.clone(), selector(pair), Map::new()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(pair)),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
