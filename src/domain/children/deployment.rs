//! The Deployment of one side: in each of its pods the gate, and with engine Proxyserv the user's nco_proxyserv behind it.

mod gate;
mod proxyserv;

use std::time::Duration;

use aws_lc_rs::digest;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Affinity, Capabilities, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
            ResourceRequirements, SeccompProfile, SecurityContext, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

pub use gate::{ADMIN_PORT, CHECK_PORT, CONTROL_PORT, PROXY_PORT};

use super::{
    labels::{self, Map},
    metadata, routed_selector, selector, side_selector,
};
use crate::{
    api::{ANNOTATION_SECRET_VERSION, ANNOTATION_TEMPLATE, ProxyOverrides, Side},
    domain::{
        pair::{Pair, ProxyservPod},
        references::{Contents, Reference},
    },
};

/// Time in addition to twice the drain's delay and grace period, so that the drain closes the last session and not kubelet.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// The image that holds the gate: the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateImage {
    /// The image, as in a pod.
    pub image: String,
    /// Always, IfNotPresent or Never; `None` leaves the decision to Kubernetes.
    pub pull_policy: Option<String>,
}

/// How long a new pod of several must be ready before the next one is replaced: the nodes lead to it by then.
const SETTLED_AFTER: i32 = 2;

/// The Deployment of one side. A single pod is replaced by stopping the old one first: the other side serves meanwhile. Of several, each is
/// stopped when its successor is ready.
///
/// A change of nco_proxyserv's Secret, found in `contents`, replaces the pod as well, because the Secret is read when
/// the pod starts. Certificates and CA bundles do not: the gate reads them again by itself.
pub fn deployment(pair: &Pair, side: Side, image: &GateImage, contents: &Contents) -> Deployment {
    let selector = side_selector(pair, side);
    let mut template = pod_template(pair, side, image, contents);
    let hash = template_hash(&template);
    let annotation = Map::from([(ANNOTATION_TEMPLATE.to_owned(), hash)]);
    if let Some(metadata) = &mut template.metadata {
        metadata.annotations.get_or_insert_default().extend(annotation.clone());
    }
    let is_several = pair.replicas(side) > 1;
    Deployment {
        metadata: metadata(pair, pair.side_name(side), selector.clone(), annotation),
        spec: Some(DeploymentSpec {
            replicas: Some(pair.replicas(side)),
            revision_history_limit: Some(2),
            min_ready_seconds: is_several.then_some(SETTLED_AFTER),
            strategy: Some(if is_several { one_by_one() } else { stop_first() }),
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

fn stop_first() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("Recreate".to_owned()),
        rolling_update: None,
    }
}

fn one_by_one() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
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

/// The image of the gate in a Deployment.
pub fn gate_image(deployment: &Deployment) -> Option<String> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    containers
        .iter()
        .find(|container| container.name == gate::NAME)?
        .image
        .clone()
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
    let declared = settings.pod_labels.take().unwrap_or_default();
    let mut annotations = settings.pod_annotations.take().unwrap_or_default();
    let version = secret_version(pair, side, contents);
    annotations.extend(version.map(|version| (ANNOTATION_SECRET_VERSION.to_owned(), version)));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::of_pod(pair, declared, routed_selector(pair, side))),
            annotations: labels::annotations(pair, annotations),
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
        security_context: Some(pod_security(
            settings.pod_security_context.take(),
            PodSecurityContext::default(),
        )),
        containers: vec![gate::container(pair, side, image, resources, grace)],
        volumes: Some(gate::volumes(pair, side)),
        ..placement(pair, side, settings)
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
    let resources = proxyserv::Resources {
        proxy: settings.resources.take(),
        init: settings.init_resources.take(),
    };
    let gate = gate::container(pair, side, image, settings.gate_resources.take(), grace);
    let declared = settings.pod_security_context.take();
    // Who declares users, even none, decides on all of them.
    let user = declared.is_none().then_some(proxyserv::UID);
    let unless_declared = PodSecurityContext {
        fs_group: Some(proxyserv::FS_GROUP),
        ..PodSecurityContext::default()
    };
    let volumes = gate::volumes(pair, side).into_iter();
    PodSpec {
        termination_grace_period_seconds: seconds(grace + proxyserv::GRACE),
        security_context: Some(pod_security(declared, unless_declared)),
        init_containers: Some(proxyserv::containers(pair, side, proxyserv, image, resources, user)),
        containers: vec![gate],
        volumes: Some(volumes.chain(proxyserv::volumes(proxyserv)).collect()),
        ..placement(pair, side, settings)
    }
}

/// What the pods of both engines have in common: account and placement.
fn placement(pair: &Pair, side: Side, settings: ProxyOverrides) -> PodSpec {
    PodSpec {
        service_account_name: Some(pair.service_account_name()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: settings.image_pull_secrets,
        node_selector: Some(on_linux(settings.node_selector.unwrap_or_default())),
        tolerations: settings.tolerations,
        priority_class_name: settings.priority_class_name,
        affinity: Some(settings.affinity.unwrap_or_else(|| apart(pair, side))),
        ..PodSpec::default()
    }
}

/// The declared security context, or the default one; in both with what the restricted Pod Security Standard requires.
fn pod_security(declared: Option<PodSecurityContext>, unless_declared: PodSecurityContext) -> PodSecurityContext {
    let mut context = declared.unwrap_or(unless_declared);
    context.run_as_non_root.get_or_insert(true);
    context.seccomp_profile.get_or_insert_with(|| SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    });
    context
}

/// There is no image for other operating systems.
fn on_linux(mut selector: Map) -> Map {
    selector
        .entry("kubernetes.io/os".to_owned())
        .or_insert_with(|| "linux".to_owned());
    selector
}

/// How long the gate may take to stop.
fn gate_grace(pair: &Pair) -> Duration {
    let drain = &pair.spec.failback.drain;
    (drain.delay.get() + drain.grace_period.get()) * 2 + GRACE_MARGIN
}

fn seconds(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_secs()).ok()
}

/// What the restricted Pod Security Standard requires of a container, and a read-only root filesystem. Without a user it
/// runs as that of the pod, the platform or the image.
fn restricted(user: Option<i64>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        run_as_user: user,
        ..SecurityContext::default()
    }
}

/// Resources of a container for which the user declares none. There are limits of both, because a quota on limits
/// requires them of every container.
fn default_resources(cpu_limit: &str, memory_limit: &str) -> ResourceRequirements {
    let quantities = |list: [(&str, &str); 2]| {
        let quantity = |(name, value): (&str, &str)| (name.to_owned(), Quantity(value.to_owned()));
        Some(list.into_iter().map(quantity).collect())
    };
    ResourceRequirements {
        requests: quantities([("cpu", "50m"), ("memory", "64Mi")]),
        limits: quantities([("cpu", cpu_limit), ("memory", memory_limit)]),
        claims: None,
    }
}

/// Of a container that carries the traffic.
fn traffic_resources() -> ResourceRequirements {
    default_resources("2", "512Mi")
}

/// All pods of the pair prefer different nodes and zones, first of all those of one side: what fails then takes one gate away, or one side.
fn apart(pair: &Pair, side: Side) -> Affinity {
    let prefer = |weight, labels: Map, topology: &str| WeightedPodAffinityTerm {
        weight,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(LabelSelector {
                match_labels: Some(labels),
                ..LabelSelector::default()
            }),
            topology_key: topology.to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    let (node, zone) = ("kubernetes.io/hostname", "topology.kubernetes.io/zone");
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                prefer(100, side_selector(pair, side), node),
                prefer(60, selector(pair), node),
                prefer(30, side_selector(pair, side), zone),
                prefer(20, selector(pair), zone),
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

#[cfg(test)]
mod tests;
