//! The operator's metrics, all with the prefix `proxypair_`. `docs/metrics.md` is their reference. The values of labels are names of objects or
//! enums of the API, never texts of errors, so that their number is bounded.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::api::{Reason, Side};

/// The operator's metrics. Clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Completed switches of the traffic from one side to the other.
    pub switches: Family<SwitchLabels, Counter>,
    /// Seconds from the decision to switch until the EndpointSlices contain the addresses of the new side only; one observation for each
    /// completed switch.
    pub switch_duration: Family<SwitchLabels, Histogram>,
    /// 1 while a side is up, 0 while it is down or its health is unknown.
    pub side_up: Family<SideLabels, Gauge>,
    /// Number of probe sessions in the gates of a side, as they last reported.
    pub sessions: Family<SideLabels, Gauge>,
    /// Number of good gates of a side that the virtual Service leads to while the side serves.
    pub gates: Family<SideLabels, Gauge>,
    /// Number of pairs whose proxies get a new image of the operator now.
    pub updates_running: Gauge,
    /// Number of pairs that wait for it.
    pub updates_waiting: Gauge,
    /// When a certificate expires, in seconds since 1970-01-01 UTC. Absent while no certificate is known.
    pub certificate_expires: Family<CertificateLabels, Gauge>,
    /// Times that a check could not look, for a reason of the operator's own.
    pub checks_unseen: Family<CheckLabels, Counter>,
    /// Checks that failed themselves, and were started again.
    pub check_restarts: Family<CheckLabels, Counter>,
    /// 1 while something is wrong with a pair, for this reason. Absent while nothing is.
    pub defects: Family<DefectLabels, Gauge>,
    /// 1 while a task watches the pair, 0 while none does.
    pub watched: Family<PairLabels, Gauge>,
    /// Tasks that watched a pair and failed. Each is started again.
    pub worker_failures: Counter,
    /// Failed reconciliations of ProxyPairs.
    pub reconcile_errors: Family<ReasonLabels, Counter>,
    /// 1 once this process leads, 0 while it stands by. A process that loses the leadership exits.
    pub leading: Gauge,
}

/// Labels of a switch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SwitchLabels {
    /// `Failover`, `Failback` or `Switchover`.
    pub kind: &'static str,
    /// A cause as in `status.history`, or `None`.
    pub cause: &'static str,
}

/// Labels of a side of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SideLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
    /// `primary` or `backup`.
    pub side: &'static str,
}

/// Labels of a certificate that was presented on a side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
    /// `primary` or `backup`.
    pub side: &'static str,
    /// `listener`, which the gate presents to probes, or `objectserver`, which the ObjectServer presents.
    pub certificate: &'static str,
}

/// Labels of a check of a side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CheckLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
    /// `primary` or `backup`.
    pub side: &'static str,
    /// `control`, `path`, `direct` or `service`.
    pub check: &'static str,
}

/// Labels of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PairLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
}

/// Labels of what is wrong with a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DefectLabels {
    /// Namespace of the ProxyPair.
    pub namespace: String,
    /// Name of the ProxyPair.
    pub pair: String,
    /// A reason as in the conditions.
    pub reason: &'static str,
}

/// Label of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// A reason as in the condition `Ready`, or `Malformed`.
    pub reason: &'static str,
}

/// Bucket bounds in seconds around the target of a switch.
const SECONDS: [f64; 10] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

impl Metrics {
    /// The metrics, each registered with its help text.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            switches: Family::default(),
            switch_duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            side_up: Family::default(),
            sessions: Family::default(),
            gates: Family::default(),
            certificate_expires: Family::default(),
            checks_unseen: Family::default(),
            check_restarts: Family::default(),
            defects: Family::default(),
            watched: Family::default(),
            worker_failures: Counter::default(),
            reconcile_errors: Family::default(),
            updates_running: Gauge::default(),
            updates_waiting: Gauge::default(),
            leading: Gauge::default(),
        };
        let Self {
            switches,
            switch_duration,
            side_up,
            sessions,
            gates,
            certificate_expires,
            checks_unseen,
            check_restarts,
            defects,
            watched,
            worker_failures,
            reconcile_errors,
            updates_running,
            updates_waiting,
            leading,
        } = metrics.clone();
        let registry = registry.sub_registry_with_prefix("proxypair");
        registry.register("switches", "Completed switches", switches);
        registry.register(
            "switch_duration_seconds",
            "Time from the decision to switch until the EndpointSlices contain the new side only",
            switch_duration,
        );
        registry.register("side_up", "Whether a side is up (1) or not (0)", side_up);
        registry.register("sessions", "Probe sessions now", sessions);
        registry.register(
            "gates",
            "Good gates that the virtual Service leads to while their side serves",
            gates,
        );
        registry.register(
            "certificate_expires_timestamp_seconds",
            "When a certificate expires",
            certificate_expires,
        );
        registry.register(
            "checks_unseen",
            "Times that a check could not look for a reason of the operator's own",
            checks_unseen,
        );
        registry.register(
            "check_restarts",
            "Checks that failed themselves and were started again",
            check_restarts,
        );
        registry.register("defects", "What is wrong with a pair", defects);
        registry.register(
            "pair_watched",
            "Whether a task watches the pair (1) or not (0)",
            watched,
        );
        registry.register(
            "worker_failures",
            "Tasks that watched a pair and failed",
            worker_failures,
        );
        registry.register("reconcile_errors", "Failed reconciliations", reconcile_errors);
        registry.register(
            "updates_running",
            "Pairs whose proxies get a new image of the operator now",
            updates_running,
        );
        registry.register(
            "updates_waiting",
            "Pairs whose proxies wait for a new image of the operator",
            updates_waiting,
        );
        registry.register("leading", "Whether this process leads (1) or not (0)", leading);
        metrics
    }

    /// Sets how many pairs get a new image now, and how many wait for it.
    pub fn count_updates(&self, running: usize, waiting: usize) {
        self.updates_running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.updates_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Removes the series of a pair that was deleted.
    pub fn forget(&self, namespace: &str, pair: &str) {
        let Self {
            side_up,
            sessions,
            gates,
            certificate_expires,
            checks_unseen,
            check_restarts,
            defects,
            watched,
            // Without a pair among their labels.
            switches: _,
            switch_duration: _,
            worker_failures: _,
            reconcile_errors: _,
            updates_running: _,
            updates_waiting: _,
            leading: _,
        } = self;
        watched.remove(&PairLabels {
            namespace: namespace.to_owned(),
            pair: pair.to_owned(),
        });
        for reason in Reason::all().map(Reason::as_str) {
            defects.remove(&DefectLabels {
                namespace: namespace.to_owned(),
                pair: pair.to_owned(),
                reason,
            });
        }
        for side in Side::BOTH {
            let labels = SideLabels {
                namespace: namespace.to_owned(),
                pair: pair.to_owned(),
                side: side.label(),
            };
            side_up.remove(&labels);
            sessions.remove(&labels);
            gates.remove(&labels);
            for check in ["control", "path", "direct"] {
                let labels = CheckLabels {
                    namespace: namespace.to_owned(),
                    pair: pair.to_owned(),
                    side: side.label(),
                    check,
                };
                checks_unseen.remove(&labels);
                check_restarts.remove(&labels);
            }
            for certificate in ["listener", "objectserver"] {
                certificate_expires.remove(&CertificateLabels {
                    namespace: namespace.to_owned(),
                    pair: pair.to_owned(),
                    side: side.label(),
                    certificate,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::{
        agent::{matching::PairKey, metrics::AgentMetrics},
        gate::metrics::{Ending, GateMetrics, RefusalReason},
    };

    fn encoded(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    /// Metrics with a sample in every family.
    fn sampled(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::register(registry);
        let Metrics {
            switches,
            switch_duration,
            side_up,
            sessions,
            gates,
            certificate_expires,
            checks_unseen,
            check_restarts,
            defects,
            watched,
            worker_failures,
            reconcile_errors,
            updates_running,
            updates_waiting,
            leading,
        } = &metrics;
        let switch = SwitchLabels {
            kind: "Failover",
            cause: "ObjectServerUnreachable",
        };
        let (namespace, pair, side) = ("omnibus".to_owned(), "proxy".to_owned(), "primary");
        let certificate = CertificateLabels {
            namespace: namespace.clone(),
            pair: pair.clone(),
            side,
            certificate: "listener",
        };
        let check = CheckLabels {
            namespace: namespace.clone(),
            pair: pair.clone(),
            side,
            check: "direct",
        };
        checks_unseen.get_or_create(&check).inc();
        check_restarts.get_or_create(&check).inc();
        let of_pair = PairLabels {
            namespace: namespace.clone(),
            pair: pair.clone(),
        };
        let defect = DefectLabels {
            namespace: namespace.clone(),
            pair: pair.clone(),
            reason: "CommandRejected",
        };
        let side = SideLabels { namespace, pair, side };
        defects.get_or_create(&defect).set(1);
        watched.get_or_create(&of_pair).set(1);
        worker_failures.inc();
        switches.get_or_create(&switch).inc();
        switch_duration.get_or_create(&switch).observe(0.1);
        side_up.get_or_create(&side).set(1);
        sessions.get_or_create(&side).set(5);
        gates.get_or_create(&side).set(2);
        certificate_expires.get_or_create(&certificate).set(1);
        reconcile_errors
            .get_or_create(&ReasonLabels { reason: "Malformed" })
            .inc();
        updates_running.set(1);
        updates_waiting.set(1);
        leading.set(1);
        metrics
    }

    #[test]
    fn a_pair_that_was_deleted_leaves_no_series() {
        let mut registry = Registry::default();
        let metrics = sampled(&mut registry);
        assert!(encoded(&registry).contains("pair=\"proxy\""));
        metrics.forget("omnibus", "other");
        assert!(encoded(&registry).contains("pair=\"proxy\""));
        metrics.forget("omnibus", "proxy");
        let left = encoded(&registry);
        assert!(!left.contains("pair=\"proxy\""), "{left}");
    }

    /// The first three cells of the row of each metric: name, type and labels.
    fn rows(exposition: &str) -> BTreeSet<String> {
        exposition
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| {
                let sample = exposition.lines().find(|line| {
                    let rest = line.strip_prefix(name);
                    rest.is_some_and(|rest| ["_total", "_count", "{", " "].iter().any(|next| rest.starts_with(next)))
                });
                let sample = sample.unwrap_or_else(|| panic!("{name} has no sample: {exposition}"));
                let labels = sample.split_once('{').map_or("", |(_, labels)| labels);
                let labels: Vec<_> = labels
                    .split(',')
                    .filter_map(|label| label.split_once('='))
                    .map(|(label, _)| format!("`{label}`"))
                    .collect();
                let suffix = if kind == "counter" { "_total" } else { "" };
                format!("| `{name}{suffix}` | {kind} | {} |", labels.join(", "))
            })
            .collect()
    }

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        let mut operator = Registry::default();
        sampled(&mut operator);
        let mut gate = Registry::default();
        let gate_metrics = GateMetrics::register(&mut gate);
        gate_metrics.refuse(RefusalReason::Full);
        gate_metrics.end(Ending::Client);

        let mut agent = Registry::default();
        let agent_metrics = AgentMetrics::register(&mut agent);
        let pair = PairKey {
            namespace: "omnibus".to_owned(),
            name: "proxy".to_owned(),
        };
        agent_metrics.count_reset(&pair, 1);
        agent_metrics.count_failure("dump");

        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let document = fs::read_to_string(path).unwrap();
        let documented = document.lines().filter(|line| line.starts_with("| `proxypair_"));
        let documented: BTreeSet<_> = documented
            .map(|line| {
                let cells: Vec<_> = line.splitn(5, '|').take(4).collect();
                format!("{}|", cells.join("|")).replace("|  |", "| |")
            })
            .collect();
        let mut registered = rows(&encoded(&operator));
        registered.extend(rows(&encoded(&gate)));
        registered.extend(rows(&encoded(&agent)));
        let registered: BTreeSet<_> = registered.iter().map(|row| row.replace("|  |", "| |")).collect();
        assert_eq!(documented, registered, "{path} against what is registered");
    }
}
