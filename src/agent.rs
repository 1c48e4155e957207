//! `proxypair node-agent`: on each node, resets the sessions of gates that the operator has declared lost.
//!
//! When a machine vanishes, no kernel is left to close the connections to the gate on it, and their probes wait until TCP gives them up. They
//! are ended where they are translated: once the Service leads to another gate, their entry is deleted from the connection table of the node
//! through which the probe reaches the Service. The next segment that the probe sends is translated to the other gate, whose kernel knows no such
//! connection and answers RST.
//!
//! Nothing else is ever deleted, and nothing is dumped while no gate is declared lost.

pub mod conntrack;
mod health;
pub mod kernel;
pub mod matching;
pub mod metrics;
pub mod reset;
mod view;
pub mod watch;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::Args;
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::{sync, time::Instant};
use tracing::info;

use self::{health::Health, metrics::AgentMetrics, watch::Known};
use crate::{
    admin,
    process::{Parts, ProcessError, listen, stop_signal},
};

/// Reset the sessions of lost gates on this node. It needs the network namespace of the node, and the capability NET_ADMIN in it.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Namespace of the ProxyPairs. If not set, all namespaces.
    #[arg(long)]
    pub watch_namespace: Option<String>,

    /// Address of the HTTP port with /livez, /readyz and /metrics. It is a port of the node.
    #[arg(long, default_value = "127.0.0.1:4404")]
    pub admin_listen: SocketAddr,

    /// Cluster IP of the API server's Service, by which the agent finds out how this node translates Services. If not set, or no IP, it does
    /// not look for that.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST")]
    pub service_host: Option<String>,

    /// Port of that Service.
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", default_value_t = 443)]
    pub service_port: u16,
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The address of the API server is not known.
    #[error("failed to find the API server: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The client could not be built.
    #[error("failed to build a client: {0}")]
    Client(#[from] kube::Error),
    /// The process could not start, or one of its parts failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// How long the API server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection to the API server may be silent: longer than any watch lasts.
const SILENT_FOR: Duration = Duration::from_secs(30);

async fn client() -> Result<Client, AgentError> {
    let mut config = Config::infer().await?;
    // What is watched is listed again after a failure, rather than the request sent again.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_WITHIN);
    config.read_timeout = Some(SILENT_FOR);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`AgentError`]; the process must exit then.
pub async fn run(args: AgentArgs) -> Result<(), AgentError> {
    let AgentArgs {
        watch_namespace,
        admin_listen,
        service_host,
        service_port,
    } = args;
    let stop = stop_signal()?;
    let client = client().await?;
    let mut registry = Registry::default();
    let metrics = AgentMetrics::register(&mut registry);
    let admin = listen("the administration port", admin_listen)?;
    let address: Option<IpAddr> = service_host.and_then(|host| host.parse().ok());
    let service = address.map(|address| SocketAddr::new(address, service_port));

    let (known_in, known) = sync::watch::channel(Known::nothing(Instant::now()));
    let health = Health::new(known.clone());
    let (of_rounds, of_kernel) = (health.rounds.clone(), health.kernel.clone());
    let readiness = move || health.readiness(Instant::now());

    let mut parts = Parts::default();
    parts.spawn(
        "the watch of ProxyPairs and Services",
        watch::follow(client, watch_namespace, known_in, metrics.clone()),
    );
    parts.spawn("the reset of sessions", reset::run(known, metrics, of_rounds));
    parts.spawn("the inspection of the kernel", health::inspect(service, of_kernel));
    parts.spawn("the administration port", admin::serve(admin, registry, readiness));
    info!("started");
    tokio::select! {
        () = stop => {}
        error = parts.failed() => return Err(error.into()),
    }
    info!("stopped");
    Ok(())
}
