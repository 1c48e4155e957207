//! A stand-in probe, or a fleet of them: numbered events at a set rate, each acknowledged or kept and sent again.
//!
//! Each probe has a TDS session of its own and one event outstanding. An event counts as acknowledged when the ObjectServer's answer came without
//! an error; until then it is kept, in order, and sent again after a reconnect. `Identifier` is `<name>-<probe>-<n>`, probes and events counted from 1
//! without gaps, so that an auditor can compare the report with the ObjectServers' tables.
//!
//! The report is printed as JSON on standard output at the end. While it runs:
//!
//! | request | effect |
//! |---|---|
//! | `GET /report` | the report up to now |
//! | `POST /mark?name=failover` | starts a window of that name: its longest gaps are reported apart |
//! | `POST /pause`, `POST /resume` | stops making events, and goes on; what is kept is still sent |
//! | `POST /stop` | makes no more events, sends what is kept, answers with the final report and exits |
//!
//! With `--tls-ca` it speaks TLS as a probe of OMNIbus does: the chain and the Common Name count, alternative names do not. What was refused
//! for that is counted as `tls_refused` among `connect_failures`.
//!
//! SIGTERM ends at once with a report; what is kept then is in it.

mod api;
mod clock;
mod counters;
mod fleet;
mod gaps;
mod omni_dat;
mod record;
mod servers;
mod session;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use fleet::Fleet;
use servers::Servers;

/// How long open requests to the API may delay the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Options of the fleet. Durations are written as `100ms`, `2s` or `1m`.
#[derive(Debug, Clone, Parser)]
#[command(name = "probe", about = "A fleet of stand-in probes")]
pub struct Options {
    /// First part of all identifiers.
    #[arg(long, default_value = "load", value_parser = parse_name)]
    name: String,
    /// Number of probes, each with a session of its own.
    #[arg(long, default_value = "1")]
    probes: NonZeroU32,
    /// Address of the ObjectServer or proxy, as HOST:PORT, or its name in --omni-dat. A host name is resolved again at each connect.
    #[arg(long)]
    server: String,
    /// Address to try when the first does not answer.
    #[arg(long)]
    server_backup: Option<String>,
    /// An omni.dat that says where --server is, and its backup.
    #[arg(long, conflicts_with = "server_backup")]
    omni_dat: Option<PathBuf>,
    /// Authorities in PEM for the servers that speak TLS: those with `ssl` in --omni-dat, or all without it. Read once.
    #[arg(long)]
    tls_ca: Option<PathBuf>,
    /// Common Names of which a server's certificate must have one; without it the name in --omni-dat.
    #[arg(long, value_delimiter = ',', requires = "tls_ca")]
    ssl_server_common_name: Vec<String>,
    /// Events per second and probe.
    #[arg(long, default_value = "10", value_parser = parse_rate)]
    rate: f64,
    /// Events per probe; without it and without --duration the fleet runs until it is stopped.
    #[arg(long)]
    count: Option<u64>,
    /// How long to make events.
    #[arg(long, value_parser = parse_duration, conflicts_with = "count")]
    duration: Option<Duration>,
    /// Pause after a failed attempt to connect. The first attempt after a cut comes at once.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    reconnect_delay: Duration,
    /// How long to wait for an acknowledgement; 0s waits for ever, as OMNIbus does out of the box.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    network_timeout: Duration,
    /// How long connecting may take, and how long the login after it.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    connect_timeout: Duration,
    /// User of the login.
    #[arg(long, default_value = "root")]
    user: String,
    /// Password of the login.
    #[arg(long, default_value = "")]
    password: String,
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
    let servers = Arc::new(Servers::from(&options)?);
    let listener = match options.listen {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let fleet = Arc::new(Fleet::new(&options));
    let api = tokio::spawn(api::serve(listener, Arc::clone(&fleet)));
    let sessions = session::run_all(&fleet, &options, servers);
    tokio::select! {
        () = sessions => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    println!("{}", serde_json::to_string_pretty(&fleet.report())?);
    fleet.finish();
    if let Ok(ended) = tokio::time::timeout(FAREWELL, api).await {
        ended??;
    }
    Ok(())
}

fn parse_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !text.is_empty() && text.len() <= 100 && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("up to 100 letters, digits, '_', '-' and '.'".to_owned())
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("from 0.001 to 100000 events per second".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(duration).map_err(|error| error.to_string())
}
