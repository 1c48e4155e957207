//! Long locks, such as a gateway takes for a resync: requests wait, sessions and logins do not.

use tokio::sync::watch;

/// Who holds the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    by_control: bool,
    by_session: Option<u32>,
}

/// The lock.
#[derive(Debug)]
pub struct Lock(watch::Sender<Held>);

impl Lock {
    /// An open one.
    pub fn new() -> Self {
        Self(watch::Sender::new(Held::default()))
    }

    /// Makes all sessions wait, or lets them go on.
    pub fn hold_by_control(&self, held: bool) {
        self.0.send_modify(|state| state.by_control = held);
    }

    /// Whether anybody holds it.
    pub fn is_held(&self) -> bool {
        *self.0.borrow() != Held::default()
    }

    /// Waits until `session` may go on.
    pub async fn open_to(&self, session: u32) {
        let is_open = |held: &Held| !held.by_control && held.by_session.is_none_or(|holder| holder == session);
        let _ = self.0.subscribe().wait_for(is_open).await;
    }

    /// Waits for the lock and makes all other sessions wait.
    pub async fn take(&self, session: u32) {
        loop {
            self.open_to(session).await;
            let taken = self.0.send_if_modified(|held| {
                let free = held.by_session.is_none();
                if free {
                    held.by_session = Some(session);
                }
                free
            });
            if taken || self.0.borrow().by_session == Some(session) {
                return;
            }
        }
    }

    /// Lets the others go on if `session` held them up.
    pub fn release(&self, session: u32) {
        self.0.send_if_modified(|held| {
            let holds = held.by_session == Some(session);
            if holds {
                held.by_session = None;
            }
            holds
        });
    }
}
