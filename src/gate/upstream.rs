//! The gate's own ObjectServer: how to dial it, and the watch that knows at every instant whether it can be reached.
//!
//! The watch holds one TCP connection with a read pending and never sends a byte, so it is no login and leaves no event behind. What each
//! fault looks like on it (measured, kernel 6):
//!
//! | fault | seen as | after |
//! |---|---|---|
//! | process gone | end of file or reset, then the new dial refused | milliseconds |
//! | machine or network gone | keepalive unanswered, or a dial without answer | `unresponsive_after` |
//! | process hung | nothing: its kernel goes on answering | never; that takes a question in TDS, which is the operator's |
//!
//! A server may close connections that do not log in. That is no fault: the watch dials again, at once as long as it happens rarely, and
//! says that the server cannot be reached only when the new dial fails.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::wire::{UnreachableCause, Upstream};
use crate::dial::{DialError, Dialer, prepare};

/// Time from a failed dial to the next.
const RETRY: Duration = Duration::from_millis(250);

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
        DialError::Silence { .. } => UnreachableCause::TimedOut,
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

/// Watches the server for ever and calls `publish` with each finding, repeated ones included.
pub async fn watch_over(dialer: Dialer, publish: impl Fn(Upstream)) {
    let mut redials = Redials::new(Instant::now());
    let mut patience = dialer.unresponsive_after();
    loop {
        match dialer.dial_within(patience).await {
            Ok(stream) => {
                patience = dialer.unresponsive_after();
                publish(Upstream::Reachable);
                match hold(stream, dialer.unresponsive_after()).await {
                    Lost::Closed(how) => {
                        let wait = redials.take(Instant::now());
                        debug!(address = %dialer.address(), how, ?wait, "the ObjectServer closed the watch's connection, dialling again");
                        sleep(wait).await;
                        continue;
                    }
                    Lost::Silent(error) => publish(Upstream::Unreachable {
                        cause: UnreachableCause::TimedOut,
                        message: format!("no sign of life from {}: {error}", dialer.address()),
                    }),
                }
            }
            Err(error) => publish(Upstream::Unreachable {
                cause: cause(&error),
                message: error.to_string(),
            }),
        }
        patience = dialer.unresponsive_after().min(RETRY_PATIENCE);
        sleep(RETRY).await;
    }
}

/// How the watch's connection ended.
enum Lost {
    /// The other kernel closed it: what that means, the next dial says.
    Closed(String),
    /// The other end has not answered for too long.
    Silent(io::Error),
}

async fn hold(mut stream: TcpStream, silence: Duration) -> Lost {
    if let Err(error) = prepare(&stream, silence) {
        return Lost::Closed(error.to_string());
    }
    let mut discarded = [0; 512];
    loop {
        match stream.read(&mut discarded).await {
            Ok(0) => return Lost::Closed("end of file".to_owned()),
            Ok(_) => {}
            Err(error) => {
                return match cause_of(&error) {
                    UnreachableCause::TimedOut | UnreachableCause::Unroutable => Lost::Silent(error),
                    _ => Lost::Closed(error.to_string()),
                };
            }
        }
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
