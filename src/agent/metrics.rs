//! The node agent's metrics. Names begin with `proxypair_agent_`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::matching::PairKey;

/// The metrics of one agent process. Clones share the same numbers.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    /// Sessions that were reset: entries deleted from the connection table.
    pub sessions_reset: Family<ResetLabels, Counter>,
    /// Gates that are declared lost, as far as this agent acts on it.
    pub lost_gates: Gauge,
    /// Dumps of a connection table.
    pub dumps: Counter,
    /// What failed.
    pub failures: Family<FailureLabels, Counter>,
}

/// Labels of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResetLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
}

/// Label of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    /// `watch`, `dump`, `decode` or `delete`.
    pub what: &'static str,
}

impl AgentMetrics {
    /// The metrics, each registered with its help text.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self {
            sessions_reset,
            lost_gates,
            dumps,
            failures,
        } = metrics.clone();
        let registry = registry.sub_registry_with_prefix("proxypair_agent");
        registry.register(
            "sessions_reset",
            "Sessions to lost gates that were reset",
            sessions_reset,
        );
        registry.register("lost_gates", "Gates whose sessions are being reset now", lost_gates);
        registry.register("dumps", "Dumps of a connection table of the kernel", dumps);
        registry.register("failures", "What failed", failures);
        metrics
    }

    /// Counts sessions of a pair that were reset.
    pub fn count_reset(&self, pair: &PairKey, sessions: u64) {
        self.sessions_reset.get_or_create(&labels(pair)).inc_by(sessions);
    }

    /// Counts a failure: of a `watch`, a `dump`, a `decode` or a `delete`.
    pub fn count_failure(&self, what: &'static str) {
        self.count_failures(what, 1);
    }

    /// Counts several of them.
    pub fn count_failures(&self, what: &'static str, failures: usize) {
        let failures = u64::try_from(failures).unwrap_or(u64::MAX);
        self.failures.get_or_create(&FailureLabels { what }).inc_by(failures);
    }

    /// Removes the series of a pair that was deleted.
    pub fn forget(&self, pair: &PairKey) {
        self.sessions_reset.remove(&labels(pair));
    }
}

/// The labels of a pair.
#[must_use]
pub fn labels(pair: &PairKey) -> ResetLabels {
    ResetLabels {
        namespace: pair.namespace.clone(),
        pair: pair.name.clone(),
    }
}
