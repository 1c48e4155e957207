//! What the agent tells the server: one JSON command per line on standard input, one report per line on standard output in answer.
//!
//! The first report comes unasked, when the server listens. When standard input closes, the agent is gone and the server exits.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;

use crate::database::{Catalog, ConnectionRow};
use crate::server::State;

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
}

/// How things are.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Nothing is answered.
    pub stalled: bool,
    /// All logins are refused.
    pub refusing_logins: bool,
    /// Sessions that are logged in.
    pub sessions: Vec<ConnectionRow>,
}

/// Obeys the agent until it is gone.
pub async fn obey(state: &Arc<State>) -> anyhow::Result<()> {
    report(state).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stall_end: Option<JoinHandle<()>> = None;
    while let Some(line) = lines.next_line().await? {
        let command = serde_json::from_str(&line)?;
        if let (Command::Stall { .. } | Command::Resume, Some(end)) = (&command, &stall_end) {
            end.abort();
        }
        match command {
            Command::Report => {}
            Command::Stall { millis } => {
                state.set_stalled(true);
                stall_end = millis.map(|millis| resume_after(Duration::from_millis(millis), state));
            }
            Command::Resume => state.set_stalled(false),
            Command::RefuseLogins => state.set_refusing(true),
            Command::AcceptLogins => state.set_refusing(false),
            Command::Reset => state.reset(),
        }
        report(state).await?;
    }
    Ok(())
}

fn resume_after(time: Duration, state: &Arc<State>) -> JoinHandle<()> {
    let state = Arc::clone(state);
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        state.set_stalled(false);
    })
}

async fn report(state: &Arc<State>) -> anyhow::Result<()> {
    let report = Report {
        stalled: state.is_stalled(),
        refusing_logins: state.is_refusing(),
        sessions: state.connections(),
    };
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    let mut output = tokio::io::stdout();
    output.write_all(&line).await?;
    Ok(output.flush().await?)
}
