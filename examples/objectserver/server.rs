//! What all sessions share, and the loop that accepts them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxypair::dial::prepare;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::Options;
use crate::database::{Catalog, ConnectionRow, Database};
use crate::session;

/// Connections that may wait to be accepted. When a fleet comes back at once and the queue is full, the kernel drops the rest and their
/// clients try again only after a second.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Silence after which a client whose machine has vanished is taken for gone. Nothing else ends such a session: no packet of its client's
/// kernel comes any more, not even after the machine is back.
const SILENCE: Duration = Duration::from_secs(10);

/// What all sessions share.
#[derive(Debug)]
pub struct State {
    /// Name of the ObjectServer.
    pub name: String,
    user: String,
    password: String,
    backup: bool,
    sessions: Mutex<BTreeMap<u32, ConnectionRow>>,
    next_session: AtomicU32,
    refusing: AtomicBool,
    stalled: watch::Sender<bool>,
    resets: watch::Sender<u64>,
}

impl State {
    /// A server that answers.
    pub fn new(options: &Options) -> Self {
        Self {
            name: options.name.clone(),
            user: options.user.clone(),
            password: options.password.clone(),
            backup: options.backup,
            sessions: Mutex::default(),
            next_session: AtomicU32::new(1),
            refusing: AtomicBool::new(false),
            stalled: watch::Sender::new(false),
            resets: watch::Sender::new(0),
        }
    }

    /// Whether user and password are right, in a time that does not depend on where they differ.
    pub fn admits(&self, user: &str, password: &str) -> bool {
        let right_user = equal(user.as_bytes(), self.user.as_bytes());
        let right_password = equal(password.as_bytes(), self.password.as_bytes());
        right_user & right_password & !self.is_refusing()
    }

    /// Refuses all logins from now on, or stops refusing.
    pub fn set_refusing(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::Relaxed);
    }

    /// Whether all logins are refused.
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Stops answering, or answers again.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Whether nothing is answered.
    pub fn is_stalled(&self) -> bool {
        *self.stalled.borrow()
    }

    /// Waits while nothing is answered.
    pub async fn answering(&self) {
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    /// A receiver that changes with the next reset.
    pub fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }

    /// A number for a new session.
    pub fn next_session(&self) -> u32 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Shows a session in `catalog.connections` until the guard is dropped.
    pub fn enter(self: &Arc<Self>, row: ConnectionRow) -> Present {
        let id = row.id;
        self.sessions().insert(id, row);
        Present {
            state: Arc::clone(self),
            id,
        }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u32, ConnectionRow>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog for Arc<State> {
    fn connections(&self) -> Vec<ConnectionRow> {
        self.sessions().values().cloned().collect()
    }

    fn properties(&self) -> Vec<(String, String)> {
        let truth = |value: bool| if value { "TRUE" } else { "FALSE" }.to_owned();
        vec![
            ("Name".to_owned(), self.name.clone()),
            ("ServerName".to_owned(), self.name.clone()),
            ("BackupObjectServer".to_owned(), truth(self.backup)),
            ("ActingPrimary".to_owned(), truth(!self.backup)),
        ]
    }
}

/// A session that is logged in.
#[derive(Debug)]
pub struct Present {
    state: Arc<State>,
    id: u32,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.state.sessions().remove(&self.id);
    }
}

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

fn equal(given: &[u8], right: &[u8]) -> bool {
    let mut difference = given.len() ^ right.len();
    for (index, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ right.get(index).unwrap_or(&0));
    }
    difference == 0
}
