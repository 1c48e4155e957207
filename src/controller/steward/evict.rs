//! Deleting the pod of a gate that is silent.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
    runtime::events::{Event, EventType},
};

use super::actor::Actor;
use crate::{
    api::{Cause, Health, Reason},
    controller::apply::{ApplyError, within_deadline},
    health::{Finding, index},
};

/// A side's pod is deleted so often at the most.
const EVICT_EVERY: Duration = Duration::from_secs(60);

impl Actor {
    /// Deletes the pod of a side that was left because its gate is silent: kubelet is the one that can still end its sessions.
    pub(super) async fn evict_frozen(&mut self, finding: &Finding) -> Result<(), ApplyError> {
        let idle = self.routing.serving.other();
        let side = &finding.sides[index(idle)];
        let frozen = side.health.health == Health::Down && side.health.cause == Some(Cause::ProxyUnresponsive);
        let recently = self.evicted.get(&idle).is_some_and(|at| at.elapsed() < EVICT_EVERY);
        let (Some(name), Some(uid)) = (&side.pod.name, &side.pod.uid) else {
            return Ok(());
        };
        if !frozen || recently || !finding.sides[index(self.routing.serving)].health.may_serve() {
            return Ok(());
        }
        self.context.claim()?;
        self.evicted.insert(idle, Instant::now());
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.pair.namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(1),
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match within_deadline(api.delete(name, &params)).await {
            Err(ApplyError::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            outcome => drop(outcome?),
        }
        tracing::warn!(
            pair = self.pair.name,
            namespace = self.pair.namespace,
            pod = name,
            "deleted the pod of a gate that is silent"
        );
        self.publish(Event {
            type_: EventType::Warning,
            reason: Reason::ProxyPodDeleted.to_string(),
            note: Some(format!(
                "deleted pod {name}: its gate is silent, and sessions on it would hang"
            )),
            action: "DeletePod".to_owned(),
            secondary: None,
        });
        Ok(())
    }
}
