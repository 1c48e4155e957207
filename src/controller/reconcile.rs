//! One pass over one ProxyPair, in phases: validate → dereference → hand over → desired → apply.
//!
//! The worker is handed over first and always: the pair is watched, and can switch, as soon as it is valid and its keys can be read. What
//! fails after that is a problem in status, and is tried again.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret, Service},
};
use kube::{
    ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    apply::{Applier, find, patch},
    context::Context,
    keys::{self, CA_CRT, KeySet, KeysError, SecretData, TLS_CRT, TLS_KEY},
    references,
    registry::{Applied, Registry, key},
};
use crate::{
    api::{ProxyPair, Reason, Side, Sides},
    check::{self, Credentials},
    cluster::{ApplyError, GuardedPair},
    domain::{
        children::{self, Nodes},
        pair::{InvalidPair, Pair},
        references::{Contents, Need, authorities, lacking, login, named_in, needs},
        rollout::{self, RolloutStep, Template},
        status::Problem,
    },
    metrics::ReasonLabels,
    tls::ObjectServerTls,
    worker::{Handover, Keys, Worker, refuse},
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

    fn problem(&self) -> Problem {
        Problem {
            reason: self.reason(),
            message: self.to_string(),
        }
    }
}

/// How often to retry when a child's name belongs to a foreign object. Objects that the operator does not own are not watched.
const NAME_RETRY: Duration = Duration::from_secs(10);
/// Longest time until the keys are looked at again.
const KEYS_LOOK: Duration = Duration::from_secs(24 * 3600);

/// One pass over one ProxyPair.
pub async fn reconcile(object: Arc<GuardedPair>, registry: Arc<Registry>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(error) => return Err(ReconcileError::Malformed(error.error.clone())),
    };
    let outcome = reconcile_pair(&object, &registry).await;
    match &outcome {
        // It is resolved by the next pass, which follows at once.
        Err(ReconcileError::Apply(error)) if error.is_conflict() => {}
        Err(error) => report(&object, &registry, error.problem()).await,
        Ok(_) => {}
    }
    outcome
}

/// A bad spec waits until it is changed; the API server is asked again.
pub fn on_error(object: Arc<GuardedPair>, error: &ReconcileError, registry: Arc<Registry>) -> Action {
    let reason = error.reason();
    tracing::warn!(pair = %ObjectRef::from_obj(&*object), %reason, %error, "failed to reconcile");
    registry
        .context
        .cluster
        .metrics
        .reconcile_errors
        .get_or_create(&ReasonLabels {
            reason: reason.as_str(),
        })
        .inc();
    match error {
        ReconcileError::Malformed(_) | ReconcileError::Invalid(_) => Action::await_change(),
        ReconcileError::Apply(ApplyError::NotOurs { .. }) => Action::requeue(NAME_RETRY),
        ReconcileError::Apply(error) if error.is_conflict() => Action::requeue(Duration::from_millis(50)),
        _ => Action::requeue(Duration::from_secs(2)),
    }
}

async fn reconcile_pair(object: &Arc<ProxyPair>, registry: &Registry) -> Result<Action, ReconcileError> {
    let context = &*registry.context;
    // Validate. What is made of a Pair cannot fail for what the user wrote.
    let pair = Arc::new(Pair::validate(object)?);
    context.cluster.claim()?;

    // Hand over what is declared; nothing more, if nothing else has changed.
    let is_watched = registry.hand_over(declared(&pair, object));
    let nodes = registry.nodes(&pair);
    if is_watched && let Some(applied) = registry.still_applied(&pair, &nodes, Timestamp::now()) {
        return Ok(look_again(applied.renew_at));
    }
    registry.remember(&pair, None);

    // Dereference: keys, Secrets and ConfigMaps of the user.
    let mut applier = Applier::new(&context.cluster, &pair);
    let keys = dereference_keys(&pair, context, &mut applier).await?;
    let references = Dereferenced::read(&pair, context).await;

    // Hand over. From here on the pair is watched.
    registry.hand_over(Handover {
        keys: Some(keys.for_worker(&pair.gate_name)?),
        ..references
            .as_ref()
            .map_or_else(|_| declared(&pair, object), |read| read.handover(&pair, object))
    });
    let references = references?;

    // Apply what is desired. The first error ends the pass when everything has been tried.
    let complete = apply_children(object, &pair, registry, &references, &nodes, &mut applier).await;
    let versions = applier.finish()?;
    registry.with_worker(&key(&pair), &pair.uid, |worker| {
        worker.report(references.problem.clone());
    });
    if complete {
        registry.remember(
            &pair,
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
    // A rollout that waits for the other side goes on when the worker asks for the next pass.
    Ok(look_again(keys.renew_at()))
}

/// What is handed over when nothing was read: everything that was handed over before stays in force.
fn declared(pair: &Arc<Pair>, object: &Arc<ProxyPair>) -> Handover {
    Handover {
        pair: Arc::clone(pair),
        object: Arc::clone(object),
        login: None,
        authorities: Sides::default(),
        keys: None,
    }
}

fn look_again(renew_at: Timestamp) -> Action {
    let renewal = renew_at
        .duration_since(Timestamp::now())
        .max(SignedDuration::from_secs(1));
    Action::requeue(renewal.unsigned_abs().min(KEYS_LOOK))
}

/// What stands in the Secrets and ConfigMaps that a pair refers to.
struct Dereferenced {
    needs: Vec<Need>,
    contents: Contents,
    authorities: Sides<Option<Vec<u8>>>,
    /// What is missing or unusable.
    problem: Option<Problem>,
}

impl Dereferenced {
    async fn read(pair: &Pair, context: &Context) -> Result<Self, ApplyError> {
        let needs = needs(pair);
        let contents = context
            .references
            .read(&context.cluster.client, &key(pair), &named_in(&needs))
            .await?;
        let authorities = Sides::from_fn(|side| authorities(pair, side, &contents));
        let problem = needs.iter().find_map(|need| lacking(need, &contents)).or_else(|| {
            Side::BOTH
                .into_iter()
                .find_map(|side| unusable(pair, side, authorities[side].as_deref()?))
        });
        Ok(Self {
            needs,
            contents,
            authorities,
            problem,
        })
    }

    fn handover(&self, pair: &Arc<Pair>, object: &Arc<ProxyPair>) -> Handover {
        Handover {
            login: login(pair, &self.contents).map(|(user, password)| Credentials { user, password }),
            authorities: Sides::from_fn(|side| {
                let bundle = self.authorities[side].clone()?;
                unusable(pair, side, &bundle).is_none().then(|| Arc::new(bundle))
            }),
            ..declared(pair, object)
        }
    }

    /// Whether the pod of that side could not start.
    fn hold_back(&self, side: Side) -> bool {
        self.needs
            .iter()
            .filter(|need| need.side == Some(side))
            .any(|need| lacking(need, &self.contents).is_some())
    }
}

/// What is wrong with a CA bundle, if anything.
fn unusable(pair: &Pair, side: Side, bundle: &[u8]) -> Option<Problem> {
    let name = &pair.spec.side(side).object_server.name;
    ObjectServerTls::new(bundle, name).err().map(|error| Problem {
        reason: Reason::CaBundleUnusable,
        message: format!("spec.{}.objectServer.tls: {error}", side.label()),
    })
}

/// The keys of gates and operator.
struct PairKeys(KeySet);

impl PairKeys {
    const fn renew_at(&self) -> Timestamp {
        self.0.renew_at
    }

    fn for_worker(&self, gate_name: &str) -> Result<Keys, ReconcileError> {
        let text = |key| self.0.operator.get(key).map(String::as_str).unwrap_or_default();
        Ok(Keys {
            config: check::client_config(text(CA_CRT), text(TLS_CRT), text(TLS_KEY))?,
            gate_name: check::server_name(gate_name)?,
            certificate: text(TLS_CRT).to_owned(),
        })
    }
}

/// Reads the keys, and makes or renews them where that is due.
async fn dereference_keys(
    pair: &Pair,
    context: &Context,
    applier: &mut Applier<'_>,
) -> Result<PairKeys, ReconcileError> {
    let cluster = &context.cluster;
    let gate = find::<Secret>(cluster, pair, &pair.gate_tls_name()).await?;
    let operator = find::<Secret>(cluster, pair, &pair.operator_tls_name()).await?;
    let current = operator
        .as_ref()
        .map(|operator| (gate.as_ref().map(content).unwrap_or_default(), content(operator)));
    let lifetime = context.settings.certificate_lifetime;
    let keys = keys::renewed(current.clone(), &pair.gate_name, lifetime, Timestamp::now())?;
    if current.as_ref() == Some(&(keys.gate.clone(), keys.operator.clone())) {
        for secret in [&gate, &operator].into_iter().flatten() {
            applier.note(secret);
        }
        return Ok(PairKeys(keys));
    }
    // The operator's first: it holds the authority, from which the gates' can be made again.
    for (name, data) in [
        (pair.operator_tls_name(), &keys.operator),
        (pair.gate_tls_name(), &keys.gate),
    ] {
        cluster.claim()?;
        let secret = children::tls_secret(pair, name, data.clone());
        applier.note(&patch(cluster, pair, &secret).await?);
    }
    tracing::info!(
        pair = pair.name,
        namespace = pair.namespace,
        "made new keys for the gates"
    );
    Ok(PairKeys(keys))
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

/// Applies all children but the keys. Whether both sides have the pod template that is declared, or keep theirs for want of something.
async fn apply_children(
    object: &ProxyPair,
    pair: &Pair,
    registry: &Registry,
    references: &Dereferenced,
    nodes: &Nodes,
    applier: &mut Applier<'_>,
) -> bool {
    // First what a switch needs.
    let service = apply_virtual_service(object, pair, registry, applier).await;
    applier.apply(&children::service_account(pair)).await;
    applier.apply(&children::disruption_budget(pair)).await;
    let primary = applier.apply(&children::side_service(pair, Side::Primary)).await;
    let backup = applier.apply(&children::side_service(pair, Side::Backup)).await;
    if let (Some(service), Some(primary), Some(backup)) = (service, primary, backup) {
        let reach = children::reach(
            pair,
            &service,
            Sides {
                primary: &primary,
                backup: &backup,
            },
            nodes,
        );
        let probes: ConfigMap = children::probes(pair, &reach);
        applier.apply(&probes).await;
    }
    apply_deployments(object, pair, registry, references, applier).await
}

/// Applies everything in the virtual Service but its selector, which stays as it is found: the worker alone patches that. Carries the
/// resourceVersion of what was found, so that a selector which was patched in between is not turned back.
async fn apply_virtual_service(
    object: &ProxyPair,
    pair: &Pair,
    registry: &Registry,
    applier: &mut Applier<'_>,
) -> Option<Service> {
    let found = applier.find::<Service>(&pair.service_name()).await?;
    hand_over_service(pair, registry, found.clone());
    let selected = registry.snapshot(pair).selected;
    let in_status = object.status.as_ref().and_then(|status| status.serving);
    let mut wanted = children::virtual_service(pair, selected.or(in_status).unwrap_or(Side::Primary));
    if let Some(found) = &found {
        wanted.metadata.resource_version = found.resource_version();
        let selector = found.spec.as_ref().and_then(|spec| spec.selector.clone());
        if let (Some(spec), Some(selector)) = (&mut wanted.spec, selector) {
            spec.selector = Some(selector);
        }
    }
    let applied = applier.apply_found(&wanted).await;
    if applied.is_some() {
        hand_over_service(pair, registry, applied.clone());
    }
    applied.or(found)
}

fn hand_over_service(pair: &Pair, registry: &Registry, service: Option<Service>) {
    registry.with_worker(&key(pair), &pair.uid, |worker| worker.hand_over_service(service));
}

/// Applies the Deployments whose turn it is: see [`rollout`].
async fn apply_deployments(
    object: &ProxyPair,
    pair: &Pair,
    registry: &Registry,
    references: &Dereferenced,
    applier: &mut Applier<'_>,
) -> bool {
    let image = &registry.context.settings.image;
    let wanted = Sides::from_fn(|side| children::deployment(pair, side, image, &references.contents));
    let mut templates = Sides::from_fn(|side| Template {
        wanted: template_of(&wanted[side]),
        found: None,
        held_back: references.hold_back(side),
    });
    for side in Side::BOTH {
        let Some(found) = applier.find::<Deployment>(&pair.side_name(side)).await else {
            return false;
        };
        templates[side].found = found.as_ref().and_then(template_of);
    }
    let in_status = object.status.as_ref().and_then(|status| status.serving);
    let steps = rollout::next(&templates, &registry.snapshot(pair), in_status.unwrap_or(Side::Primary));
    for (side, step) in steps.iter() {
        match step {
            RolloutStep::Apply => drop(applier.apply_found(&wanted[side]).await),
            RolloutStep::HoldBack => {}
            RolloutStep::Wait => {
                let (name, side) = (&pair.name, side.label());
                tracing::debug!(
                    pair = name,
                    side,
                    "a changed pod template waits until the other side is up with it"
                );
            }
        }
    }
    steps.iter().all(|(_, step)| *step != RolloutStep::Wait)
}

fn template_of(deployment: &Deployment) -> Option<String> {
    children::template_of(&deployment.metadata).map(str::to_owned)
}

async fn report(object: &ProxyPair, registry: &Registry, problem: Problem) {
    let pair = ObjectRef::<GuardedPair>::new(&object.name_any()).within(&object.namespace().unwrap_or_default());
    let uid = object.uid().unwrap_or_default();
    let reported = registry.with_worker(&pair, &uid, |worker: &Worker| worker.report(Some(problem.clone())));
    let cluster = &registry.context.cluster;
    if reported.is_none()
        && let Err(error) = refuse(cluster, object, &problem, Timestamp::now()).await
    {
        tracing::warn!(%pair, %error, "failed to write into status what is wrong");
    }
}
