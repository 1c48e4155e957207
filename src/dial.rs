//! Dialling a server: name resolution at each dial, every address of the name, TLS where it is used, time limits, and sockets that detect a
//! peer that has vanished.
//!
//! An error says who failed. [`DialError::is_local`]: this process, its kernel or its resolver, which says nothing about the server. Every
//! other error is the word of the server, of a machine on the way, or of the resolver that the name has no address.

mod errors;
mod lookup;
mod stream;
mod trust;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

pub use errors::{is_resolver_trouble, is_unroutable};
use lookup::Lookups;
pub use stream::DialedStream;
pub use trust::Trust;

pub use crate::{
    address::{Address, NotAnAddress},
    net::is_local,
};
use crate::{
    net::{ConnectError, Keepalive, TcpStream, connect, keep_alive},
    tls::{HandshakeError, ObjectServerTls},
};

/// Time after which the next address of a name is tried beside one that has not answered yet (RFC 8305, 5, recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Time limit for a lookup of a name whose addresses are known from an earlier one.
const LOOKUP_OF_KNOWN: Duration = Duration::from_secs(2);

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host name has no address.
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
        /// The time limit of the handshake.
        limit: Duration,
    },
    /// No packet was sent, or no resolver could be asked: this process has no file descriptor, no memory, no port or no route left, or its
    /// resolver does not answer.
    #[error("cannot dial {address} from here: {source}")]
    Local {
        /// The address as dialled.
        address: Address,
        /// The error of the kernel or of the resolver.
        source: io::Error,
    },
}

impl DialError {
    /// Whether the error arose on this machine and says nothing about the server.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }

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

    /// Whether there is no way to the server's machine.
    #[must_use]
    pub fn is_unroutable(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if is_unroutable(source))
    }

    /// Whether nothing came back at all.
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::HandshakeTimeout { .. })
    }

    /// How much the error says about the server: of several addresses, the error of the one that went furthest is reported. So the result
    /// does not depend on the order in which a resolver returns the addresses.
    fn weight(&self) -> u8 {
        match self {
            Self::Local { .. } => 0,
            Self::Resolve { .. } => 1,
            Self::Timeout { .. } => 2,
            Self::Connect { source, .. } if source.kind() == ErrorKind::ConnectionRefused => 4,
            Self::Connect { .. } => 3,
            Self::HandshakeTimeout { .. } => 5,
            Self::Tls { .. } if self.is_closed_in_handshake() => 6,
            Self::Tls { .. } => 7,
        }
    }
}

/// Dials one server, any number of times. Clones share the addresses that were resolved last.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: Address,
    unresponsive_after: Duration,
    tls: Option<ObjectServerTls>,
    resolved: Arc<Mutex<Vec<SocketAddr>>>,
    lookups: Arc<Lookups>,
}

impl Dialer {
    /// A dialer without TLS. Each step of a dial fails after `unresponsive_after` without an answer.
    #[must_use]
    pub fn new(address: Address, unresponsive_after: Duration) -> Self {
        Self {
            address,
            unresponsive_after,
            tls: None,
            resolved: Arc::default(),
            lookups: Lookups::system(),
        }
    }

    /// The same, with TLS.
    #[must_use]
    pub fn with_tls(self, tls: ObjectServerTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The same, with another resolver.
    #[cfg(test)]
    pub fn with_resolver(
        self,
        resolve: impl Fn(&str) -> io::Result<Vec<std::net::IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        let lookups = Lookups::blocking(8, resolve);
        Self { lookups, ..self }
    }

    /// The address that it dials.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Time limit of each step of a dial: resolving, connecting, the TLS handshake.
    #[must_use]
    pub const fn unresponsive_after(&self) -> Duration {
        self.unresponsive_after
    }

    /// A connection to the server, its TLS handshake included.
    ///
    /// # Errors
    ///
    /// [`DialError`] of the address that went furthest.
    pub async fn dial(&self) -> Result<DialedStream, DialError> {
        self.dial_within(self.unresponsive_after).await
    }

    /// Like [`Self::dial`] with another time limit for connecting. The TLS handshake keeps its own.
    ///
    /// Every address of the name gets the whole of both limits: the next one is tried as soon as one has failed, or beside it when it has
    /// not answered within 250 ms. The first connection that is complete is used.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub async fn dial_within(&self, limit: Duration) -> Result<DialedStream, DialError> {
        self.dial_any(self.resolve().await?, limit).await
    }

    /// Like [`Self::dial_within`], with the addresses that [`Self::resolve`] found.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub async fn dial_any(&self, addresses: Vec<SocketAddr>, limit: Duration) -> Result<DialedStream, DialError> {
        let mut untried = addresses.into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut failure = None;
        loop {
            match untried.next() {
                Some(address) => attempts.push(self.dial_address(address, limit)),
                None if attempts.is_empty() => return Err(failure.unwrap_or_else(|| self.no_address())),
                None => {}
            }
            tokio::select! {
                Some(done) = attempts.next() => match done {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = Some(heavier(failure, error)),
                },
                () = sleep(STAGGER), if untried.len() > 0 => {}
            }
        }
    }

    /// The addresses of the name.
    ///
    /// # Errors
    ///
    /// [`DialError::Resolve`] if the name has none, [`DialError::Local`] if that cannot be found out.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let limit = if self.known().is_empty() {
            self.unresponsive_after
        } else {
            self.unresponsive_after.min(LOOKUP_OF_KNOWN)
        };
        let lookup = self.lookups.addresses(self.address.host(), self.address.port());
        let found = timeout(limit, lookup).await.unwrap_or_else(|_| {
            let silence = format!("no answer from the resolver within {limit:?}");
            Err(io::Error::new(ErrorKind::TimedOut, silence))
        });
        self.addresses(found)
    }

    /// The addresses to dial after a lookup. While no resolver answers, those that were found last.
    fn addresses(&self, found: io::Result<Vec<SocketAddr>>) -> Result<Vec<SocketAddr>, DialError> {
        let mut known = self.known();
        let address = || self.address.clone();
        match found {
            Ok(found) => {
                known.clone_from(&found);
                Ok(found)
            }
            Err(source) if !is_resolver_trouble(&source) => Err(DialError::Resolve {
                address: address(),
                source,
            }),
            Err(source) if known.is_empty() => Err(DialError::Local {
                address: address(),
                source,
            }),
            Err(_) => Ok(known.clone()),
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial_address(&self, address: SocketAddr, limit: Duration) -> Result<DialedStream, DialError> {
        let stream = match timeout(limit, connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(ConnectError::Local(source))) => {
                return Err(DialError::Local {
                    address: self.address.clone(),
                    source,
                });
            }
            Ok(Err(ConnectError::Remote(source))) => {
                return Err(DialError::Connect {
                    address: self.address.clone(),
                    source,
                });
            }
            Err(_) => {
                return Err(DialError::Timeout {
                    address: self.address.clone(),
                    limit,
                });
            }
        };
        let Some(tls) = &self.tls else {
            return Ok(DialedStream::from(stream));
        };
        match timeout(self.unresponsive_after, tls.handshake(stream)).await {
            Ok(Ok(stream)) => Ok(DialedStream::from(stream)),
            Ok(Err(HandshakeError::Failed(source))) if is_local(&source) => Err(DialError::Local {
                address: self.address.clone(),
                source,
            }),
            Ok(Err(source)) => Err(DialError::Tls {
                address: self.address.clone(),
                source,
            }),
            Err(_) => Err(DialError::HandshakeTimeout {
                address: self.address.clone(),
                limit: self.unresponsive_after,
            }),
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

/// The error that says more about the server; the former of two that say the same.
fn heavier(before: Option<DialError>, error: DialError) -> DialError {
    match before {
        Some(before) if before.weight() >= error.weight() => before,
        _ => error,
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

/// Unanswered keepalives before a connection is lost. Fewer if the time is too short for them.
const KEEPALIVES: u64 = 4;

/// How early the kernel's timers may fire.
const MARGIN: Duration = Duration::from_millis(50);

/// Settings under which a single lost packet does not end the connection.
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
