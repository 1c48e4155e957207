//! A stand-in ObjectServer: what tests and the demonstration use in place of a licensed one.
//!
//! It speaks TDS 5.0 as a real one does, in plain TCP or TLS, keeps `alerts.status` and `alerts.details` on SQLite with de-duplication on
//! `Identifier`, and shows its sessions and properties in `catalog`. With `--agent-listen` the process becomes a small process agent, as OMNIbus has one: it runs the server
//! as a child and kills, stalls, resets or restarts it over HTTP.

mod agent;
mod answer;
mod control;
mod database;
mod lock;
mod properties;
mod server;
mod session;
mod sql;
mod state;
mod users;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use stand_ins::login::Encryption;
use stand_ins::process::asked_to_stop;

/// Options of the server and of its agent.
#[derive(Debug, Clone, Parser)]
#[command(name = "objectserver", about = "A stand-in ObjectServer")]
pub struct Options {
    /// Name of the ObjectServer, such as AGG_P.
    #[arg(long)]
    name: String,
    /// Address to serve TDS on.
    #[arg(long, default_value = "0.0.0.0:4100")]
    listen: SocketAddr,
    /// Directory of the tables; it is made when it is not there.
    #[arg(long)]
    data: PathBuf,
    /// The one user.
    #[arg(long, default_value = "root")]
    user: String,
    /// The user's password.
    #[arg(long, default_value = "")]
    password: String,
    /// Several users instead: a file with lines `name:password`, read at each login.
    #[arg(long, conflicts_with_all = ["user", "password"])]
    users: Option<PathBuf>,
    /// Encrypted passwords: asked of every client, of those that offer one, or unknown.
    #[arg(long, value_enum, default_value = "offered")]
    encryption: Encryption,
    /// Time that it takes to refuse a login, in milliseconds: servers with PAM or LDAP take some seconds.
    #[arg(long, default_value_t = 0)]
    refuse_after_ms: u64,
    /// Certificate chain in PEM: the port speaks TLS from the first byte. Read again for each connection.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key in PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Offer TLS 1.2 and nothing newer.
    #[arg(long, requires = "tls_cert")]
    tls12_only: bool,
    /// RestrictProxySQL is TRUE: a session of application PROXY may insert events and nothing else.
    #[arg(long)]
    deny_sql: bool,
    /// Each login and each disconnect inserts an event, as the stock automation does.
    #[arg(long)]
    connection_watch: bool,
    /// This is the backup of its pair: BackupObjectServer is TRUE and ActingPrimary FALSE.
    #[arg(long)]
    backup: bool,
    /// Run the server as a child and serve the agent's HTTP API on this address.
    #[arg(long)]
    agent_listen: Option<SocketAddr>,
    /// Let the agent start the server again when it dies by itself.
    #[arg(long, requires = "agent_listen")]
    restart: bool,
    /// Take the agent's commands from standard input and exit when it closes.
    #[arg(long, hide = true)]
    controlled: bool,
}

/// What the server below an agent is started with: what the agent was, without what is for the agent.
fn arguments_of_child() -> Vec<OsString> {
    let mut arguments = Vec::new();
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        if argument == "--agent-listen" {
            given.next();
        } else if argument != "--restart" && !argument.to_string_lossy().starts_with("--agent-listen=") {
            arguments.push(argument);
        }
    }
    arguments.push("--controlled".into());
    arguments
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let options = Options::parse();
    std::fs::create_dir_all(&options.data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match options.agent_listen {
            Some(address) => agent::run(&options, address).await,
            None => serve(&options).await,
        }
    });
    // A read from standard input cannot be interrupted, so waiting for it would keep a stopped server alive.
    runtime.shutdown_background();
    result
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let state = Arc::new(state::State::new(options)?);
    let database = database::Database::start(&options.data, &options.name, Arc::clone(&state))?;
    let listener = server::listen(options.listen)?;
    tracing::info!(name = options.name, address = %listener.local_addr()?, "listening");
    let control = async {
        if options.controlled {
            control::obey(&state).await
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        result = server::accept_all(listener, &state, &database) => result,
        result = control => result,
        () = asked_to_stop() => Ok(()),
    }
}
