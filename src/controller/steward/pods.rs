//! Which pod stands for a side.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::{ResourceExt, runtime::reflector::Store};

use crate::{
    api::{LABEL_PAIR, LABEL_SIDE, Side},
    domain::{evidence::Pod, pair::Pair},
    health::PodAddress,
};

/// The newest pod of `side` that is not being deleted, or else one that is. Pods that have ended do not count.
pub fn pod_of(pods: &Store<PodObject>, pair: &Pair, side: Side, before: &PodAddress) -> PodAddress {
    let ours = |pod: &PodObject| {
        let label = |key| pod.labels().get(key).map(String::as_str);
        pod.metadata.namespace.as_deref() == Some(&pair.namespace)
            && label(LABEL_PAIR) == Some(&pair.name)
            && label(LABEL_SIDE) == Some(side.label())
            && !matches!(
                pod.status.as_ref().and_then(|status| status.phase.as_deref()),
                Some("Failed" | "Succeeded")
            )
    };
    let best = pods.state_filter(ours).into_iter().max_by(|a, b| {
        let key = |pod: &PodObject| {
            (
                pod.metadata.deletion_timestamp.is_none(),
                pod.metadata.creation_timestamp.clone().map(|time| time.0),
            )
        };
        key(a).cmp(&key(b))
    });
    let Some(pod) = best else {
        let since = if let Pod::Missing { since } = before.state {
            since
        } else {
            Instant::now()
        };
        return PodAddress {
            state: Pod::Missing { since },
            uid: None,
            name: None,
            ip: None,
        };
    };
    let uid = pod.uid();
    let ip = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_ref())
        .and_then(|ip| ip.parse().ok());
    let state = if pod.metadata.deletion_timestamp.is_some() {
        Pod::Leaving
    } else if ip.is_none() {
        match before.state {
            Pod::Starting { since } if before.uid == uid => Pod::Starting { since },
            Pod::Missing { since } => Pod::Starting { since },
            _ => Pod::Starting { since: Instant::now() },
        }
    } else {
        Pod::Running
    };
    PodAddress {
        state,
        uid,
        name: Some(pod.name_any()),
        ip,
    }
}
