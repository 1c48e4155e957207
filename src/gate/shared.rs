//! What all parts of one gate process share.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::SocketAddr,
    sync::Arc,
};

use tokio::sync::{Notify, Semaphore, watch};

use super::{
    args::GateArgs,
    certificate::ListenerTls,
    commands::{CommandError, Terms},
    drain::Pacer,
    files::{self, Current},
    limits::Limits,
    lobby::Lobby,
    lookouts::Lookouts,
    metrics::GateMetrics,
    mode::Listening,
    route::Route,
    state::SharedState,
    upstream::SessionResults,
};
use crate::{
    dial::DialError,
    protocol::{LookAt, Report, Request},
};

/// One gate process.
#[derive(Debug)]
pub struct GateProcess {
    /// How it appears in reports and logs.
    pub identity: GateIdentity,
    /// The limits of probe sessions.
    pub limits: Limits,
    /// Where probes connect.
    pub probe_port: ProbePort,
    /// Where the ObjectServer is.
    pub route: Route,
    /// Wakes the watch over the ObjectServer for a new handshake.
    pub recheck: Notify,
    /// What sessions have found out about the server that they are connected to.
    pub results: SessionResults,
    /// The connections of probes that have not logged in.
    pub lobby: Arc<Lobby>,
    /// The sessions that there may be, those included that linger after their end.
    pub places: Arc<Semaphore>,
    /// Mode, status and session count.
    pub state: SharedState,
    /// Paces the close of sessions in a drain.
    pub pacer: Pacer,
    /// What is counted.
    pub metrics: GateMetrics,
    /// The other gates that it looks at.
    pub lookouts: Lookouts,
    terms: Terms,
}

/// How a gate appears in reports and logs.
#[derive(Debug)]
pub struct GateIdentity {
    /// The proxy's name, such as `PROXY_P`.
    pub name: String,
    /// The ObjectServer's name, such as `AGG_P`.
    pub object_server: String,
    /// Random for each process.
    pub instance: String,
}

/// The port for probes.
#[derive(Debug)]
pub struct ProbePort {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the gate ends probes' TLS.
    pub ends_tls: bool,
    /// The certificate that probes are shown, if the gate ends their TLS.
    pub certificate: watch::Sender<Current<ListenerTls>>,
}

impl GateProcess {
    /// A gate as the command line describes it, before any of its parts runs.
    #[must_use]
    pub fn new(args: &GateArgs, metrics: GateMetrics) -> Self {
        let limits = Limits::new(args);
        Self {
            identity: GateIdentity {
                name: args.name.clone(),
                object_server: args.object_server_name.clone(),
                instance: format!("{:016x}", RandomState::new().build_hasher().finish()),
            },
            lobby: Arc::new(Lobby::new(limits.before_login)),
            places: Arc::new(Semaphore::new(
                limits.sessions.try_into().unwrap_or(Semaphore::MAX_PERMITS),
            )),
            limits,
            probe_port: ProbePort {
                address: args.listen,
                ends_tls: args.listener_tls_dir.is_some(),
                certificate: watch::Sender::new(files::unread()),
            },
            route: Route::new(args),
            recheck: Notify::new(),
            results: SessionResults::default(),
            state: SharedState::new(args.proxy.is_some(), &metrics),
            pacer: Pacer::default(),
            metrics,
            lookouts: Lookouts::default(),
            terms: Terms::default(),
        }
    }

    /// Has the watch find out what a failed dial of a session or check means. An error of this machine is only counted.
    pub fn doubt(&self, error: &DialError) {
        if error.is_local() {
            self.metrics.local_errors.inc();
        } else if error.is_tls_rejected() {
            self.recheck.notify_one();
        } else {
            self.results.failed();
        }
    }

    /// Notes the term of an operator that has connected, and that it is there until the result is dropped. From now on, commands of lower
    /// terms are rejected.
    pub fn attend(&self, holder: &str, term: u64) -> Attendance<'_> {
        self.terms.note(holder, term, || self.state.set_attended(true));
        Attendance { gate: self, term }
    }

    /// Accepts a command of an operator. When this returns, the mode that follows is published.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing has changed then.
    pub fn accept(&self, holder: &str, term: u64, request: &Request) -> Result<(), CommandError> {
        self.terms
            .act(holder, term, || self.state.accept(holder, term, request))
    }

    /// Looks at these gates for an operator, unless a later one has connected.
    pub fn look_at(&self, holder: &str, term: u64, wanted: &[LookAt]) {
        // A former leader is told that it is one when it commands something.
        let _ = self.terms.act(holder, term, || {
            self.lookouts.set(wanted);
            Ok(())
        });
    }

    /// The present state as the operator sees it.
    #[must_use]
    pub fn report(&self) -> Report {
        let now = self.state.snapshot();
        let certificate = self.probe_port.certificate.borrow();
        Report {
            gate: self.identity.name.clone(),
            object_server: self.identity.object_server.clone(),
            instance: self.identity.instance.clone(),
            answers: None,
            state: now.state,
            sessions: now.sessions,
            upstream: now.status.inputs.upstream,
            terminating: now.status.inputs.termination.is_some(),
            listen_error: match now.status.listening {
                Listening::Failed(why) => Some(why),
                Listening::Yes | Listening::No => None,
            },
            listener_certificate_expires: certificate.as_ref().ok().and_then(|shown| shown.expires),
            rejected_command: None,
            sights: self.lookouts.sights(),
        }
    }
}

/// An operator's control connection, until this is dropped.
#[derive(Debug)]
pub struct Attendance<'a> {
    gate: &'a GateProcess,
    term: u64,
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.gate.terms.leave(self.term, || {
            self.gate.state.set_attended(false);
            self.gate.lookouts.calm();
        });
    }
}
