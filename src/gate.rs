//! The gate: the data plane in each proxy pod, between the probes and one ObjectServer.
//!
//! It never accepts a probe that it cannot serve, forwards bytes unchanged, and can end sessions without breaking a request. It knows nothing
//! of Kubernetes or of the other side of the pair; an operator steers it over the control port, and without an operator it follows its
//! ObjectServer.
//!
//! | module | owns |
//! |---|---|
//! | [`args`] | the command line |
//! | [`admission`] | the decision: admit, drain or refuse; pure |
//! | [`tracker`] | message boundaries from packet headers; pure |
//! | [`steering`] | whose orders count and what they change; pure but for a lock |
//! | [`route`] | the ways to the ObjectServer: with TLS, through a proxy server |
//! | [`upstream`] | the watch over it |
//! | [`listener`] | the socket for probes |
//! | [`certificate`] | the proxy's own certificate, shown to probes |
//! | [`passing`] | what a session carries: TDS, or TLS that passes through |
//! | [`session`], [`link`] | one probe's session, and the pump in it |
//! | [`drain`] | the pace at which sessions are closed |
//! | [`control`], [`wire`] | the control port and what is said on it |
//! | [`check`] | the operator's check sessions |
//! | [`tls`] | certificates of those two ports |
//! | [`files`] | files that are read again when they change |
//! | [`metrics`] | what is counted |
//!
//! State flows one way: upstream, orders and time → decision ([`admission::decide`]) → listener, sessions, pacer and reports, each over a
//! `watch` channel. Whoever changes an input publishes the decision in the same breath, so that a report sent afterwards already says it.

pub mod admission;
pub mod args;
pub mod certificate;
pub mod check;
pub mod control;
pub mod drain;
pub mod files;
pub mod link;
pub mod listener;
pub mod metrics;
pub mod passing;
pub mod route;
pub mod session;
pub mod steering;
pub mod tls;
pub mod tracker;
pub mod upstream;
pub mod wire;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::admission::{Decision, Leaving, Orders};
use self::args::GateArgs;
use self::certificate::ListenerTls;
use self::drain::Pacer;
use self::files::{Current, keep_current};
use self::listener::Listening;
use self::metrics::Metrics;
use self::route::Route;
use self::session::Patience;
use self::steering::{Refused, Terms};
use self::tls::TlsError;
use self::upstream::Watched;
use self::wire::{Report, Request, UnreachableCause, Upstream};
use crate::admin;
use crate::dial::DialError;
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

/// What all parts of one gate process share.
#[derive(Debug)]
pub struct Gate {
    name: String,
    object_server: String,
    /// Random for each process.
    instance: String,
    listen: SocketAddr,
    max_sessions: u32,
    patience: Patience,
    route: Route,
    /// Whether probes' TLS ends here.
    ends_tls: bool,
    /// The certificate that probes are shown.
    certificate: watch::Sender<Current<ListenerTls>>,
    /// Wakes the watch over the ObjectServer for a new handshake.
    doubts: Notify,
    metrics: Metrics,
    pacer: Pacer,
    terms: Terms,
    sequence: AtomicU64,
    found: Mutex<Found>,
    upstream: watch::Sender<Upstream>,
    orders: watch::Sender<Orders>,
    decisions: watch::Sender<Decision>,
    listening: watch::Sender<Listening>,
    sessions: watch::Sender<u32>,
    sessions_running: TaskTracker,
    shutdown: CancellationToken,
}

/// What the watches have found last.
#[derive(Debug)]
struct Found {
    object_server: Upstream,
    /// None without a proxy server.
    proxy: Option<Upstream>,
}

impl Gate {
    fn new(args: &GateArgs, metrics: Metrics) -> Self {
        let upstream = Upstream::Unreachable {
            cause: UnreachableCause::Untried,
            message: "the gate has just started".to_owned(),
        };
        Self {
            name: args.name.clone(),
            object_server: args.object_server_name.clone(),
            instance: format!("{:016x}", RandomState::new().build_hasher().finish()),
            listen: args.listen,
            max_sessions: args.max_sessions,
            patience: Patience {
                login: args.login_timeout,
                message: args.message_timeout,
            },
            route: Route::new(args),
            ends_tls: args.listener_tls_dir.is_some(),
            certificate: watch::Sender::new(files::unread()),
            doubts: Notify::new(),
            metrics,
            pacer: Pacer::default(),
            terms: Terms::default(),
            sequence: AtomicU64::new(0),
            decisions: watch::Sender::new(admission::decide(&Orders::NONE, &upstream, Instant::now())),
            found: Mutex::new(Found {
                proxy: args.proxy.is_some().then(|| upstream.clone()),
                object_server: upstream.clone(),
            }),
            upstream: watch::Sender::new(upstream),
            orders: watch::Sender::new(Orders::NONE),
            listening: watch::Sender::new(Listening::No),
            sessions: watch::Sender::new(0),
            sessions_running: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }
    }

    fn decisions(&self) -> watch::Receiver<Decision> {
        self.decisions.subscribe()
    }

    fn listening(&self) -> watch::Receiver<Listening> {
        self.listening.subscribe()
    }

    fn upstream(&self) -> watch::Receiver<Upstream> {
        self.upstream.subscribe()
    }

    fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    fn sessions(&self) -> watch::Receiver<u32> {
        self.sessions.subscribe()
    }

    /// Decides again and publishes the decision if it is another one. To be called after each change of what it is made of.
    fn decide(&self) {
        self.decisions.send_if_modified(|decision| {
            let decided = admission::decide(&self.orders.borrow(), &self.upstream.borrow(), Instant::now());
            let is_news = decided != *decision;
            if is_news {
                info!(%decided, sessions = *self.sessions.borrow(), "decided");
                *decision = decided;
            }
            is_news
        });
    }

    fn found_object_server(&self, found: Upstream) {
        self.find(|all| all.object_server = found);
    }

    fn found_proxy(&self, found: Upstream) {
        self.find(|all| all.proxy = Some(found));
    }

    fn find(&self, change: impl FnOnce(&mut Found)) {
        // Held while it is published, so that the last to find something is the last to publish.
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        let found = upstream::combine(&all.object_server, all.proxy.as_ref());
        self.metrics
            .upstream_reachable
            .set(i64::from(found == Upstream::Reachable));
        if upstream::publish(&self.upstream, found) {
            self.decide();
        }
    }

    /// Has the watch make a new handshake when the one of a session has been refused.
    fn doubt_if_rejected(&self, error: &DialError) {
        if error.is_tls_rejected() {
            self.doubts.notify_one();
        }
    }

    fn hear(&self, holder: &str, term: u64) {
        self.terms.hear(holder, term);
    }

    fn follow(&self, holder: &str, term: u64, request: &Request) -> Result<(), Refused> {
        self.terms.act(holder, term, || {
            let mut followed = Ok(());
            self.orders
                .send_if_modified(|orders| match steering::follow(orders, request, Instant::now()) {
                    Ok(standing) => {
                        let is_news = standing != orders.standing;
                        if is_news {
                            info!(holder, term, ?request, "an order");
                            orders.standing = standing;
                        }
                        is_news
                    }
                    Err(refused) => {
                        followed = Err(refused);
                        false
                    }
                });
            self.decide();
            followed
        })
    }

    fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The present state, with sequence 0.
    fn report(&self) -> Report {
        let decision = *self.decisions.borrow();
        let sessions = *self.sessions.borrow();
        let listening = self.listening.borrow().clone();
        Report {
            gate: self.name.clone(),
            object_server: self.object_server.clone(),
            instance: self.instance.clone(),
            sequence: 0,
            answers: None,
            admission: admission::reported(decision, listening == Listening::Yes, sessions),
            sessions,
            draining: if matches!(decision, Decision::Draining { .. }) {
                sessions
            } else {
                0
            },
            upstream: self.upstream.borrow().clone(),
            leaving: self.orders.borrow().leaving.is_some(),
            listen_error: match listening {
                Listening::Failed(why) => Some(why),
                Listening::Yes | Listening::No => None,
            },
            listener_certificate_expires: self.certificate.borrow().as_ref().ok().and_then(|shown| shown.expires),
            refused_order: None,
        }
    }

    /// Whether the pod should receive probes, else why not.
    fn readiness(&self) -> Result<(), String> {
        let decision = *self.decisions.borrow();
        match (decision, &*self.listening.borrow()) {
            (Decision::Open, Listening::Yes) => Ok(()),
            (Decision::Open, Listening::Failed(why)) => Err(why.clone()),
            (Decision::Open, Listening::No) => Err("the socket for probes is being opened".to_owned()),
            (Decision::Draining { .. }, _) => Err("draining".to_owned()),
            (Decision::Closed(admission::ClosedBy::Order), _) => Err("closed by order".to_owned()),
            (Decision::Closed(admission::ClosedBy::Upstream), _) => Err(match &*self.upstream.borrow() {
                Upstream::Unreachable { message, .. } => message.clone(),
                Upstream::Reachable => "the socket for probes is being opened".to_owned(),
            }),
        }
    }
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
    let stop = gate.shutdown.clone();
    parts.spawn(async move {
        // An error would have come from the socket, and ends the process like any other end.
        let _failed = admin::serve(
            admin,
            Arc::new(registry),
            move || this.readiness(),
            stop.cancelled_owned(),
        )
        .await;
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
