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
//! | process hung | not at all: its kernel still answers | never; that takes a TDS request, which is the operator's check |
//! | wrong certificate | the handshake fails | the next dial |
//!
//! The watch makes a new handshake when the result may have changed: the CA bundle has changed, the handshake of a session was rejected, or
//! the certificate has expired.
//!
//! A server may close connections that do not log in. That is no fault: the watch dials again, at once as long as it happens rarely, and
//! reports the server as unreachable only if the new dial fails.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    io::AsyncReadExt,
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    dial::{DialError, DialedStream, Dialer, prepare_to_watch},
    protocol::{UnreachableCause, Upstream},
};

/// Time from a failed dial to the next.
const RETRY: Duration = Duration::from_millis(250);

/// Time from a rejected handshake to the next, unless a recheck is requested sooner: certificates are replaced by people.
const RETRY_TLS: Duration = Duration::from_secs(1);

/// Time limit of a dial while the server is known to be unreachable. Short, because after a network outage the kernel repeats an unanswered
/// dial ever more rarely: a new dial is answered sooner.
const RETRY_TIMEOUT: Duration = Duration::from_secs(1);

/// Re-dials after a closed connection that need not wait, if none was needed for a while. One would not be enough: a dying process may
/// accept the first.
const FREE_REDIALS: u32 = 4;

/// Time after which one more re-dial becomes free.
const REDIAL_EVERY: Duration = Duration::from_secs(1);

fn cause(error: &DialError) -> UnreachableCause {
    match error {
        DialError::Resolve { .. } => UnreachableCause::Unresolved,
        DialError::Timeout { .. } | DialError::HandshakeTimeout { .. } => UnreachableCause::TimedOut,
        DialError::Tls { .. } if error.is_closed_in_handshake() => UnreachableCause::Closed,
        DialError::Tls { .. } => UnreachableCause::TlsRejected,
        DialError::Connect { source, .. } => cause_of(source),
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
}

/// Watches a server for ever and calls `publish` with each result, repeated ones included.
pub async fn watch_over(
    target: WatchTarget<'_>,
    dialer: impl Fn() -> Result<Dialer, DialError>,
    publish: impl Fn(Upstream),
) {
    let WatchTarget {
        server,
        unresponsive_after,
        recheck,
    } = target;
    let mut redials = Redials::new(Instant::now());
    let mut limit = unresponsive_after;
    let mut is_second_try = false;
    loop {
        let dial = async { dialer()?.dial_within(limit).await };
        let wait = match dial.await {
            Ok(stream) => {
                limit = unresponsive_after;
                is_second_try = false;
                publish(Upstream::Reachable);
                match hold(stream, unresponsive_after, recheck).await {
                    Lost::Redial(why) => {
                        let wait = redials.take(Instant::now());
                        debug!(server, why, ?wait, "watch dials again");
                        sleep(wait).await;
                        continue;
                    }
                    Lost::Unresponsive(error) => publish(Upstream::Unreachable {
                        cause: UnreachableCause::TimedOut,
                        message: format!("the {server} does not respond: {error}"),
                    }),
                }
                RETRY
            }
            // A dying process may have accepted the connection: the next dial shows what this means.
            Err(error) if error.is_closed_in_handshake() && !is_second_try => {
                is_second_try = true;
                continue;
            }
            Err(error) => {
                publish(Upstream::Unreachable {
                    cause: cause(&error),
                    message: error.to_string(),
                });
                if error.is_tls_rejected() { RETRY_TLS } else { RETRY }
            }
        };
        limit = unresponsive_after.min(RETRY_TIMEOUT);
        tokio::select! {
            () = sleep(wait) => {}
            () = recheck.notified(), if wait > RETRY => {}
        }
    }
}

/// How the watch's connection ended.
enum Lost {
    /// The other end closed it, or a new handshake is needed: the next dial shows what this means.
    Redial(String),
    /// The other end has not answered within the time limit.
    Unresponsive(io::Error),
}

/// Keeps the connection open until it is lost, or until a new one is needed.
async fn hold(mut stream: DialedStream, unresponsive_after: Duration, recheck: &Notify) -> Lost {
    if let Err(error) = prepare_to_watch(stream.socket(), unresponsive_after) {
        return Lost::Redial(error.to_string());
    }
    let valid_for = stream.peer_expires().map(until);
    let expiry = sleep(valid_for.unwrap_or_default());
    tokio::pin!(expiry);
    let mut discarded = [0; 512];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut discarded) => read,
            () = recheck.notified() => return Lost::Redial("certificate must be checked again".to_owned()),
            () = &mut expiry, if valid_for.is_some() => return Lost::Redial("certificate has expired".to_owned()),
        };
        match read {
            Ok(0) => return Lost::Redial("the server closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => {
                return match cause_of(&error) {
                    UnreachableCause::TimedOut | UnreachableCause::Unroutable => Lost::Unresponsive(error),
                    _ => Lost::Redial(error.to_string()),
                };
            }
        }
    }
}

/// Time until the second of this timestamp is over: certificates are valid to the end of theirs.
fn until(end: Timestamp) -> Duration {
    let left = end.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
}

/// The result for the whole route to the ObjectServer, through the proxy server if there is one. If both are unreachable, that of the
/// ObjectServer.
#[must_use]
pub fn combine(object_server: &Upstream, proxy: Option<&Upstream>) -> Upstream {
    match (object_server, proxy) {
        (Upstream::Reachable, Some(Upstream::Unreachable { cause, message })) => Upstream::Unreachable {
            cause: match cause {
                UnreachableCause::Untried => UnreachableCause::Untried,
                _ => UnreachableCause::ProxyUnreachable,
            },
            message: format!("the proxy server: {message}"),
        },
        _ => object_server.clone(),
    }
}

/// Logs a change of the combined result.
pub fn log_change(upstream: &Upstream) {
    match upstream {
        Upstream::Reachable => info!("ObjectServer reachable"),
        Upstream::Unreachable {
            cause: cause @ UnreachableCause::ProxyUnreachable,
            message,
        } => warn!(?cause, message, "proxy server unreachable"),
        Upstream::Unreachable { cause, message } => warn!(?cause, message, "ObjectServer unreachable"),
    }
}

/// Limits the rate of re-dials to a server that closes each connection at once.
#[derive(Debug)]
struct Redials {
    free: u32,
    counted: Instant,
}

impl Redials {
    const fn new(now: Instant) -> Self {
        Self {
            free: FREE_REDIALS,
            counted: now,
        }
    }

    /// How long to wait before the next re-dial.
    fn take(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.counted).as_millis() / REDIAL_EVERY.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.free = self.free.saturating_add(earned).min(FREE_REDIALS);
            self.counted = now;
        }
        if let Some(left) = self.free.checked_sub(1) {
            self.free = left;
            return Duration::ZERO;
        }
        // The next free re-dial is used up already.
        self.counted = now + REDIAL_EVERY;
        REDIAL_EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_closes_at_once_is_dialled_once_a_second() {
        let start = Instant::now();
        let mut redials = Redials::new(start);
        let mut now = start;
        let mut dials = 0;
        while now < start + Duration::from_secs(60) {
            now += redials.take(now) + Duration::from_millis(1);
            dials += 1;
        }
        assert!((55..=70).contains(&dials), "{dials} dials in a minute");
    }

    #[test]
    fn a_connection_lost_after_a_long_time_is_replaced_at_once() {
        let start = Instant::now();
        let mut redials = Redials::new(start);
        for minute in 1..10 {
            assert_eq!(redials.take(start + Duration::from_secs(60 * minute)), Duration::ZERO);
        }
    }

    #[test]
    fn reports_the_proxy_server_only_if_the_objectserver_is_reachable() {
        let unreachable = |cause| Upstream::Unreachable {
            cause,
            message: "gone".to_owned(),
        };
        let (refused, here) = (unreachable(UnreachableCause::Refused), Upstream::Reachable);
        for proxy in [None, Some(&here), Some(&refused)] {
            assert_eq!(combine(&refused, proxy), refused);
        }
        assert_eq!(combine(&here, None), here);
        assert_eq!(combine(&here, Some(&here)), here);
        let Upstream::Unreachable { cause, message } = combine(&here, Some(&refused)) else {
            panic!("the proxy server is unreachable");
        };
        assert_eq!(cause, UnreachableCause::ProxyUnreachable);
        assert_eq!(message, "the proxy server: gone");
        let untried = combine(&here, Some(&unreachable(UnreachableCause::Untried)));
        assert!(matches!(
            untried,
            Upstream::Unreachable {
                cause: UnreachableCause::Untried,
                ..
            }
        ));
    }

    #[test]
    fn names_the_cause_of_each_failure() {
        for (kind, cause) in [
            (ErrorKind::ConnectionRefused, UnreachableCause::Refused),
            (ErrorKind::ConnectionReset, UnreachableCause::Closed),
            (ErrorKind::TimedOut, UnreachableCause::TimedOut),
            (ErrorKind::HostUnreachable, UnreachableCause::Unroutable),
            (ErrorKind::PermissionDenied, UnreachableCause::Other),
        ] {
            assert_eq!(cause_of(&io::Error::from(kind)), cause);
        }
    }
}
