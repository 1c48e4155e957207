//! The loop that accepts sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxypair::dial::prepare;
use tokio::net::{TcpListener, TcpSocket};

use crate::database::Database;
use crate::session;
use crate::state::State;

/// Connections that may wait to be accepted. When a fleet comes back at once and the queue is full, the kernel drops the rest and their
/// clients try again only after a second.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Silence after which a client whose machine has vanished is taken for gone. Nothing else ends such a session: no packet of its client's
/// kernel comes any more, not even after the machine is back.
const SILENCE: Duration = Duration::from_secs(10);

/// Listens on `address`.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts sessions for ever.
pub async fn accept_all(listener: TcpListener, state: &Arc<State>, database: &Database) -> anyhow::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = prepare(&stream, SILENCE) {
                    tracing::debug!(%peer, %error, "a client was gone before it was accepted");
                }
                tokio::spawn(session::run(stream, peer, Arc::clone(state), database.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
