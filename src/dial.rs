//! Dialling a server: name resolution at each dial, TLS where it is used, a time limit, and sockets that detect a peer that has vanished.

mod stream;

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    str::FromStr,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};

pub use stream::DialedStream;

use crate::tls::{HandshakeError, ObjectServerTls};

/// Address of a server: `host:port`, `192.0.2.1:4100` or `[2001:db8::1]:4100`. The host name is resolved at each dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// Not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not HOST:PORT")]
pub struct NotAnAddress(String);

impl Address {
    /// `host` is a name or an IP address without brackets.
    #[must_use]
    pub const fn new(host: String, port: u16) -> Self {
        Self { host, port }
    }

    /// The name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

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

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// The host name could not be resolved.
    #[error("failed to resolve {address}: {source}")]
    Resolve {
        /// The address as dialled.
        address: Address,
        /// The resolver's error.
        source: io::Error,
    },
    /// No answer within the time limit.
    #[error("no answer from {address} within {limit:?}")]
    Timeout {
        /// The address as dialled.
        address: Address,
        /// The time limit.
        limit: Duration,
    },
    /// The connection failed.
    #[error("failed to connect to {address}: {source}")]
    Connect {
        /// The address as dialled.
        address: Address,
        /// The kernel's error.
        source: io::Error,
    },
    /// The connection was made, but the TLS handshake failed.
    #[error("no TLS with {address}: {source}")]
    Tls {
        /// The address as dialled.
        address: Address,
        /// Why; [`HandshakeError::Rejected`] for a rejected certificate.
        source: HandshakeError,
    },
    /// The connection was made, but the TLS handshake was not answered within the time limit.
    #[error(
        "connected to {address}, but no answer to the TLS handshake within {limit:?}: the server hangs, or this port speaks plain TDS"
    )]
    HandshakeTimeout {
        /// The address as dialled.
        address: Address,
        /// The time limit of connection and handshake together.
        limit: Duration,
    },
}

impl DialError {
    /// Whether TLS itself failed: the certificate was rejected, or one end does not speak TLS or shares no version or cipher. A connection
    /// that was closed during the handshake does not count.
    #[must_use]
    pub const fn is_tls_rejected(&self) -> bool {
        matches!(self, Self::Tls { source, .. } if !matches!(source, HandshakeError::Closed(_)))
    }

    /// Whether the connection was made and closed during the TLS handshake.
    #[must_use]
    pub const fn is_closed_in_handshake(&self) -> bool {
        matches!(
            self,
            Self::Tls {
                source: HandshakeError::Closed(_),
                ..
            }
        )
    }
}

/// Dials one server, any number of times.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: Address,
    unresponsive_after: Duration,
    tls: Option<ObjectServerTls>,
}

impl Dialer {
    /// A dialer without TLS whose dials fail after `unresponsive_after`.
    #[must_use]
    pub const fn new(address: Address, unresponsive_after: Duration) -> Self {
        Self {
            address,
            unresponsive_after,
            tls: None,
        }
    }

    /// The same, with TLS.
    #[must_use]
    pub fn with_tls(self, tls: ObjectServerTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The address that it dials.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Time limit of a dial.
    #[must_use]
    pub const fn unresponsive_after(&self) -> Duration {
        self.unresponsive_after
    }

    /// A connection to the server, its TLS handshake included.
    ///
    /// # Errors
    ///
    /// [`DialError`] of the last address tried.
    pub async fn dial(&self) -> Result<DialedStream, DialError> {
        self.dial_within(self.unresponsive_after).await
    }

    /// Like [`Self::dial`] with another time limit: resolves the name, then tries one address after the other, each with its share of `limit`.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub async fn dial_within(&self, limit: Duration) -> Result<DialedStream, DialError> {
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
            Err(_) => return Err(self.timed_out(self.unresponsive_after)),
        };
        let mut failure = self.no_address();
        let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        for address in addresses {
            failure = match self.dial_address(address, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
        }
        Err(failure)
    }

    async fn dial_address(&self, address: SocketAddr, limit: Duration) -> Result<DialedStream, DialError> {
        let deadline = Instant::now() + limit;
        let connected = timeout_at(deadline, TcpStream::connect(address)).await;
        let stream = connected
            .map_err(|_| self.timed_out(limit))?
            .map_err(|source| DialError::Connect {
                address: self.address.clone(),
                source,
            })?;
        let Some(tls) = &self.tls else {
            return Ok(DialedStream::from(stream));
        };
        match timeout_at(deadline, tls.handshake(stream)).await {
            Ok(Ok(stream)) => Ok(DialedStream::from(stream)),
            Ok(Err(source)) => Err(DialError::Tls {
                address: self.address.clone(),
                source,
            }),
            Err(_) => Err(DialError::HandshakeTimeout {
                address: self.address.clone(),
                limit,
            }),
        }
    }

    fn timed_out(&self, limit: Duration) -> DialError {
        DialError::Timeout {
            address: self.address.clone(),
            limit,
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

/// Prepares a socket for small messages and for peers that vanish: no Nagle delay, and an error when the peer's kernel has not acknowledged
/// data or keepalives for `silence` (in whole seconds, at least 2).
///
/// # Errors
///
/// The kernel's; in practice, the socket is closed already.
pub fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(stream, Keepalive::for_silence(silence))
}

/// The same for a connection without traffic whose only purpose is to detect that the peer is gone. A keepalive is sent each second, so an
/// outage shorter than `silence` never ends the connection, and one that is two seconds longer always does.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_to_watch(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(stream, Keepalive::for_outage(silence))
}

fn keep_alive(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive {
        idle,
        interval,
        silence,
    } = keepalive;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(idle)
            .with_interval(interval)
            .with_retries(UNLIMITED),
    )?;
    socket.set_tcp_user_timeout(Some(silence))
}

/// Number of keepalives without an answer, so high that `TCP_USER_TIMEOUT` alone ends a connection.
const UNLIMITED: u32 = 100;

/// Unanswered keepalives before a connection is lost. Fewer if the time is too short for them.
const KEEPALIVES: u64 = 4;

/// Keepalive settings under which a single lost packet does not end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keepalive {
    /// Time without traffic before the first keepalive.
    idle: Duration,
    /// Time from one keepalive to the next.
    interval: Duration,
    /// Time after which the connection is lost, counted from the last packet received. The kernel checks it only when a keepalive is due,
    /// so it ends just before one.
    silence: Duration,
}

/// How early the kernel's timers may fire.
const MARGIN: Duration = Duration::from_millis(50);

impl Keepalive {
    fn for_silence(silence: Duration) -> Self {
        let seconds = silence.as_secs().max(2);
        let interval = (seconds / 6).max(1);
        let keepalives = KEEPALIVES.min(seconds / interval - 1);
        Self {
            idle: Duration::from_secs(seconds - keepalives * interval),
            interval: Duration::from_secs(interval),
            silence: Duration::from_secs(seconds) - MARGIN,
        }
    }

    /// The last packet before an outage may have been received up to a second before it.
    fn for_outage(outage: Duration) -> Self {
        let second = Duration::from_secs(1);
        Self {
            idle: second,
            interval: second,
            silence: outage.max(second) + second - MARGIN,
        }
    }
}

#[cfg(test)]
mod tests;
