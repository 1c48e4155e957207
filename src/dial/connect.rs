//! One TCP connection, and who failed if it fails.

use std::{io, net::SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// Why a connection could not be made.
#[derive(Debug)]
pub enum ConnectError {
    /// This kernel did not try.
    Local(io::Error),
    /// The other kernel refused, or a machine on the way.
    Remote(io::Error),
}

/// Connects, without a time limit.
///
/// tokio's own connect returns errors of the call and errors that came back over the network alike. `ENETUNREACH` may be either: there is no
/// route here, or a router has said so.
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

/// A socket on which a connection has been begun.
fn begin(address: SocketAddr) -> Result<Socket, ConnectError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.map_err(ConnectError::Local)?;
    socket.set_nonblocking(true).map_err(ConnectError::Local)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(error) => match errno(&error) {
            Some(Errno::EINPROGRESS) => Ok(socket),
            Some(Errno::ENETUNREACH | Errno::EAFNOSUPPORT) => Err(ConnectError::Local(error)),
            _ if is_local(&error) => Err(ConnectError::Local(error)),
            // On loopback a refusal is known before the call returns.
            _ => Err(ConnectError::Remote(error)),
        },
    }
}

/// Whether an error of the kernel says that this machine or this process has run out of something, rather than anything about a peer.
#[must_use]
pub fn is_local(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EADDRNOTAVAIL
                | Errno::EAFNOSUPPORT
                | Errno::ENETDOWN
        )
    )
}

/// Whether an error says that there is no way to the other machine, rather than that the machine refuses.
#[must_use]
pub fn is_unroutable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}

/// Whether an error of a lookup says that no resolver could be asked, or that none answered, rather than that the name has no address.
///
/// The codes of getaddrinfo do not reach [`io::Error`], only glibc's texts for them (`gai_strerror`). An `EAI_SYSTEM` comes as an errno.
#[must_use]
pub fn is_resolver_trouble(error: &io::Error) -> bool {
    const TEXTS: [&str; 3] = [
        "Temporary failure in name resolution",
        "Non-recoverable failure in name resolution",
        "Memory allocation failure",
    ];
    let text = error.to_string();
    error.raw_os_error().is_some()
        || error.kind() == io::ErrorKind::TimedOut
        || TEXTS.iter().any(|known| text.contains(known))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_peers_word() {
        for (code, local) in [
            (Errno::EMFILE, true),
            (Errno::ENFILE, true),
            (Errno::ENOBUFS, true),
            (Errno::ENOMEM, true),
            (Errno::EADDRNOTAVAIL, true),
            (Errno::ECONNREFUSED, false),
            (Errno::ECONNRESET, false),
            (Errno::EHOSTUNREACH, false),
            (Errno::ENETUNREACH, false),
            (Errno::ETIMEDOUT, false),
        ] {
            assert_eq!(is_local(&io::Error::from_raw_os_error(code as i32)), local, "{code}");
        }
    }

    #[test]
    fn a_resolver_that_does_not_answer_is_told_from_a_name_without_address() {
        let lookup = |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        assert!(is_resolver_trouble(&lookup("Temporary failure in name resolution")));
        assert!(is_resolver_trouble(&io::Error::from_raw_os_error(Errno::EMFILE as i32)));
        assert!(!is_resolver_trouble(&lookup("Name or service not known")));
        assert!(!is_resolver_trouble(&lookup("No address associated with hostname")));
    }

    #[tokio::test]
    async fn a_refusal_is_the_peers_word() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(connect(closed).await, Err(ConnectError::Remote(_))));
    }
}
