//! TCP sockets: those of the kernel, or, with the feature `simulation`, those of the network that the tests in tests/whole simulate.
//!
//! Everything that touches a socket directly is here, so that both are used by the same code.

#[cfg(not(feature = "simulation"))]
mod kernel;
#[cfg(feature = "simulation")]
mod simulated;

use std::{io, time::Duration};

use nix::errno::Errno;

#[cfg(not(feature = "simulation"))]
pub use kernel::{TcpListener, TcpStream, bind, connect, keep_alive, lookup, peek};
#[cfg(feature = "simulation")]
pub use simulated::{Network, TcpListener, TcpStream, bind, connect, keep_alive, lookup, network, peek};

/// Why a connection could not be made.
#[derive(Debug)]
pub enum ConnectError {
    /// This kernel did not try.
    Local(io::Error),
    /// The other kernel refused, or a machine on the way.
    Remote(io::Error),
}

/// Keepalive settings of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Time without traffic before the first keepalive.
    pub idle: Duration,
    /// Time from one keepalive to the next.
    pub interval: Duration,
    /// Time after which the connection is lost, counted from the last packet received. The kernel checks it only when a keepalive is due,
    /// so it ends just before one.
    pub silence: Duration,
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
}
