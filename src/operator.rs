//! `proxypair operator`: waits for leadership, then reconciles. Serves /livez, /readyz and /metrics from the start.

use std::{net::SocketAddr, time::Instant};

use clap::Args;
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    admin,
    api::Duration,
    controller::{self, Settings},
    domain::children::GateImage,
    leader::{Candidate, Standing, lead},
    metrics::Metrics,
    process::{Parts, ProcessError, listen, stop_signal},
};

/// Reconcile ProxyPairs and switch their traffic.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// Image of the proxy pods: that of this program.
    #[arg(long, env = "PROXYPAIR_IMAGE")]
    pub image: String,

    /// Pull policy of that image: Always, IfNotPresent or Never. If not set, Kubernetes decides by the tag.
    #[arg(long, value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,

    /// Name of this process among its replicas.
    #[arg(long, env = "POD_NAME")]
    pub identity: String,

    /// Namespace of the leader's Lease.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Namespace of the ProxyPairs to reconcile. If not set, all namespaces.
    #[arg(long)]
    pub watch_namespace: Option<String>,

    /// Name of the leader's Lease.
    #[arg(long, default_value = "proxypair-operator")]
    pub lease_name: String,

    /// How long leadership lasts without a renewal, in whole seconds from 2s to 60s. After this time another replica replaces a leader that
    /// has lost contact to the API server.
    #[arg(long, default_value = "5s", value_parser = lease_duration)]
    pub lease_duration: Duration,

    /// How many pairs may get a new image of the proxy pods at the same time. The others wait until it works for those.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_updating_pairs: u16,

    /// Address of the HTTP port with /livez, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub admin_listen: SocketAddr,

    /// Validity of the certificates of gates and operator, at least 10m. They are renewed when a third of it is left.
    #[arg(long, default_value = "2160h", value_parser = certificate_lifetime)]
    pub gate_certificate_lifetime: Duration,

    /// The node agent runs on each node, and resets the sessions of gates that are lost with their node.
    #[arg(long)]
    pub node_agents: bool,
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration: Duration = text
        .parse()
        .map_err(|error: crate::api::ParseDurationError| error.to_string())?;
    let millis = duration.get().as_millis();
    if (2_000..=60_000).contains(&millis) && millis.is_multiple_of(1000) {
        Ok(duration)
    } else {
        Err(format!("{text} is not between 2s and 60s in whole seconds"))
    }
}

fn certificate_lifetime(text: &str) -> Result<Duration, String> {
    let duration: Duration = text
        .parse()
        .map_err(|error: crate::api::ParseDurationError| error.to_string())?;
    if duration.get().as_secs() >= 600 {
        Ok(duration)
    } else {
        Err(format!(
            "{text} is less than 10m: nodes may take minutes to mount a new certificate"
        ))
    }
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The address of the API server is not known.
    #[error("failed to find the API server: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The client could not be built.
    #[error("failed to build a client: {0}")]
    Client(#[from] kube::Error),
    /// The process could not start, or one of its parts failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Another replica may lead now, so this process must not go on.
    #[error("leadership was lost")]
    LeadershipLost,
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
///
/// # Errors
///
/// [`OperatorError`]; the process must exit then.
pub async fn run(args: OperatorArgs) -> Result<(), OperatorError> {
    run_until(args, client().await?, stop_on_signal()?).await
}

/// The same, with a client of the API server, until `stop` turns true.
///
/// # Errors
///
/// As [`run`].
pub async fn run_until(args: OperatorArgs, client: Client, stop: watch::Receiver<bool>) -> Result<(), OperatorError> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let admin = listen("the administration port", args.admin_listen)?;
    let leadership = Leadership::begin(client.clone(), &args);

    let standing = leadership.standing.clone();
    let lease = args.lease_duration.get();
    let mut parts = Parts::default();
    parts.spawn(
        "the administration port",
        admin::serve(admin, registry, move || ready(*standing.borrow(), lease)),
    );

    let outcome = tokio::select! {
        outcome = reconcile(client, args, metrics, leadership.standing.clone(), stop) => outcome,
        error = parts.failed() => Err(error.into()),
    };
    // The lease is released only now, when nothing writes any more.
    leadership.end(outcome.is_ok()).await;
    outcome
}

async fn client() -> Result<Client, OperatorError> {
    let mut config = Config::infer().await?;
    // Each call has its own deadline, and after a failure the decision is made again rather than the request sent again.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// A channel that turns true on SIGTERM or SIGINT.
fn stop_on_signal() -> Result<watch::Receiver<bool>, ProcessError> {
    let signal = stop_signal()?;
    let (stop_in, stop) = watch::channel(false);
    tokio::spawn(async move {
        signal.await;
        tracing::info!("stop signal received");
        stop_in.send_replace(true);
    });
    Ok(stop)
}

/// The task that acquires and renews the lease.
struct Leadership {
    standing: watch::Receiver<Standing>,
    release: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Leadership {
    fn begin(client: Client, args: &OperatorArgs) -> Self {
        let candidate = Candidate {
            namespace: args.namespace.clone(),
            lease: args.lease_name.clone(),
            identity: args.identity.clone(),
            duration: args.lease_duration.get(),
        };
        let (standing_in, standing) = watch::channel(Standing::Unknown);
        let (release, released) = watch::channel(false);
        let task = tokio::spawn(lead(client, candidate, standing_in, stopped(released)));
        Self {
            standing,
            release,
            task,
        }
    }

    /// Releases the lease. `wait` for it unless the process must exit at once.
    async fn end(self, wait: bool) {
        self.release.send_replace(true);
        if wait && let Err(error) = self.task.await {
            tracing::warn!(%error, "failed to release the lease");
        }
    }
}

/// Waits for leadership, then reconciles until `stop`, after which the controller finishes what it has begun.
async fn reconcile(
    client: Client,
    args: OperatorArgs,
    metrics: Metrics,
    standing: watch::Receiver<Standing>,
    stop: watch::Receiver<bool>,
) -> Result<(), OperatorError> {
    tokio::select! {
        led = leads(standing.clone()) => if !led {
            return Err(OperatorError::LeadershipLost);
        },
        () = stopped(stop.clone()) => return Ok(()),
    }
    metrics.leading.set(1);
    let settings = Settings {
        identity: args.identity,
        namespace: args.watch_namespace,
        image: GateImage {
            image: args.image,
            pull_policy: args.image_pull_policy,
        },
        max_updating_pairs: args.max_updating_pairs.into(),
        certificate_lifetime: args.gate_certificate_lifetime.get(),
        has_node_agents: args.node_agents,
    };
    tokio::select! {
        () = controller::run(client, settings, metrics, standing.clone(), stopped(stop)) => Ok(()),
        () = lost(standing) => Err(OperatorError::LeadershipLost),
    }
}

fn ready(standing: Standing, lease: std::time::Duration) -> Result<(), String> {
    match standing {
        Standing::Unknown => Err("the API server has not answered yet".to_owned()),
        Standing::Standby { seen } if seen.elapsed() > lease * 3 => Err("the API server does not answer".to_owned()),
        Standing::Standby { .. } => Ok(()),
        Standing::Leading(claim) if claim.holds(Instant::now()) => Ok(()),
        Standing::Leading(_) | Standing::Lost => Err("leadership was lost".to_owned()),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A closed channel means that the process is exiting.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn leads(mut standing: watch::Receiver<Standing>) -> bool {
    standing
        .wait_for(|standing| matches!(standing, Standing::Leading(_)))
        .await
        .is_ok()
}

async fn lost(mut standing: watch::Receiver<Standing>) {
    let _ = standing.wait_for(|standing| matches!(standing, Standing::Lost)).await;
}
