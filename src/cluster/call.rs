//! Calls to the API server: each has a deadline of its own, and an error that tells what became of it.

use std::time::Duration;

use tokio::time::timeout;

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
    /// One word, for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "ApiServerSilent",
            Self::Api(kube::Error::Api(status)) if status.code == 409 => "Conflict",
            Self::Api(kube::Error::Api(status)) if status.code == 403 => "Forbidden",
            Self::Api(kube::Error::Api(status)) if status.code == 422 => "Refused",
            Self::Api(_) => "ApiServerError",
            Self::NotLeading => "NotLeading",
            Self::NotOurs { .. } => "NameTaken",
        }
    }

    /// The HTTP status code of the answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Deadline | Self::NotLeading | Self::NotOurs { .. } => None,
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
