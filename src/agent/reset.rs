//! Resets the sessions of lost gates, for as long as they are declared lost.
//!
//! One round is not enough. A node whose kube-proxy has not applied the changed Service yet translates the next segment of a session to the lost
//! gate again, and an agent may learn of the declaration before that.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{
    conntrack::{Conntrack, ConntrackError, Entry, Family},
    kernel::local_addresses,
    matching::{PairKey, Target},
    metrics::AgentMetrics,
    watch::Known,
};

/// From the end of a round to the beginning of the next.
const PAUSE: Duration = Duration::from_millis(250);

/// For so long after a change of what is declared, the Service is followed by one node after the other, and a round finds most.
const EAGER_FOR: Duration = Duration::from_secs(10);

/// From the end of a round that took `took` to the beginning of the next, so long after what is declared has changed. It bounds what a large table
/// costs: half of one CPU at first, and a tenth later.
fn pause(took: Duration, since_change: Duration) -> Duration {
    let rounds = if since_change < EAGER_FOR { 1 } else { 9 };
    PAUSE.max(took * rounds)
}

/// What one round did.
#[derive(Debug, Default)]
pub struct Round {
    /// The sessions that were reset: by pair, and by the gate that they led to.
    pub reset: BTreeMap<(PairKey, SocketAddr), u64>,
    /// Tables that were dumped.
    pub dumps: u64,
    /// Entries that could not be decoded.
    pub undecodable: usize,
    /// Why entries could not be deleted.
    pub refused: Vec<ConntrackError>,
}

/// Dumps the tables in which sessions to lost gates can be, and deletes those. Blocks.
///
/// `due` says what is to be reset. It is asked again before each deletion, so that nothing is deleted after it was withdrawn.
///
/// # Errors
///
/// [`ConntrackError`] if a table cannot be read. An entry that cannot be deleted is no error of the round.
pub fn round(due: impl Fn() -> Arc<[Target]>) -> Result<Round, ConntrackError> {
    let mut round = Round::default();
    let targets = due();
    if targets.is_empty() {
        return Ok(round);
    }
    let local = local_addresses().map_err(ConntrackError::Talk)?;
    let covering = |targets: &[Target], entry: &Entry| {
        let target = targets.iter().find(|target| target.covers(entry, &local));
        target.map(|target| target.pair.clone())
    };
    let mut table = Conntrack::open()?;
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        if !targets.iter().flat_map(Target::families).any(|used| used == family) {
            continue;
        }
        round.dumps += 1;
        round.undecodable += table.dump(family, |entry| {
            if covering(&targets, &entry).is_some() {
                found.push(entry);
            }
        })?;
    }
    for entry in found {
        let Some(pair) = covering(&due(), &entry) else {
            continue;
        };
        match table.delete(&entry) {
            Ok(true) => *round.reset.entry((pair, entry.reply.source)).or_default() += 1,
            Ok(false) => {}
            Err(error) => round.refused.push(error),
        }
    }
    Ok(round)
}

/// Resets what is due, for ever. `failure` is why the last round failed, in words.
pub async fn run(mut known: watch::Receiver<Known>, metrics: AgentMetrics, failure: watch::Sender<Option<String>>) {
    let mut changed_at = Instant::now();
    loop {
        let gates = lost_gates(known.borrow_and_update().due(Instant::now()));
        metrics.lost_gates.set(i64::try_from(gates).unwrap_or(i64::MAX));
        if gates == 0 {
            failure.send_replace(None);
            if known.changed().await.is_err() {
                return;
            }
            changed_at = Instant::now();
            continue;
        }
        let begun = Instant::now();
        let current = known.clone();
        let outcome = spawn_blocking(move || round(|| current.borrow().due(Instant::now()).into())).await;
        let outcome = outcome.unwrap_or_else(|error| Err(ConntrackError::Talk(std::io::Error::other(error))));
        failure.send_replace(record(outcome, &metrics));
        tokio::select! {
            () = sleep(pause(begun.elapsed(), changed_at.elapsed())) => {}
            changed = known.changed() => match changed {
                Ok(()) => changed_at = Instant::now(),
                Err(_) => return,
            }
        }
    }
}

fn lost_gates(targets: &[Target]) -> usize {
    targets.iter().map(|target| target.gates.len()).sum()
}

/// Counts and logs what a round did. Returns what is to be said of it as a failure.
fn record(outcome: Result<Round, ConntrackError>, metrics: &AgentMetrics) -> Option<String> {
    let round = match outcome {
        Ok(round) => round,
        Err(error) => {
            warn!(%error, "failed to look for sessions of lost gates");
            metrics.count_failure("dump");
            return Some(error.to_string());
        }
    };
    metrics.dumps.inc_by(round.dumps);
    for ((pair, gate), sessions) in &round.reset {
        let PairKey { namespace, name } = pair;
        info!(pair = name, namespace, %gate, sessions, "reset sessions of a lost gate");
        metrics.count_reset(pair, *sessions);
    }
    if round.undecodable > 0 {
        debug!(
            entries = round.undecodable,
            "failed to decode entries of the connection table"
        );
        metrics.count_failures("decode", round.undecodable);
    }
    let refused = round.refused.first()?;
    warn!(error = %refused, sessions = round.refused.len(), "failed to reset sessions of a lost gate");
    metrics.count_failures("delete", round.refused.len());
    Some(refused.to_string())
}

#[cfg(test)]
mod tests;
