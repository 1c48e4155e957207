//! The gate's metrics. Names begin with `proxypair_gate_`.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// The metrics of one gate process. Clones share the same numbers; counting is one atomic addition.
#[derive(Debug, Clone, Default)]
pub struct GateMetrics {
    /// Probe sessions now.
    pub sessions: Gauge,
    /// Probe connections accepted since the start, refused ones included, route questions not.
    pub sessions_accepted: Counter,
    /// Connections closed before they reached the ObjectServer.
    pub refused: Family<RefusedLabels, Counter>,
    /// Sessions that reached the ObjectServer and are over.
    pub ended: Family<EndedLabels, Counter>,
    /// Bytes forwarded from probes to the ObjectServer.
    pub bytes_to_upstream: Counter<u64, AtomicU64>,
    /// Bytes forwarded from the ObjectServer to probes.
    pub bytes_to_client: Counter<u64, AtomicU64>,
    /// 1 while the ObjectServer is reachable, and the proxy server if there is one, else 0.
    pub upstream_reachable: Gauge,
    /// Connections of the operator's checks now.
    pub checks: Gauge,
    /// Dials and accepts that failed on this machine.
    pub local_errors: Counter,
}

/// Label of [`GateMetrics::refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Why the connection was refused.
    pub reason: RefusalReason,
}

/// Label of [`GateMetrics::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndedLabels {
    /// How the session ended.
    pub how: Ending,
}

/// Why a connection was closed before it reached the ObjectServer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RefusalReason {
    /// The session limit was reached.
    Full,
    /// Too many connections had not logged in yet, or too many of its source address.
    Crowded,
    /// Its first bytes were not a TDS login header.
    NotLogin,
    /// Its first bytes began a TLS handshake, on a port that speaks plain TDS.
    Tls,
    /// Its first bytes were plain TDS, on a port that speaks TLS.
    Plain,
    /// Its TLS handshake failed.
    Handshake,
    /// Its login message was not complete within the login timeout.
    LoginTimeout,
    /// Its login message was too long.
    LoginTooLong,
    /// The client closed the connection before its login message was complete.
    Gone,
    /// The connection to the ObjectServer failed.
    Upstream,
    /// The ObjectServer could not be dialled because this machine lacked something, such as file descriptors.
    Local,
    /// The gate stopped accepting sessions while this one was being set up.
    NotAdmitting,
}

/// How a session ended that had reached the ObjectServer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Ending {
    /// The client closed it.
    Client,
    /// The ObjectServer closed it.
    Upstream,
    /// The client sent bytes that are not TDS, or not the TLS that it began with.
    Malformed,
    /// The server behind the gate answered plain TDS with TLS.
    UpstreamTls,
    /// The client did not complete its login in time, through TLS that passes through.
    LoginTimeout,
    /// The ObjectServer did not answer the login in time.
    NoAnswer,
    /// The client paused for too long within a message, or nothing was forwarded any more after one end had closed its direction.
    MessageTimeout,
    /// Drained between requests.
    DrainedIdle,
    /// Drained at the deadline, perhaps in the middle of a request.
    DrainedDeadline,
    /// Closed by the command `Drop`.
    Dropped,
    /// The ObjectServer became unreachable.
    UpstreamLost,
    /// The process stopped.
    Stopped,
}

impl GateMetrics {
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
            local_errors,
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
            "Whether the ObjectServer is reachable (1) or not (0)",
            upstream_reachable,
        );
        registry.register("checks", "Connections of the operator's checks now", checks);
        registry.register(
            "local_errors",
            "Dials and accepts that failed on this machine, for example because file descriptors had run out",
            local_errors,
        );
        metrics
    }

    /// Counts a connection that did not become a session.
    pub fn refuse(&self, reason: RefusalReason) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// Counts the end of a session.
    pub fn end(&self, how: Ending) {
        self.ended.get_or_create(&EndedLabels { how }).inc();
    }
}
