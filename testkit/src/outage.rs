//! What probes report of the times without an acknowledgement.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::stand_ins::Fleet;

/// Microseconds since 1970.
pub type Micros = u64;

/// The time now.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A fleet's report.
#[derive(Clone, Debug, Deserialize)]
pub struct Reading {
    /// When it was made, by the probes' clock.
    pub now_us: Micros,
    /// Over all probes.
    pub totals: Totals,
    /// One for each mark.
    pub windows: Vec<Window>,
    /// Each probe.
    pub probes: Vec<Probe>,
}

/// Counters over all probes.
#[derive(Clone, Debug, Deserialize)]
pub struct Totals {
    /// Events made.
    pub made: u64,
    /// Events sent at least once.
    pub sent: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Times that an event was sent again.
    pub resent: u64,
    /// Events made and not acknowledged.
    pub kept: u64,
    /// Failed attempts to connect, by kind.
    pub connect_failures: BTreeMap<String, u64>,
    /// Acknowledgements by ObjectServer.
    pub answered_by: BTreeMap<String, u64>,
    /// Open sessions by ObjectServer.
    pub sessions: BTreeMap<String, u64>,
}

/// What happened after a mark.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    /// The mark's name.
    pub name: String,
    /// When it was set.
    pub begin_us: Micros,
    /// The longest gap of any probe, and which probe's it is.
    pub worst: Option<ProbeGap>,
    /// The longest gap of each probe.
    pub probes: Vec<ProbeGap>,
}

/// The longest gap of one probe.
#[derive(Clone, Debug, Deserialize)]
pub struct ProbeGap {
    /// Its number.
    pub probe: u64,
    /// The gap.
    pub gap: Gap,
}

/// A time without an acknowledgement.
#[derive(Clone, Debug, Deserialize)]
pub struct Gap {
    /// The acknowledgement before it.
    pub begin_us: Micros,
    /// The one that ended it, or the time of the report.
    pub end_us: Micros,
    /// Who ended it; nobody yet while it is open.
    pub first_server_after: Option<String>,
}

impl Gap {
    /// Its length in milliseconds.
    pub fn millis(&self) -> f64 {
        millis(self.begin_us, self.end_us)
    }
}

/// What one probe did.
#[derive(Clone, Debug, Deserialize)]
pub struct Probe {
    /// Its number.
    pub probe: u64,
    /// Numbers of the events that were acknowledged, first and last of each range.
    pub acknowledged_ranges: Vec<[u64; 2]>,
}

impl Reading {
    /// Asks the probes.
    pub async fn of(fleet: &Fleet) -> Result<Self> {
        fleet.request("GET", "report").await
    }

    /// The newest window of that name.
    pub fn window(&self, name: &str) -> Result<&Window> {
        let found = self.windows.iter().rev().find(|window| window.name == name);
        found.with_context(|| format!("the probes know of no mark {name}"))
    }
}

impl Window {
    /// The longest gap of any probe.
    pub fn worst(&self) -> Result<&Gap> {
        let worst = self.worst.as_ref();
        Ok(&worst
            .with_context(|| format!("no probe was heard of after {}", self.name))?
            .gap)
    }

    /// When `server` first acknowledged an event that had to wait for it.
    pub fn first_by(&self, server: &str) -> Option<Micros> {
        let by = |found: &&ProbeGap| found.gap.first_server_after.as_deref() == Some(server);
        self.probes.iter().filter(by).map(|found| found.gap.end_us).min()
    }
}

/// From one time to another, negative if the other is earlier.
pub fn millis(from: Micros, to: Micros) -> f64 {
    if to >= from {
        (to - from) as f64 / 1000.0
    } else {
        -((from - to) as f64 / 1000.0)
    }
}
