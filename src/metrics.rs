//! What the operator counts. Labels are enums of the API, never texts of errors.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The operator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Switches that were finished.
    pub switches: Family<SwitchLabels, Counter>,
    /// Seconds from the decision to the moment when the EndpointSlices showed the new side.
    pub switch_duration: Family<SwitchLabels, Histogram>,
    /// 1 for a side that is up, 0 for any other.
    pub side_up: Family<SideLabels, Gauge>,
    /// Probe sessions.
    pub sessions: Family<SideLabels, Gauge>,
    /// Seconds since 1970 until which a certificate is valid.
    pub certificate_expires: Family<CertificateLabels, Gauge>,
    /// Reconciliations that failed.
    pub reconcile_errors: Family<ReasonLabels, Counter>,
    /// 1 while this process leads.
    pub leading: Gauge,
}

/// What a switch was and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SwitchLabels {
    /// `Failover`, `Failback` or `Switchover`.
    pub kind: &'static str,
    /// A cause as in status, or `None`.
    pub cause: &'static str,
}

/// A side of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SideLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
    /// `primary` or `backup`.
    pub side: &'static str,
}

/// A certificate that a side shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
    /// `primary` or `backup`.
    pub side: &'static str,
    /// `listener` or `objectserver`.
    pub certificate: &'static str,
}

/// A reason in one word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// One word.
    pub reason: &'static str,
}

/// Bucket bounds in seconds around the target of a switch.
const SECONDS: [f64; 10] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

impl Metrics {
    /// Makes the metrics known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            switches: Family::default(),
            switch_duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            side_up: Family::default(),
            sessions: Family::default(),
            certificate_expires: Family::default(),
            reconcile_errors: Family::default(),
            leading: Gauge::default(),
        };
        let Self {
            switches,
            switch_duration,
            side_up,
            sessions,
            certificate_expires,
            reconcile_errors,
            leading,
        } = metrics.clone();
        let registry = registry.sub_registry_with_prefix("proxypair");
        registry.register("switches", "Switches that were finished", switches);
        registry.register(
            "switch_duration_seconds",
            "From the decision to the moment when the EndpointSlices showed the new side",
            switch_duration,
        );
        registry.register("side_up", "1 for a side that is up", side_up);
        registry.register("sessions", "Probe sessions", sessions);
        registry.register(
            "certificate_expires_timestamp_seconds",
            "Until when a certificate is valid",
            certificate_expires,
        );
        registry.register("reconcile_errors", "Reconciliations that failed", reconcile_errors);
        registry.register("leading", "1 while this process leads", leading);
        metrics
    }

    /// Forgets a pair that is gone.
    pub fn forget(&self, namespace: &str, pair: &str) {
        for side in crate::api::Side::BOTH {
            let labels = SideLabels {
                namespace: namespace.to_owned(),
                pair: pair.to_owned(),
                side: side.label(),
            };
            self.side_up.remove(&labels);
            self.sessions.remove(&labels);
            for certificate in ["listener", "objectserver"] {
                self.certificate_expires.remove(&CertificateLabels {
                    namespace: namespace.to_owned(),
                    pair: pair.to_owned(),
                    side: side.label(),
                    certificate,
                });
            }
        }
    }
}
