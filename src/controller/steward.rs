//! The one writer of a pair's virtual Service and status.
//!
//! A switch, step by step:
//! 1. `status.target` is written (intent).
//! 2. The Service's selector is patched.
//! 3. The EndpointSlices show the new side.
//! 4. `status.serving` is written (fact), with the switch in `status.history`.
//!
//! A successor that finds 1 without 4 finishes the switch, or withdraws it if only the old side can serve. Each write carries the
//! resourceVersion it was decided on and is preceded by a look at the claim to leadership, so a leader that was replaced is refused.
//! Gates are told to drain only after 4, because their orders follow from what is served.

mod actor;
mod evict;
mod expiry;
mod pods;
mod report;
mod switch;

pub use pods::node_of;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    apply::{ApplyError, within_deadline},
    context::Context,
};
use crate::{
    api::{Health, ProxyPair, Side},
    check::Credentials,
    domain::{
        pair::Pair,
        status::{Problem, refused},
    },
    health::{Finding, index},
};

/// What a reconciliation hands over.
#[derive(Clone)]
pub struct Declared {
    /// What the user declares.
    pub pair: Arc<Pair>,
    /// The object it was read from.
    pub object: Arc<ProxyPair>,
    /// The virtual Service as it was found.
    pub service: Option<Service>,
    /// How to log in to the ObjectServers, if that is declared and known.
    pub login: Option<Credentials>,
    /// Who may have issued the certificates of the ObjectServers, in PEM, as far as that is declared and known.
    pub authorities: [Option<Arc<Vec<u8>>>; 2],
    /// Why not all is as declared.
    pub problem: Option<Problem>,
    /// How to prove to the gates who asks.
    pub keys: Arc<ClientConfig>,
    /// The name that the gates' certificate must have.
    pub gate_name: ServerName<'static>,
    /// Tells new keys from old ones.
    pub key_text: String,
}

enum Wish {
    Declare(Box<Declared>, oneshot::Sender<Result<Option<Service>, ApplyError>>),
    Tell(Problem),
}

/// A handle on the task that looks after one pair. The task ends with the handle.
pub struct Steward {
    uid: String,
    wishes: mpsc::UnboundedSender<Wish>,
    known: watch::Receiver<Option<Known>>,
    task: JoinHandle<()>,
}

/// What a reconciliation may want to know.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where the virtual Service points.
    pub serving: Side,
    /// No switch is under way.
    pub settled: bool,
    finding: Option<Finding>,
}

impl Known {
    /// Health of a side.
    pub fn health(&self, side: Side) -> Health {
        self.finding
            .as_ref()
            .map_or(Health::Unknown, |finding| finding.sides[index(side)].health.health)
    }

    /// `metadata.uid` of the pod under watch.
    pub fn pod(&self, side: Side) -> Option<&str> {
        self.finding.as_ref()?.sides[index(side)].pod.uid.as_deref()
    }
}

impl Steward {
    /// Starts looking after a pair, from what its status says.
    pub fn start(context: &Arc<Context>, declared: &Declared) -> Self {
        let (wishes, wished) = mpsc::unbounded_channel();
        let (known_in, known) = watch::channel(None);
        let actor = actor::Actor::new(Arc::clone(context), declared, known_in);
        Self {
            uid: declared.pair.uid.clone(),
            wishes,
            known,
            task: tokio::spawn(actor.run(wished)),
        }
    }

    /// Whether this is about the object with that `metadata.uid`.
    pub fn looks_after(&self, uid: &str) -> bool {
        self.uid == uid && !self.task.is_finished()
    }

    /// Hands over what is declared now; resolves when the virtual Service is as declared, with it.
    pub fn declare(
        &self,
        declared: Declared,
    ) -> impl Future<Output = Result<Option<Service>, ApplyError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.wishes.send(Wish::Declare(Box::new(declared), reply)).is_ok();
        async move {
            if !sent {
                return Err(ApplyError::NotLeading);
            }
            answer.await.unwrap_or(Err(ApplyError::NotLeading))
        }
    }

    /// Says in status why the pair is not as declared.
    pub fn tell(&self, problem: Problem) {
        // A task that has ended is replaced by the next reconciliation, which says it again.
        let _ = self.wishes.send(Wish::Tell(problem));
    }

    /// What is known now.
    pub fn known(&self) -> Option<Known> {
        self.known.borrow().clone()
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says in the status of a pair that nobody looks after why that is so.
pub async fn refuse(context: &Context, object: &ProxyPair, problem: &Problem) -> Result<(), ApplyError> {
    let before = object.status.clone().unwrap_or_default();
    let status = refused(problem, object.metadata.generation, &before, jiff::Timestamp::now());
    if status == before {
        return Ok(());
    }
    context.claim()?;
    let api: Api<ProxyPair> = Api::namespaced(
        context.client.clone(),
        object.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let object = ProxyPair {
        status: Some(status),
        ..object.clone()
    };
    within_deadline(api.replace_status(
        object.metadata.name.as_deref().unwrap_or_default(),
        &kube::api::PostParams::default(),
        &object,
    ))
    .await?;
    Ok(())
}
