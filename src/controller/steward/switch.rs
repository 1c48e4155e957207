//! The steps of a switch, each timed.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    ResourceExt,
    runtime::{
        events::{Event, EventType},
        reflector::Store,
    },
};
use tokio::{sync::watch, time::timeout};

use crate::{
    api::{LABEL_PAIR, LABEL_ROLE, ROLE_VIRTUAL, Reason, Side, Switch, SwitchKind},
    domain::{children, pair::Pair},
    health::{Finding, index},
};

/// How long the EndpointSlices may take to show the new side. The switch is finished then all the same: the Service has been patched.
const SETTLE: Duration = Duration::from_secs(5);

/// When each step of a switch was done, for the log line that tells where the time went.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// The sighting came in.
    pub seen: Instant,
    /// The switch was decided.
    pub decided: Instant,
    /// `status.target` was written.
    pub intended: Instant,
    /// The Service was patched.
    pub patched: Instant,
    /// The EndpointSlices showed the new side.
    pub settled: Instant,
}

impl Steps {
    /// One line with the time each step took, in microseconds.
    pub fn log(&self, pair: &Pair, switch: &Switch) {
        let Self {
            seen,
            decided,
            intended,
            patched,
            settled,
        } = *self;
        let micros = |from: Instant, to: Instant| {
            u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
        };
        tracing::info!(
            pair = pair.name,
            namespace = pair.namespace,
            kind = switch.kind.as_str(),
            to = switch.to.label(),
            cause = switch.cause.map(|cause| cause.as_str()),
            decided_us = micros(seen, decided),
            intended_us = micros(decided, intended),
            patched_us = micros(intended, patched),
            endpoints_us = micros(patched, settled),
            seen_at = %(switch.finished_at.0 - jiff::SignedDuration::try_from(settled.saturating_duration_since(seen)).unwrap_or_default()),
            "switched"
        );
    }
}

/// Waits until the EndpointSlices of the virtual Service show the pod of the new side and no other.
pub async fn settled(
    slices: &Store<EndpointSlice>,
    changes: &mut watch::Receiver<u64>,
    pair: &Pair,
    pod: IpAddr,
) -> bool {
    let wait = async {
        while !shows_only(slices, pair, pod) {
            if changes.changed().await.is_err() {
                return false;
            }
        }
        true
    };
    timeout(SETTLE, wait).await.unwrap_or(false)
}

fn shows_only(slices: &Store<EndpointSlice>, pair: &Pair, pod: IpAddr) -> bool {
    let service = pair.service_name();
    let ours = |slice: &EndpointSlice| {
        let label = |key: &str| slice.labels().get(key).map(String::as_str);
        slice.metadata.namespace.as_deref() == Some(&pair.namespace)
            && label("kubernetes.io/service-name") == Some(&service)
            && label(LABEL_ROLE) == Some(ROLE_VIRTUAL)
            && label(LABEL_PAIR) == Some(&pair.name)
    };
    let mut addresses = Vec::new();
    for slice in slices.state_filter(ours) {
        for endpoint in &slice.endpoints {
            addresses.extend(
                endpoint
                    .addresses
                    .iter()
                    .filter_map(|address| address.parse::<IpAddr>().ok()),
            );
        }
    }
    !addresses.is_empty() && addresses.iter().all(|address| *address == pod)
}

/// Whether the Service selects that side and is otherwise as declared, so that there is nothing to patch.
pub fn selects(service: &Service, pair: &Pair, side: Side) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) == Some(&children::virtual_selector(pair, side))
}

/// The Kubernetes Event of a finished switch.
pub fn event(pair: &Pair, switch: &Switch) -> Event {
    let from = switch.to.other();
    let server = |side: Side| &pair.spec.side(side).object_server.name;
    let because = switch
        .cause
        .map(|cause| format!(": {}", cause.as_str()))
        .unwrap_or_default();
    Event {
        type_: if switch.kind == SwitchKind::Failover {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: Reason::Switched(switch.kind, switch.cause).to_string(),
        note: Some(format!(
            "{} from {} ({}) to {} ({}) in {}{because}",
            switch.kind.as_str(),
            from.label(),
            server(from),
            switch.to.label(),
            server(switch.to),
            switch.duration,
        )),
        action: format!(
            "To{}",
            if switch.to == Side::Primary {
                "Primary"
            } else {
                "Backup"
            }
        ),
        secondary: None,
    }
}

/// The address of the pod that stands for a side.
pub fn address(finding: &Finding, side: Side) -> Option<IpAddr> {
    finding.sides[index(side)].pod.ip
}
