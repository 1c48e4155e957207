//! What a worker tells the outside beside status: Events, metrics and log lines. None of it holds up the work.

use std::{sync::Arc, time::Instant};

use kube::{
    Resource,
    runtime::{
        events::{Event, EventType},
        reflector::ObjectRef,
    },
};

use crate::{
    api::{Health, ProxyPair, Side, Sides},
    check::Observation,
    cluster::{Cluster, within_deadline},
    domain::{
        evidence::Link,
        expiry::Certificate,
        machine::{SideState, Switched},
        notice::{EventText, Notice},
        pair::Pair,
    },
    metrics::{CertificateLabels, CheckLabels, SideLabels, SwitchLabels},
    protocol::Request,
};

/// Tells about one pair.
pub struct Telemetry {
    cluster: Arc<Cluster>,
    name: String,
    namespace: String,
}

impl Telemetry {
    pub fn new(cluster: Arc<Cluster>, pair: &Pair) -> Self {
        Self {
            cluster,
            name: pair.name.clone(),
            namespace: pair.namespace.clone(),
        }
    }

    /// Asks for a reconciliation of the pair.
    pub fn requeue(&self) {
        let pair = ObjectRef::new(&self.name).within(&self.namespace);
        // The controller is gone when the process ends.
        let _ = self.cluster.requeue.send(pair);
    }

    pub fn command(&self, side: Side, state: &SideState, gate: &str, request: &Request) {
        let gate = state.gates.iter().find(|known| known.pod.uid == gate);
        tracing::info!(
            pair = self.name,
            namespace = self.namespace,
            side = side.label(),
            pod = gate.map(|gate| gate.pod.name.as_str()),
            sessions = gate.map(|gate| gate.sessions()),
            ?request,
            "commanding the gate"
        );
    }

    pub fn publish(&self, notice: &Notice, pair: &Pair, object: &ProxyPair) {
        publish(&self.cluster, notice, pair, object);
    }

    /// Logs where the time of a switch went, and counts it.
    pub fn switched(&self, switched: &Switched) {
        let Switched { switch, timeline } = switched;
        let micros = |from: Option<Instant>, to: Option<Instant>| {
            let span = to?.saturating_duration_since(from?);
            u64::try_from(span.as_micros()).ok()
        };
        tracing::info!(
            pair = self.name,
            namespace = self.namespace,
            kind = switch.kind.as_str(),
            to = switch.to.label(),
            cause = switch.cause.map(|cause| cause.as_str()),
            decided_at = %switch.started_at.0,
            intended_us = micros(timeline.decided, timeline.intended),
            patched_us = micros(timeline.intended, timeline.patched),
            endpoints_us = micros(timeline.patched, timeline.shown),
            "switched"
        );
        let labels = SwitchLabels {
            kind: switch.kind.as_str(),
            cause: switch.cause.map_or("None", |cause| cause.as_str()),
        };
        let metrics = &self.cluster.metrics;
        metrics.switches.get_or_create(&labels).inc();
        let seconds = switch.duration.get().as_secs_f64();
        metrics.switch_duration.get_or_create(&labels).observe(seconds);
    }

    /// Counts what a check could not look at, and its failures.
    pub fn count_unseen(&self, side: Side, observation: &Observation) {
        let metrics = &self.cluster.metrics;
        let (check, counter) = match observation {
            Observation::Link(check, Link::Unseen { .. }) => (check, &metrics.checks_unseen),
            Observation::Restarted { check, .. } => (check, &metrics.check_restarts),
            _ => return,
        };
        let labels = CheckLabels {
            namespace: self.namespace.clone(),
            pair: self.name.clone(),
            side: side.label(),
            check: check.label(),
        };
        counter.get_or_create(&labels).inc();
    }

    /// Sets the gauges of both sides.
    pub fn count(&self, sides: &Sides<SideState>) {
        for (side, state) in sides.iter() {
            let labels = SideLabels {
                namespace: self.namespace.clone(),
                pair: self.name.clone(),
                side: side.label(),
            };
            let metrics = &self.cluster.metrics;
            let is_up = i64::from(state.health.health == Health::Up);
            metrics.side_up.get_or_create(&labels).set(is_up);
            metrics.sessions.get_or_create(&labels).set(i64::from(state.sessions()));
            for certificate in Certificate::BOTH {
                let labels = CertificateLabels {
                    namespace: self.namespace.clone(),
                    pair: self.name.clone(),
                    side: side.label(),
                    certificate: certificate.as_str(),
                };
                match state.expiry().of(certificate) {
                    Some(expires) => drop(
                        metrics
                            .certificate_expires
                            .get_or_create(&labels)
                            .set(expires.as_second()),
                    ),
                    None => drop(metrics.certificate_expires.remove(&labels)),
                }
            }
        }
    }
}

/// Publishes an Event about a pair, without waiting for it.
pub fn publish(cluster: &Cluster, notice: &Notice, pair: &Pair, object: &ProxyPair) {
    let EventText {
        warning,
        reason,
        note,
        action,
    } = notice.text(pair);
    let (pair, namespace) = (pair.name.clone(), pair.namespace.clone());
    if warning {
        tracing::warn!(pair, namespace, %reason, note, "published an Event");
    }
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_string(),
        note: Some(note),
        action,
        secondary: None,
    };
    let (recorder, reference) = (cluster.recorder.clone(), object.object_ref(&()));
    tokio::spawn(async move {
        if let Err(error) = within_deadline(recorder.publish(&event, &reference)).await {
            tracing::warn!(pair, namespace, %error, reason = event.reason, "failed to publish an Event");
        }
    });
}
