//! Dialling a server: its address, its name resolved at each dial, TLS if it speaks it, a deadline, and sockets prepared for peers that
//! vanish.

mod stream;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

pub use stream::Stream;

pub use crate::address::{Address, NotAnAddress};
use crate::tls::{HandshakeError, ObjectServerTls};

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
    /// The connection was made, and the TLS handshake failed.
    #[error("no TLS with {address}: {source}")]
    Tls {
        /// What was dialled.
        address: Address,
        /// Why; a refused certificate is [`HandshakeError::Refused`].
        source: HandshakeError,
    },
    /// The connection was made, and nobody answered the TLS handshake in time.
    #[error(
        "connected to {address}, and no answer to the TLS handshake within {patience:?}: the server hangs, or this port speaks plain TDS"
    )]
    SilentHandshake {
        /// What was dialled.
        address: Address,
        /// How long, the connection included.
        patience: Duration,
    },
}

impl DialError {
    /// Whether TLS itself is refused: a certificate against the rule, or an end that cannot or does not speak it. A connection that was
    /// closed in the middle is none of that.
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

/// Dials one server.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: Address,
    unresponsive_after: Duration,
    tls: Option<ObjectServerTls>,
}

impl Dialer {
    /// A dialer that takes silence for absence after `unresponsive_after`.
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

    /// What it dials.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Silence after which the server is taken for absent.
    #[must_use]
    pub const fn unresponsive_after(&self) -> Duration {
        self.unresponsive_after
    }

    /// A connection to the server, its TLS handshake included.
    ///
    /// # Errors
    ///
    /// [`DialError`], the one of the address tried last.
    pub async fn dial(&self) -> Result<Stream, DialError> {
        self.dial_within(self.unresponsive_after).await
    }

    /// Resolves, then tries one address after the other, each with its share of `patience`.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub async fn dial_within(&self, patience: Duration) -> Result<Stream, DialError> {
        let resolved = timeout(
            self.unresponsive_after,
            lookup_host((self.address.host(), self.address.port())),
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
            failure = match self.dial_address(address, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
        }
        Err(failure)
    }

    async fn dial_address(&self, address: SocketAddr, patience: Duration) -> Result<Stream, DialError> {
        let deadline = Instant::now() + patience;
        let connected = timeout_at(deadline, TcpStream::connect(address)).await;
        let stream = connected
            .map_err(|_| self.silence(patience))?
            .map_err(|source| DialError::Connect {
                address: self.address.clone(),
                source,
            })?;
        let Some(tls) = &self.tls else {
            return Ok(Stream::from(stream));
        };
        match timeout_at(deadline, tls.handshake(stream)).await {
            Ok(Ok(stream)) => Ok(Stream::from(stream)),
            Ok(Err(source)) => Err(DialError::Tls {
                address: self.address.clone(),
                source,
            }),
            Err(_) => Err(DialError::SilentHandshake {
                address: self.address.clone(),
                patience,
            }),
        }
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
    keep_alive(stream, Keepalive::for_silence(silence))
}

/// The same for a connection on which nothing is said, and whose end says that the peer has gone: it is asked each second, so an outage
/// shorter than `silence` never ends it, and one that is two seconds longer always does.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_to_watch(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(stream, Keepalive::for_outage(silence))
}

fn keep_alive(stream: &TcpStream, timetable: Keepalive) -> io::Result<()> {
    let Keepalive {
        idle,
        interval,
        silence,
    } = timetable;
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
    /// Silence after which the connection is lost, counted from the last packet that came. The kernel looks at it only when a probe is
    /// due, so it lies just before one.
    silence: Duration,
}

/// What the kernel's timers may be early.
const MARGIN: Duration = Duration::from_millis(50);

impl Keepalive {
    fn for_silence(silence: Duration) -> Self {
        let seconds = silence.as_secs().max(2);
        let interval = (seconds / 6).max(1);
        let probes = PROBES.min(seconds / interval - 1);
        Self {
            idle: Duration::from_secs(seconds - probes * interval),
            interval: Duration::from_secs(interval),
            silence: Duration::from_secs(seconds) - MARGIN,
        }
    }

    /// The last packet before an outage may have come a second before it.
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
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::Refusal;
    use crate::tls::refusal::NameFault;

    #[tokio::test]
    async fn a_refused_certificate_comes_back_typed_and_the_right_one_with_its_end() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "AGG_P");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    stream.write_all(b"!").await.unwrap();
                }
            }
        });
        let dialer = |name| {
            let tls = ObjectServerTls::new(certificate.pem().as_bytes(), name).unwrap();
            Dialer::new(address.clone(), Duration::from_secs(20)).with_tls(tls)
        };

        let error = dialer("AGG_B").dial().await.unwrap_err();
        assert!(error.is_tls_rejected() && !error.is_closed_in_handshake(), "{error}");
        let DialError::Tls {
            source: HandshakeError::Refused(Refusal::CommonName { fault, wanted, .. }),
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (fault, wanted.as_str()),
            (NameFault::Other("AGG_P".to_owned()), "AGG_B")
        );

        let mut stream = dialer("AGG_P").dial().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
        assert!(stream.peer_expires().is_some());
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
    fn a_watch_outlives_every_shorter_outage_and_no_much_longer_one() {
        for millis in (1000..20_000).step_by(250) {
            let outage = Duration::from_millis(millis);
            let Keepalive {
                idle,
                interval,
                silence,
            } = Keepalive::for_outage(outage);
            let mut due = idle;
            while due < silence {
                due += interval;
            }
            // The outage begins between the last packet that came and the first probe after it.
            let (shortest, longest) = (due - idle, due);
            assert!(
                shortest >= outage && longest <= outage + Duration::from_secs(2),
                "{outage:?}: lost after {shortest:?} to {longest:?}"
            );
        }
    }
}
