//! What every stand-in does as a process: it stops when told to, and reads durations as people write them.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. As the first process of a container there is no default action that would stop it.
pub async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Reads `100ms`, `2s` or `1m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(duration).map_err(|error| error.to_string())
}
