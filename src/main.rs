//! The `proxypair` binary: crypto provider, arguments, run.

use std::io::Write;

use clap::{Parser, Subcommand};
use kube::CustomResourceExt;
use proxypair::{
    api::ProxyPair,
    gate::{self, args::GateArgs},
    operator::{self, OperatorArgs},
    telemetry,
};

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
    /// Reconcile ProxyPairs and move their traffic.
    Operator(OperatorArgs),
    /// Forward probes to one ObjectServer.
    Gate(GateArgs),
    /// Print the CustomResourceDefinition.
    Crd,
}

fn main() -> anyhow::Result<()> {
    let Cli { log, command } = Cli::parse();
    if matches!(command, Command::Crd) {
        let crd = serde_saphyr::to_string(&ProxyPair::crd())?;
        std::io::stdout().write_all(crd.as_bytes())?;
        return Ok(());
    }
    telemetry::init(&log)?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a crypto provider has been installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = match command {
        Command::Operator(args) => runtime.block_on(operator::run(args)).map_err(anyhow::Error::from),
        Command::Gate(args) => runtime.block_on(gate::run(args)).map_err(anyhow::Error::from),
        Command::Crd => Ok(()),
    };
    // A name that is still being looked up must not hold up the exit.
    runtime.shutdown_background();
    result
}
