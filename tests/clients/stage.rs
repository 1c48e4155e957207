//! What stands around a client: a gate, a stand-in ObjectServer behind it, and the operator who orders drains.

use std::net::SocketAddr;
use std::time::Duration;

use proxypair::gate::wire::{Admission, Request};

use crate::gate::{Gate, Operator, until};
use crate::programs::ObjectServer;

/// The one user of the ObjectServer.
pub const USER: &str = "netcool";
/// Its password.
pub const PASSWORD: &str = "secret";

const GRACE_PERIOD_MS: u64 = 60_000;

/// A pair's one side on loopback.
pub struct Stage {
    pub server: ObjectServer,
    pub gate: Gate,
    pub operator: Operator,
}

impl Stage {
    /// Starts everything and waits until clients are admitted.
    pub async fn set() -> Self {
        let server = ObjectServer::start_with_agent("AGG_P", &["--user", USER, "--password", PASSWORD]);
        let gate = Gate::start(server.address, &[]);
        let operator = gate.admitting().await;
        Self { server, gate, operator }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.gate.probes()
    }

    /// Orders a drain without a limit to its pace, and waits until it has begun or, with nobody left, is over.
    pub async fn drain(&mut self) -> Admission {
        self.operator
            .send(&Request::Drain {
                grace_period_ms: GRACE_PERIOD_MS,
                connections_per_second: 1000,
            })
            .await;
        self.operator
            .report("drains", |report| report.admission != Admission::Open)
            .await
            .admission
    }

    /// Waits until the drain has ended every session.
    pub async fn is_left(&mut self) {
        self.operator
            .report("nobody is left", |report| {
                report.sessions == 0 && report.admission == Admission::Closed
            })
            .await;
    }

    /// How many sessions ended in a way, by the gate's own count.
    pub async fn ended(&self, how: &str) -> f64 {
        self.gate
            .metric(&format!("proxypair_gate_sessions_ended_total{{how=\"{how}\"}}"))
            .await
    }

    /// Identifiers and tallies in the ObjectServer's table, in the order in which they came.
    pub fn events(&self) -> Vec<(String, i64)> {
        let rows = self
            .server
            .rows("select Identifier, Tally from alerts.status order by Serial");
        let event = |row: &serde_json::Value| Some((row["Identifier"].as_str()?.to_owned(), row["Tally"].as_i64()?));
        rows.iter().map(|row| event(row).unwrap()).collect()
    }

    /// Waits until the table has at least this many events.
    pub async fn has_events(&self, count: usize) {
        until(
            "events in the table",
            async || self.events().len(),
            |found| *found >= count,
        )
        .await;
    }

    /// The ObjectServer stops answering, until told otherwise or for a time.
    pub fn stall(&self, time: Option<Duration>) {
        let time = time.map(|time| format!("?for={}ms", time.as_millis()));
        self.server
            .ask_agent("POST", &format!("/stall{}", time.unwrap_or_default()));
    }

    /// It answers again.
    pub fn resume(&self) {
        self.server.ask_agent("POST", "/resume");
    }
}
