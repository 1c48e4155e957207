//! The gate's process: starts the parts, and leaves when it is told to.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use tracing::info;

use super::Gate;
use super::admission::{self, Leaving};
use super::args::GateArgs;
use super::certificate::ListenerTls;
use super::files::{self, keep_current};
use super::metrics::Metrics;
use super::tls::TlsError;
use super::upstream::Watched;
use super::{check, control, listener, tls, upstream};
use crate::admin;
use crate::tls::ObjectServerTls;

/// How long the exit waits for sessions and for control connections to take their leave, each.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why the gate stopped.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A port could not be opened at start.
    #[error("failed to listen on {address} for {purpose}: {source}")]
    Listen {
        /// What the port is for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Signals could not be taken.
    #[error("failed to take signals: {0}")]
    Signals(#[source] io::Error),
    /// A part that runs for ever did not.
    #[error("{0} has ended unexpectedly")]
    Ended(&'static str),
    /// A part panicked.
    #[error("a part of the gate failed: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

/// Runs a gate until it has been told to stop (SIGTERM or SIGINT) and has drained.
///
/// On the signal it reports that it is leaving and goes on serving. It drains when the operator orders it, or by itself when half of the
/// grace period is over, and returns when the last session has gone, a second before the grace period ends at the latest.
///
/// # Errors
///
/// [`GateError`]: a port cannot be opened at start, or a part of the gate ended that must not.
pub async fn run(args: GateArgs) -> Result<(), GateError> {
    let signals = Signals::take().map_err(GateError::Signals)?;
    let mut registry = Registry::default();
    let gate = Arc::new(Gate::new(&args, Metrics::register(&mut registry)));
    let control = open("control", args.control_listen)?;
    let check = open("checks", args.check_listen)?;
    let admin = open("administration", args.admin_listen)?;
    info!(gate = gate.name, object_server = gate.object_server, address = %args.object_server, instance = gate.instance, "started");

    let mut parts = JoinSet::new();
    let configuration = watch::Sender::new(files::unread());
    let (for_control, for_checks) = (configuration.subscribe(), configuration.subscribe());
    let directory = args.tls_dir.clone();
    parts.spawn(async move {
        keep_current(
            "the control and the check port",
            || tls::Files::read(&directory),
            tls::Files::configuration,
            &configuration,
        )
        .await;
        "the reader of certificates"
    });
    if let Some(directory) = args.listener_tls_dir.clone() {
        let this = Arc::clone(&gate);
        parts.spawn(async move {
            keep_current(
                "the port for probes",
                || ListenerTls::read(&directory),
                ListenerTls::load,
                &this.certificate,
            )
            .await;
            "the reader of the proxy's certificate"
        });
    }
    let authorities = gate.route.authorities().map(watch::Sender::subscribe);
    if let Some(file) = args.object_server_ca.clone() {
        let this = Arc::clone(&gate);
        parts.spawn(async move {
            keep_authorities(&this, &file).await;
            "the reader of the CA bundle"
        });
    }

    let conversations = TaskTracker::new();
    let (this, tracker) = (Arc::clone(&gate), conversations.clone());
    parts.spawn(async move {
        tls::accept("control", control, for_control, tracker, move |stream| {
            control::serve(Arc::clone(&this), stream)
        })
        .await;
        "the control port"
    });
    let this = Arc::clone(&gate);
    parts.spawn(async move {
        tls::accept("check", check, for_checks, TaskTracker::new(), move |stream| {
            check::relay(Arc::clone(&this), stream)
        })
        .await;
        "the check port"
    });

    let this = Arc::clone(&gate);
    parts.spawn(async move {
        if let Some(mut authorities) = authorities {
            // Before the first look at the file there is nothing to say.
            let _looked = authorities.changed().await;
        }
        let dialer = || this.route.object_server();
        upstream::watch_over(watched(&this, "ObjectServer", &this.doubts), dialer, |found| {
            this.found_object_server(found);
        })
        .await;
        "the watch over the ObjectServer"
    });
    if let Some(proxy) = gate.route.proxy().cloned() {
        let this = Arc::clone(&gate);
        parts.spawn(async move {
            let (dialer, no_doubts) = (|| Ok(proxy.clone()), Notify::new());
            upstream::watch_over(watched(&this, "proxy server", &no_doubts), dialer, |found| {
                this.found_proxy(found);
            })
            .await;
            "the watch over the proxy server"
        });
    }
    let this = Arc::clone(&gate);
    parts.spawn(async move {
        listener::run(this).await;
        "the socket for probes"
    });
    let this = Arc::clone(&gate);
    parts.spawn(async move {
        this.pacer.run(this.decisions(), this.sessions()).await;
        "the pacer"
    });

    let this = Arc::clone(&gate);
    parts.spawn(async move {
        admin::serve(admin, registry, move || this.readiness()).await;
        "the administration port"
    });

    tokio::select! {
        () = leave(&gate, signals, &args) => {}
        ended = parts.join_next() => return Err(match ended {
            Some(Err(failed)) => GateError::Failed(failed),
            Some(Ok(part)) => GateError::Ended(part),
            None => GateError::Ended("everything"),
        }),
    }
    listener::wait_for_sessions(&gate, FAREWELL).await;
    gate.shutdown.cancel();
    conversations.close();
    // Those that do not listen to the last report are cut off.
    let _late = timeout(FAREWELL, conversations.wait()).await;
    info!(sessions = *gate.sessions.borrow(), "stopped");
    Ok(())
}

fn watched<'a>(gate: &Gate, server: &'static str, doubts: &'a Notify) -> Watched<'a> {
    Watched {
        server,
        unresponsive_after: gate.route.unresponsive_after(),
        doubts,
    }
}

/// Keeps the authorities for the ObjectServer as they are in a file, and has the watch look at the ObjectServer in their light.
async fn keep_authorities(gate: &Gate, file: &Path) {
    let Some(authorities) = gate.route.authorities() else {
        return;
    };
    let load = |pem: &Vec<u8>| {
        ObjectServerTls::new(pem, &gate.object_server).map_err(|source| TlsError::Bundle {
            path: file.to_owned(),
            source,
        })
    };
    let mut changes = authorities.subscribe();
    tokio::select! {
        () = keep_current("the ObjectServer", || files::read(file), load, authorities) => {}
        () = async {
            // The watch begins with the first.
            let _first = changes.changed().await;
            while changes.changed().await.is_ok() {
                gate.doubts.notify_one();
            }
        } => {}
    }
}

fn open(purpose: &'static str, address: SocketAddr) -> Result<TcpListener, GateError> {
    listener::bind(address).map_err(|source| GateError::Listen {
        purpose,
        address,
        source,
    })
}

/// The two signals that mean "stop".
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn any(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for the signal to stop, and then until the gate may.
async fn leave(gate: &Gate, signals: Signals, args: &GateArgs) {
    signals.any().await;
    let leaving = Leaving::begin(Instant::now(), args.grace_period, args.connections_per_second);
    info!(grace_period = ?args.grace_period, sessions = *gate.sessions.borrow(), "told to stop: leaving");
    gate.orders.send_modify(|orders| orders.leaving = Some(leaving));
    let mut orders = gate.orders();
    let mut sessions = gate.sessions();
    loop {
        gate.decide();
        let now = Instant::now();
        let standing = *orders.borrow_and_update();
        if admission::may_exit(&standing, *sessions.borrow_and_update(), now) {
            return;
        }
        tokio::select! {
            // The gate holds the senders: these channels stay open.
            _ = orders.changed() => {}
            _ = sessions.changed() => {}
            () = sleep_until(standing.next_turn(now).unwrap_or(leaving.drained_by)) => {}
        }
    }
}
