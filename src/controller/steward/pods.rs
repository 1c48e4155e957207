//! Which pod stands for a side.

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::{ResourceExt, runtime::reflector::Store};

use crate::{
    api::{LABEL_PAIR, LABEL_SIDE, Side},
    domain::{evidence::Pod, pair::Pair, pod_failure::pod_failure},
    health::PodAddress,
};

/// The pod of `side` that is being deleted, for as long as it may take to leave; else the newest. Pods that have ended do not count.
///
/// A pod that leaves comes before the one that takes its place: it has the sessions, and somebody must tell its gate when to end them.
/// Until it is gone the side is not restored, because a Service that selects the side would send probes to both.
pub fn pod_of(pods: &Store<PodObject>, pair: &Pair, side: Side, before: &PodAddress, now: Timestamp) -> PodAddress {
    let best = pods.state_filter(of_side(pair, side)).into_iter().max_by(|a, b| {
        let key = |pod: &PodObject| {
            // The API server states when the grace period will be over. A pod whose node is lost stays beyond that.
            let leaves = pod.metadata.deletion_timestamp.as_ref().map(|until| until.0 >= now);
            let rank = match leaves {
                Some(true) => 2,
                None => 1,
                Some(false) => 0,
            };
            (rank, pod.metadata.creation_timestamp.clone().map(|time| time.0))
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
            trouble: None,
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
        trouble: pod.status.as_ref().and_then(pod_failure),
    }
}

/// The address of the node that the newest pod of `side` runs on.
pub fn node_of(pods: &Store<PodObject>, pair: &Pair, side: Side) -> Option<String> {
    let on_a_node = |pod: &PodObject| host(pod).is_some() && of_side(pair, side)(pod);
    let newest = pods
        .state_filter(on_a_node)
        .into_iter()
        .max_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0))?;
    host(&newest).map(str::to_owned)
}

fn host(pod: &PodObject) -> Option<&str> {
    pod.status.as_ref()?.host_ip.as_deref()
}

fn of_side(pair: &Pair, side: Side) -> impl Fn(&PodObject) -> bool {
    move |pod| {
        let label = |key| pod.labels().get(key).map(String::as_str);
        pod.metadata.namespace.as_deref() == Some(&pair.namespace)
            && label(LABEL_PAIR) == Some(&pair.name)
            && label(LABEL_SIDE) == Some(side.label())
            && !matches!(
                pod.status.as_ref().and_then(|status| status.phase.as_deref()),
                Some("Failed" | "Succeeded")
            )
    }
}
