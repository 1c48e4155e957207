//! Access to the API server: the client with a deadline on each call, the right to write, and caches of what the operator made.

mod call;
mod watches;

pub use call::{ApplyError, within_deadline};
pub use watches::{Changes, GuardedPair, Requeue, api, children, config, ours, pairs, pods, slices};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Client,
    runtime::{events::Recorder, reflector::Store},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    leader::{Claim, Standing},
    metrics::Metrics,
};

/// What reconciler and workers share.
pub struct Cluster {
    /// Talks to the API server.
    pub client: Client,
    /// Name of this process, for gates and Events.
    pub identity: String,
    /// What is counted.
    pub metrics: Metrics,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    /// Proxy pods.
    pub pods: Store<Pod>,
    /// EndpointSlices of the Services that the operator made.
    pub slices: Store<EndpointSlice>,
    /// Something has changed in `slices` or `pods`.
    pub changes: Changes,
    /// Asks for a reconciliation.
    pub requeue: Requeue,
    /// Node agents reset the sessions of lost gates.
    pub has_node_agents: bool,
    /// Leadership of this process.
    pub standing: watch::Receiver<Standing>,
}

impl Cluster {
    /// The right to write, to be checked before each write.
    ///
    /// # Errors
    ///
    /// [`ApplyError::NotLeading`] if this process does not lead, or may no longer lead.
    pub fn claim(&self) -> Result<Claim, ApplyError> {
        self.standing
            .borrow()
            .claim(Instant::now().into_std())
            .ok_or(ApplyError::NotLeading)
    }
}
