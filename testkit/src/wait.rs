//! Waiting for a condition, with a deadline and with the last thing seen when it passes.

use std::{fmt::Display, time::Duration};

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value. An error of `look` is not a failure: it says what was seen instead, and the last one is in the message
/// when the deadline passes. A look that hangs counts as an error.
pub async fn eventually<T>(
    deadline: Duration,
    what: impl Display,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = anyhow::anyhow!("nothing: the first look did not return");
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => return Err(last).context(format!("not within {deadline:?}: {what}; seen last")),
        }
        if Instant::now() + LOOK_AGAIN > end {
            return Err(last).context(format!("not within {deadline:?}: {what}; seen last"));
        }
        sleep(LOOK_AGAIN).await;
    }
}
