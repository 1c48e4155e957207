//! The Deployment of one side: one pod, in it the gate, and with engine Proxyserv the user's nco_proxyserv behind it.

mod gate;
mod proxyserv;

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Affinity, Capabilities, Container, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec,
            PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
    },
};

pub use gate::{CHECK_PORT, CONTROL_PORT};

use super::{labels, metadata, side_labels};
use crate::{
    api::{ANNOTATION_SECRET_VERSION, ANNOTATION_TEMPLATE, ProxyOverrides, Side},
    domain::{
        pair::{Pair, ProxyservPod},
        references::{Contents, Reference},
    },
};

/// User and group ID of this program's processes.
const UID: i64 = 65532;
/// Time in addition to twice the drain's grace period, so that the drain closes the last session and not kubelet.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// The image that holds the gate: the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateImage {
    /// The image, as in a pod.
    pub image: String,
    /// Always, IfNotPresent or Never; `None` leaves the decision to Kubernetes.
    pub pull_policy: Option<String>,
}

/// The Deployment of one side. Its one pod is replaced by stopping the old one first: the other side serves meanwhile.
///
/// A change of nco_proxyserv's Secret, found in `contents`, replaces the pod as well, because the Secret is read when
/// the pod starts. Certificates and CA bundles do not: the gate reads them again by itself.
pub fn deployment(pair: &Pair, side: Side, image: &GateImage, contents: &Contents) -> Deployment {
    let selector = side_labels(pair, side);
    let mut template = pod_template(pair, side, image, contents);
    let hash = template_hash(&template);
    let annotation = BTreeMap::from([(ANNOTATION_TEMPLATE.to_owned(), hash)]);
    if let Some(metadata) = &mut template.metadata {
        metadata.annotations.get_or_insert_default().extend(annotation.clone());
    }
    let mut metadata = metadata(pair, pair.side_name(side), selector.clone());
    metadata.annotations = Some(annotation);
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(2),
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                rolling_update: None,
            }),
            selector: LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            },
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// The hash of the pod template that a Deployment or pod was made from.
pub fn template_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata
        .annotations
        .as_ref()?
        .get(ANNOTATION_TEMPLATE)
        .map(String::as_str)
}

fn template_hash(template: &PodTemplateSpec) -> String {
    let bytes = serde_json::to_vec(template).unwrap_or_default();
    digest::digest(&digest::SHA256, &bytes).as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn pod_template(pair: &Pair, side: Side, image: &GateImage, contents: &Contents) -> PodTemplateSpec {
    let mut settings = pair.proxy(side);
    let mut labels = settings.pod_labels.take().unwrap_or_default();
    labels.extend(side_labels(pair, side));
    let mut annotations = settings.pod_annotations.take();
    if let Some(version) = secret_version(pair, side, contents) {
        let version = (ANNOTATION_SECRET_VERSION.to_owned(), version);
        annotations.get_or_insert_default().extend([version]);
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        }),
        spec: Some(match pair.proxyserv(side) {
            None => relay_pod(pair, side, settings, image),
            Some(proxyserv) => proxyserv_pod(pair, side, proxyserv, settings, image),
        }),
    }
}

/// The resourceVersion of the Secret that nco_proxyserv reads when its pod starts.
fn secret_version(pair: &Pair, side: Side, contents: &Contents) -> Option<String> {
    let secret = Reference::secret(pair.proxyserv(side)?.secret_name.as_ref()?);
    Some(contents.get(&secret)?.as_ref()?.version.clone())
}

/// A pod with the gate alone.
fn relay_pod(pair: &Pair, side: Side, mut settings: ProxyOverrides, image: &GateImage) -> PodSpec {
    let grace = gate_grace(pair);
    let resources = settings.resources.take();
    PodSpec {
        termination_grace_period_seconds: seconds(grace),
        security_context: Some(PodSecurityContext {
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            ..pod_security()
        }),
        containers: vec![gate::container(pair, side, image, resources, grace)],
        volumes: Some(gate::volumes(pair, side)),
        ..placement(pair, settings)
    }
}

/// A pod with the gate, and nco_proxyserv behind it, which stops after the gate.
fn proxyserv_pod(
    pair: &Pair,
    side: Side,
    proxyserv: &ProxyservPod,
    mut settings: ProxyOverrides,
    image: &GateImage,
) -> PodSpec {
    let grace = gate_grace(pair);
    let resources = settings.resources.take();
    let gate = Container {
        security_context: Some(restricted(Some((UID, Some(UID))))),
        ..gate::container(pair, side, image, None, grace)
    };
    let volumes = gate::volumes(pair, side).into_iter();
    PodSpec {
        termination_grace_period_seconds: seconds(grace + proxyserv::GRACE),
        security_context: Some(PodSecurityContext {
            fs_group: Some(proxyserv::FS_GROUP),
            ..pod_security()
        }),
        init_containers: Some(proxyserv::containers(pair, side, proxyserv, image, resources)),
        containers: vec![gate],
        volumes: Some(volumes.chain(proxyserv::volumes(proxyserv)).collect()),
        ..placement(pair, settings)
    }
}

/// What the pods of both engines have in common: account and placement.
fn placement(pair: &Pair, settings: ProxyOverrides) -> PodSpec {
    PodSpec {
        service_account_name: Some(pair.service_account_name()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: settings.image_pull_secrets,
        node_selector: settings.node_selector,
        tolerations: settings.tolerations,
        priority_class_name: settings.priority_class_name,
        affinity: Some(settings.affinity.unwrap_or_else(|| apart(pair))),
        ..PodSpec::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// How long the gate may take to stop.
fn gate_grace(pair: &Pair) -> Duration {
    pair.spec.failback.drain.grace_period.get() * 2 + GRACE_MARGIN
}

fn seconds(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_secs()).ok()
}

/// What the restricted Pod Security Standard requires of a container, and a read-only root filesystem. User and group
/// are the pod's unless given.
fn restricted(user: Option<(i64, Option<i64>)>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        run_as_user: user.map(|(user, _)| user),
        run_as_group: user.and_then(|(_, group)| group),
        ..SecurityContext::default()
    }
}

/// For containers whose resources the user does not set.
fn default_resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| {
        Some(
            list.iter()
                .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                .collect(),
        )
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        limits: quantities(&[("memory", "512Mi")]),
        claims: None,
    }
}

/// The two sides prefer different nodes, so that losing one loses one side.
fn apart(pair: &Pair) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    label_selector: Some(LabelSelector {
                        match_labels: Some(labels(pair)),
                        ..LabelSelector::default()
                    }),
                    topology_key: "kubernetes.io/hostname".to_owned(),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

#[cfg(test)]
mod tests;
