//! The port for probes: open while sessions are accepted, otherwise closed, so that the kernel refuses connections.
//!
//! At the session limit the port stays open, and a further connection is accepted and closed at once. Closing the port would also reset
//! connections that the kernel has already completed. Leaving it open without accepting would let probes wait in the backlog, where the
//! ObjectServer seems to hang.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::{
    certificate::ProbeHandshakeError,
    metrics::{Ending, RefusalReason},
    mode::{Listening, Mode},
    session::{self, Outcome, SessionContext},
    shared::GateProcess,
};
use crate::{dial::prepare, process::bind};

/// Time from a failed bind or accept to the next attempt. An accept fails if file descriptors have run out.
const RETRY: Duration = Duration::from_millis(250);

/// Opens and closes the port according to the mode, for ever, and serves each probe in a task of `sessions`.
pub async fn run(gate: Arc<GateProcess>, sessions: TaskTracker) {
    let mut mode = gate.state.mode();
    let listener = ProbeListener {
        gate,
        sessions,
        log: Arc::default(),
    };
    loop {
        listener.gate.state.set_listening(Listening::No);
        if mode.wait_for(|mode| *mode == Mode::Open).await.is_err() {
            return;
        }
        let socket = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Open) => continue,
            socket = listener.open() => socket,
        };
        listener.gate.state.set_listening(Listening::Yes);
        info!(address = %listener.gate.probe_port.address, "accepting probes");
        tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Open) => {}
            () = listener.accept(&socket) => {}
        }
        drop(socket);
        info!(address = %listener.gate.probe_port.address, "refusing probes");
    }
}

/// What the listener and its sessions share.
#[derive(Clone)]
struct ProbeListener {
    gate: Arc<GateProcess>,
    sessions: TaskTracker,
    log: Arc<LogLimiter>,
}

impl ProbeListener {
    /// Opens the port as soon as there is a certificate, if one is needed, and the kernel allows it.
    async fn open(&self) -> TcpListener {
        let port = &self.gate.probe_port;
        if port.ends_tls {
            self.wait_for_certificate().await;
        }
        loop {
            match bind(port.address) {
                Ok(listener) => return listener,
                Err(error) => {
                    self.fail(format!("failed to listen on {}: {error}", port.address));
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn wait_for_certificate(&self) {
        let mut certificate = self.gate.probe_port.certificate.subscribe();
        loop {
            let why = match &*certificate.borrow_and_update() {
                Ok(_) => return,
                Err(why) => why.clone(),
            };
            self.fail(format!("no certificate for the port for probes: {why}"));
            // The gate holds the sender, so this channel stays open.
            let _changed = certificate.changed().await;
        }
    }

    fn fail(&self, why: String) {
        if self.gate.state.set_listening(Listening::Failed(why.clone())) {
            warn!(why, "cannot listen for probes, trying again");
        }
    }

    async fn accept(&self, socket: &TcpListener) {
        loop {
            match socket.accept().await {
                Ok((client, peer)) => self.admit(client, peer),
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a probe closed its connection before it was accepted");
                }
                Err(error) => {
                    warn!(%error, "failed to accept a probe");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn admit(&self, client: TcpStream, peer: SocketAddr) {
        let gate = &self.gate;
        gate.metrics.sessions_accepted.inc();
        let Some(slot) = Slot::take(gate) else {
            gate.metrics.refuse(RefusalReason::Full);
            self.log
                .log(|| warn!(%peer, limit = gate.limits.sessions, "session limit reached, probe refused"));
            return;
        };
        let login_by = Instant::now() + gate.limits.timeouts.login;
        let listener = self.clone();
        self.sessions.spawn(async move {
            if let Err(error) = prepare(&client, listener.gate.limits.timeouts.message) {
                debug!(%peer, %error, "failed to prepare a probe's connection");
            }
            if listener.gate.probe_port.ends_tls {
                // On the heap, so that a session without TLS is no larger for it.
                Box::pin(listener.serve_tls(client, peer, login_by, slot)).await;
            } else {
                listener.serve(client, peer, login_by, slot).await;
            }
        });
    }

    async fn serve_tls(&self, client: TcpStream, peer: SocketAddr, login_by: Instant, slot: Slot) {
        match self.handshake(client, login_by).await {
            Ok(Ok(client)) => self.serve(client, peer, login_by, slot).await,
            Ok(Err(error)) => {
                self.gate.metrics.refuse(match error {
                    ProbeHandshakeError::Gone => RefusalReason::Gone,
                    ProbeHandshakeError::Plain => RefusalReason::Plain,
                    ProbeHandshakeError::Failed(_) => RefusalReason::Handshake,
                });
                if !matches!(error, ProbeHandshakeError::Gone) {
                    self.log.log(|| warn!(%peer, "probe refused: {error}"));
                }
            }
            Err(reason) => self.gate.metrics.refuse(reason),
        }
    }

    /// The handshake with a probe whose TLS ends here.
    async fn handshake(
        &self,
        client: TcpStream,
        login_by: Instant,
    ) -> Result<Result<TlsStream<TcpStream>, ProbeHandshakeError>, RefusalReason> {
        // The port was opened because there was a certificate, and one that was loaded is never lost again.
        let certificate = self.gate.probe_port.certificate.borrow().clone();
        let certificate = certificate.map_err(|_| RefusalReason::Handshake)?;
        let mut mode = self.gate.state.mode();
        tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Open) => Err(RefusalReason::NotAdmitting),
            done = timeout_at(login_by, certificate.handshake(client)) => done.map_err(|_| RefusalReason::LoginTimeout),
        }
    }

    async fn serve<C>(&self, mut client: C, peer: SocketAddr, login_by: Instant, slot: Slot)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let gate = &*self.gate;
        let timeouts = gate.limits.timeouts;
        let context = SessionContext {
            mode: gate.state.mode(),
            pacer: &gate.pacer,
            metrics: &gate.metrics,
            timeouts,
            login_by,
            accepts: gate.route.accepts(),
        };
        // A busy ObjectServer may leave bytes unread for long, so both connections get the message timeout. The watch detects earlier that
        // the ObjectServer's machine is gone.
        let dial = || async {
            let dialled = async { gate.route.for_session()?.dial().await };
            let upstream = dialled.await.inspect_err(|error| gate.recheck_if_tls_rejected(error))?;
            if let Err(error) = prepare(upstream.socket(), timeouts.message) {
                debug!(%error, "failed to prepare a connection to the ObjectServer");
            }
            Ok(upstream)
        };
        let outcome = session::serve(&mut client, dial, context).await;
        match outcome {
            Outcome::Refused(reason) => gate.metrics.refuse(reason),
            Outcome::Ended(how) => gate.metrics.end(how),
        }
        debug!(%peer, ?outcome, "session ended");
        drop(slot);
        match outcome {
            Outcome::Ended(Ending::DrainedIdle | Ending::Upstream) => session::close(client).await,
            Outcome::Refused(reason) => self.warn_if_misconfigured(reason, peer),
            Outcome::Ended(Ending::UpstreamTls) => self
                .log
                .log(|| warn!("session closed: the ObjectServer speaks TLS, and this gate has no CA bundle for it")),
            Outcome::Ended(_) => {}
        }
    }

    /// Logs refusals whose cause is the configuration of a probe.
    fn warn_if_misconfigured(&self, reason: RefusalReason, peer: SocketAddr) {
        let why = match reason {
            RefusalReason::Tls => "it speaks TLS, and this port speaks plain TDS",
            RefusalReason::Plain => "it speaks plain TDS, and this port speaks TLS",
            RefusalReason::NotLogin => "its first bytes are not a TDS login",
            _ => return,
        };
        self.log.log(|| warn!(%peer, "probe refused: {why}"));
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A session that counts towards the session limit, until this is dropped.
struct Slot(Arc<GateProcess>);

impl Slot {
    fn take(gate: &Arc<GateProcess>) -> Option<Self> {
        gate.state
            .begin_session(gate.limits.sessions)
            .then(|| Self(Arc::clone(gate)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state.end_session();
    }
}

/// Limits log messages that clients cause to one per second.
#[derive(Debug)]
struct LogLimiter {
    start: Instant,
    /// The second, counted from 1, of the last message.
    last: AtomicU64,
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl LogLimiter {
    fn log(&self, message: impl FnOnce()) {
        let second = self.start.elapsed().as_secs() + 1;
        if self.last.swap(second, Ordering::Relaxed) != second {
            message();
        }
    }
}
