//! What was sent against what arrived, from the probes' reports and the ObjectServers' own tables alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures::future::try_join_all;
use serde::Serialize;
use testkit::{
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
    /// Those that an ObjectServer lacks by itself, whatever the other holds.
    pub events_lost_in: BTreeMap<String, u64>,
    /// Those that an ObjectServer has counted more than once.
    pub events_duplicated: u64,
    /// From the start of AGG_P to the end of the gateway's resync.
    pub resync_awaited_ms: f64,
    /// Sessions on the backup in the end.
    pub sessions_left_on_backup: u64,
}

/// What the tables hold.
pub struct Held {
    /// Events by ObjectServer, and how often it has counted each. A copy by the gateway keeps that count.
    by_server: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Held {
    /// Reads the tables.
    pub async fn by(servers: &[&ObjectServer]) -> Result<Self> {
        let tables = try_join_all(servers.iter().map(|server| server.rows())).await?;
        let events = tables
            .into_iter()
            .map(|rows| rows.into_iter().map(|row| (row.identifier, row.tally)).collect());
        let by_server = servers.iter().map(|server| server.name.clone()).zip(events).collect();
        Ok(Self { by_server })
    }

    /// Events that came more than once.
    pub fn duplicated(&self) -> BTreeSet<&str> {
        let all = self.by_server.values().flatten();
        all.filter(|(_, times)| **times > 1)
            .map(|(event, _)| event.as_str())
            .collect()
    }

    /// How many events each ObjectServer holds.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let counts = self.by_server.iter();
        counts.map(|(server, events)| (server.clone(), events.len())).collect()
    }

    /// Events that the probes have acknowledged and nobody holds.
    pub fn lost(&self, fleet: &Fleet, reading: &Reading) -> Vec<String> {
        let nobody = |event: &String| !self.by_server.values().any(|events| events.contains_key(event));
        acknowledged(fleet, reading).filter(nobody).collect()
    }

    /// How many events the probes have acknowledged that an ObjectServer does not hold itself.
    pub fn lost_alone(&self, fleet: &Fleet, reading: &Reading) -> BTreeMap<String, u64> {
        let lost = |events: &BTreeMap<String, u64>| {
            acknowledged(fleet, reading)
                .filter(|event| !events.contains_key(event))
                .count() as u64
        };
        let servers = self.by_server.iter();
        servers.map(|(server, events)| (server.clone(), lost(events))).collect()
    }
}

fn acknowledged(fleet: &Fleet, reading: &Reading) -> impl Iterator<Item = String> {
    reading.probes.iter().flat_map(|probe| {
        let numbers = probe.acknowledged_ranges.iter().flat_map(|&[first, last]| first..=last);
        numbers.map(|number| format!("{}-{}-{number}", fleet.name, probe.probe))
    })
}
