//! Sockets of the kernel.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{net::TcpSocket, task::spawn_blocking};

pub use tokio::net::{TcpListener, TcpStream};

use super::{ConnectError, Keepalive, errno, is_local};

/// Length of the queue of connections that the kernel has completed and the process has not accepted.
const BACKLOG: u32 = 1024;
/// Number of keepalives without an answer, so high that `TCP_USER_TIMEOUT` alone ends a connection.
const UNLIMITED: u32 = 100;

/// Opens a port, even while connections of a previous listener on the same port still exist.
///
/// `[::]` accepts IPv4 too, and becomes `0.0.0.0` on a machine without IPv6.
///
/// # Errors
///
/// The kernel's: the port is in use, or the address is not one of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let SocketAddr::V6(wanted) = address else {
        return bind_to(address, TcpSocket::new_v4()?);
    };
    let bound = TcpSocket::new_v6().and_then(|socket| {
        if wanted.ip().is_unspecified() {
            SockRef::from(&socket).set_only_v6(false)?;
        }
        bind_to(address, socket)
    });
    match bound {
        Err(error) if wanted.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            let all = (Ipv4Addr::UNSPECIFIED, wanted.port()).into();
            // The first error is that of the address which was asked for.
            bind_to(all, TcpSocket::new_v4()?).map_err(|_| error)
        }
        bound => bound,
    }
}

fn bind_to(address: SocketAddr, socket: TcpSocket) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects, without a time limit.
///
/// tokio's own connect returns errors of the call and errors that came back over the network alike. `ENETUNREACH` and `EHOSTUNREACH` may be
/// either: there is no route here, or a router has said so.
///
/// # Errors
///
/// [`ConnectError`].
pub async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = begin(address)?;
    let stream = TcpStream::from_std(socket.into()).map_err(ConnectError::Local)?;
    stream.writable().await.map_err(ConnectError::Local)?;
    match stream.take_error() {
        Ok(None) => Ok(stream),
        Ok(Some(error)) | Err(error) if is_local(&error) => Err(ConnectError::Local(error)),
        Ok(Some(error)) | Err(error) => Err(ConnectError::Remote(error)),
    }
}

/// A socket on which a connection has been begun. What this kernel says before it has sent anything is its own word: a route or a rule that it
/// has not, or has against it.
fn begin(address: SocketAddr) -> Result<Socket, ConnectError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.map_err(ConnectError::Local)?;
    socket.set_nonblocking(true).map_err(ConnectError::Local)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(error) => match errno(&error) {
            Some(Errno::EINPROGRESS) => Ok(socket),
            // On loopback the other end's word is known before the call returns.
            Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => Err(ConnectError::Remote(error)),
            _ => Err(ConnectError::Local(error)),
        },
    }
}

/// Waits for what has come, and reads it without taking it.
///
/// # Errors
///
/// The kernel's.
pub async fn peek(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    stream.peek(buffer).await
}

/// Has the kernel find out whether the peer is still there, and end the connection when it is not.
///
/// # Errors
///
/// The kernel's; in practice, the socket is closed already.
pub fn keep_alive(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
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

/// Asks the system's resolver for the addresses of `host`. It blocks a thread for as long as it takes, whether anybody waits or not.
///
/// # Errors
///
/// The resolver's.
pub async fn lookup(host: String) -> io::Result<Vec<IpAddr>> {
    let addresses = move || {
        let found = (host.as_str(), 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    };
    spawn_blocking(addresses)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_ipv6_address_accepts_ipv4_as_well() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connected, accepted) = tokio::join!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)), listener.accept());
        connected.unwrap();
        assert!(accepted.unwrap().1.ip().to_canonical().is_ipv4());
    }

    #[tokio::test]
    async fn a_port_that_is_in_use_stays_an_error() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let taken = listener.local_addr().unwrap();
        assert_eq!(bind(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_refusal_is_the_peers_word() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(connect(closed).await, Err(ConnectError::Remote(_))));
    }

    #[tokio::test]
    async fn what_the_kernel_says_before_it_has_sent_anything_is_its_own_word() {
        // It has no broadcast by TCP, wherever that leads.
        let nowhere = "255.255.255.255:4400".parse().unwrap();
        assert!(matches!(connect(nowhere).await, Err(ConnectError::Local(_))));
    }
}
