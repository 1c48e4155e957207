//! What sessions find out about the server that the watch watches.

use tokio::sync::{Notify, watch};

/// What sessions tell the watch over the server that they are connected to.
#[derive(Debug)]
pub struct SessionResults {
    /// Notified with each failure.
    pub(super) doubted: Notify,
    /// Counts the sessions that were answered.
    pub(super) answers: watch::Sender<u64>,
}

impl Default for SessionResults {
    fn default() -> Self {
        Self {
            doubted: Notify::const_new(),
            answers: watch::Sender::new(0),
        }
    }
}

impl SessionResults {
    /// A session could not be connected, or was closed before the server had sent anything.
    pub fn failed(&self) {
        self.doubted.notify_one();
    }

    /// The server has sent its first byte on a session.
    pub fn answered(&self) {
        self.answers.send_modify(|answers| *answers += 1);
    }
}
