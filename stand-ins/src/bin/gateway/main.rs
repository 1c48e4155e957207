//! A stand-in bidirectional ObjectServer gateway: it keeps the events of two ObjectServers equal and says on the backup when the primary is gone.
//!
//! 1. It attaches to both as application `GATEWAY`, with the description that `catalog.connections` then shows.
//! 2. As long as it is not attached to the primary, `ActingPrimary` is TRUE on the backup. It sets that *before* it attaches to the primary, also
//!    when it has just been started, so that nobody who sees it attached to both finds the word of an older time.
//! 3. Attached to both, it resyncs: each gets what it lacks, and the newer of two rows counts. On request that takes a minimum of time and holds up
//!    all other sessions, as the locks of a large resync do.
//! 4. Then it sets `ActingPrimary` FALSE on the backup, if its description is `failover_gate`, as the multitier automation does; with another one it
//!    stays TRUE. From now on it copies new and changed rows both ways.
//!
//! Changes are found by SQL: new rows by their `Serial`, changed ones by `StateChange`. A row keeps the `ServerName` of the ObjectServer where it
//! came first, which is how the other one knows that it is no repetition, and how a copy is not copied back. Only `alerts.status` is copied, and
//! deletions are not.

mod api;
mod gate;
mod rows;
mod side;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use stand_ins::process::{asked_to_stop, parse_duration};
use tokio::net::TcpListener;

/// Options of the gateway. Durations are written as `100ms`, `2s` or `1m`.
#[derive(Debug, Clone, Parser)]
#[command(name = "gateway", about = "A stand-in bidirectional ObjectServer gateway")]
pub struct Options {
    /// The primary ObjectServer as HOST:PORT.
    #[arg(long)]
    primary: String,
    /// Its name, which it must say.
    #[arg(long, default_value = "AGG_P")]
    primary_name: String,
    /// The backup ObjectServer as HOST:PORT.
    #[arg(long)]
    backup: String,
    /// Its name, which it must say.
    #[arg(long, default_value = "AGG_B")]
    backup_name: String,
    /// What `catalog.connections` shows as AppDescription; at most 30 bytes.
    #[arg(long, default_value = "failover_gate")]
    description: String,
    /// User of both logins.
    #[arg(long, default_value = "root")]
    user: String,
    /// Password of both logins.
    #[arg(long, default_value = "")]
    password: String,
    /// Authorities in PEM: both ObjectServers speak TLS, with their names as Common Names.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Shortest time that a resync takes.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    resync_at_least: Duration,
    /// Hold up all other sessions of both ObjectServers during a resync.
    #[arg(long)]
    resync_locks: bool,
    /// Time between two looks for changes.
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    interval: Duration,
    /// Pause after a failed attempt to attach.
    #[arg(long, default_value = "200ms", value_parser = parse_duration)]
    reconnect_delay: Duration,
    /// How long an ObjectServer may take to answer before it counts as gone.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    unresponsive_after: Duration,
    /// Address of the API.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let options = Options::parse();
    let listener = match options.listen {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let shared = status::Shared::new(&options);
    let mut gate = gate::Gate::new(&options, shared.clone())?;
    tokio::select! {
        result = api::serve(listener, shared) => result?,
        () = gate.run() => {}
        () = asked_to_stop() => {}
    }
    gate.leave().await;
    Ok(())
}
