//! Makes the children as the ProxyPair declares them: dereference, validate, build, apply, hand over to the steward.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Resource,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    apply::{ApplyError, apply, find},
    context::{Context, GuardedPair},
    keys::{self, CA_CRT, KeySet, KeysError, SecretData, TLS_CRT, TLS_KEY},
    steward::{Declared, Steward, refuse},
};
use crate::{
    api::{Health, ProxyPair, Side},
    domain::{
        children,
        pair::{InvalidPair, Pair},
        status::Problem,
    },
    metrics::ReasonLabels,
    probe,
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
    Tls(#[from] probe::TlsError),
}

impl ReconcileError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "Malformed",
            Self::Invalid(_) => "InvalidSpec",
            Self::Apply(error) => error.reason(),
            Self::Keys(_) | Self::Tls(_) => "KeysFailed",
        }
    }
}

/// Longest time until the keys are looked at again.
const KEYS_LOOK: Duration = Duration::from_secs(24 * 3600);

/// One pass over one ProxyPair.
pub async fn reconcile(object: Arc<GuardedPair>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(error) => return Err(ReconcileError::Malformed(error.error.clone())),
    };
    match declare(&object, &context).await {
        Ok(action) => Ok(action),
        Err(error) => {
            let problem = Problem {
                reason: error.reason(),
                message: error.to_string(),
            };
            report(&object, &context, problem).await;
            Err(error)
        }
    }
}

/// A bad declaration waits until it is changed; the API server is asked again.
pub fn on_error(object: Arc<GuardedPair>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let reason = error.reason();
    tracing::warn!(pair = %ObjectRef::from_obj(&*object), reason, %error, "failed to reconcile");
    context
        .metrics
        .reconcile_errors
        .get_or_create(&ReasonLabels { reason })
        .inc();
    match error {
        ReconcileError::Malformed(_) | ReconcileError::Invalid(_) => Action::await_change(),
        ReconcileError::Apply(ApplyError::NotOurs { .. }) => Action::requeue(Duration::from_secs(30)),
        ReconcileError::Apply(error) if error.is_conflict() => Action::requeue(Duration::from_millis(50)),
        _ => Action::requeue(Duration::from_secs(2)),
    }
}

async fn declare(object: &Arc<ProxyPair>, context: &Arc<Context>) -> Result<Action, ReconcileError> {
    let pair = Arc::new(Pair::validate(object)?);
    context.claim()?;
    let keys = declare_keys(&pair, context).await?;
    let client = &context.client;
    child(context, &pair, &children::service_account(&pair)).await?;
    child::<PodDisruptionBudget>(context, &pair, &children::disruption_budget(&pair)).await?;
    for side in Side::BOTH {
        child::<Service>(context, &pair, &children::side_service(&pair, side)).await?;
    }
    let existing: Option<Service> = find(client, &pair, &pair.service_name()).await?;
    declare_deployments(&pair, context).await?;

    let config = probe::client_config(&keys.operator[CA_CRT], &keys.operator[TLS_CRT], &keys.operator[TLS_KEY])?;
    let declared = Declared {
        pair: Arc::clone(&pair),
        object: Arc::clone(object),
        service: existing,
        keys: config,
        key_text: keys.operator[TLS_CRT].clone(),
    };
    let handed_over = context.with_stewards(|stewards| {
        stewards
            .entry(ObjectRef::new(&pair.name).within(&pair.namespace))
            .and_modify(|steward| {
                if !steward.looks_after(&pair.uid) {
                    *steward = Steward::start(context, &declared);
                }
            })
            .or_insert_with(|| Steward::start(context, &declared))
            .declare(declared.clone())
    });
    handed_over.await?;
    let renewal = keys
        .renew_at
        .duration_since(Timestamp::now())
        .max(jiff::SignedDuration::from_secs(1))
        .unsigned_abs();
    Ok(Action::requeue(renewal.min(KEYS_LOOK)))
}

/// Applies a child, after having made sure that nobody else's object is in its place.
async fn child<K>(context: &Context, pair: &Pair, child: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let name = child.meta().name.clone().unwrap_or_default();
    let _: Option<K> = find(&context.client, pair, &name).await?;
    context.claim()?;
    apply(&context.client, pair, child).await?;
    Ok(())
}

async fn declare_keys(pair: &Pair, context: &Context) -> Result<KeySet, ReconcileError> {
    let client = &context.client;
    let gate: Option<Secret> = find(client, pair, &pair.gate_tls_name()).await?;
    let operator: Option<Secret> = find(client, pair, &pair.operator_tls_name()).await?;
    let current = gate.as_ref().map(content).zip(operator.as_ref().map(content));
    let keys = keys::renewed(
        current.clone(),
        &pair.gate_name.to_str(),
        context.settings.certificate_lifetime,
        Timestamp::now(),
    )?;
    if current.as_ref() != Some(&(keys.gate.clone(), keys.operator.clone())) {
        context.claim()?;
        // The operator's first: it holds the authority, from which the gates' can be made again.
        apply(
            client,
            pair,
            &children::tls_secret(pair, pair.operator_tls_name(), keys.operator.clone()),
        )
        .await?;
        apply(
            client,
            pair,
            &children::tls_secret(pair, pair.gate_tls_name(), keys.gate.clone()),
        )
        .await?;
        tracing::info!(
            pair = pair.name,
            namespace = pair.namespace,
            "made new keys for the gates"
        );
    }
    Ok(keys)
}

fn content(secret: &Secret) -> SecretData {
    secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
        .collect::<BTreeMap<_, _>>()
}

/// A changed pod template goes to the idle side first, and to the serving side only when the idle one is up with it.
async fn declare_deployments(pair: &Pair, context: &Context) -> Result<(), ReconcileError> {
    let known = context.with_stewards(|stewards| {
        stewards
            .get(&ObjectRef::new(&pair.name).within(&pair.namespace))
            .and_then(|steward| steward.known())
    });
    let serving = known.as_ref().map_or(Side::Primary, |known| known.serving);
    let idle = serving.other();
    let image = &context.settings.image;
    let wanted = [
        children::deployment(pair, idle, image),
        children::deployment(pair, serving, image),
    ];
    let found: [Option<Deployment>; 2] = [
        find(&context.client, pair, &pair.side_name(idle)).await?,
        find(&context.client, pair, &pair.side_name(serving)).await?,
    ];
    let current = |at: usize| {
        found[at]
            .as_ref()
            .is_none_or(|found| children::template_of(&found.metadata) == children::template_of(&wanted[at].metadata))
    };
    let idle_was_current = found[0].is_some() && current(0);
    context.claim()?;
    apply(&context.client, pair, &wanted[0]).await?;
    let idle_is_up = known
        .as_ref()
        .is_some_and(|known| known.health(idle) == Health::Up && known.settled);
    let idle_runs_it = context.pods.state().iter().any(|pod| {
        known
            .as_ref()
            .is_some_and(|known| known.pod(idle) == pod.metadata.uid.as_deref())
            && children::template_of(&pod.metadata) == children::template_of(&wanted[0].metadata)
    });
    if current(1) || (idle_was_current && idle_is_up && idle_runs_it) {
        context.claim()?;
        apply(&context.client, pair, &wanted[1]).await?;
    } else {
        tracing::debug!(
            pair = pair.name,
            side = serving.label(),
            "the serving side keeps its pod until the other one is up with the new one"
        );
    }
    Ok(())
}

async fn report(object: &Arc<ProxyPair>, context: &Arc<Context>, problem: Problem) {
    let key = ObjectRef::<GuardedPair>::new(object.metadata.name.as_deref().unwrap_or_default())
        .within(object.metadata.namespace.as_deref().unwrap_or_default());
    let told = context.with_stewards(|stewards| stewards.get(&key).map(|steward| steward.tell(problem.clone())));
    if told.is_none()
        && let Err(error) = refuse(context, object, &problem).await
    {
        tracing::warn!(pair = %key, %error, "failed to say in status what is wrong");
    }
}
