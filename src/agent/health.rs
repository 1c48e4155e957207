//! Whether the agent can do its work, in words: for its readiness and its log.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{error, info};

use super::{kernel, watch::Known};

/// From one look at the kernel to the next: what is wrong on a node changes when somebody changes it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The same while something is wrong.
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(10);

/// What keeps the agent from its work, from each of those who know.
#[derive(Clone, Debug)]
pub struct Health {
    known: watch::Receiver<Known>,
    /// Why the last round failed.
    pub rounds: watch::Sender<Option<String>>,
    /// Why sessions cannot be reset on this node.
    pub kernel: watch::Sender<Option<String>>,
}

impl Health {
    /// Nothing is known yet.
    pub fn new(known: watch::Receiver<Known>) -> Self {
        Self {
            known,
            rounds: watch::Sender::new(None),
            kernel: watch::Sender::new(Some("the kernel has not been looked at yet".to_owned())),
        }
    }

    /// Whether sessions of a lost gate would be reset now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn readiness(&self, now: Instant) -> Result<(), String> {
        let obstacle = [&self.kernel, &self.rounds].iter().find_map(|of| of.borrow().clone());
        if let Some(obstacle) = obstacle {
            return Err(obstacle);
        }
        let known = self.known.borrow();
        match &known.blind {
            Some(blind) if !known.has_been_read || !known.is_believed(now) => Err(blind.reason.clone()),
            _ => Ok(()),
        }
    }
}

/// Looks at the kernel for ever. Says what is wrong when that changes.
pub async fn inspect(service: Option<SocketAddr>, out: watch::Sender<Option<String>>) {
    loop {
        let obstacle = kernel::inspect(service)
            .await
            .err()
            .map(|obstacle| obstacle.to_string());
        if *out.borrow() != obstacle {
            match &obstacle {
                Some(obstacle) => error!(obstacle, "sessions of lost gates cannot be reset on this node"),
                None => info!("sessions of lost gates can be reset on this node"),
            }
        }
        let pause = if obstacle.is_some() {
            LOOK_AGAIN_SOON
        } else {
            LOOK_AGAIN
        };
        out.send_replace(obstacle);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
