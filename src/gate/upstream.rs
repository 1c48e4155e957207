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
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::wire::{UnreachableCause, Upstream};

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

/// Where a server is: `host:port`, `192.0.2.1:4100` or `[2001:db8::1]:4100`. The host name is resolved at each dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// Not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not HOST:PORT")]
pub struct NotAnAddress(String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            if host.is_empty() || bare.is_none() && host.contains(':') {
                return None;
            }
            let port = port.parse().ok().filter(|port| *port != 0)?;
            Some(Self {
                host: bare.unwrap_or(host).to_owned(),
                port,
            })
        };
        parse().ok_or_else(|| NotAnAddress(text.to_owned()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host name could not be turned into an address.
    #[error("failed to resolve {address}: {source}")]
    Resolve {
        /// What was dialled.
        address: Address,
        /// What the resolver said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from {address} within {patience:?}")]
    Silence {
        /// What was dialled.
        address: Address,
        /// How long.
        patience: Duration,
    },
    /// The connection could not be made.
    #[error("failed to connect to {address}: {source}")]
    Connect {
        /// What was dialled.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
}

impl DialError {
    /// The cause in one word.
    #[must_use]
    pub fn cause(&self) -> UnreachableCause {
        match self {
            Self::Resolve { .. } => UnreachableCause::Unresolved,
            Self::Silence { .. } => UnreachableCause::TimedOut,
            Self::Connect { source, .. } => cause_of(source),
        }
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

/// Dials one server.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: Address,
    unresponsive_after: Duration,
}

impl Dialer {
    /// A dialer that takes silence for absence after `unresponsive_after`.
    #[must_use]
    pub const fn new(address: Address, unresponsive_after: Duration) -> Self {
        Self {
            address,
            unresponsive_after,
        }
    }

    /// Silence after which the server is taken for absent.
    #[must_use]
    pub const fn unresponsive_after(&self) -> Duration {
        self.unresponsive_after
    }

    /// A connection to the server.
    ///
    /// # Errors
    ///
    /// [`DialError`], the one of the address tried last.
    pub async fn dial(&self) -> Result<TcpStream, DialError> {
        self.dial_within(self.unresponsive_after).await
    }

    /// Resolves, then tries one address after the other, each with its share of `patience`.
    async fn dial_within(&self, patience: Duration) -> Result<TcpStream, DialError> {
        let resolved = timeout(
            self.unresponsive_after,
            lookup_host((self.address.host.as_str(), self.address.port)),
        );
        let addresses: Vec<SocketAddr> = match resolved.await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(source)) => {
                return Err(DialError::Resolve {
                    address: self.address.clone(),
                    source,
                });
            }
            Err(_) => return Err(self.silence(self.unresponsive_after)),
        };
        let mut failure = self.no_address();
        let share = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        for address in addresses {
            failure = match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => DialError::Connect {
                    address: self.address.clone(),
                    source,
                },
                Err(_) => self.silence(share),
            };
        }
        Err(failure)
    }

    fn silence(&self, patience: Duration) -> DialError {
        DialError::Silence {
            address: self.address.clone(),
            patience,
        }
    }

    fn no_address(&self) -> DialError {
        let source = io::Error::new(ErrorKind::NotFound, "the name has no address");
        DialError::Resolve {
            address: self.address.clone(),
            source,
        }
    }
}

/// Prepares a socket for small messages and for peers that vanish: no Nagle delay, and an error when the peer has been silent for `silence`
/// (in whole seconds, at least 2) although it should have answered.
///
/// # Errors
///
/// What the kernel says; a socket that is closed already, in practice.
pub fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Keepalive {
        idle,
        interval,
        silence,
    } = Keepalive::for_silence(silence);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(idle)
            .with_interval(interval)
            .with_retries(UNLIMITED),
    )?;
    socket.set_tcp_user_timeout(Some(silence))
}

/// The kernel ends a connection by `TCP_USER_TIMEOUT` alone.
const UNLIMITED: u32 = 100;

/// Keepalive probes that may be lost before a connection is. Fewer when the time is too short for them.
const PROBES: u64 = 4;

/// A timetable that takes no single lost packet for a lost peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keepalive {
    /// Silence before the first probe.
    idle: Duration,
    /// Time from one probe to the next.
    interval: Duration,
    /// Silence after which the connection is lost. The kernel looks at it only when a probe is due, so it lies just before one.
    silence: Duration,
}

impl Keepalive {
    fn for_silence(silence: Duration) -> Self {
        let seconds = silence.as_secs().max(2);
        let interval = (seconds / 6).max(1);
        let probes = PROBES.min(seconds / interval - 1);
        Self {
            idle: Duration::from_secs(seconds - probes * interval),
            interval: Duration::from_secs(interval),
            silence: Duration::from_secs(seconds) - Duration::from_millis(50),
        }
    }
}

/// Watches the server for ever and calls `publish` with each finding, repeated ones included.
pub async fn watch_over(dialer: Dialer, publish: impl Fn(Upstream)) {
    let mut redials = Redials::new(Instant::now());
    let mut patience = dialer.unresponsive_after;
    loop {
        match dialer.dial_within(patience).await {
            Ok(stream) => {
                patience = dialer.unresponsive_after;
                publish(Upstream::Reachable);
                match hold(stream, dialer.unresponsive_after).await {
                    Lost::Closed(how) => {
                        let wait = redials.take(Instant::now());
                        debug!(address = %dialer.address, how, ?wait, "the ObjectServer closed the watch's connection, dialling again");
                        sleep(wait).await;
                        continue;
                    }
                    Lost::Silent(error) => publish(Upstream::Unreachable {
                        cause: UnreachableCause::TimedOut,
                        message: format!("no sign of life from {}: {error}", dialer.address),
                    }),
                }
            }
            Err(error) => publish(Upstream::Unreachable {
                cause: error.cause(),
                message: error.to_string(),
            }),
        }
        patience = dialer.unresponsive_after.min(RETRY_PATIENCE);
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
    fn reads_addresses_as_people_write_them() {
        for (text, host, port) in [
            ("aggp.example.com:4100", "aggp.example.com", 4100),
            ("192.0.2.1:4100", "192.0.2.1", 4100),
            ("[2001:db8::1]:4100", "2001:db8::1", 4100),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                address,
                Address {
                    host: host.to_owned(),
                    port
                }
            );
            assert_eq!(address.to_string(), text);
        }
        for text in ["aggp", "aggp:", ":4100", "aggp:0", "aggp:70000", "2001:db8::1:4100", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

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
    fn a_peer_is_lost_after_the_silence_asked_for_and_not_with_the_first_probe() {
        for seconds in 2..600 {
            let Keepalive {
                idle,
                interval,
                silence,
            } = Keepalive::for_silence(Duration::from_secs(seconds));
            let mut due = idle;
            let mut lost = 0;
            while due < silence {
                due += interval;
                lost += 1;
            }
            assert_eq!(due, Duration::from_secs(seconds));
            assert!(lost >= 2 || seconds == 2, "{seconds}s: {lost} probes");
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
