//! One worker for each pair: it runs the checks, feeds what they observe to the pair's [`Machine`](crate::domain::machine::Machine), and
//! carries out the effects. It alone writes the selector of the virtual Service and the status.
//!
//! | module | job |
//! |---|---|
//! | [`task`] | the loop: an input in, its effects out |
//! | [`writer`] | the calls to the API server: claim, deadline and resourceVersion in one place |
//! | [`supervisor`] | what follows when a worker ends |
//! | [`checks`] | starts and stops the checks |
//! | [`view`] | pods and endpoints of one pair, from the caches |
//! | [`telemetry`] | Events, metrics and log lines |

mod checks;
mod supervisor;
mod task;
mod telemetry;
mod view;
mod writer;

pub use checks::Keys;
pub use telemetry::publish;
pub use view::node_of;
pub use writer::refuse;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tracing::Instrument;

use self::{checks::PairChecks, supervisor::supervise, task::Task, view::ClusterView, writer::ApiWriter};
use crate::{
    api::{ProxyPair, Sides},
    check::Credentials,
    cluster::Cluster,
    domain::{pair::Pair, rollout::Snapshot, status::Problem},
    telemetry::pair_span,
};

/// What a reconciliation hands over: all that it found out about one pair.
#[derive(Clone)]
pub struct Handover {
    /// What the user declares.
    pub pair: Arc<Pair>,
    /// The object that it was read from.
    pub object: Arc<ProxyPair>,
    /// The login to the ObjectServers, if one is declared and was read.
    pub login: Option<Credentials>,
    /// The CA bundles of the ObjectServers, in PEM, where they are declared and usable.
    pub authorities: Sides<Option<Arc<Vec<u8>>>>,
    /// The operator's keys for the gates; `None` leaves those in force that were handed over before.
    pub keys: Option<Keys>,
}

enum WorkerMessage {
    Handover(Box<Handover>),
    Service(Box<Option<Service>>),
    Problem(Option<Problem>),
}

/// A handle on the worker of one pair. The worker ends with it.
pub struct Worker {
    uid: String,
    messages: mpsc::UnboundedSender<WorkerMessage>,
    snapshot: watch::Receiver<Snapshot>,
    task: AbortHandle,
}

impl Worker {
    /// Starts the worker of a pair, from what its status says.
    #[must_use]
    pub fn start(cluster: &Arc<Cluster>, handover: Handover) -> Self {
        let uid = handover.pair.uid.clone();
        let (messages, received) = mpsc::unbounded_channel();
        let (snapshot_in, snapshot) = watch::channel(Snapshot::default());
        let (observations_in, observations) = mpsc::channel(64);
        let term = cluster.claim().map_or(0, |claim| claim.term);
        let checks = PairChecks::new(&cluster.identity, term, observations_in);
        let writer = ApiWriter::new(Arc::clone(cluster), &handover.object);
        let view = ClusterView::new(Arc::clone(cluster));
        let task = Task::new(Arc::clone(cluster), &handover, writer, checks, view, snapshot_in);
        let task = tokio::spawn(task.run(received, observations));
        let handle = task.abort_handle();
        let span = pair_span(&handover.pair.namespace, &handover.pair.name);
        tokio::spawn(supervise(task, Arc::clone(cluster), handover.pair).instrument(span));
        Self {
            uid,
            messages,
            snapshot,
            task: handle,
        }
    }

    /// Whether this is the running worker of the object with that `metadata.uid`.
    #[must_use]
    pub fn works_for(&self, uid: &str) -> bool {
        self.uid == uid && !self.task.is_finished()
    }

    /// Hands over what is declared now.
    pub fn hand_over(&self, handover: Handover) {
        self.send(WorkerMessage::Handover(Box::new(handover)));
    }

    /// Hands over the virtual Service as it was found or applied.
    pub fn hand_over_service(&self, service: Option<Service>) {
        self.send(WorkerMessage::Service(Box::new(service)));
    }

    /// Has status say why the pair is not as declared; `None` when it is.
    pub fn report(&self, problem: Option<Problem>) {
        self.send(WorkerMessage::Problem(problem));
    }

    /// What is known of the pair now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// A worker that has ended is replaced by the next reconciliation, which sends everything again.
    fn send(&self, message: WorkerMessage) {
        let _ = self.messages.send(message);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
