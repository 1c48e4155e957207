//! What was sent against what arrived, from the probes' reports and the ObjectServers' own tables alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures::future::try_join_all;
use serde::Serialize;

use crate::support::{
    outage::Reading,
    stand_ins::{Fleet, ObjectServer},
};

/// `target/demo/report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Longest time that any probe was without an acknowledgement when AGG_P was killed.
    pub failover_outage_ms: f64,
    /// The same when the primary came back.
    pub failback_outage_ms: f64,
    /// Events sent at least once.
    pub events_sent: u64,
    /// Those that are in neither ObjectServer.
    pub events_lost: u64,
    /// Those that came more than once, to one ObjectServer or to both together.
    pub events_duplicated: u64,
    /// Sessions on the backup in the end.
    pub sessions_left_on_backup: u64,
}

/// What the tables hold.
pub struct Held {
    times: BTreeMap<String, u64>,
    /// Distinct events by ObjectServer.
    pub by_server: BTreeMap<String, usize>,
}

impl Held {
    /// Reads the tables.
    pub async fn by(servers: &[&ObjectServer]) -> Result<Self> {
        let tables = try_join_all(servers.iter().map(|server| server.rows())).await?;
        let mut held = Self {
            times: BTreeMap::new(),
            by_server: BTreeMap::new(),
        };
        for (server, rows) in servers.iter().zip(tables) {
            held.by_server.insert(server.name.clone(), rows.len());
            for row in rows {
                *held.times.entry(row.identifier).or_default() += row.tally;
            }
        }
        Ok(held)
    }

    /// Events that came more than once.
    pub fn duplicated(&self) -> BTreeSet<&str> {
        let more_than_once = self.times.iter().filter(|(_, times)| **times > 1);
        more_than_once.map(|(event, _)| event.as_str()).collect()
    }

    /// Events that the probes have acknowledged and nobody holds.
    pub fn lost(&self, fleet: &Fleet, reading: &Reading) -> Vec<String> {
        let acknowledged = reading.probes.iter().flat_map(|probe| {
            let numbers = probe.acknowledged_ranges.iter().flat_map(|&[first, last]| first..=last);
            numbers.map(|number| format!("{}-{}-{number}", fleet.name, probe.probe))
        });
        acknowledged.filter(|event| !self.times.contains_key(event)).collect()
    }
}
