//! Start and shutdown of the gate's process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus_client::registry::Registry;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    args::GateArgs,
    certificate::ListenerTls,
    check, control,
    files::{self, Current, keep_current},
    listener,
    metrics::GateMetrics,
    mode::{self, Termination},
    session::LINGER,
    shared::GateProcess,
    tls::{self, CertificateFilesError, KeyPairFiles, MutualTlsFiles},
    upstream::{SessionResults, WatchTarget, watch_over},
};
use crate::{
    admin,
    dial::Dialer,
    net::TcpListener,
    process::{Parts, ProcessError, listen, stop_signal},
    tls::ObjectServerTls,
};

/// How long the exit waits for control connections to send their last report.
const LAST_REPORT: Duration = Duration::from_millis(500);

/// How long the exit waits for sessions: as long as one that is over waits for its probe to close, so that the last answer arrives.
const LAST_ANSWERS: Duration = LINGER.saturating_add(Duration::from_millis(100));

/// Runs a gate until it has received SIGTERM or SIGINT and is drained.
///
/// On the signal it reports that it is terminating and goes on serving. It drains when the operator commands it, or without a command when
/// half of the grace period is over. It returns when the last session is closed, at the latest two seconds before the grace period ends.
///
/// # Errors
///
/// [`ProcessError`]: a port could not be opened at start, or a part of the gate failed.
pub async fn run(args: GateArgs) -> Result<(), ProcessError> {
    run_until(args, stop_signal()?).await
}

/// The same, until `stop` resolves and it is drained.
///
/// # Errors
///
/// As [`run`].
pub async fn run_until(args: GateArgs, stop: impl Future<Output = ()>) -> Result<(), ProcessError> {
    let mut registry = Registry::default();
    let gate = Arc::new(GateProcess::new(&args, GateMetrics::register(&mut registry)));
    let ports = Ports::open(&args)?;
    let identity = &gate.identity;
    info!(
        gate = identity.name,
        object_server = identity.object_server,
        address = %args.object_server,
        instance = identity.instance,
        "started"
    );
    let connections = OpenConnections::default();
    let mut parts = start(&gate, &args, ports, registry, &connections);
    tokio::select! {
        () = terminate(&gate, stop, &args) => {}
        error = parts.failed() => return Err(error),
    }
    connections.close().await;
    info!(sessions = gate.state.session_count(), "stopped");
    Ok(())
}

/// The ports that are open as long as the process. That for probes is opened and closed by the listener.
struct Ports {
    control: TcpListener,
    check: TcpListener,
    admin: TcpListener,
}

impl Ports {
    fn open(args: &GateArgs) -> Result<Self, ProcessError> {
        Ok(Self {
            control: listen("the control port", args.control_listen)?,
            check: listen("the check port", args.check_listen)?,
            admin: listen("the administration port", args.admin_listen)?,
        })
    }
}

/// The connections that end before the process does.
#[derive(Default)]
struct OpenConnections {
    sessions: TaskTracker,
    operators: TaskTracker,
    /// Tells control connections to send their last report.
    shutdown: CancellationToken,
}

impl OpenConnections {
    /// Waits until the sessions have ended, then until the operators have their last report.
    async fn close(&self) {
        end_of(&self.sessions, LAST_ANSWERS).await;
        self.shutdown.cancel();
        end_of(&self.operators, LAST_REPORT).await;
    }
}

/// Waits until all tasks have ended, for at most `limit`. The rest end with the process.
async fn end_of(tasks: &TaskTracker, limit: Duration) {
    tasks.close();
    let _timed_out = timeout(limit, tasks.wait()).await;
}

/// Starts everything that runs as long as the process.
fn start(
    gate: &Arc<GateProcess>,
    args: &GateArgs,
    ports: Ports,
    registry: Registry,
    connections: &OpenConnections,
) -> Parts {
    let gate = || Arc::clone(gate);
    let ports_tls = watch::Sender::new(files::unread());
    let (control_tls, check_tls) = (ports_tls.subscribe(), ports_tls.subscribe());
    // Subscribed to before the first look at the file, of which the watch waits for the result.
    let ca_bundle = gate().route.ca_bundle().map(watch::Sender::subscribe);

    let (sessions, operators) = (connections.sessions.clone(), connections.operators.clone());
    let (this, shutdown) = (gate(), connections.shutdown.clone());
    let serve_operator = move |stream| control::serve(Arc::clone(&this), shutdown.clone(), stream);
    let this = gate();
    let serve_check = move |stream| check::relay(Arc::clone(&this), stream);
    let this = gate();
    let readiness = move || this.state.snapshot().readiness();
    let control = tls::accept("control", ports.control, control_tls, operators, serve_operator);
    let check = tls::accept("check", ports.check, check_tls, TaskTracker::new(), serve_check);

    let mut parts = Parts::default();
    parts.spawn(
        "the certificate reader",
        keep_ports_tls(args.tls_dir.clone(), ports_tls),
    );
    if let Some(directory) = args.listener_tls_dir.clone() {
        parts.spawn("the proxy certificate reader", keep_listener_tls(gate(), directory));
    }
    if let Some(file) = args.object_server_ca.clone() {
        parts.spawn("the CA bundle reader", keep_ca_bundle(gate(), file));
    }
    parts.spawn("the control port", control);
    parts.spawn("the check port", check);
    parts.spawn("the ObjectServer watch", watch_object_server(gate(), ca_bundle));
    if let Some(dialer) = gate().route.proxy().cloned() {
        parts.spawn("the proxy server watch", watch_proxy(gate(), dialer));
    }
    parts.spawn("the port for probes", listener::run(gate(), sessions));
    parts.spawn("the pacer", pace(gate()));
    parts.spawn("the lapse of commands", lapse(gate()));
    parts.spawn(
        "the administration port",
        admin::serve(ports.admin, registry, readiness),
    );
    parts
}

async fn keep_ports_tls(directory: PathBuf, current: watch::Sender<Current<Arc<rustls::ServerConfig>>>) {
    let read = || MutualTlsFiles::read(&directory);
    keep_current("control and check port", read, MutualTlsFiles::configuration, &current).await;
}

async fn keep_listener_tls(gate: Arc<GateProcess>, directory: PathBuf) {
    let read = || KeyPairFiles::read(&directory);
    keep_current("port for probes", read, ListenerTls::load, &gate.probe_port.certificate).await;
}

/// Keeps the CA bundle for the ObjectServer up to date with its file, and has the watch check the ObjectServer against each new one.
async fn keep_ca_bundle(gate: Arc<GateProcess>, file: PathBuf) {
    let Some(current) = gate.route.ca_bundle() else {
        return;
    };
    let read = || files::read(&file);
    let load = |pem: &Vec<u8>| load_ca_bundle(pem, &gate.identity.object_server, &file);
    let mut changes = current.subscribe();
    let recheck_after_each_change = async {
        // The watch starts with the first bundle.
        let _first = changes.changed().await;
        while changes.changed().await.is_ok() {
            gate.recheck.notify_one();
        }
    };
    tokio::select! {
        () = keep_current("ObjectServer", read, load, current) => {}
        () = recheck_after_each_change => {}
    }
}

fn load_ca_bundle(pem: &[u8], object_server: &str, file: &Path) -> Result<ObjectServerTls, CertificateFilesError> {
    ObjectServerTls::new(pem, object_server).map_err(|source| CertificateFilesError::Bundle {
        path: file.to_owned(),
        source,
    })
}

async fn watch_object_server(gate: Arc<GateProcess>, ca_bundle: Option<watch::Receiver<Current<ObjectServerTls>>>) {
    if let Some(mut ca_bundle) = ca_bundle {
        // A dial before the first look at the file could only fail.
        let _looked = ca_bundle.changed().await;
    }
    let target = WatchTarget {
        server: "ObjectServer",
        unresponsive_after: gate.route.unresponsive_after(),
        recheck: &gate.recheck,
        // With a proxy server, sessions are connected to that.
        sessions: if gate.route.proxy().is_some() {
            &SessionResults::default()
        } else {
            &gate.results
        },
        metrics: &gate.metrics,
    };
    let publish = |found| gate.state.set_object_server(found);
    watch_over(target, || gate.route.object_server(), publish).await;
}

async fn watch_proxy(gate: Arc<GateProcess>, dialer: Dialer) {
    let target = WatchTarget {
        server: "proxy server",
        unresponsive_after: gate.route.unresponsive_after(),
        recheck: &Notify::new(),
        sessions: &gate.results,
        metrics: &gate.metrics,
    };
    let publish = |found| gate.state.set_proxy(found);
    watch_over(target, || Ok(dialer.clone()), publish).await;
}

async fn pace(gate: Arc<GateProcess>) {
    gate.pacer.run(gate.state.mode(), gate.state.sessions()).await;
}

/// Has a command lapse that nobody is left to take back.
async fn lapse(gate: Arc<GateProcess>) {
    let after = gate.limits.lapse_after;
    let mut status = gate.state.status();
    let mut sessions = gate.state.sessions();
    loop {
        let lapses_at = status.borrow_and_update().inputs.lapses_at(after);
        let is_empty = *sessions.borrow_and_update() == 0;
        tokio::select! {
            // The gate holds the senders, so these channels stay open.
            _ = status.changed() => {}
            _ = sessions.changed() => {}
            () = sleep_until(lapses_at.unwrap_or_else(Instant::now)), if is_empty && lapses_at.is_some() => {
                gate.state.lapse(after);
            }
        }
    }
}

/// Waits for the signal to stop, and then until the gate may exit.
async fn terminate(gate: &GateProcess, stop: impl Future<Output = ()>, args: &GateArgs) {
    stop.await;
    let termination = Termination::begin(Instant::now(), args.grace_period, args.connections_per_second);
    info!(grace_period = ?args.grace_period, sessions = gate.state.session_count(), "stop signal received, terminating");
    let mut status = gate.state.status();
    let mut sessions = gate.state.sessions();
    gate.state.terminate(termination);
    loop {
        let now = Instant::now();
        let inputs = status.borrow_and_update().inputs.clone();
        if mode::may_exit(&inputs, *sessions.borrow_and_update(), now) {
            return;
        }
        tokio::select! {
            // The gate holds the senders, so these channels stay open.
            _ = status.changed() => {}
            _ = sessions.changed() => {}
            () = sleep_until(inputs.next_change(now).unwrap_or(termination.drained_by)) => gate.state.refresh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_exit_waits_for_sessions_as_long_as_they_wait_for_their_probes() {
        let connections = OpenConnections::default();
        let start = Instant::now();
        let lingering = connections.sessions.spawn(tokio::time::sleep(LINGER));
        let shutdown = connections.shutdown.clone();
        connections.operators.spawn(async move { shutdown.cancelled().await });
        connections.close().await;
        assert!(lingering.is_finished());
        assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());
        connections.sessions.reopen();
        connections.sessions.spawn(std::future::pending::<()>());
        connections.close().await;
        assert!(start.elapsed() < 3 * LINGER, "{:?}", start.elapsed());
    }
}
