//! Calls to the API server: each has a deadline of its own, and an error that tells what became of it.

use std::time::Duration;

use tokio::time::timeout;

use crate::api::Reason;

/// How long the API server may take for one answer. The client has no deadline of its own.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A call to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It did not answer in time.
    #[error("the API server did not answer within {}s", DEADLINE.as_secs())]
    Deadline,
    /// It answered with an error, or the connection failed.
    #[error("the API server rejected the request: {0}")]
    Api(#[from] kube::Error),
    /// The right to write is lost, or may be.
    #[error("this process is not the leader")]
    NotLeading,
    /// An object of that name is being deleted.
    #[error("{kind} {name} of a deleted ProxyPair is still being deleted: it is created again when it is gone")]
    BeingDeleted {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// An object of that name belongs to somebody else.
    #[error("{kind} {name} exists and does not belong to this ProxyPair: rename the ProxyPair, or delete the {kind}")]
    NotOurs {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
}

impl ApplyError {
    /// The reason in conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Deadline => Reason::ApiServerTimeout,
            Self::Api(_) => match self.code() {
                Some(403) => Reason::Forbidden,
                Some(409) => Reason::Conflict,
                Some(422) => Reason::Rejected,
                _ => Reason::ApiServerError,
            },
            Self::NotLeading => Reason::NotLeading,
            Self::NotOurs { .. } | Self::BeingDeleted { .. } => Reason::NameTaken,
        }
    }

    /// The HTTP status code of the answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Deadline | Self::NotLeading | Self::NotOurs { .. } | Self::BeingDeleted { .. } => None,
        }
    }

    /// How long the API server asks to be left alone. What protects it from overload says so in a header that the client does not show; it
    /// asks for a second.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Api(kube::Error::Api(status)) = self else {
            return None;
        };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        match (seconds, status.code) {
            (0, 429) => Some(Duration::from_secs(1)),
            (0, _) => None,
            (seconds, _) => Some(Duration::from_secs(seconds.into())),
        }
    }

    /// Somebody else has written in between.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }
}

/// Puts the deadline on a call.
pub async fn within_deadline<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApplyError> {
    Ok(timeout(DEADLINE, call).await.map_err(|_| ApplyError::Deadline)??)
}
