//! What a worker tells the outside beside status: Events, metrics and log lines. None of it holds up the work.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use kube::{
    Resource,
    runtime::{
        events::{Event, EventType, Recorder},
        reflector::ObjectRef,
    },
};
use tracing::Instrument;

use crate::{
    api::{Health, ProxyPair, Reason, Side},
    check::Observation,
    cluster::{Cluster, within_deadline},
    domain::{
        evidence::Link,
        expiry::Certificate,
        machine::{Machine, SideState, Switched},
        notice::{EventText, Notice},
        pair::Pair,
    },
    metrics::{CertificateLabels, CheckLabels, DefectLabels, SideLabels, SwitchLabels},
    protocol::Request,
};

/// Tells about one pair.
pub struct Telemetry {
    cluster: Arc<Cluster>,
    name: String,
    namespace: String,
    /// The reasons that have a series.
    defects: BTreeSet<&'static str>,
}

impl Telemetry {
    pub fn new(cluster: Arc<Cluster>, pair: &Pair) -> Self {
        Self {
            cluster,
            name: pair.name.clone(),
            namespace: pair.namespace.clone(),
            defects: BTreeSet::new(),
        }
    }

    /// One series for each reason, while it is there.
    fn count_defects(&mut self, machine: &Machine) {
        let of_machine = machine.defects().iter().map(|defect| defect.reason);
        let declared = machine.problem().map(|problem| problem.reason);
        let now: BTreeSet<_> = of_machine.chain(declared).map(Reason::as_str).collect();
        let defects = &self.cluster.metrics.defects;
        let labels = |reason| DefectLabels {
            namespace: self.namespace.clone(),
            pair: self.name.clone(),
            reason,
        };
        for gone in self.defects.difference(&now) {
            defects.remove(&labels(*gone));
        }
        for there in &now {
            defects.get_or_create(&labels(*there)).set(1);
        }
        self.defects = now;
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

    /// Sets the gauges of the pair.
    pub fn count(&mut self, machine: &Machine) {
        self.count_defects(machine);
        for (side, state) in machine.sides().iter() {
            let labels = SideLabels {
                namespace: self.namespace.clone(),
                pair: self.name.clone(),
                side: side.label(),
            };
            let metrics = &self.cluster.metrics;
            let is_up = i64::from(state.health.health == Health::Up);
            metrics.side_up.get_or_create(&labels).set(is_up);
            metrics.sessions.get_or_create(&labels).set(i64::from(state.sessions()));
            let good = i64::try_from(state.good_gates()).unwrap_or_default();
            metrics.gates.get_or_create(&labels).set(good);
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

/// Publishes a notice about a pair as an Event, without waiting for it.
pub fn publish(cluster: &Cluster, notice: &Notice, pair: &Pair, object: &ProxyPair) {
    let text = notice.text(pair);
    if text.warning {
        tracing::warn!(reason = %text.reason, note = text.note, "published an Event");
    }
    publish_text(&cluster.recorder, object, text);
}

/// Publishes an Event about `object`, without waiting for it.
pub fn publish_text(recorder: &Recorder, object: &ProxyPair, text: EventText) {
    let EventText {
        warning,
        reason,
        note,
        action,
    } = text;
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_string(),
        note: Some(note),
        action,
        secondary: None,
    };
    let (recorder, reference) = (recorder.clone(), object.object_ref(&()));
    let publish = async move {
        if let Err(error) = within_deadline(recorder.publish(&event, &reference)).await {
            tracing::warn!(%error, reason = event.reason, "failed to publish an Event");
        }
    };
    tokio::spawn(publish.in_current_span());
}
