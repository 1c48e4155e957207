//! The `proxypair` binary: crypto provider, arguments, run.

#![forbid(unsafe_code)]

use std::{io::Write, path::PathBuf};

use clap::{Parser, Subcommand};
use proxypair::{
    agent::{self, AgentArgs},
    api::definition,
    gate::{self, args::GateArgs},
    operator::{self, OperatorArgs},
    process::raise_file_limit,
    proxyserv::{self, FilesArgs},
    telemetry,
};

/// Failover and failback for Netcool/OMNIbus proxy server pairs on Kubernetes.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Log filter: a level, or levels by module such as `info,proxypair::gate=debug`.
    #[arg(long, env = "PROXYPAIR_LOG", default_value = "info", global = true)]
    log: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile ProxyPairs and switch their traffic.
    Operator(OperatorArgs),
    /// Forward probes to one ObjectServer.
    Gate(GateArgs),
    /// Reset the sessions of lost gates on this node.
    NodeAgent(AgentArgs),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Copy this program into a directory.
    #[command(hide = true)]
    Install {
        /// The directory.
        directory: PathBuf,
    },
    /// Prepare the files of an nco_proxyserv.
    #[command(hide = true, subcommand)]
    ProxyservFiles(FilesArgs),
}

fn main() -> anyhow::Result<()> {
    let Cli { log, command } = Cli::parse();
    match command {
        Command::Operator(args) => serve(&log, operator::run(args)),
        Command::Gate(args) => serve(&log, gate::run(args)),
        Command::NodeAgent(args) => serve(&log, agent::run(args)),
        Command::Crd => {
            let crd = serde_saphyr::to_string(&definition())?;
            Ok(std::io::stdout().write_all(crd.as_bytes())?)
        }
        Command::Install { directory } => Ok(proxyserv::install(&directory)?),
        Command::ProxyservFiles(args) => Ok(proxyserv::prepare(&args)?),
    }
}

fn serve<E>(log: &str, server: impl Future<Output = Result<(), E>>) -> anyhow::Result<()>
where
    anyhow::Error: From<E>,
{
    telemetry::init(log)?;
    raise_file_limit();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a crypto provider is already installed");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(server).map_err(anyhow::Error::from);
    // Does not wait for a name resolution that is still in progress.
    runtime.shutdown_background();
    result
}
