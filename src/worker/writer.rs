//! The calls of one pair to the API server. Claim, deadline and resourceVersion are here and nowhere else.
//!
//! Each write is preceded by a look at the claim to leadership and carries the resourceVersion of the newest object that is known, so a
//! leader that was replaced is refused. An object of another `metadata.uid` than the one that the worker was started for ends the worker:
//! the pair was deleted, and another one made under its name.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Map, Value, json};

use super::{supervisor::set_watched, telemetry::publish_text};
use crate::{
    api::{FIELD_MANAGER, LABEL_ROUTED, NOT_ROUTED, PORT_PROXY, ProxyPair, ProxyPairStatus, ROUTED, Side},
    cluster::{ApplyError, Cluster, within_deadline},
    domain::{
        children,
        defect::Defect,
        machine::{Call, CallDone, CallError, Selects, StopReason, Stored},
        notice::defect_text,
        pair::Pair,
        status::{Problem, refused},
    },
};

/// A call under way. It resolves once, with the outcome and the newest versions of the objects.
pub type Calling = Pin<Box<dyn Future<Output = (Result<CallDone, CallError>, KnownObjects)> + Send>>;

/// What makes the calls of a worker.
pub trait Writer: Send {
    /// Begins a call. No other one is begun before it has resolved and its versions have been taken.
    fn begin(&self, call: Call, pair: &Arc<Pair>) -> Calling;
    /// Takes what a finished call has learned.
    fn take(&mut self, versions: KnownObjects);
    /// Takes a version of the ProxyPair from elsewhere. Returns its status if it is newer than the one that is known.
    fn take_object(&mut self, object: &ProxyPair) -> Option<ProxyPairStatus>;
    /// Takes a version of the virtual Service from elsewhere. Returns what it selects if it is newer than the one that is known.
    fn take_service(&mut self, service: Option<Service>, pair: &Pair) -> Option<Selects>;
    /// The ProxyPair as it is known, for Events about it.
    fn object(&self) -> &ProxyPair;
    /// The address of the virtual Service within the cluster, as it is known.
    fn service_address(&self) -> Option<SocketAddr>;
}

/// The newest objects that are known.
#[derive(Clone, Default)]
pub struct KnownObjects {
    /// The ProxyPair.
    pub object: Option<ProxyPair>,
    /// The virtual Service; `None` inside when there is none.
    pub service: Option<Option<Service>>,
}

/// Makes the calls to a real API server.
pub struct ApiWriter {
    cluster: Arc<Cluster>,
    object: ProxyPair,
    service: Option<Service>,
}

impl ApiWriter {
    pub fn new(cluster: Arc<Cluster>, object: &ProxyPair) -> Self {
        Self {
            cluster,
            object: object.clone(),
            service: None,
        }
    }
}

impl Writer for ApiWriter {
    fn begin(&self, call: Call, pair: &Arc<Pair>) -> Calling {
        let conversation = Conversation {
            cluster: Arc::clone(&self.cluster),
            pair: Arc::clone(pair),
            object: self.object.clone(),
            service: self.service.clone(),
        };
        Box::pin(async move {
            let mut versions = KnownObjects::default();
            let outcome = conversation.make(call, &mut versions).await;
            (outcome, versions)
        })
    }

    fn take(&mut self, versions: KnownObjects) {
        if let Some(object) = versions.object {
            self.object = object;
        }
        if let Some(service) = versions.service {
            self.service = service;
        }
    }

    fn take_object(&mut self, object: &ProxyPair) -> Option<ProxyPairStatus> {
        if !is_newer(object, &self.object) {
            return None;
        }
        self.object = object.clone();
        Some(object.status.clone().unwrap_or_default())
    }

    fn take_service(&mut self, service: Option<Service>, pair: &Pair) -> Option<Selects> {
        match (&service, &self.service) {
            (Some(found), Some(known)) if !is_newer(found, known) => return None,
            _ => {}
        }
        self.service = service;
        Some(selects(self.service.as_ref(), pair))
    }

    fn object(&self) -> &ProxyPair {
        &self.object
    }

    fn service_address(&self) -> Option<SocketAddr> {
        let spec = self.service.as_ref()?.spec.as_ref()?;
        let port = spec
            .ports
            .as_ref()?
            .iter()
            .find(|port| port.name.as_deref() == Some(PORT_PROXY))?;
        Some(SocketAddr::new(
            spec.cluster_ip.as_ref()?.parse().ok()?,
            u16::try_from(port.port).ok()?,
        ))
    }
}

/// One call with all that it needs.
struct Conversation {
    cluster: Arc<Cluster>,
    pair: Arc<Pair>,
    object: ProxyPair,
    service: Option<Service>,
}

impl Conversation {
    async fn make(self, call: Call, versions: &mut KnownObjects) -> Result<CallDone, CallError> {
        let outcome = match call {
            Call::WriteStatus(status) => self.write_status(*status, versions).await.map(|()| CallDone::Written),
            Call::PatchSelector(side) => self.patch_selector(side, versions).await.map(|()| CallDone::Written),
            Call::Read => return self.read(versions).await,
            Call::LabelPod { name, uid, routed, .. } => self.label_pod(&name, &uid, routed).await,
            Call::DeletePod { name, uid, grace, .. } => self.delete_pod(&name, uid, grace).await,
        };
        match outcome {
            Ok(done) => Ok(done),
            Err(ApplyError::NotLeading) => Err(CallError::Stop(StopReason::NotLeading)),
            Err(error) => {
                tracing::warn!(%error, "a write failed or its outcome is unknown; reading the state");
                Err(CallError::Failed {
                    retry_after: error.retry_after(),
                    reason: error.reason(),
                })
            }
        }
    }

    fn objects(&self) -> Api<ProxyPair> {
        Api::namespaced(self.cluster.client.clone(), &self.pair.namespace)
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.cluster.client.clone(), &self.pair.namespace)
    }

    async fn write_status(&self, status: ProxyPairStatus, versions: &mut KnownObjects) -> Result<(), ApplyError> {
        self.cluster.claim()?;
        let object = ProxyPair {
            status: Some(status),
            ..self.object.clone()
        };
        let (api, params) = (self.objects(), PostParams::default());
        let written = within_deadline(api.replace_status(&self.pair.name, &params, &object)).await?;
        versions.object = Some(written);
        Ok(())
    }

    /// Changes the selector and nothing else, so that no other field can have it refused.
    async fn patch_selector(&self, side: Side, versions: &mut KnownObjects) -> Result<(), ApplyError> {
        self.cluster.claim()?;
        let patch = selector_patch(self.service.as_ref(), &self.pair, side);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let (api, name) = (self.services(), self.pair.service_name());
        let patched = within_deadline(api.patch(&name, &params, &Patch::Merge(&patch))).await?;
        versions.service = Some(Some(patched));
        Ok(())
    }

    /// Changes one label, which decides whether the virtual Service leads to the pod. `uid` is a precondition: the API server refuses to change it.
    async fn label_pod(&self, name: &str, uid: &str, routed: bool) -> Result<CallDone, ApplyError> {
        self.cluster.claim()?;
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.pair.namespace);
        let value = if routed { ROUTED } else { NOT_ROUTED };
        let patch = json!({"metadata": {"uid": uid, "labels": {LABEL_ROUTED: value}}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match within_deadline(api.patch(name, &params, &Patch::Merge(&patch))).await {
            // It is gone, or another one has its name.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(CallDone::AlreadyGone),
            outcome => outcome.map(|_| CallDone::Written),
        }
    }

    async fn delete_pod(&self, name: &str, uid: String, grace: Duration) -> Result<CallDone, ApplyError> {
        self.cluster.claim()?;
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.pair.namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(u32::try_from(grace.as_secs()).unwrap_or(u32::MAX)),
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match within_deadline(api.delete(name, &params)).await {
            // It is gone, or another one has its name.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(CallDone::AlreadyGone),
            outcome => outcome.map(|_| CallDone::Written),
        }
    }

    async fn read(&self, versions: &mut KnownObjects) -> Result<CallDone, CallError> {
        let failed = |error: ApplyError| {
            tracing::warn!(%error, "failed to read the state");
            CallError::Failed {
                retry_after: error.retry_after(),
                reason: error.reason(),
            }
        };
        let (objects, services) = (self.objects(), self.services());
        let object = within_deadline(objects.get_opt(&self.pair.name))
            .await
            .map_err(failed)?;
        let Some(object) = object.filter(|object| object.metadata.uid.as_ref() == Some(&self.pair.uid)) else {
            return Err(CallError::Stop(StopReason::Gone));
        };
        let service = within_deadline(services.get_opt(&self.pair.service_name()))
            .await
            .map_err(failed)?;
        let stored = Stored {
            status: object.status.clone().unwrap_or_default(),
            selects: selects(service.as_ref(), &self.pair),
        };
        versions.object = Some(object);
        versions.service = Some(service);
        Ok(CallDone::Read(Box::new(stored)))
    }
}

/// What a Service selects. A Service of somebody else counts as none: it is never touched.
pub fn selects(service: Option<&Service>, pair: &Pair) -> Selects {
    let ours = service.filter(|service| children::is_owned(pair, *service));
    let Some(service) = ours else {
        return Selects::NoService;
    };
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let side = Side::BOTH
        .into_iter()
        .find(|side| selector == Some(&children::virtual_selector(pair, *side)));
    side.map_or(Selects::Other, Selects::Side)
}

/// A merge patch (RFC 7386) of the selector alone, on the version that is known.
fn selector_patch(known: Option<&Service>, pair: &Pair, side: Side) -> Value {
    let wanted = children::virtual_selector(pair, side);
    let found = known
        .and_then(|service| service.spec.as_ref()?.selector.as_ref())
        .into_iter()
        .flatten();
    let mut selector: Map<String, Value> = found
        .filter(|(key, _)| !wanted.contains_key(*key))
        .map(|(key, _)| (key.clone(), Value::Null))
        .collect();
    selector.extend(wanted.into_iter().map(|(key, value)| (key, Value::String(value))));
    json!({
        "metadata": {"resourceVersion": known.and_then(ResourceExt::resource_version)},
        "spec": {"selector": selector},
    })
}

/// Whether `a` is a later version of an object than `b`. KnownObjects are numbers that grow.
fn is_newer<K: Resource>(a: &K, b: &K) -> bool {
    let version = |object: &K| {
        object
            .resource_version()
            .and_then(|version| version.parse::<u64>().ok())
    };
    version(a) > version(b)
}

/// Says in the status of a pair that has no worker why it cannot be acted on.
///
/// # Errors
///
/// [`ApplyError`] if the status cannot be written.
pub async fn refuse(
    cluster: &Cluster,
    object: &ProxyPair,
    problem: &Problem,
    now: jiff::Timestamp,
) -> Result<(), ApplyError> {
    let before = object.status.clone().unwrap_or_default();
    let status = refused(problem, object.metadata.generation, &before, now);
    cluster.claim()?;
    let namespace = object.namespace().unwrap_or_default();
    set_watched(cluster, &namespace, &object.name_any(), false);
    if status == before {
        return Ok(());
    }
    publish(cluster, object, problem);
    let api: Api<ProxyPair> = Api::namespaced(cluster.client.clone(), &namespace);
    let object = ProxyPair {
        status: Some(status),
        ..object.clone()
    };
    within_deadline(api.replace_status(&object.name_any(), &PostParams::default(), &object)).await?;
    Ok(())
}

/// Publishes an Event about a pair that has no worker.
fn publish(cluster: &Cluster, object: &ProxyPair, problem: &Problem) {
    let text = defect_text(&Defect {
        side: None,
        reason: problem.reason,
        message: problem.message.clone(),
    });
    publish_text(&cluster.recorder, object, text);
}
