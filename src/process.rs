//! What every long-running subcommand starts alike: the stop signal, its ports, and the tasks that run as long as the process.

use std::{collections::HashMap, io, net::SocketAddr};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinSet},
};
use tracing::warn;

use crate::net::{TcpListener, bind};

/// Why a process could not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A port could not be opened.
    #[error("failed to listen on {address} for {purpose}: {source}")]
    Listen {
        /// What the port is for.
        purpose: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// The signal handlers could not be installed.
    #[error("failed to install signal handlers: {0}")]
    Signals(#[source] io::Error),
    /// A task that runs as long as the process has ended.
    #[error("{0} has ended unexpectedly")]
    Ended(&'static str),
    /// A task that runs as long as the process has panicked.
    #[error("{part} failed: {source}")]
    Panicked {
        /// The task.
        part: &'static str,
        /// The panic.
        source: tokio::task::JoinError,
    },
}

/// Installs handlers for SIGTERM and SIGINT. The future resolves when either arrives.
///
/// # Errors
///
/// [`ProcessError::Signals`].
pub fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, ProcessError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProcessError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProcessError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Opens a port. `purpose` names it in the error.
///
/// # Errors
///
/// [`ProcessError::Listen`].
pub fn listen(purpose: &'static str, address: SocketAddr) -> Result<TcpListener, ProcessError> {
    bind(address).map_err(|source| ProcessError::Listen {
        purpose,
        address,
        source,
    })
}

/// Raises this process's limit of open files to the highest that it may set itself. Container runtimes start processes with 1024.
pub fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        warn!(%error, "failed to raise the limit of open files");
    }
}

/// Number of files that this process may have open.
#[must_use]
pub fn file_limit() -> u64 {
    // The call cannot fail with valid arguments.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// The tasks that run as long as the process. They are aborted when this is dropped.
#[derive(Debug, Default)]
pub struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// Starts a task. `name` identifies it if it ends.
    pub fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(part);
        self.names.insert(task.id(), name);
    }

    /// Waits until one of the tasks ends, which is always an error. Cancel safe.
    pub async fn failed(&mut self) -> ProcessError {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let name = |id| self.names.get(&id).copied().unwrap_or("a task");
        match ended {
            Ok((id, ())) => ProcessError::Ended(name(id)),
            Err(source) => ProcessError::Panicked {
                part: name(source.id()),
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_or_panics_is_named() {
        let mut parts = Parts::default();
        parts.spawn("one that goes on", std::future::pending());
        parts.spawn("one that ends", async {});
        assert_eq!(parts.failed().await.to_string(), "one that ends has ended unexpectedly");
        parts.spawn("one that panics", async { panic!("of a test") });
        let error = parts.failed().await.to_string();
        assert!(error.starts_with("one that panics failed: "), "{error}");
    }
}
