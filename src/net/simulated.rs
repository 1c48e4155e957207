//! Sockets of a simulated network: turmoil's, and what it leaves out. A peer that has vanished ends a connection after the time for which it was
//! prepared, as keepalives and `TCP_USER_TIMEOUT` do, and names can stop resolving.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Interval, interval, sleep},
};

use super::{ConnectError, Keepalive};

/// How often a connection looks whether its peer is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

thread_local! {
    static NETWORK: RefCell<Network> = RefCell::default();
}

/// What the simulation decides about the network, for all hosts of this thread.
#[derive(Debug, Default)]
pub struct Network {
    /// Addresses of names. A name that is not here does not exist.
    pub names: HashMap<String, IpAddr>,
    /// Where connections to the address of a Service lead, in turn. One that leads nowhere is refused.
    pub services: HashMap<IpAddr, Vec<IpAddr>>,
    /// Machines on which no process listens.
    pub refusing: HashSet<IpAddr>,
    /// Since when nothing comes back between two hosts, counted from the begin of the simulation; the lower address first.
    silent: HashMap<(IpAddr, IpAddr), Duration>,
    /// The same where what one host sends arrives, and nothing that the other one does: from the latter to the former.
    one_way: HashMap<(IpAddr, IpAddr), Duration>,
    /// How many connections to Services there have been.
    turns: usize,
}

impl Network {
    /// Since when nothing comes back between two hosts; `None` if it does from now on. What decides that is outside of all hosts, where no time
    /// passes.
    pub fn set_silent(&mut self, a: IpAddr, b: IpAddr, since: Option<Duration>) {
        let link = (a.min(b), a.max(b));
        match since {
            Some(since) => drop(self.silent.entry(link).or_insert(since)),
            None => drop(self.silent.remove(&link)),
        }
    }

    /// Since when what `from` sends gets lost on its way to `to`; `None` if it arrives from now on.
    pub fn set_one_way(&mut self, from: IpAddr, to: IpAddr, since: Option<Duration>) {
        match since {
            Some(since) => drop(self.one_way.entry((from, to)).or_insert(since)),
            None => drop(self.one_way.remove(&(from, to))),
        }
    }

    /// Whether what `from` sends gets lost on its way to `to`, and not also what `to` sends.
    fn is_one_way(&self, from: IpAddr, to: IpAddr) -> bool {
        self.one_way.contains_key(&(from, to))
    }

    /// Where a connection to an address leads, as the rules of kube-proxy say.
    fn translated(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let host = match self.services.get(&address.ip()) {
            None => Some(address.ip()),
            Some(pods) if pods.is_empty() => None,
            Some(pods) => {
                self.turns += 1;
                pods.get(self.turns % pods.len()).copied()
            }
        };
        match host.filter(|host| !self.refusing.contains(host)) {
            Some(host) => Ok(SocketAddr::new(host, address.port())),
            None => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    fn silence(&self, a: IpAddr, b: IpAddr) -> Duration {
        // A keepalive is answered only if both directions work.
        let since = [
            self.silent.get(&(a.min(b), a.max(b))),
            self.one_way.get(&(a, b)),
            self.one_way.get(&(b, a)),
        ];
        let since = since.into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| elapsed().saturating_sub(*since))
    }
}

/// Reads or changes the network.
pub fn network<T>(use_it: impl FnOnce(&mut Network) -> T) -> T {
    NETWORK.with_borrow_mut(use_it)
}

fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// A TCP connection.
#[derive(Debug)]
pub struct TcpStream {
    inner: turmoil::net::TcpStream,
    keepalive: Mutex<Option<Duration>>,
    looks: Option<Interval>,
}

impl TcpStream {
    fn new(inner: turmoil::net::TcpStream) -> Self {
        Self {
            inner,
            keepalive: Mutex::new(None),
            looks: None,
        }
    }

    /// Connects, as tokio's does.
    ///
    /// # Errors
    ///
    /// The peer refused.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let address = network(|network| network.translated(address))?;
        let stream = Self::new(turmoil::net::TcpStream::connect(address).await?);
        // The handshake needs both directions.
        while stream.loses(true) || stream.loses(false) {
            sleep(LOOK_EVERY).await;
        }
        Ok(stream)
    }

    /// Whether what the peer sends gets lost, or what is sent to it.
    fn loses(&self, received: bool) -> bool {
        let (Ok(here), Ok(there)) = (self.inner.local_addr(), self.inner.peer_addr()) else {
            return false;
        };
        let (from, to) = if received { (there, here) } else { (here, there) };
        network(|network| network.is_one_way(from.ip(), to.ip()))
    }

    /// See tokio's.
    ///
    /// # Errors
    ///
    /// None.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.inner.set_nodelay(on)
    }

    /// See tokio's.
    ///
    /// # Errors
    ///
    /// None.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }

    /// See tokio's.
    ///
    /// # Errors
    ///
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The error with which the connection ends because nothing has come back for too long. Else the caller is woken to look again, if that may
    /// come to be, or while what comes gets lost.
    fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let limit = *self.keepalive.get_mut().unwrap_or_else(PoisonError::into_inner);
        if limit.is_none() && !self.loses(true) {
            return Poll::Pending;
        }
        let looks = self.looks.get_or_insert_with(|| interval(LOOK_EVERY));
        while looks.poll_tick(context).is_ready() {
            if let (Some(limit), Ok(here), Ok(there)) = (limit, self.inner.local_addr(), self.inner.peer_addr())
                && network(|network| network.silence(here.ip(), there.ip())) >= limit
            {
                return Poll::Ready(ErrorKind::TimedOut.into());
            }
        }
        Poll::Pending
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What gets lost is sent again until it arrives.
        if this.loses(true) {
            return this.poll_lost(context).map(Err);
        }
        match Pin::new(&mut this.inner).poll_read(context, buffer) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => this.poll_lost(context).map(Err),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

/// A port that is open.
pub struct TcpListener(turmoil::net::TcpListener);

impl TcpListener {
    /// See tokio's.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream::new(stream), peer))
    }

    /// See tokio's.
    ///
    /// # Errors
    ///
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Waits for what has come, and reads it without taking it.
///
/// # Errors
///
/// The connection was reset.
pub async fn peek(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let length = stream.inner.peek(buffer).await?;
        if !stream.loses(true) {
            return Ok(length);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Opens a port. There is only IPv4.
///
/// # Errors
///
/// The port is in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let address = match address.ip().is_unspecified() {
        true => (Ipv4Addr::UNSPECIFIED, address.port()).into(),
        false => address,
    };
    let bound = turmoil::net::TcpListener::bind(address).now_or_never();
    bound
        .unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))
        .map(TcpListener)
}

/// Connects, without a time limit.
///
/// # Errors
///
/// [`ConnectError::Remote`].
pub async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    TcpStream::connect(address).await.map_err(ConnectError::Remote)
}

/// Has the connection end when nothing has come back for `keepalive.silence`.
///
/// # Errors
///
/// None.
pub fn keep_alive(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    *stream.keepalive.lock().unwrap_or_else(PoisonError::into_inner) = Some(keepalive.silence);
    Ok(())
}

/// Looks up a name.
///
/// # Errors
///
/// glibc's, if there is no such name.
pub async fn lookup(host: String) -> io::Result<Vec<IpAddr>> {
    let found = network(|network| network.names.get(&host).copied());
    match found {
        Some(address) => Ok(vec![address]),
        None => Err(io::Error::other(
            "failed to lookup address information: Name or service not known",
        )),
    }
}
