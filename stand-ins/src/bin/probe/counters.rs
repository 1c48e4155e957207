//! What adds up over probes.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters of one probe, or of all.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
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
    /// Times that an ObjectServer answered an event with an error.
    pub refused_events: u64,
    /// Sessions after the first.
    pub reconnects: u64,
    /// Failed attempts to connect or log in, by kind.
    pub connect_failures: BTreeMap<&'static str, u64>,
    /// Acknowledgements by ObjectServer.
    pub answered_by: BTreeMap<String, u64>,
    /// Open sessions by ObjectServer.
    pub sessions: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds another probe's counters.
    pub fn add(&mut self, other: Self) {
        let Self {
            made,
            sent,
            acknowledged,
            resent,
            kept,
            refused_events,
            reconnects,
            connect_failures,
            answered_by,
            sessions,
        } = other;
        self.made += made;
        self.sent += sent;
        self.acknowledged += acknowledged;
        self.resent += resent;
        self.kept += kept;
        self.refused_events += refused_events;
        self.reconnects += reconnects;
        add_each(&mut self.connect_failures, connect_failures);
        add_each(&mut self.answered_by, answered_by);
        add_each(&mut self.sessions, sessions);
    }
}

fn add_each<K: Ord>(sums: &mut BTreeMap<K, u64>, counts: BTreeMap<K, u64>) {
    for (key, count) in counts {
        *sums.entry(key).or_default() += count;
    }
}
