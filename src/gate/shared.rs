//! What all parts of one gate process share.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::SocketAddr,
};

use tokio::sync::{Notify, watch};

use super::{
    args::GateArgs,
    certificate::ListenerTls,
    commands::{CommandError, Terms},
    drain::Pacer,
    files::{self, Current},
    metrics::GateMetrics,
    mode::Listening,
    route::Route,
    session::SessionTimeouts,
    state::SharedState,
};
use crate::{
    dial::DialError,
    protocol::{Report, Request},
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
    /// Mode, status and session count.
    pub state: SharedState,
    /// Paces the close of sessions in a drain.
    pub pacer: Pacer,
    /// What is counted.
    pub metrics: GateMetrics,
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

/// The limits of probe sessions.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Number of sessions at the same time.
    pub sessions: u32,
    /// What may take how long.
    pub timeouts: SessionTimeouts,
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
        Self {
            identity: GateIdentity {
                name: args.name.clone(),
                object_server: args.object_server_name.clone(),
                instance: format!("{:016x}", RandomState::new().build_hasher().finish()),
            },
            limits: Limits {
                sessions: args.max_sessions,
                timeouts: SessionTimeouts {
                    login: args.login_timeout,
                    message: args.message_timeout,
                },
            },
            probe_port: ProbePort {
                address: args.listen,
                ends_tls: args.listener_tls_dir.is_some(),
                certificate: watch::Sender::new(files::unread()),
            },
            route: Route::new(args),
            recheck: Notify::new(),
            state: SharedState::new(args.proxy.is_some(), &metrics),
            pacer: Pacer::default(),
            metrics,
            terms: Terms::default(),
        }
    }

    /// Has the watch make a new handshake if `error` says that the handshake of a session was rejected.
    pub fn recheck_if_tls_rejected(&self, error: &DialError) {
        if error.is_tls_rejected() {
            self.recheck.notify_one();
        }
    }

    /// Notes the term of an operator that has connected. From now on, commands of lower terms are rejected.
    pub fn note_term(&self, holder: &str, term: u64) {
        self.terms.note(holder, term);
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
        }
    }
}
