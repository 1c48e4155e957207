//! `proxypair operator`: waits for leadership, then reconciles; serves /livez, /readyz and /metrics all the while.

use std::{net::SocketAddr, time::Instant};

use clap::Args;
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    admin,
    api::Duration,
    controller::{self, Settings},
    domain::children::GateImage,
    leader::{Candidate, Standing, lead},
    metrics::Metrics,
};

/// Reconciles ProxyPairs and moves their traffic.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// The image of the proxy pods: this program's own.
    #[arg(long, env = "PROXYPAIR_IMAGE")]
    pub image: String,

    /// When nodes pull that image: Always, IfNotPresent or Never. Without it Kubernetes decides by the tag.
    #[arg(long, value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,

    /// Name of this process among its replicas.
    #[arg(long, env = "POD_NAME")]
    pub identity: String,

    /// Namespace of the leader's Lease.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// The one namespace to look after; all of them without it.
    #[arg(long)]
    pub watch_namespace: Option<String>,

    /// Name of the leader's Lease.
    #[arg(long, default_value = "proxypair-operator")]
    pub lease_name: String,

    /// How long leadership lasts without a renewal, whole seconds, 2s to 60s. A leader that is cut off is succeeded after this time.
    #[arg(long, default_value = "5s", value_parser = lease_duration)]
    pub lease_duration: Duration,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub admin_listen: SocketAddr,

    /// How long the certificates of gates and operator are valid, at least 10m. They are renewed when a third is left.
    #[arg(long, default_value = "2160h", value_parser = certificate_lifetime)]
    pub gate_certificate_lifetime: Duration,
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
            "{text} is less than 10m, which nodes may take to see a new one"
        ))
    }
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no way to the API server.
    #[error("failed to find the API server: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The client could not be built.
    #[error("failed to build a client: {0}")]
    Client(#[from] kube::Error),
    /// A socket or a signal handler could not be made.
    #[error("failed to listen: {0}")]
    Listen(#[from] std::io::Error),
    /// Another process may lead now: only a new one may go on.
    #[error("leadership was lost")]
    LeadershipLost,
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
///
/// # Errors
///
/// [`OperatorError`]; the process is to end with it.
pub async fn run(args: OperatorArgs) -> Result<(), OperatorError> {
    let mut config = Config::infer().await?;
    // Each call has its own deadline, and what failed is decided anew rather than sent again.
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (standing_in, standing) = watch::channel(Standing::Unheard);
    let listener = TcpListener::bind(args.admin_listen).await?;
    let lease = args.lease_duration.get();
    let readiness = {
        let standing = standing.clone();
        move || ready(*standing.borrow(), lease)
    };
    let admin = tokio::spawn(admin::serve(listener, registry, readiness));

    let (stop_in, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        stop_in.send_replace(true);
    });

    let candidate = Candidate {
        namespace: args.namespace,
        lease: args.lease_name,
        identity: args.identity.clone(),
        duration: lease,
    };
    // The lease is given back only when nothing writes any more.
    let (done_in, done) = watch::channel(false);
    let leading = tokio::spawn(lead(client.clone(), candidate, standing_in, stopped(done)));
    let outcome = tokio::select! {
        led = leads(standing.clone()) => match led {
            true => {
                metrics.leading.set(1);
                let settings = Settings {
                    identity: args.identity,
                    namespace: args.watch_namespace,
                    image: GateImage { image: args.image, pull_policy: args.image_pull_policy },
                    certificate_lifetime: args.gate_certificate_lifetime.get(),
                };
                tokio::select! {
                    () = controller::run(client, settings, metrics, standing.clone(), stopped(stop.clone())) => Ok(()),
                    () = lost(standing) => Err(OperatorError::LeadershipLost),
                }
            }
            false => Err(OperatorError::LeadershipLost),
        },
        () = stopped(stop.clone()) => Ok(()),
    };
    done_in.send_replace(true);
    if outcome.is_ok()
        && let Err(error) = leading.await
    {
        tracing::warn!(%error, "the lease was not given back");
    }
    admin.abort();
    outcome
}

fn ready(standing: Standing, lease: std::time::Duration) -> Result<(), String> {
    match standing {
        Standing::Unheard => Err("the API server has not answered yet".to_owned()),
        Standing::Standby { seen } if seen.elapsed() > lease * 3 => Err("the API server does not answer".to_owned()),
        Standing::Standby { .. } => Ok(()),
        Standing::Leading(claim) if claim.holds(Instant::now()) => Ok(()),
        Standing::Leading(_) | Standing::Lost => Err("leadership was lost".to_owned()),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A closed channel means that the whole process is ending.
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
