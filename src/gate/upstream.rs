//! The watch over a server: detects at once when it becomes unreachable. Used for the gate's ObjectServer, and for the proxy server in front
//! of it if there is one.
//!
//! The watch keeps one connection open with a read pending. It sends nothing but the TLS handshake where TLS is used, so it is no login and
//! causes no event. How each fault is detected (measured, kernel 6):
//!
//! | fault | detected by | after |
//! |---|---|---|
//! | process gone | end of file or reset, then the new dial is refused | milliseconds |
//! | machine or network gone | unanswered keepalive, or a dial without an answer | `unresponsive_after`, and up to two seconds more |
//! | new connections fail, existing ones work | the dial of a session fails, then one of the watch | the next session |
//! | something on the way accepts, and closes later | repeated losses without proof, see [`Trust`] | up to twice `unresponsive_after` |
//! | process hung | not at all: its kernel still answers | never; that takes a TDS request, which is the operator's check |
//! | wrong certificate | the handshake fails | the next dial |
//!
//! - A failed dial of a session makes the watch dial anew, at a limited rate, while it keeps the connection that it has. If that dial fails too,
//!   the port is closed and existing sessions stay ([`Found::keeps_sessions`]).
//! - The watch makes a new handshake when the CA bundle has changed, the handshake of a session was rejected, or the certificate has expired.
//! - A connection is reported as working when it has stayed open for [`SETTLED_AFTER`] or its TLS handshake is complete.
//! - An error of this machine ([`DialError::is_local`]) says nothing about the server: the last result stays.
//! - Silence counts from the first dial without an answer, whatever the limits of the single dials.

mod found;
mod redials;
mod results;

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use self::redials::Redials;
pub use self::{
    found::{Found, combine, log_change},
    results::SessionResults,
};
use super::metrics::GateMetrics;
use crate::{
    clock::wall,
    dial::{DialError, DialedStream, Dialer, Trust, prepare_to_watch},
    net::peek,
    protocol::UnreachableCause,
};

/// Time from a failed dial to the next.
const RETRY: Duration = Duration::from_millis(250);

/// Time from a rejected handshake to the next, unless a recheck is requested sooner: certificates are replaced by people.
const RETRY_TLS: Duration = Duration::from_secs(1);

/// Time limits for connecting while the server is known to be unreachable, one after the other. Mostly short, because after a network outage
/// the kernel repeats an unanswered packet ever more rarely: a new dial is answered sooner. The last is for a network that is slow.
const RETRY_TIMEOUTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(4)];

/// How long a connection without TLS must stay open until it counts as working: a port that accepts and closes leads nowhere.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

fn cause(error: &DialError) -> UnreachableCause {
    match error {
        DialError::Resolve { .. } => UnreachableCause::Unresolved,
        DialError::Timeout { .. } | DialError::HandshakeTimeout { .. } => UnreachableCause::TimedOut,
        DialError::Tls { .. } if error.is_closed_in_handshake() => UnreachableCause::Closed,
        DialError::Tls { .. } => UnreachableCause::TlsRejected,
        DialError::Connect { source, .. } => cause_of(source),
        DialError::Local { .. } => UnreachableCause::Untried,
    }
}

fn cause_of(error: &io::Error) -> UnreachableCause {
    match error.kind() {
        ErrorKind::ConnectionRefused => UnreachableCause::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => UnreachableCause::Closed,
        ErrorKind::TimedOut => UnreachableCause::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => UnreachableCause::Unroutable,
        _ => UnreachableCause::Other,
    }
}

/// The server to watch.
#[derive(Debug, Clone, Copy)]
pub struct WatchTarget<'a> {
    /// Its name in log and messages, such as "ObjectServer".
    pub server: &'static str,
    /// Time without an answer after which it counts as unreachable.
    pub unresponsive_after: Duration,
    /// Notified when the result of a new handshake may differ from that of the last.
    pub recheck: &'a Notify,
    /// What sessions have found out about it.
    pub sessions: &'a SessionResults,
    /// Counts errors of this machine.
    pub metrics: &'a GateMetrics,
}

/// Watches a server for ever and calls `publish` with each result, repeated ones included.
pub async fn watch_over(
    target: WatchTarget<'_>,
    dialer: impl Fn() -> Result<Dialer, DialError>,
    publish: impl Fn(Found),
) {
    let mut watch = Watch {
        target,
        dialer,
        publish,
        redials: Redials::new(Instant::now()),
        doubts: Redials::new(Instant::now()),
        trust: Trust::new(target.unresponsive_after),
        answers: target.sessions.answers.subscribe(),
        silent_since: None,
        failures: 0,
        has_published: false,
        local_error: None,
    };
    loop {
        let stream = watch.connect().await;
        watch.hold(stream).await;
    }
}

struct Watch<'a, D, P> {
    target: WatchTarget<'a>,
    dialer: D,
    publish: P,
    redials: Redials,
    /// Those that sessions cause: strangers must not use up the others.
    doubts: Redials,
    trust: Trust,
    /// Changes when a session was answered. Seen with each loss, so what is new is proof since the last one.
    answers: watch::Receiver<u64>,
    /// When the first of the dials in a row began that nobody answered.
    silent_since: Option<Instant>,
    /// Dials that have failed since the last that succeeded.
    failures: usize,
    has_published: bool,
    /// The error of this machine that was logged last.
    local_error: Option<String>,
}

/// Why there is no new connection.
enum Failure {
    Dial(DialError),
    /// It was closed as soon as it was accepted.
    ClosedAtOnce,
}

impl Failure {
    const fn is_early_close(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_closed_in_handshake(),
            Self::ClosedAtOnce => true,
        }
    }
}

/// How the watch's connection ended.
enum Lost {
    /// The other end closed it: the next dial shows what this means.
    Closed(String),
    /// A new handshake is needed.
    Redial(&'static str),
    /// The other end has not answered within the time limit.
    Unresponsive(io::Error),
}

impl<D, P> Watch<'_, D, P>
where
    D: Fn() -> Result<Dialer, DialError>,
    P: Fn(Found),
{
    /// Dials until there is a connection.
    async fn connect(&mut self) -> DialedStream {
        loop {
            let began = Instant::now();
            match self.attempt().await {
                Ok(stream) => return stream,
                Err(failure) => {
                    let wait = self.note(failure, began, false);
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.target.recheck.notified(), if wait > RETRY => {}
                    }
                }
            }
        }
    }

    /// One dial.
    async fn attempt(&self) -> Result<DialedStream, Failure> {
        let all = self.target.unresponsive_after;
        let limit = self
            .failures
            .checked_sub(1)
            .map_or(all, |failures| RETRY_TIMEOUTS[failures % RETRY_TIMEOUTS.len()].min(all));
        let dialled = async { (self.dialer)()?.dial_within(limit).await };
        let mut stream = dialled.await.map_err(Failure::Dial)?;
        if let DialedStream::Plain(plain) = &mut stream {
            // Not read: what the server may send on its own is of no interest, and an end of the stream stays visible.
            if let Ok(Ok(0) | Err(_)) = timeout(SETTLED_AFTER, peek(plain, &mut [0])).await {
                return Err(Failure::ClosedAtOnce);
            }
        }
        Ok(stream)
    }

    /// Publishes what a failed dial shows, if it shows anything; `keeps_sessions` while an older connection still works. Returns the time to
    /// wait before the next dial.
    fn note(&mut self, failure: Failure, began: Instant, keeps_sessions: bool) -> Duration {
        if let Failure::Dial(error) = &failure
            && error.is_local()
        {
            self.note_local(error);
            return RETRY;
        }
        let server = self.target.server;
        if failure.is_early_close() {
            let now = Instant::now();
            let wait = self.redials.take(now);
            let is_lost = self.trust.lost(began, false, now);
            if wait.is_zero() && !is_lost {
                return wait;
            }
            self.publish(Found::unreachable(
                UnreachableCause::Closed,
                match failure {
                    Failure::Dial(error) => error.to_string(),
                    Failure::ClosedAtOnce => format!("the {server} closes each connection as soon as it is accepted"),
                },
                keeps_sessions,
            ));
            return wait.max(RETRY);
        }
        let Failure::Dial(error) = failure else { return RETRY };
        self.failures += 1;
        let message = if error.is_silence() {
            let since = *self.silent_since.get_or_insert(began);
            if since.elapsed() < self.target.unresponsive_after {
                return RETRY;
            }
            silence(&error, self.target.unresponsive_after)
        } else {
            self.silent_since = None;
            error.to_string()
        };
        self.publish(Found::unreachable(cause(&error), message, keeps_sessions));
        if error.is_tls_rejected() { RETRY_TLS } else { RETRY }
    }

    /// An error of this machine. It is published only if nothing is known about the server yet.
    fn note_local(&mut self, error: &DialError) {
        self.target.metrics.local_errors.inc();
        let message = error.to_string();
        if !self.has_published {
            (self.publish)(Found::unreachable(UnreachableCause::Untried, message.clone(), false));
        }
        if self.local_error.as_ref() != Some(&message) {
            warn!(
                server = self.target.server,
                message, "cannot dial, the last result stays"
            );
            self.local_error = Some(message);
        }
    }

    fn publish(&mut self, found: Found) {
        self.has_published = true;
        (self.publish)(found);
    }

    /// There is a new connection. It is proof unless connections to this server have been lost again and again.
    fn connected(&mut self) {
        self.failures = 0;
        self.silent_since = None;
        self.local_error = None;
        if !self.trust.is_lost() {
            self.publish(Found::REACHABLE);
        }
    }

    /// The server is there, whatever happened before.
    fn proved(&mut self) {
        self.trust.proved();
        self.publish(Found::REACHABLE);
    }

    /// Keeps a connection open until it is lost. Returns when the next one may be dialled.
    async fn hold(&mut self, mut stream: DialedStream) {
        let mut made = Instant::now();
        self.connected();
        let mut is_doubted = false;
        let lost = loop {
            if let Err(error) = prepare_to_watch(stream.socket(), self.target.unresponsive_after) {
                break Lost::Closed(error.to_string());
            }
            match self.watch(&mut stream, made, is_doubted).await {
                Watched::Lost(lost) => break lost,
                Watched::Doubted => is_doubted = true,
                Watched::Replaced(new) => {
                    stream = new;
                    made = Instant::now();
                    is_doubted = false;
                    self.connected();
                }
            }
        };
        let now = Instant::now();
        let server = self.target.server;
        let wait = match lost {
            Lost::Unresponsive(error) => {
                let message = format!("the {server} does not respond: {error}");
                self.publish(Found::unreachable(UnreachableCause::TimedOut, message, false));
                self.failures += 1;
                RETRY
            }
            Lost::Redial(why) => {
                debug!(server, why, "watch dials again");
                self.redials.take(now)
            }
            Lost::Closed(why) => {
                let is_proved = matches!(stream, DialedStream::Tls(_)) || self.answers.has_changed().unwrap_or(false);
                self.answers.mark_unchanged();
                if self.trust.lost(made, is_proved, now) {
                    let message = format!("the {server} accepts connections and closes them again: {why}");
                    self.publish(Found::unreachable(UnreachableCause::Closed, message, false));
                }
                debug!(server, why, "watch dials again");
                self.redials.take(now)
            }
        };
        sleep(wait).await;
    }

    /// Watches one connection, until something happens that concerns it.
    async fn watch(&mut self, stream: &mut DialedStream, made: Instant, is_doubted: bool) -> Watched {
        if is_doubted {
            return self.replace(stream).await;
        }
        let WatchTarget { recheck, sessions, .. } = self.target;
        let lost = until_lost(stream, recheck);
        tokio::pin!(lost);
        loop {
            let is_distrusted = self.trust.is_lost();
            tokio::select! {
                lost = &mut lost => return Watched::Lost(lost),
                () = sessions.doubted.notified() => return Watched::Doubted,
                Ok(()) = self.answers.changed(), if is_distrusted => self.proved(),
                () = sleep_until(made + self.target.unresponsive_after), if is_distrusted => self.proved(),
            }
        }
    }

    /// A session could not be connected: dials anew, and keeps the connection that there is until a new one has taken its place.
    async fn replace(&mut self, held: &mut DialedStream) -> Watched {
        let lost = until_lost(held, self.target.recheck);
        tokio::pin!(lost);
        let mut wait = self.doubts.take(Instant::now());
        loop {
            tokio::select! {
                lost = &mut lost => return Watched::Lost(lost),
                () = sleep(wait) => {}
            }
            let began = Instant::now();
            let attempt = tokio::select! {
                lost = &mut lost => return Watched::Lost(lost),
                attempt = self.attempt() => attempt,
            };
            match attempt {
                Ok(stream) => return Watched::Replaced(stream),
                Err(Failure::Dial(error)) if error.is_tls_rejected() => {
                    return Watched::Lost(Lost::Redial("a new handshake was rejected"));
                }
                Err(failure) => wait = self.note(failure, began, true),
            }
        }
    }
}

/// What happened to a connection that is watched.
enum Watched {
    Lost(Lost),
    /// A session could not be connected.
    Doubted,
    /// A newer connection takes its place.
    Replaced(DialedStream),
}

/// Reads until the connection is lost, or needs a new handshake. Cancel safe.
async fn until_lost(stream: &mut DialedStream, recheck: &Notify) -> Lost {
    let valid_for = stream.peer_expires().map(until);
    let expiry = sleep(valid_for.unwrap_or_default());
    tokio::pin!(expiry);
    let mut discarded = [0; 512];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut discarded) => read,
            () = recheck.notified() => return Lost::Redial("certificate must be checked again"),
            () = &mut expiry, if valid_for.is_some() => return Lost::Redial("certificate has expired"),
        };
        match read {
            Ok(0) => return Lost::Closed("the server closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => {
                return match cause_of(&error) {
                    UnreachableCause::TimedOut | UnreachableCause::Unroutable => Lost::Unresponsive(error),
                    _ => Lost::Closed(error.to_string()),
                };
            }
        }
    }
}

/// The message of a silence that has lasted for `all`, in which single dials were given up sooner.
fn silence(error: &DialError, all: Duration) -> String {
    match error {
        DialError::Timeout { address, .. } => DialError::Timeout {
            address: address.clone(),
            limit: all,
        }
        .to_string(),
        _ => error.to_string(),
    }
}

/// Time until the second of this timestamp is over: certificates are valid to the end of theirs.
fn until(end: Timestamp) -> Duration {
    let left = end.duration_since(wall());
    Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
}

#[cfg(test)]
mod tests;
