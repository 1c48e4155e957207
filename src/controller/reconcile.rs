//! Makes the children as the ProxyPair declares them: dereference, validate, build, apply, hand over to the steward.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Secret, Service},
    },
};
use kube::{
    Resource,
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    apply::{ApplyError, apply, find},
    context::Context,
    keys::{self, CA_CRT, KeySet, KeysError, SecretData, TLS_CRT, TLS_KEY},
    references,
    registry::{Applied, Registry},
    steward::{Declared, Steward, refuse},
    watches::GuardedPair,
};
use crate::{
    api::{Health, ProxyPair, Reason, Side, Sides},
    check::{self, Credentials},
    domain::{
        children,
        pair::{InvalidPair, Pair},
        references::{Contents, authorities, lacking, login, named_in, needs},
        status::Problem,
    },
    health::index,
    metrics::ReasonLabels,
    tls::ObjectServerTls,
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
}

impl ReconcileError {
    fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::Malformed,
            Self::Invalid(_) => Reason::InvalidSpec,
            Self::Apply(error) => error.reason(),
            Self::Keys(_) | Self::Tls(_) => Reason::KeysFailed,
        }
    }
}

/// How often a serving side that waits for its new pod is looked at.
const ROLLING_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether a name that somebody else has taken is free. Nothing tells of objects that are not this operator's.
const NAME_LOOK: Duration = Duration::from_secs(10);
/// Longest time until the keys are looked at again.
const KEYS_LOOK: Duration = Duration::from_secs(24 * 3600);

/// One pass over one ProxyPair.
pub async fn reconcile(object: Arc<GuardedPair>, registry: Arc<Registry>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(error) => return Err(ReconcileError::Malformed(error.error.clone())),
    };
    match declare(&object, &registry).await {
        Ok(action) => Ok(action),
        Err(error) => {
            let problem = Problem {
                reason: error.reason(),
                message: error.to_string(),
            };
            report(&object, &registry, problem).await;
            Err(error)
        }
    }
}

/// A bad declaration waits until it is changed; the API server is asked again.
pub fn on_error(object: Arc<GuardedPair>, error: &ReconcileError, registry: Arc<Registry>) -> Action {
    let reason = error.reason().as_str();
    tracing::warn!(pair = %ObjectRef::from_obj(&*object), reason, %error, "failed to reconcile");
    registry
        .context
        .metrics
        .reconcile_errors
        .get_or_create(&ReasonLabels { reason })
        .inc();
    match error {
        ReconcileError::Malformed(_) | ReconcileError::Invalid(_) => Action::await_change(),
        ReconcileError::Apply(ApplyError::NotOurs { .. }) => Action::requeue(NAME_LOOK),
        ReconcileError::Apply(error) if error.is_conflict() => Action::requeue(Duration::from_millis(50)),
        _ => Action::requeue(Duration::from_secs(2)),
    }
}

async fn declare(object: &Arc<ProxyPair>, registry: &Registry) -> Result<Action, ReconcileError> {
    let context = &registry.context;
    let pair = Arc::new(Pair::validate(object)?);
    context.claim()?;
    let key = ObjectRef::new(&pair.name).within(&pair.namespace);
    let nodes = registry.nodes(&pair);
    if let Some(applied) = registry.still_applied(&key, &pair.uid, pair.generation, &nodes) {
        return Ok(look_again(applied.renew_at));
    }
    registry.remember(key.clone(), None);
    let needs = needs(&pair);
    let contents = context
        .references
        .read(&context.client, &key, &named_in(&needs))
        .await?;
    let authorities = Side::BOTH.map(|side| authorities(&pair, side, &contents));
    let problem = needs.iter().find_map(|need| lacking(need, &contents)).or_else(|| {
        Side::BOTH
            .into_iter()
            .find_map(|side| unusable(&pair, side, authorities[index(side)].as_deref()?))
    });
    let held_back = |side: Side| {
        let of_side = needs.iter().filter(|need| need.side == Some(side));
        of_side.into_iter().any(|need| lacking(need, &contents).is_some())
    };
    let mut versions = Versions::new();
    let keys = declare_keys(&pair, context, &mut versions).await?;
    declare_child(context, &pair, &children::service_account(&pair), &mut versions).await?;
    declare_child(context, &pair, &children::disruption_budget(&pair), &mut versions).await?;
    let [primary, backup] = Side::BOTH.map(|side| children::side_service(&pair, side));
    let primary = declare_child(context, &pair, &primary, &mut versions).await?;
    let backup = declare_child(context, &pair, &backup, &mut versions).await?;
    let service: Option<Service> = find(&context.client, &pair, &pair.service_name()).await?;
    let complete = declare_deployments(object, &pair, registry, &contents, held_back, &mut versions).await?;

    let config = check::client_config(&keys.operator[CA_CRT], &keys.operator[TLS_CRT], &keys.operator[TLS_KEY])?;
    let declared = Declared {
        pair: Arc::clone(&pair),
        object: Arc::clone(object),
        service: service.clone(),
        login: login(&pair, &contents).map(|(user, password)| Credentials { user, password }),
        authorities: Side::BOTH.map(|side| {
            let bundle = authorities[index(side)].clone()?;
            unusable(&pair, side, &bundle).is_none().then(|| Arc::new(bundle))
        }),
        problem,
        keys: config,
        gate_name: check::server_name(&pair.gate_name)?,
        key_text: keys.operator[TLS_CRT].clone(),
    };
    let handed_over = registry.with_stewards(|stewards| {
        let steward = stewards
            .entry(key.clone())
            .or_insert_with(|| Steward::start(context, &declared));
        if !steward.looks_after(&pair.uid) {
            *steward = Steward::start(context, &declared);
        }
        steward.declare(declared.clone())
    });
    let declared = handed_over.await?;
    if let Some(service) = &declared {
        note(service, &mut versions);
    }
    if let Some(service) = declared.or(service) {
        let reach = children::reach(
            &pair,
            &service,
            Sides {
                primary: &primary,
                backup: &backup,
            },
            &nodes,
        );
        declare_child(context, &pair, &children::probes(&pair, &reach), &mut versions).await?;
    }
    if !complete {
        return Ok(Action::requeue(ROLLING_LOOK));
    }
    let applied = Applied {
        uid: pair.uid.clone(),
        generation: pair.generation,
        renew_at: keys.renew_at,
        versions,
        references: references::versions(&contents),
        nodes,
    };
    registry.remember(key, Some(applied));
    Ok(look_again(keys.renew_at))
}

/// What is wrong with a CA bundle, if anything.
fn unusable(pair: &Pair, side: Side, bundle: &[u8]) -> Option<Problem> {
    let name = &pair.spec.side(side).object_server.name;
    ObjectServerTls::new(bundle, name).err().map(|error| Problem {
        reason: Reason::CaBundleUnusable,
        message: format!("spec.{}.objectServer.tls: {error}", side.label()),
    })
}

fn look_again(renew_at: Timestamp) -> Action {
    let renewal = renew_at
        .duration_since(Timestamp::now())
        .max(SignedDuration::from_secs(1));
    Action::requeue(renewal.unsigned_abs().min(KEYS_LOOK))
}

/// `metadata.resourceVersion` of each child, by kind and name.
type Versions = BTreeMap<(String, String), String>;

fn note<K: Resource<DynamicType = ()>>(child: &K, versions: &mut Versions) {
    let name = child.meta().name.clone().unwrap_or_default();
    let version = child.meta().resource_version.clone().unwrap_or_default();
    versions.insert((K::kind(&()).into_owned(), name), version);
}

/// Applies a child, after having made sure that nobody else's object is in its place.
async fn declare_child<K>(context: &Context, pair: &Pair, child: &K, versions: &mut Versions) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = child.meta().name.clone().unwrap_or_default();
    let _: Option<K> = find(&context.client, pair, &name).await?;
    context.claim()?;
    let applied = apply(&context.client, pair, child).await?;
    note(&applied, versions);
    Ok(applied)
}

async fn declare_keys(pair: &Pair, context: &Context, versions: &mut Versions) -> Result<KeySet, ReconcileError> {
    let client = &context.client;
    let found: [Option<Secret>; 2] = [
        find(client, pair, &pair.gate_tls_name()).await?,
        find(client, pair, &pair.operator_tls_name()).await?,
    ];
    let [gate, operator] = found.each_ref().map(|secret| secret.as_ref().map(content));
    let current = operator.map(|operator| (gate.unwrap_or_default(), operator));
    let lifetime = context.settings.certificate_lifetime;
    let keys = keys::renewed(current.clone(), &pair.gate_name, lifetime, Timestamp::now())?;
    if current.as_ref() == Some(&(keys.gate.clone(), keys.operator.clone())) {
        for secret in found.iter().flatten() {
            note(secret, versions);
        }
        return Ok(keys);
    }
    context.claim()?;
    // The operator's first: it holds the authority, from which the gates' can be made again.
    for (name, data) in [
        (pair.operator_tls_name(), &keys.operator),
        (pair.gate_tls_name(), &keys.gate),
    ] {
        let secret = children::tls_secret(pair, name, data.clone());
        note(&apply(client, pair, &secret).await?, versions);
    }
    tracing::info!(
        pair = pair.name,
        namespace = pair.namespace,
        "made new keys for the gates"
    );
    Ok(keys)
}

fn content(secret: &Secret) -> SecretData {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(&value.0)))
        .collect()
}

/// A changed pod template goes to the idle side first, and to the serving side only when the idle one is up with it. Returns whether both
/// sides have theirs. A side that is held back keeps the pod that it has: a new one could not start.
async fn declare_deployments(
    object: &ProxyPair,
    pair: &Pair,
    registry: &Registry,
    contents: &Contents,
    held_back: impl Fn(Side) -> bool,
    versions: &mut Versions,
) -> Result<bool, ReconcileError> {
    let context = &registry.context;
    let key = ObjectRef::new(&pair.name).within(&pair.namespace);
    let known = registry.with_stewards(|stewards| stewards.get(&key).and_then(Steward::known));
    let in_status = object.status.as_ref().and_then(|status| status.serving);
    let serving = known
        .as_ref()
        .map(|known| known.serving)
        .or(in_status)
        .unwrap_or(Side::Primary);
    let idle = serving.other();
    let image = &context.settings.image;

    let wanted = children::deployment(pair, idle, image, contents);
    if !held_back(idle) {
        declare_child(context, pair, &wanted, versions).await?;
    }
    let runs_it = |uid: Option<&str>| {
        let pods = context.pods.state();
        let pod = uid.and_then(|uid| pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid)));
        pod.is_some_and(|pod| children::template_of(&pod.metadata) == children::template_of(&wanted.metadata))
    };
    let idle_can_serve = known.is_some_and(|known| {
        known.settled && known.serving == serving && known.health(idle) == Health::Up && runs_it(known.pod(idle))
    });

    if held_back(serving) {
        return Ok(true);
    }
    let wanted = children::deployment(pair, serving, image, contents);
    let found: Option<Deployment> = find(&context.client, pair, &pair.side_name(serving)).await?;
    let changes =
        found.is_some_and(|found| children::template_of(&found.metadata) != children::template_of(&wanted.metadata));
    if changes && !idle_can_serve {
        tracing::debug!(
            pair = pair.name,
            side = serving.label(),
            "a changed pod waits until the other side is up"
        );
        return Ok(false);
    }
    declare_child(context, pair, &wanted, versions).await?;
    Ok(true)
}

async fn report(object: &Arc<ProxyPair>, registry: &Registry, problem: Problem) {
    let key = ObjectRef::<GuardedPair>::new(object.metadata.name.as_deref().unwrap_or_default())
        .within(object.metadata.namespace.as_deref().unwrap_or_default());
    let told = registry.with_stewards(|stewards| stewards.get(&key).map(|steward| steward.tell(problem.clone())));
    if told.is_none()
        && let Err(error) = refuse(&registry.context, object, &problem).await
    {
        tracing::warn!(pair = %key, %error, "failed to say in status what is wrong");
    }
}
