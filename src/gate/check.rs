//! The port for the operator's own check sessions: mutual TLS, then the same route to the ObjectServer as probes. Where probes' TLS passes
//! through, the gate speaks TLS to the ObjectServer itself.
//!
//! Check sessions are not counted, not drained, and served whatever command is in force: the operator must be able to check a closed gate
//! before it opens it again.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tracing::debug;

use super::shared::GateProcess;
use crate::dial::prepare;

/// Relays one check session until either end closes, then closes the other at once.
pub async fn relay<S: AsyncRead + AsyncWrite + Send>(gate: Arc<GateProcess>, stream: S) {
    let dialled = async { gate.route.for_check()?.dial().await };
    let upstream = match dialled.await {
        Ok(upstream) => upstream,
        Err(error) => {
            debug!(%error, "failed to connect a check session to the ObjectServer");
            gate.doubt(&error);
            return;
        }
    };
    if let Err(error) = prepare(upstream.socket(), gate.route.unresponsive_after()) {
        debug!(%error, "failed to prepare a check's connection to the ObjectServer");
        return;
    }
    gate.metrics.checks.inc();
    let (mut read, mut write) = split(stream);
    let (mut answers, mut requests) = split(upstream);
    let give_answers = async {
        let mut first = [0; 1024];
        let read = answers.read(&mut first).await?;
        if read > 0 {
            gate.results.answered();
            write.write_all(&first[..read]).await?;
            write.flush().await?;
        }
        copy(&mut answers, &mut write).await
    };
    let ended = tokio::select! {
        ended = give_answers => ended,
        ended = copy(&mut read, &mut requests) => ended,
    };
    gate.metrics.checks.dec();
    debug!(?ended, "check session ended");
    // The close alert shows the operator that the gate closed the session, not something on the network.
    if let Err(error) = write.shutdown().await {
        debug!(%error, "failed to close a check session");
    }
}
