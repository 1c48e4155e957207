//! The socket for probes: open while sessions are admitted, closed otherwise, so that the kernel refuses instead of us.
//!
//! At the limit of sessions the socket stays open and a further connection is accepted and closed at once. Closing the socket would also
//! reset connections that the kernel has completed already, and leaving it open without accepting would let probes wait in the backlog,
//! which looks to them like a server that hangs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::Gate;
use super::admission::Decision;
use super::certificate::NotSecured;
use super::metrics::{Ending, Refusal};
use super::session::{self, Outcome, Surroundings};
use crate::dial::prepare;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 1024;

/// Time from a failed bind, or from an accept that failed for want of resources, to the next attempt.
const RETRY: Duration = Duration::from_millis(250);

/// State of the socket for probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// Closed on purpose.
    No,
    /// Open.
    Yes,
    /// It should be open, and this is why it is not.
    Failed(String),
}

/// Opens and closes the socket as decided, and serves who connects. Returns when the decisions end.
pub async fn run(gate: Arc<Gate>) {
    let listening = &gate.listening;
    let mut decisions = gate.decisions();
    let sparingly = Arc::new(Sparingly::default());
    loop {
        listening.send_if_modified(|state| std::mem::replace(state, Listening::No) != Listening::No);
        if decisions
            .wait_for(|decision| *decision == Decision::Open)
            .await
            .is_err()
        {
            return;
        }
        let listener = tokio::select! {
            biased;
            _ = decisions.wait_for(|decision| *decision != Decision::Open) => continue,
            listener = open(&gate, listening) => listener,
        };
        listening.send_replace(Listening::Yes);
        info!(address = %gate.listen, "admitting probes");
        tokio::select! {
            biased;
            _ = decisions.wait_for(|decision| *decision != Decision::Open) => {}
            () = accept(&gate, &listener, &sparingly) => {}
        }
        drop(listener);
        info!(address = %gate.listen, "refusing probes");
    }
}

/// Opens the socket as soon as there is a certificate to show, if one is to be shown, and the kernel lets it.
async fn open(gate: &Gate, listening: &watch::Sender<Listening>) -> TcpListener {
    if gate.ends_tls {
        wait_for_certificate(gate, listening).await;
    }
    loop {
        match bind(gate.listen) {
            Ok(listener) => return listener,
            Err(error) => {
                fail(listening, format!("failed to listen on {}: {error}", gate.listen));
                sleep(RETRY).await;
            }
        }
    }
}

async fn wait_for_certificate(gate: &Gate, listening: &watch::Sender<Listening>) {
    let mut certificate = gate.certificate.subscribe();
    loop {
        let why = match &*certificate.borrow_and_update() {
            Ok(_) => return,
            Err(why) => why.clone(),
        };
        fail(listening, format!("no certificate to show to probes: {why}"));
        // The gate holds the sender: this channel stays open.
        let _changed = certificate.changed().await;
    }
}

fn fail(listening: &watch::Sender<Listening>, why: String) {
    let failed = Listening::Failed(why);
    listening.send_if_modified(|state| {
        let is_news = *state != failed;
        if is_news {
            if let Listening::Failed(why) = &failed {
                warn!(why, "cannot listen for probes, trying again");
            }
            *state = failed;
        }
        is_news
    });
}

/// A listening socket that can be opened again although sessions of its predecessor are still there.
///
/// # Errors
///
/// What the kernel says: the address is in use or not one of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(gate: &Arc<Gate>, listener: &TcpListener, sparingly: &Arc<Sparingly>) {
    loop {
        match listener.accept().await {
            Ok((client, peer)) => admit(gate, client, peer, sparingly),
            Err(error) if is_of_one_connection(&error) => debug!(%error, "a probe was gone before it was accepted"),
            Err(error) => {
                warn!(%error, "failed to accept a probe");
                sleep(RETRY).await;
            }
        }
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

fn admit(gate: &Arc<Gate>, client: TcpStream, peer: SocketAddr, sparingly: &Arc<Sparingly>) {
    gate.metrics.sessions_accepted.inc();
    let Some(slot) = Slot::take(gate) else {
        gate.metrics.refuse(Refusal::Full);
        sparingly
            .say(|| warn!(%peer, limit = gate.max_sessions, "refused a probe: there are as many sessions as allowed"));
        return;
    };
    let login_by = Instant::now() + gate.patience.login;
    let gate = Arc::clone(gate);
    let sparingly = Arc::clone(sparingly);
    let sessions = gate.sessions_running.clone();
    sessions.spawn(async move {
        if let Err(error) = prepare(&client, gate.patience.message) {
            debug!(%peer, %error, "failed to prepare a probe's connection");
        }
        if !gate.ends_tls {
            return converse(&gate, client, peer, login_by, slot, &sparingly).await;
        }
        // On the heap, so that a session without TLS is no larger for it.
        let secured = async {
            match secure(&gate, client, login_by).await {
                Ok(Ok(client)) => converse(&gate, client, peer, login_by, slot, &sparingly).await,
                Ok(Err(why)) => {
                    gate.metrics.refuse(match why {
                        NotSecured::Gone => Refusal::Gone,
                        NotSecured::Plain => Refusal::Plain,
                        NotSecured::Failed(_) => Refusal::Handshake,
                    });
                    if !matches!(why, NotSecured::Gone) {
                        sparingly.say(|| warn!(%peer, "refused a client: {why}"));
                    }
                }
                Err(reason) => gate.metrics.refuse(reason),
            }
        };
        Box::pin(secured).await;
    });
}

/// The handshake with a probe whose TLS ends here.
async fn secure(
    gate: &Gate,
    client: TcpStream,
    login_by: Instant,
) -> Result<Result<TlsStream<TcpStream>, NotSecured>, Refusal> {
    // The socket was opened because there was a certificate, and there has been one ever since.
    let certificate = gate.certificate.borrow().clone().map_err(|_| Refusal::Handshake)?;
    let mut decisions = gate.decisions();
    tokio::select! {
        biased;
        _ = decisions.wait_for(|decision| *decision != Decision::Open) => Err(Refusal::NotAdmitting),
        secured = timeout_at(login_by, certificate.handshake(client)) => secured.map_err(|_| Refusal::LoginTimeout),
    }
}

async fn converse<C>(gate: &Gate, mut client: C, peer: SocketAddr, login_by: Instant, slot: Slot, sparingly: &Sparingly)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let surroundings = Surroundings {
        decisions: gate.decisions(),
        pacer: &gate.pacer,
        metrics: &gate.metrics,
        patience: gate.patience,
        login_by,
        accepts: gate.route.accepts(),
    };
    // A session may be quiet for as long as it likes, and a busy ObjectServer may leave bytes unread for long: both ends are given the
    // message timeout. That the ObjectServer's machine is gone is found out sooner, by the watch.
    let dial = || async {
        let dialled = async { gate.route.for_session()?.dial().await };
        let upstream = dialled.await.inspect_err(|error| gate.doubt_if_rejected(error))?;
        if let Err(error) = prepare(upstream.socket(), gate.patience.message) {
            debug!(%error, "failed to prepare a connection to the ObjectServer");
        }
        Ok(upstream)
    };
    let outcome = session::serve(&mut client, dial, surroundings).await;
    match outcome {
        Outcome::Refused(reason) => gate.metrics.refuse(reason),
        Outcome::Ended(how) => gate.metrics.end(how),
    }
    debug!(%peer, ?outcome, "session over");
    drop(slot);
    match outcome {
        Outcome::Ended(Ending::DrainedIdle | Ending::Upstream) => session::part(client).await,
        Outcome::Refused(reason) => complain(reason, peer, sparingly),
        Outcome::Ended(Ending::UpstreamTls) => {
            sparingly.say(|| warn!("a session was closed: the server behind this gate speaks TLS, and the gate was told of no CA bundle"));
        }
        Outcome::Ended(_) => {}
    }
}

/// Says of refusals that somebody has to mend.
fn complain(reason: Refusal, peer: SocketAddr, sparingly: &Sparingly) {
    let why = match reason {
        Refusal::Tls => "it speaks TLS, and this port speaks plain TDS",
        Refusal::Plain => "it speaks plain TDS, and this port speaks TLS",
        Refusal::NotLogin => "its first bytes are no TDS login",
        _ => return,
    };
    sparingly.say(|| warn!(%peer, "refused a client: {why}"));
}

/// One of the sessions that are allowed at the same time; given back when dropped.
struct Slot(Arc<Gate>);

impl Slot {
    fn take(gate: &Arc<Gate>) -> Option<Self> {
        let taken = gate.sessions.send_if_modified(|sessions| {
            let is_free = *sessions < gate.max_sessions;
            *sessions += u32::from(is_free);
            is_free
        });
        taken.then(|| {
            gate.metrics.sessions.inc();
            Self(Arc::clone(gate))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.metrics.sessions.dec();
        self.0.sessions.send_modify(|sessions| *sessions -= 1);
    }
}

/// Lets one message a second into the log, whatever clients do.
#[derive(Debug)]
struct Sparingly {
    start: Instant,
    /// The second, counted from 1, in which the last message was let through.
    last: AtomicU64,
}

impl Default for Sparingly {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Sparingly {
    fn say(&self, message: impl FnOnce()) {
        let second = self.start.elapsed().as_secs() + 1;
        if self.last.swap(second, Ordering::Relaxed) != second {
            message();
        }
    }
}

/// Waits until all sessions are over, their parting included, but no longer than this.
pub async fn wait_for_sessions(gate: &Gate, at_most: Duration) {
    gate.sessions_running.close();
    // Those that are left end with the process.
    let _late = timeout(at_most, gate.sessions_running.wait()).await;
}
