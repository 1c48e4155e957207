//! What all sessions share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::database::{Catalog, ConnectionRow};
use crate::lock::Lock;
use crate::properties::Properties;
use crate::users::Users;
use stand_ins::login::Passwords;
use stand_ins::wire::Identity;

/// What all sessions share.
#[derive(Debug)]
pub struct State {
    /// Name of the ObjectServer.
    pub name: String,
    /// `catalog.properties`.
    pub properties: Properties,
    /// What makes requests wait.
    pub lock: Lock,
    /// TLS, where there is any.
    pub identity: Option<Identity>,
    /// How passwords travel.
    pub passwords: Passwords,
    /// Time from a wrong login to its answer.
    pub refuses_after: Duration,
    /// Each login and each disconnect leaves an event.
    pub watches_connections: bool,
    users: Users,
    sessions: Mutex<BTreeMap<u32, Entry>>,
    counts: Mutex<Counts>,
    next_session: AtomicU32,
    refusing: AtomicBool,
    stalled: watch::Sender<bool>,
    resets: watch::Sender<u64>,
}

/// Logins since the server started.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Those that were accepted, by application.
    pub logins: BTreeMap<String, u64>,
    /// Those that were refused, by application.
    pub refused_logins: BTreeMap<String, u64>,
    /// Sessions that ended, by application.
    pub disconnects: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Entry {
    row: ConnectionRow,
    drop: CancellationToken,
}

impl State {
    /// A server that answers.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let identity = match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(Identity::load(certificate.clone(), key.clone(), options.tls12_only)?)
            }
            _ => None,
        };
        Ok(Self {
            name: options.name.clone(),
            properties: Properties::load(options)?,
            lock: Lock::new(),
            identity,
            passwords: Passwords::new(options.encryption),
            refuses_after: Duration::from_millis(options.refuse_after_ms),
            watches_connections: options.connection_watch,
            users: Users::new(options),
            sessions: Mutex::default(),
            counts: Mutex::default(),
            next_session: AtomicU32::new(1),
            refusing: AtomicBool::new(false),
            stalled: watch::Sender::new(false),
            resets: watch::Sender::new(0),
        })
    }

    /// Whether user and password are right.
    pub fn admits(&self, user: &str, password: &str) -> bool {
        self.users.admit(user, password) & !self.is_refusing()
    }

    /// Counts a login that was refused.
    pub fn count_refusal(&self, application: &str) {
        *self.counted().refused_logins.entry(application.to_owned()).or_default() += 1;
    }

    /// Logins since the server started.
    pub fn counts(&self) -> Counts {
        self.counted().clone()
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
        *self.counted().logins.entry(row.app_name.clone()).or_default() += 1;
        let drop = CancellationToken::new();
        let present = Present {
            state: Arc::clone(self),
            row: row.clone(),
            dropped: drop.clone(),
        };
        self.sessions().insert(row.id, Entry { row, drop });
        present
    }

    /// Ends the session with this number; whether there is one.
    pub fn drop_connection(&self, id: u32) -> bool {
        let sessions = self.sessions();
        let entry = sessions.get(&id);
        if let Some(entry) = entry {
            entry.drop.cancel();
        }
        entry.is_some()
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog for Arc<State> {
    fn connections(&self) -> Vec<ConnectionRow> {
        self.sessions().values().map(|entry| entry.row.clone()).collect()
    }

    fn properties(&self) -> Vec<(String, String)> {
        self.properties.rows()
    }
}

/// A session that is logged in.
#[derive(Debug)]
pub struct Present {
    state: Arc<State>,
    /// What `catalog.connections` shows of it.
    pub row: ConnectionRow,
    dropped: CancellationToken,
}

impl Present {
    /// Waits until somebody drops the connection.
    pub async fn dropped(&self) {
        self.dropped.cancelled().await;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Self { state, row, .. } = self;
        state.sessions().remove(&row.id);
        state.lock.release(row.id);
        *state.counted().disconnects.entry(row.app_name.clone()).or_default() += 1;
    }
}
