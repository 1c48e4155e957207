//! What the gateway tells about itself, and what it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use crate::Options;

/// How things are.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// As `catalog.connections` shows it.
    pub description: String,
    /// Whether it is attached to each ObjectServer.
    pub attached: BTreeMap<String, bool>,
    /// Attached to both, and the one is being brought in step with the other.
    pub resyncing: bool,
    /// Attached to both, and the resync is finished.
    pub copying: bool,
    /// When `attached`, `resyncing` or `copying` changed last.
    pub since: Timestamp,
    /// Resyncs finished.
    pub resyncs: u64,
    /// How long the last one took.
    pub last_resync_ms: Option<u64>,
    /// Rows written to each ObjectServer.
    pub rows_copied: BTreeMap<String, u64>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// What it is told.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Be attached to each ObjectServer.
    pub attach: BTreeMap<String, bool>,
    /// Shortest time that a resync takes.
    pub resync_at_least: Duration,
}

/// Both, for the API and the gateway itself.
#[derive(Debug, Clone)]
pub struct Shared {
    status: Arc<Mutex<Status>>,
    wishes: watch::Sender<Wishes>,
}

impl Shared {
    /// Attached to nothing, and wishing to be to both.
    pub fn new(options: &Options) -> Self {
        let names = [&options.primary_name, &options.backup_name];
        let each = |value: bool| names.map(|name| (name.clone(), value)).into_iter().collect();
        Self {
            status: Arc::new(Mutex::new(Status {
                description: options.description.clone(),
                attached: each(false),
                resyncing: false,
                copying: false,
                since: Timestamp::now(),
                resyncs: 0,
                last_resync_ms: None,
                rows_copied: names.map(|name| (name.clone(), 0)).into_iter().collect(),
                last_error: None,
            })),
            wishes: watch::Sender::new(Wishes {
                attach: each(true),
                resync_at_least: options.resync_at_least,
            }),
        }
    }

    /// How things are.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Changes how things are; `since` follows.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.lock();
        let phase = |status: &Status| (status.attached.clone(), status.resyncing, status.copying);
        let before = phase(&status);
        change(&mut status);
        if phase(&status) != before {
            status.since = Timestamp::now();
        }
    }

    /// What is wished.
    pub fn wishes(&self) -> watch::Receiver<Wishes> {
        self.wishes.subscribe()
    }

    /// Changes what is wished.
    pub fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        self.wishes.send_modify(change);
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
