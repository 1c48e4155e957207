//! Writing to the API server: each call with a deadline of its own, under one field manager, and only what this operator made.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    api::{FIELD_MANAGER, Reason},
    domain::pair::Pair,
};

/// How long the API server may take for one answer. The client has no deadline of its own.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A call to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It did not answer in time.
    #[error("the API server did not answer within {}s", DEADLINE.as_secs())]
    Deadline,
    /// It refused.
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    /// The right to write is lost, or may be.
    #[error("this process does not lead")]
    NotLeading,
    /// An object of that name belongs to somebody else.
    #[error("{kind} {name} exists and is not this ProxyPair's: rename the ProxyPair, or delete the {kind}")]
    NotOurs {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
}

impl ApplyError {
    /// One word, for conditions and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Deadline => Reason::ApiServerTimeout,
            Self::Api(kube::Error::Api(status)) if status.code == 409 => Reason::Conflict,
            Self::Api(kube::Error::Api(status)) if status.code == 403 => Reason::Forbidden,
            Self::Api(kube::Error::Api(status)) if status.code == 422 => Reason::Rejected,
            Self::Api(_) => Reason::ApiServerError,
            Self::NotLeading => Reason::NotLeading,
            Self::NotOurs { .. } => Reason::NameTaken,
        }
    }

    /// Somebody has written in between.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

/// Puts the deadline on a call.
pub async fn within_deadline<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApplyError> {
    Ok(timeout(DEADLINE, call).await.map_err(|_| ApplyError::Deadline)??)
}

/// Reads a child. One that belongs to somebody else is an error, and is never touched.
pub async fn find<K>(client: &Client, pair: &Pair, name: &str) -> Result<Option<K>, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &pair.namespace);
    let found = within_deadline(api.get_opt(name)).await?;
    match found {
        Some(object) if !is_ours(pair, &object) => Err(ApplyError::NotOurs {
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
        }),
        found => Ok(found),
    }
}

/// Declares a child. Call [`find`] before the first time.
pub async fn apply<K>(client: &Client, pair: &Pair, child: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &pair.namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    within_deadline(api.patch(&child.name_any(), &params, &Patch::Apply(child))).await
}

fn is_ours<K: Resource>(pair: &Pair, object: &K) -> bool {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == pair.uid)
}
