//! The last phase of a reconciliation: applies the children that are desired.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
};
use kube::ResourceExt;

use super::{
    apply::Applier,
    dereference::Dereferenced,
    registry::{Registry, key},
};
use crate::{
    api::{ProxyPair, Reason, Side, Sides},
    domain::{
        children::{self, Nodes},
        pair::Pair,
        pod_failure::pod_refusal,
        rollout::{self, RolloutStep, Template},
        status::Problem,
        updates::{SideImage, is_broken},
    },
};

/// What came of applying the children.
#[derive(Default)]
pub struct Outcome {
    /// Both sides have the pod template that is declared, or keep theirs for want of something.
    pub complete: bool,
    /// What keeps the children from being as declared.
    pub problem: Option<Problem>,
}

/// Applies all children but the keys.
pub async fn apply_children(
    object: &ProxyPair,
    pair: &Pair,
    registry: &Registry,
    references: &Dereferenced,
    nodes: &Nodes,
    applier: &mut Applier<'_>,
) -> Outcome {
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
    Box::pin(apply_deployments(object, pair, registry, references, applier)).await
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

/// Applies the Deployments whose turn it is: see [`rollout`] and [`updates`](crate::domain::updates).
async fn apply_deployments(
    object: &ProxyPair,
    pair: &Pair,
    registry: &Registry,
    references: &Dereferenced,
    applier: &mut Applier<'_>,
) -> Outcome {
    let image = &registry.context.settings.image;
    let wanted = Sides::from_fn(|side| children::deployment(pair, side, image, &references.contents));
    let mut deployments = Sides::<Option<Deployment>>::default();
    for side in Side::BOTH {
        let Some(found) = applier.find(&pair.side_name(side)).await else {
            return Outcome::default();
        };
        deployments[side] = found;
    }
    let images = Sides::from_fn(|side| SideImage {
        wanted: children::gate_image(&wanted[side]),
        found: deployments[side].as_ref().and_then(children::gate_image),
        template: deployments[side].as_ref().and_then(template_of),
    });
    let may_update = registry.may_update(pair, &images);
    let snapshot = registry.snapshot(pair);
    let needs_place = |side: Side| images[side].is_old() && !is_broken(&snapshot, side);
    let templates = Sides::from_fn(|side| Template {
        wanted: template_of(&wanted[side]),
        found: images[side].template.clone(),
        held_back: references.hold_back(side),
        postponed: needs_place(side) && !may_update,
    });
    let in_status = object.status.as_ref().and_then(|status| status.serving);
    let steps = rollout::next(&templates, &snapshot, in_status.unwrap_or(Side::Primary));
    for (side, step) in steps.iter() {
        match step {
            RolloutStep::Apply => {
                if needs_place(side) {
                    registry.begin_update(pair, side, templates[side].wanted.clone());
                }
                let applied = applier.apply_found(&wanted[side]).await;
                deployments[side] = applied.or(deployments[side].take());
            }
            RolloutStep::HoldBack => {}
            RolloutStep::Wait | RolloutStep::Postpone => {
                tracing::debug!(side = side.label(), ?step, "a changed pod template waits");
            }
        }
    }
    let is_postponed = steps.iter().any(|(_, step)| *step == RolloutStep::Postpone);
    Outcome {
        complete: steps
            .iter()
            .all(|(_, step)| matches!(step, RolloutStep::Apply | RolloutStep::HoldBack)),
        problem: refused_pod(pair, &deployments).or_else(|| is_postponed.then(update_waits)),
    }
}

fn template_of(deployment: &Deployment) -> Option<String> {
    children::template_of(&deployment.metadata).map(str::to_owned)
}

/// What the cluster says about a pod that it refuses to create.
fn refused_pod(pair: &Pair, deployments: &Sides<Option<Deployment>>) -> Option<Problem> {
    Side::BOTH.into_iter().find_map(|side| {
        let words = pod_refusal(deployments[side].as_ref()?.status.as_ref()?)?;
        Some(Problem {
            reason: Reason::PodRefused,
            message: format!(
                "the cluster refuses to create the pod of Deployment {}: {words}",
                pair.side_name(side)
            ),
        })
    })
}

/// Without the names of other pairs, which change with each of them.
fn update_waits() -> Problem {
    Problem {
        reason: Reason::UpdateWaiting,
        message: "its proxies get the operator's new image when it works for the pairs that have it already".to_owned(),
    }
}
