//! Where the time of a switch went: the operator's own log line tells of its steps, the probes' report of what came before and after.

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde::{Deserialize, Serialize};
use testkit::{
    namespace::Namespace,
    operator::Operator,
    outage::{Gap, Micros, millis},
    wait::eventually,
};

/// The operator's log line about a switch.
#[derive(Clone, Debug, Deserialize)]
pub struct Switched {
    /// When it was written: the switch was finished.
    pub timestamp: Timestamp,
    /// The failure it answered.
    pub cause: Option<String>,
    decided_at: Timestamp,
    intended_us: u64,
    patched_us: u64,
    endpoints_us: u64,
}

impl Switched {
    /// Waits for the line about the newest switch of this kind after `after`, in the leader's log.
    pub async fn after(after: Micros, kind: &str, namespace: &Namespace, operator: &Operator) -> Result<Self> {
        let what = format!("the operator's log tells of a {kind}");
        eventually(std::time::Duration::from_secs(10), what, async || {
            let leader = operator.leader().await?.pod;
            let recent = LogParams {
                since_seconds: Some(90),
                ..LogParams::default()
            };
            let log = namespace.api::<Pod>().logs(&leader, &recent).await?;
            let found = log.lines().rev().find_map(|line| read(line, kind, after));
            found.context("no such line")
        })
        .await
    }

    fn decided(&self) -> Micros {
        u64::try_from(self.decided_at.as_microsecond()).unwrap_or_default()
    }

    fn endpoints(&self) -> Micros {
        self.decided() + self.intended_us + self.patched_us + self.endpoints_us
    }
}

fn read(line: &str, kind: &str, after: Micros) -> Option<Switched> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    if value["message"] != "switched" || value["kind"] != kind {
        return None;
    }
    let switched: Switched = serde_json::from_value(value).ok()?;
    (u64::try_from(switched.timestamp.as_microsecond()).ok()? > after).then_some(switched)
}

/// Names of the steps, in order.
pub const STEPS: [&str; 7] = [
    "last acknowledgement to fault",
    "fault to decided",
    "to target written",
    "to Service patched",
    "to EndpointSlices",
    "to first acknowledgement",
    "to last probe's first",
];

/// Milliseconds of each step; `None` where there is no such step.
#[derive(Clone, Debug, Serialize)]
pub struct Steps(pub [Option<f64>; 7]);

impl Steps {
    /// Of a switch that answers a fault.
    pub fn of_fault(switched: &Switched, fault: Micros, worst: &Gap, first: Option<Micros>) -> Self {
        let mut steps = Self::of_operator(switched).0;
        steps[0] = Some(millis(worst.begin_us, fault));
        steps[1] = Some(millis(fault, switched.decided()));
        steps[5] = first.map(|first| millis(switched.endpoints(), first));
        steps[6] = first.map(|first| millis(first, worst.end_us));
        Self(steps)
    }

    /// Of a move that is asked for: the side that is left serves on until its sessions are drained, so there is no outage before that.
    pub fn of_move(switched: &Switched, asked: Micros) -> Self {
        let mut steps = Self::of_operator(switched).0;
        steps[1] = Some(millis(asked, switched.decided()));
        Self(steps)
    }

    /// Of a switch without a fault: what the operator did, while the side that is left still serves.
    pub fn of_operator(switched: &Switched) -> Self {
        let ms = |micros: u64| Some(micros as f64 / 1000.0);
        Self([
            None,
            None,
            ms(switched.intended_us),
            ms(switched.patched_us),
            ms(switched.endpoints_us),
            None,
            None,
        ])
    }

    /// Whether there was a fault, so that all of the outage is in these steps.
    pub fn answers_a_fault(&self) -> bool {
        self.0[0].is_some()
    }

    /// The longest step, with its time.
    pub fn longest(&self) -> Option<(usize, f64)> {
        let known = self.0.iter().enumerate().filter_map(|(step, ms)| Some((step, (*ms)?)));
        known.max_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}
