//! The proxypair binary: crypto provider, arguments, run.

use clap::{Parser, Subcommand};
use proxypair::gate::args::GateArgs;
use proxypair::{gate, telemetry};

/// Failover and failback for Netcool/OMNIbus proxy server pairs on Kubernetes.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// What to log: a level, or levels by module such as `info,proxypair::gate=debug`.
    #[arg(long, env = "PROXYPAIR_LOG", default_value = "info", global = true)]
    log: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Forward probes to one ObjectServer.
    Gate(GateArgs),
}

fn main() -> anyhow::Result<()> {
    let Cli { log, command } = Cli::parse();
    telemetry::init(&log)?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a crypto provider has been installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = match command {
        Command::Gate(args) => runtime.block_on(gate::run(args)),
    };
    // A name that is still being looked up must not hold up the exit.
    runtime.shutdown_background();
    Ok(result?)
}
