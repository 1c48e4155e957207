//! What the agent tells the server: one JSON command per line on standard input, one report per line on standard output in answer.
//!
//! The first report comes unasked, when the server listens. When standard input closes, the agent is gone and the server exits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;

use crate::database::{Catalog, ConnectionRow};
use crate::state::{Counts, State};

/// A command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Say how things are.
    Report,
    /// Stop answering, for some milliseconds or until told to resume.
    Stall {
        /// Milliseconds.
        millis: Option<u64>,
    },
    /// Answer again.
    Resume,
    /// Refuse all logins.
    RefuseLogins,
    /// Accept right logins.
    AcceptLogins,
    /// Reset all connections.
    Reset,
    /// Make requests wait as a long lock does, for some milliseconds or until told to unlock.
    Lock {
        /// Milliseconds.
        millis: Option<u64>,
    },
    /// Let requests go on.
    Unlock,
    /// Set a property.
    SetProperty {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
}

/// How things are.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Nothing is answered.
    pub stalled: bool,
    /// All logins are refused.
    pub refusing_logins: bool,
    /// Requests wait for a lock.
    pub locked: bool,
    /// Logins since the server started.
    #[serde(flatten)]
    pub counts: Counts,
    /// `catalog.properties`.
    pub properties: BTreeMap<String, String>,
    /// Sessions that are logged in.
    pub sessions: Vec<ConnectionRow>,
}

/// Obeys the agent until it is gone.
pub async fn obey(state: &Arc<State>) -> anyhow::Result<()> {
    report(state).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stall_end: Option<JoinHandle<()>> = None;
    let mut lock_end: Option<JoinHandle<()>> = None;
    while let Some(line) = lines.next_line().await? {
        let command = serde_json::from_str(&line)?;
        if let (Command::Stall { .. } | Command::Resume, Some(end)) = (&command, &stall_end) {
            end.abort();
        }
        if let (Command::Lock { .. } | Command::Unlock, Some(end)) = (&command, &lock_end) {
            end.abort();
        }
        match command {
            Command::Report => {}
            Command::Stall { millis } => {
                state.set_stalled(true);
                stall_end = millis.map(|millis| after(millis, state, |state| state.set_stalled(false)));
            }
            Command::Resume => state.set_stalled(false),
            Command::RefuseLogins => state.set_refusing(true),
            Command::AcceptLogins => state.set_refusing(false),
            Command::Reset => state.reset(),
            Command::Lock { millis } => {
                state.lock.hold_by_control(true);
                lock_end = millis.map(|millis| after(millis, state, |state| state.lock.hold_by_control(false)));
            }
            Command::Unlock => state.lock.hold_by_control(false),
            Command::SetProperty { name, value } => {
                if let Err(error) = state.properties.set(&name, &value) {
                    tracing::warn!(%error, "property not set");
                }
            }
        }
        report(state).await?;
    }
    Ok(())
}

fn after(millis: u64, state: &Arc<State>, act: fn(&State)) -> JoinHandle<()> {
    let state = Arc::clone(state);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        act(&state);
    })
}

async fn report(state: &Arc<State>) -> anyhow::Result<()> {
    let report = Report {
        stalled: state.is_stalled(),
        refusing_logins: state.is_refusing(),
        locked: state.lock.is_held(),
        counts: state.counts(),
        properties: state.properties.rows().into_iter().collect(),
        sessions: state.connections(),
    };
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    let mut output = tokio::io::stdout();
    output.write_all(&line).await?;
    Ok(output.flush().await?)
}
