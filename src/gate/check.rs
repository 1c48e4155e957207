//! The port for the operator's own check sessions: mutual TLS, and behind it the way to the ObjectServer that probes take. Where their TLS
//! passes through, that is the gate's own.
//!
//! Never counted, never drained, and open whatever has been ordered: how else could a closed gate be proved fit to be opened again.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tracing::debug;

use super::Gate;
use crate::dial::prepare;

/// Relays one check until either end closes, then closes the other at once.
pub async fn relay<S: AsyncRead + AsyncWrite + Send>(gate: Arc<Gate>, stream: S) {
    let dialled = async { gate.route.for_check()?.dial().await };
    let upstream = match dialled.await {
        Ok(upstream) => upstream,
        Err(error) => {
            debug!(%error, "a check finds no ObjectServer");
            gate.doubt_if_rejected(&error);
            return;
        }
    };
    if let Err(error) = prepare(upstream.socket(), gate.route.unresponsive_after()) {
        debug!(%error, "a check's connection to the ObjectServer is gone");
        return;
    }
    gate.metrics.checks.inc();
    let (mut read, mut write) = split(stream);
    let (mut answers, mut requests) = split(upstream);
    let ended = tokio::select! {
        ended = copy(&mut answers, &mut write) => ended,
        ended = copy(&mut read, &mut requests) => ended,
    };
    gate.metrics.checks.dec();
    debug!(?ended, "check over");
    // The close alert tells the operator that it was not cut off by somebody on the way.
    if let Err(error) = write.shutdown().await {
        debug!(%error, "a check was gone before it was closed");
    }
}
