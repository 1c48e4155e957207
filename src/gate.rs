//! The gate: the data plane in each proxy pod, between the probes and one ObjectServer.
//!
//! It never accepts a probe that it cannot serve, forwards bytes unchanged, and can end sessions without breaking a request. It knows nothing
//! of Kubernetes or of the other side of the pair; an operator steers it over the control port, and without an operator it follows its
//! ObjectServer.
//!
//! | module | owns |
//! |---|---|
//! | [`args`] | the command line |
//! | [`process`] | starting the parts, and leaving when told to stop |
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
//! | [`control`] | the control port and what is said on it |
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
pub mod process;
pub mod route;
pub mod session;
pub mod steering;
pub mod tls;
pub mod tracker;
pub mod upstream;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use self::process::{GateError, run};

use self::admission::{Decision, Orders};
use self::args::GateArgs;
use self::certificate::ListenerTls;
use self::drain::Pacer;
use self::files::Current;
use self::listener::Listening;
use self::metrics::Metrics;
use self::route::Route;
use self::session::Patience;
use self::steering::{Refused, Terms};
use crate::dial::DialError;
use crate::protocol::{Report, Request, UnreachableCause, Upstream};

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

    /// The present state.
    fn report(&self) -> Report {
        let decision = *self.decisions.borrow();
        let sessions = *self.sessions.borrow();
        let listening = self.listening.borrow().clone();
        Report {
            gate: self.name.clone(),
            object_server: self.object_server.clone(),
            instance: self.instance.clone(),
            answers: None,
            state: admission::reported(decision, listening == Listening::Yes, sessions),
            sessions,
            upstream: self.upstream.borrow().clone(),
            terminating: self.orders.borrow().leaving.is_some(),
            listen_error: match listening {
                Listening::Failed(why) => Some(why),
                Listening::Yes | Listening::No => None,
            },
            listener_certificate_expires: self.certificate.borrow().as_ref().ok().and_then(|shown| shown.expires),
            rejected_command: None,
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
