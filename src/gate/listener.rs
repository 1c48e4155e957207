//! The port for probes: open while sessions are accepted, otherwise closed, so that the kernel refuses connections.
//!
//! - At the session limit the port stays open, and a further connection is accepted and closed at once. Closing the port would also reset
//!   connections that the kernel has already completed.
//! - Connections that have not logged in have places of their own ([`lobby`](super::lobby)). They are neither sessions nor counted as such.
//! - While the kernel cannot give out another file descriptor the port is closed. Leaving it open without accepting would let probes wait in
//!   the backlog, where the ObjectServer seems to hang.

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
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::{
    certificate::ProbeHandshakeError,
    lobby::Guest,
    login::{self, Login, Opening},
    metrics::{Ending, RefusalReason},
    mode::{Listening, Mode},
    session::{self, Outcome, SessionContext},
    shared::GateProcess,
};
use crate::{
    dial::prepare,
    net::{TcpListener, TcpStream, bind},
};

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
        // While the port should be open, a failure stays in the report until the port is.
        if *mode.borrow() != Mode::Open {
            listener.gate.state.set_listening(Listening::No);
        }
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
        let failed = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Open) => None,
            error = listener.accept(&socket) => Some(error),
        };
        drop(socket);
        info!(address = %listener.gate.probe_port.address, "refusing probes");
        match failed {
            None => {
                listener.gate.state.set_listening(Listening::No);
            }
            Some(error) => {
                listener.gate.metrics.local_errors.inc();
                listener.fail(format!("cannot accept connections: {error}"));
                sleep(RETRY).await;
            }
        }
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

    /// Accepts until the kernel cannot, and returns why.
    async fn accept(&self, socket: &TcpListener) -> io::Error {
        loop {
            match socket.accept().await {
                Ok((client, peer)) => self.welcome(client, peer),
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a probe closed its connection before it was accepted");
                }
                Err(error) => return error,
            }
        }
    }

    /// Gives a connection a place until it has logged in.
    fn welcome(&self, client: TcpStream, peer: SocketAddr) {
        let gate = &self.gate;
        if gate.places.available_permits() == 0 {
            self.refuse(RefusalReason::Full, peer);
            return;
        }
        let guest = match gate.lobby.enter(peer.ip()) {
            Ok(guest) => guest,
            Err(full) => {
                self.log.log(|| warn!(%peer, "probe refused: {full}"));
                self.refuse(RefusalReason::Crowded, peer);
                return;
            }
        };
        let login_by = Instant::now() + gate.limits.timeouts.login;
        let listener = self.clone();
        self.sessions.spawn(async move {
            if let Err(error) = prepare(&client, listener.gate.limits.timeouts.message) {
                debug!(%peer, %error, "failed to prepare a probe's connection");
            }
            if listener.gate.probe_port.ends_tls {
                // On the heap, so that a session without TLS is no larger for it.
                Box::pin(listener.serve_tls(client, peer, login_by, guest)).await;
            } else {
                listener.serve_plain(client, peer, login_by, guest).await;
            }
        });
    }

    async fn serve_plain(&self, mut client: TcpStream, peer: SocketAddr, login_by: Instant, guest: Guest) {
        let accepts = self.gate.route.accepts();
        let begin = async {
            self.open_with(&mut client).await?;
            Ok(login::receive(&mut client, accepts).await?)
        };
        if let Some(login) = self.before_login(peer, login_by, &guest, begin).await {
            self.serve(client, login, peer, login_by, guest).await;
        }
    }

    async fn serve_tls(&self, mut client: TcpStream, peer: SocketAddr, login_by: Instant, guest: Guest) {
        let accepts = self.gate.route.accepts();
        let begin = async {
            self.open_with(&mut client).await?;
            let mut client = self.handshake(client, peer).await?;
            let login = login::receive(&mut client, accepts).await?;
            Ok((client, login))
        };
        if let Some((client, login)) = self.before_login(peer, login_by, &guest, begin).await {
            self.serve(client, login, peer, login_by, guest).await;
        }
    }

    /// Looks at the first byte of a connection, and answers a route question.
    async fn open_with(&self, client: &mut TcpStream) -> Result<(), NoSession> {
        match login::opening(client).await? {
            Opening::Client => Ok(()),
            Opening::RouteQuestion => {
                let answered = login::answer_route_question(client, &self.gate.identity.name).await;
                debug!(?answered, "route question");
                Err(NoSession::Answered)
            }
        }
    }

    /// Runs what happens before the login is complete, for as long as it may take. Counts and logs what does not become a session.
    async fn before_login<T>(
        &self,
        peer: SocketAddr,
        login_by: Instant,
        guest: &Guest,
        begin: impl Future<Output = Result<T, NoSession>>,
    ) -> Option<T> {
        let mut mode = self.gate.state.mode();
        let begun = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Open) => Err(RefusalReason::NotAdmitting.into()),
            () = guest.evicted() => Err(RefusalReason::Crowded.into()),
            begun = timeout_at(login_by, begin) => begun.unwrap_or(Err(RefusalReason::LoginTimeout.into())),
        };
        match begun {
            Ok(begun) => Some(begun),
            Err(NoSession::Answered) => None,
            Err(NoSession::Refused(reason)) => {
                self.warn_if_misconfigured(reason, peer);
                self.refuse(reason, peer);
                None
            }
        }
    }

    /// Counts a connection that does not become a session.
    fn refuse(&self, reason: RefusalReason, peer: SocketAddr) {
        self.gate.metrics.sessions_accepted.inc();
        self.gate.metrics.refuse(reason);
        if reason == RefusalReason::Full {
            let limit = self.gate.limits.sessions;
            self.log
                .log(|| warn!(%peer, limit, "session limit reached, probe refused"));
        }
    }

    /// The handshake with a probe whose TLS ends here.
    async fn handshake(&self, client: TcpStream, peer: SocketAddr) -> Result<TlsStream<TcpStream>, RefusalReason> {
        // The port was opened because there was a certificate, and one that was loaded is never lost again.
        let certificate = self.gate.probe_port.certificate.borrow().clone();
        let certificate = certificate.map_err(|_| RefusalReason::Handshake)?;
        certificate.handshake(client).await.map_err(|error| match error {
            ProbeHandshakeError::Gone => RefusalReason::Gone,
            ProbeHandshakeError::Plain => RefusalReason::Plain,
            ProbeHandshakeError::Failed(_) => {
                self.log.log(|| warn!(%peer, "probe refused: {error}"));
                RefusalReason::Handshake
            }
        })
    }

    async fn serve<C>(&self, mut client: C, login: Login, peer: SocketAddr, login_by: Instant, guest: Guest)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let gate = &*self.gate;
        let Some(slot) = Slot::take(&self.gate) else {
            self.refuse(RefusalReason::Full, peer);
            return;
        };
        drop(guest);
        gate.metrics.sessions_accepted.inc();
        let timeouts = gate.limits.timeouts;
        let context = SessionContext {
            mode: gate.state.mode(),
            pacer: &gate.pacer,
            metrics: &gate.metrics,
            timeouts,
            login_by,
            results: &gate.results,
        };
        // A busy ObjectServer may leave bytes unread for long, so both connections get the message timeout. The watch detects earlier that
        // the ObjectServer's machine is gone.
        let dial = || async {
            let dialled = async { gate.route.for_session()?.dial().await };
            let upstream = dialled.await.inspect_err(|error| gate.doubt(error))?;
            if let Err(error) = prepare(upstream.socket(), timeouts.message) {
                debug!(%error, "failed to prepare a connection to the ObjectServer");
            }
            Ok(upstream)
        };
        let outcome = session::serve(&mut client, login, dial, context).await;
        match outcome {
            Outcome::Refused(reason) => gate.metrics.refuse(reason),
            Outcome::Ended(how) => gate.metrics.end(how),
        }
        debug!(%peer, ?outcome, "session ended");
        let _place = slot.end();
        match outcome {
            Outcome::Ended(Ending::DrainedIdle | Ending::Upstream) => session::close(client).await,
            Outcome::Refused(RefusalReason::Local) => self
                .log
                .log(|| warn!(%peer, "probe refused: this machine cannot dial the ObjectServer, see the metric local_errors")),
            Outcome::Ended(Ending::UpstreamTls) => self
                .log
                .log(|| warn!("session closed: the ObjectServer speaks TLS, and this gate has no CA bundle for it")),
            Outcome::Ended(Ending::NoAnswer) => self.log.log(
                || warn!(%peer, after = ?timeouts.message, "session closed: the ObjectServer did not answer the login"),
            ),
            Outcome::Refused(_) | Outcome::Ended(_) => {}
        }
    }

    /// Logs refusals whose cause is the configuration of a probe.
    fn warn_if_misconfigured(&self, reason: RefusalReason, peer: SocketAddr) {
        let why = match reason {
            RefusalReason::Tls => "it speaks TLS, and this port speaks plain TDS",
            RefusalReason::Plain => "it speaks plain TDS, and this port speaks TLS",
            RefusalReason::NotLogin => "its first bytes are not a TDS login",
            RefusalReason::LoginTooLong => "its login is longer than any of OMNIbus",
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

/// Why a connection does not become a session.
enum NoSession {
    Refused(RefusalReason),
    /// It was a route question.
    Answered,
}

impl From<RefusalReason> for NoSession {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason)
    }
}

/// A session that counts, until this is dropped.
struct Slot {
    gate: Arc<GateProcess>,
    place: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// None at the session limit.
    fn take(gate: &Arc<GateProcess>) -> Option<Self> {
        let place = Arc::clone(&gate.places).try_acquire_owned().ok()?;
        gate.state.begin_session();
        Some(Self {
            gate: Arc::clone(gate),
            place: Some(place),
        })
    }

    /// The session is over. What is returned keeps its place until the connection is closed.
    fn end(mut self) -> Option<OwnedSemaphorePermit> {
        self.place.take()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.state.end_session();
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
