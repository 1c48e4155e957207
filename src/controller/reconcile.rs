//! One pass over one ProxyPair, in phases: validate → dereference → hand over → desired → apply.
//!
//! The worker is handed over first and always: the pair is watched, and can switch, as soon as it is valid and its keys can be read. What
//! fails after that is a problem in status, and is tried again.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tracing::{Instrument, Span};

use super::{
    apply::Applier,
    backoff,
    dereference::{Dereferenced, dereference_keys},
    desired::apply_children,
    keys::KeysError,
    references,
    registry::{Applied, Registry, key},
};
use crate::{
    api::{ProxyPair, Reason, Sides},
    check,
    clock::wall,
    cluster::{ApplyError, GuardedPair},
    domain::{
        children::Nodes,
        notice::Notice,
        pair::{InvalidPair, Pair},
        status::Problem,
    },
    foreign::panic_words,
    metrics::ReasonLabels,
    telemetry::pair_span,
    worker::{Handover, Worker, publish, refuse},
};

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The stored object is not a ProxyPair of this version.
    #[error("the object cannot be read: {0}")]
    Malformed(String),
    /// Its content contradicts itself.
    #[error(transparent)]
    Invalid(#[from] InvalidPair),
    /// The API server.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The gates' keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The gates' keys, on the operator's side.
    #[error(transparent)]
    Tls(#[from] check::TlsError),
    /// A defect of the operator, which is contained to this pair.
    #[error("the operator failed at this pair, which is a defect of it: {0}")]
    Panicked(String),
}

impl ReconcileError {
    fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::Malformed,
            Self::Invalid(_) => Reason::InvalidSpec,
            Self::Apply(error) => error.reason(),
            Self::Keys(_) | Self::Tls(_) => Reason::KeysFailed,
            Self::Panicked(_) => Reason::InternalError,
        }
    }

    fn problem(&self) -> Problem {
        Problem {
            reason: self.reason(),
            message: self.to_string(),
        }
    }
}

/// Longest time until the keys are looked at again.
const KEYS_LOOK: Duration = Duration::from_secs(24 * 3600);

/// One pass over one ProxyPair.
pub async fn reconcile(object: Arc<GuardedPair>, registry: Arc<Registry>) -> Result<Action, ReconcileError> {
    let span = span_of(&object);
    reconcile_guarded(object, registry).instrument(span).await
}

fn span_of(object: &GuardedPair) -> Span {
    pair_span(&object.namespace().unwrap_or_default(), &object.name_any())
}

async fn reconcile_guarded(object: Arc<GuardedPair>, registry: Arc<Registry>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(error) => {
            registry.see(&*object);
            return Err(ReconcileError::Malformed(error.error.clone()));
        }
    };
    let outcome = contained(Box::pin(reconcile_pair(&object, &registry))).await;
    registry.see(&*object);
    match &outcome {
        // It is resolved by the next pass, which follows at once.
        Err(ReconcileError::Apply(error)) if error.is_conflict() => {}
        Err(error) => report(&object, &registry, error.problem()).await,
        Ok(_) => registry.succeeded(&object),
    }
    outcome
}

/// Turns a panic into an error, so that a defect which one pair meets costs the others nothing.
async fn contained<T>(pass: impl Future<Output = Result<T, ReconcileError>>) -> Result<T, ReconcileError> {
    match AssertUnwindSafe(pass).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(ReconcileError::Panicked(panic_words(&*panic))),
    }
}

/// A bad spec waits until it is changed; everything else is tried again, after longer and longer waits.
pub fn on_error(object: Arc<GuardedPair>, error: &ReconcileError, registry: Arc<Registry>) -> Action {
    let reason = error.reason();
    let _entered = span_of(&object).entered();
    tracing::warn!(%reason, %error, "failed to reconcile");
    registry
        .context
        .cluster
        .metrics
        .reconcile_errors
        .get_or_create(&ReasonLabels {
            reason: reason.as_str(),
        })
        .inc();
    let (is_conflict, retry_after) = match error {
        ReconcileError::Malformed(_) | ReconcileError::Invalid(_) => return Action::await_change(),
        ReconcileError::Apply(error) => (error.is_conflict(), error.retry_after()),
        ReconcileError::Keys(_) | ReconcileError::Tls(_) | ReconcileError::Panicked(_) => (false, None),
    };
    let failures = registry.failed(&object);
    Action::requeue(failures.wait(is_conflict, retry_after, backoff::jitter()))
}

async fn reconcile_pair(object: &Arc<ProxyPair>, registry: &Registry) -> Result<Action, ReconcileError> {
    let context = &*registry.context;
    // Validate. What is made of a Pair cannot fail for what the user wrote.
    let pair = Arc::new(Pair::validate(object)?);
    context.cluster.claim()?;
    if object.metadata.deletion_timestamp.is_some() {
        // Its children go with it, or stay without an owner, as the user wants.
        registry.hand_over(declared(&pair, object));
        return Ok(Action::await_change());
    }
    registry.review_update(&pair);

    // Hand over what is declared; nothing more, if nothing else has changed.
    let is_watched = registry.hand_over(declared(&pair, object));
    let nodes = registry.nodes(&pair);
    if is_watched && let Some(applied) = registry.still_applied(&pair, &nodes, wall()) {
        return Ok(look_again(applied.renew_at));
    }
    registry.remember(&pair, None);

    let mut applier = Applier::new(&context.cluster, &pair);
    let renew_at = Box::pin(dereference_and_apply(object, &pair, registry, nodes, &mut applier)).await;
    if !applier.adopted.is_empty() {
        let notice = Notice::Adopted(std::mem::take(&mut applier.adopted));
        publish(&context.cluster, &notice, &pair, object);
    }
    // A rollout that waits for the other side goes on when the worker asks for the next pass.
    renew_at.map(look_again)
}

/// The phases of a pass that need the API server. Returns when the keys are to be renewed.
async fn dereference_and_apply(
    object: &Arc<ProxyPair>,
    pair: &Arc<Pair>,
    registry: &Registry,
    nodes: Nodes,
    applier: &mut Applier<'_>,
) -> Result<Timestamp, ReconcileError> {
    let context = &*registry.context;
    // Dereference: keys, Secrets and ConfigMaps of the user.
    let keys = dereference_keys(pair, context, applier).await?;
    let references = Dereferenced::read(pair, context).await;

    // Hand over. From here on the pair is watched.
    registry.hand_over(Handover {
        keys: Some(keys.for_worker(&pair.gate_name)?),
        ..references
            .as_ref()
            .map_or_else(|_| declared(pair, object), |read| read.handover(pair, object))
    });
    let references = references?;

    // Apply what is desired. The first error ends the pass when everything has been tried.
    let outcome = Box::pin(apply_children(object, pair, registry, &references, &nodes, applier)).await;
    let versions = applier.finish()?;
    registry.with_worker(&key(pair), &pair.uid, |worker| {
        worker.report(references.problem.clone().or(outcome.problem));
    });
    if outcome.complete {
        registry.remember(
            pair,
            Some(Applied {
                uid: pair.uid.clone(),
                generation: pair.generation,
                renew_at: keys.renew_at(),
                versions,
                references: references::versions(&references.contents),
                nodes,
            }),
        );
    }
    Ok(keys.renew_at())
}

/// What is handed over when nothing was read: everything that was handed over before stays in force.
pub(super) fn declared(pair: &Arc<Pair>, object: &Arc<ProxyPair>) -> Handover {
    Handover {
        pair: Arc::clone(pair),
        object: Arc::clone(object),
        login: None,
        authorities: Sides::default(),
        keys: None,
    }
}

fn look_again(renew_at: Timestamp) -> Action {
    let renewal = renew_at.duration_since(wall()).max(SignedDuration::from_secs(1));
    Action::requeue(renewal.unsigned_abs().min(KEYS_LOOK))
}

async fn report(object: &ProxyPair, registry: &Registry, problem: Problem) {
    let pair = ObjectRef::<GuardedPair>::new(&object.name_any()).within(&object.namespace().unwrap_or_default());
    let uid = object.uid().unwrap_or_default();
    let reported = registry.with_worker(&pair, &uid, |worker: &Worker| worker.report(Some(problem.clone())));
    let cluster = &registry.context.cluster;
    if reported.is_none()
        && let Err(error) = refuse(cluster, object, &problem, wall()).await
    {
        tracing::warn!(%error, "failed to write into status what is wrong");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_pass_alone() {
        for panicking in [
            contained::<()>(async { panic!("no key {}", "ca.crt") }).boxed(),
            contained::<()>(async { std::panic::panic_any("no key ca.crt") }).boxed(),
        ] {
            let error = panicking.await.unwrap_err();
            assert_eq!(error.reason(), Reason::InternalError);
            assert!(error.to_string().ends_with("no key ca.crt"), "{error}");
        }
        assert_eq!(contained(async { Ok(7) }).await.unwrap(), 7);
    }
}
