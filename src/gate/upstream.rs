//! The watch that knows at every instant whether a server can be reached: the gate's own ObjectServer, and the proxy server before it if
//! there is one.
//!
//! The watch holds one connection with a read pending. It never sends a byte, but for the TLS handshake where there is TLS, so it is no
//! login and leaves no event behind. What each fault looks like on it (measured, kernel 6):
//!
//! | fault | seen as | after |
//! |---|---|---|
//! | process gone | end of file or reset, then the new dial refused | milliseconds |
//! | machine or network gone | keepalive unanswered, or a dial without answer | `unresponsive_after`, and up to two seconds more |
//! | process hung | nothing: its kernel goes on answering | never; that takes a question in TDS, which is the operator's |
//! | wrong certificate | the handshake refuses it | the next dial |
//!
//! A new handshake is made when there is reason to think that it would end otherwise: other authorities, a session whose handshake was
//! refused, the end of the certificate's validity.
//!
//! A server may close connections that do not log in. That is no fault: the watch dials again, at once as long as it happens rarely, and
//! says that the server cannot be reached only when the new dial fails.

use std::io::{self, ErrorKind};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::dial::{DialError, DialedStream, Dialer, prepare_to_watch};
use crate::protocol::{UnreachableCause, Upstream};

/// Time from a failed dial to the next.
const RETRY: Duration = Duration::from_millis(250);

/// Time from a handshake that was refused to the next, unless there is reason to try sooner: people mend certificates.
const RETRY_TLS: Duration = Duration::from_secs(1);

/// How long a dial waits for its answer while the server is known to be away. Short, because after an outage of the network the kernel
/// repeats an unanswered dial ever more rarely: a new one is answered sooner.
const RETRY_PATIENCE: Duration = Duration::from_secs(1);

/// Re-dials after a closed connection that need not wait, when none was needed for long. One would not be enough: a dying process may
/// accept the first.
const FREE_REDIALS: u32 = 4;

/// Time in which one more re-dial becomes free.
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

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// What to call it in the log.
    pub server: &'static str,
    /// Silence after which it is taken for absent.
    pub unresponsive_after: Duration,
    /// Told when a new handshake might end otherwise than the last.
    pub doubts: &'a Notify,
}

/// Watches a server for ever and calls `publish` with each finding, repeated ones included.
pub async fn watch_over(
    watched: Watched<'_>,
    dialer: impl Fn() -> Result<Dialer, DialError>,
    publish: impl Fn(Upstream),
) {
    let Watched {
        server,
        unresponsive_after,
        doubts,
    } = watched;
    let mut redials = Redials::new(Instant::now());
    let mut patience = unresponsive_after;
    let mut is_second_try = false;
    loop {
        let dial = async { dialer()?.dial_within(patience).await };
        let wait = match dial.await {
            Ok(stream) => {
                patience = unresponsive_after;
                is_second_try = false;
                publish(Upstream::Reachable);
                match hold(stream, unresponsive_after, doubts).await {
                    Lost::Again(why) => {
                        let wait = redials.take(Instant::now());
                        debug!(server, why, ?wait, "the watch dials again");
                        sleep(wait).await;
                        continue;
                    }
                    Lost::Silent(error) => publish(Upstream::Unreachable {
                        cause: UnreachableCause::TimedOut,
                        message: format!("no sign of life from the {server}: {error}"),
                    }),
                }
                RETRY
            }
            // A process that dies may have accepted the connection: what that means, the next dial says.
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
        patience = unresponsive_after.min(RETRY_PATIENCE);
        tokio::select! {
            () = sleep(wait) => {}
            () = doubts.notified(), if wait > RETRY => {}
        }
    }
}

/// How the watch's connection ended.
enum Lost {
    /// The other kernel closed it, or a new handshake is wanted: what that means, the next dial says.
    Again(String),
    /// The other end has not answered for too long.
    Silent(io::Error),
}

async fn hold(mut stream: DialedStream, silence: Duration, doubts: &Notify) -> Lost {
    if let Err(error) = prepare_to_watch(stream.socket(), silence) {
        return Lost::Again(error.to_string());
    }
    let valid_for = stream.peer_expires().map(until);
    let expiry = sleep(valid_for.unwrap_or_default());
    tokio::pin!(expiry);
    let mut discarded = [0; 512];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut discarded) => read,
            () = doubts.notified() => return Lost::Again("its certificate is in doubt".to_owned()),
            () = &mut expiry, if valid_for.is_some() => return Lost::Again("its certificate has expired".to_owned()),
        };
        match read {
            Ok(0) => return Lost::Again("it closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => {
                return match cause_of(&error) {
                    UnreachableCause::TimedOut | UnreachableCause::Unroutable => Lost::Silent(error),
                    _ => Lost::Again(error.to_string()),
                };
            }
        }
    }
}

/// Time until this instant is over, in seconds as certificates count them.
fn until(end: Timestamp) -> Duration {
    let left = end.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1)
}

/// What the gate finds on its way to the ObjectServer, over the proxy server if there is one. If both are away it is the ObjectServer that is
/// spoken of.
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

/// Publishes a finding on a channel and tells the log, if it is news.
pub fn publish(channel: &watch::Sender<Upstream>, found: Upstream) -> bool {
    channel.send_if_modified(|known| {
        if *known == found {
            return false;
        }
        match &found {
            Upstream::Reachable => info!("the ObjectServer can be reached"),
            Upstream::Unreachable {
                cause: cause @ UnreachableCause::ProxyUnreachable,
                message,
            } => warn!(?cause, message, "the proxy server cannot be reached"),
            Upstream::Unreachable { cause, message } => warn!(?cause, message, "the ObjectServer cannot be reached"),
        }
        *known = found;
        true
    })
}

/// Keeps the watch from hammering a server that closes connections as soon as they are made.
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

    /// How long the next re-dial has to wait.
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
        // The next one to be earned is spent already.
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
    fn a_connection_lost_after_a_long_life_is_made_again_at_once() {
        let start = Instant::now();
        let mut redials = Redials::new(start);
        for minute in 1..10 {
            assert_eq!(redials.take(start + Duration::from_secs(60 * minute)), Duration::ZERO);
        }
    }

    #[test]
    fn speaks_of_the_objectserver_first_and_of_the_proxy_server_when_that_alone_is_away() {
        let away = |cause| Upstream::Unreachable {
            cause,
            message: "gone".to_owned(),
        };
        let (refused, here) = (away(UnreachableCause::Refused), Upstream::Reachable);
        for proxy in [None, Some(&here), Some(&refused)] {
            assert_eq!(combine(&refused, proxy), refused);
        }
        assert_eq!(combine(&here, None), here);
        assert_eq!(combine(&here, Some(&here)), here);
        let Upstream::Unreachable { cause, message } = combine(&here, Some(&refused)) else {
            panic!("the proxy server is away");
        };
        assert_eq!(cause, UnreachableCause::ProxyUnreachable);
        assert_eq!(message, "the proxy server: gone");
        let untried = combine(&here, Some(&away(UnreachableCause::Untried)));
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
