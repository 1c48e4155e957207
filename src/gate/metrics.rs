//! What the gate counts. Names begin with `proxypair_gate_`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The gate's metrics. Clones share the same numbers; counting is one atomic addition.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Probe sessions now.
    pub sessions: Gauge,
    /// Probe connections accepted since the start, refused ones included.
    pub sessions_accepted: Counter,
    /// Connections closed before they reached the ObjectServer.
    pub refused: Family<RefusedLabels, Counter>,
    /// Sessions that reached the ObjectServer and are over.
    pub ended: Family<EndedLabels, Counter>,
    /// Bytes forwarded from probes to the ObjectServer.
    pub bytes_to_upstream: Counter<u64, AtomicU64>,
    /// Bytes forwarded from the ObjectServer to probes.
    pub bytes_to_client: Counter<u64, AtomicU64>,
    /// 1 while the ObjectServer can be reached, and the proxy server if there is one, else 0.
    pub upstream_reachable: Gauge,
    /// Connections of the operator's checks now.
    pub checks: Gauge,
}

/// Label of [`Metrics::refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Why.
    pub reason: Refusal,
}

/// Label of [`Metrics::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndedLabels {
    /// How.
    pub how: Ending,
}

/// Why a connection was closed before it reached the ObjectServer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// There were as many sessions as are allowed.
    Full,
    /// Its first bytes were no login header.
    NotLogin,
    /// Its first bytes began a TLS handshake, on a port that speaks plain TDS.
    Tls,
    /// Its first bytes were plain TDS, on a port that speaks TLS.
    Plain,
    /// Its TLS handshake failed.
    Handshake,
    /// No complete login header came within the login timeout.
    LoginTimeout,
    /// The client closed before it had sent a login header.
    Gone,
    /// The ObjectServer did not take the connection.
    Upstream,
    /// The gate stopped admitting sessions while this one was being set up.
    NotAdmitting,
}

/// How a session ended that had reached the ObjectServer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Ending {
    /// The client closed it.
    Client,
    /// The ObjectServer closed it.
    Upstream,
    /// The client sent something that is not TDS, or not the TLS that it began with.
    Malformed,
    /// The server behind the gate answered plain TDS with TLS.
    UpstreamTls,
    /// The client did not complete its login in time.
    LoginTimeout,
    /// A message, or the rest of a session that one end has closed, took too long.
    MessageTimeout,
    /// Drained when nothing was outstanding.
    DrainedIdle,
    /// Drained at the deadline.
    DrainedDeadline,
    /// The operator ordered all sessions to be dropped.
    Dropped,
    /// The ObjectServer cannot be reached any more.
    UpstreamLost,
    /// The process stopped.
    Stopped,
}

impl Metrics {
    /// The metrics, each registered with its help text.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self {
            sessions,
            sessions_accepted,
            refused,
            ended,
            bytes_to_upstream,
            bytes_to_client,
            upstream_reachable,
            checks,
        } = metrics.clone();
        let registry = registry.sub_registry_with_prefix("proxypair_gate");
        registry.register("sessions", "Probe sessions now", sessions);
        registry.register(
            "sessions_accepted",
            "Probe connections accepted, refused ones included",
            sessions_accepted,
        );
        registry.register(
            "sessions_refused",
            "Connections closed before they reached the ObjectServer, by reason",
            refused,
        );
        registry.register(
            "sessions_ended",
            "Sessions that reached the ObjectServer and are over, by how they ended",
            ended,
        );
        registry.register_with_unit(
            "to_upstream",
            "Bytes forwarded from probes to the ObjectServer",
            Unit::Bytes,
            bytes_to_upstream,
        );
        registry.register_with_unit(
            "to_client",
            "Bytes forwarded from the ObjectServer to probes",
            Unit::Bytes,
            bytes_to_client,
        );
        registry.register(
            "upstream_reachable",
            "Whether the ObjectServer can be reached (1) or not (0)",
            upstream_reachable,
        );
        registry.register("checks", "Connections of the operator's checks now", checks);
        metrics
    }

    /// Counts a connection that did not become a session.
    pub fn refuse(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// Counts the end of a session.
    pub fn end(&self, how: Ending) {
        self.ended.get_or_create(&EndedLabels { how }).inc();
    }
}
