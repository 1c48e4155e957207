//! The Deployment of one side: one pod, in it the gate.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Affinity, Capabilities, Container, ContainerPort, HTTPGetAction, PodAffinityTerm, PodAntiAffinity,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecretVolumeSource, SecurityContext, Volume, VolumeMount, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{labels, metadata, side_labels};
use crate::{
    api::{ANNOTATION_TEMPLATE, Duration as ApiDuration, PORT_PROXY, Side},
    domain::pair::Pair,
};

/// Port of the gate for probes; OMNIbus's default for proxy servers.
const PROXY_PORT: i32 = 4400;
/// Port of the gate for check sessions.
pub const CHECK_PORT: u16 = 4401;
/// Port of the gate for reports and orders.
pub const CONTROL_PORT: u16 = 4402;
/// Port of the gate for kubelet and Prometheus.
const ADMIN_PORT: i32 = 4403;
/// Where the gate finds its keys.
const TLS_DIR: &str = "/etc/proxypair/tls";
/// User and group of the process.
const UID: i64 = 65532;
/// What a pod may take beyond twice the drain's grace period, so that the drain and not kubelet ends the last session.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// The image that holds the gate: the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateImage {
    /// Where it is pulled from.
    pub image: String,
    /// Always, IfNotPresent or Never; `None` leaves it to Kubernetes.
    pub pull_policy: Option<String>,
}

/// The Deployment of one side. Its one pod is replaced by ending the old one first: the other side serves meanwhile.
pub fn deployment(pair: &Pair, side: Side, image: &GateImage) -> Deployment {
    let selector = side_labels(pair, side);
    let mut template = pod_template(pair, side, image);
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

/// Which pod template an object carries.
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

fn pod_template(pair: &Pair, side: Side, image: &GateImage) -> PodTemplateSpec {
    let settings = pair.spec.proxy.pod.overridden_by(pair.spec.side(side).proxy.as_ref());
    let grace = pair.spec.failback.drain.grace_period.get() * 2 + GRACE_MARGIN;
    let mut labels = settings.pod_labels.unwrap_or_default();
    labels.extend(side_labels(pair, side));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: settings.pod_annotations,
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(pair.service_account_name()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: i64::try_from(grace.as_secs()).ok(),
            image_pull_secrets: settings.image_pull_secrets,
            node_selector: settings.node_selector,
            tolerations: settings.tolerations,
            priority_class_name: settings.priority_class_name,
            affinity: Some(settings.affinity.unwrap_or_else(|| apart(pair))),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(UID),
                run_as_group: Some(UID),
                fs_group: Some(UID),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            containers: vec![gate(pair, side, image, settings.resources, grace)],
            volumes: Some(vec![Volume {
                name: "tls".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(pair.gate_tls_name()),
                    default_mode: Some(0o440),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            }]),
            ..PodSpec::default()
        }),
    }
}

fn gate(
    pair: &Pair,
    side: Side,
    image: &GateImage,
    resources: Option<ResourceRequirements>,
    grace: Duration,
) -> Container {
    let declared = pair.spec.side(side);
    let args = [
        "gate".to_owned(),
        format!("--name={}", declared.server_name),
        format!("--listen=0.0.0.0:{PROXY_PORT}"),
        format!("--check-listen=0.0.0.0:{CHECK_PORT}"),
        format!("--control-listen=0.0.0.0:{CONTROL_PORT}"),
        format!("--admin-listen=0.0.0.0:{ADMIN_PORT}"),
        format!("--object-server-name={}", declared.object_server.name),
        format!("--object-server={}", pair.object_server(side)),
        format!("--tls-dir={TLS_DIR}"),
        format!("--unresponsive-after={}", pair.spec.health_check.unresponsive_after),
        format!("--grace-period={}", ApiDuration::from(grace)),
    ];
    let port = |name: &str, container_port| ContainerPort {
        name: Some(name.to_owned()),
        container_port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let probe = |path: &str, period, failures| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(period.min(3)),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    Container {
        name: "gate".to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(args.to_vec()),
        ports: Some(vec![
            port(PORT_PROXY, PROXY_PORT),
            port("check", i32::from(CHECK_PORT)),
            port("control", i32::from(CONTROL_PORT)),
            port("admin", ADMIN_PORT),
        ]),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 1, 1)),
        resources: Some(resources.unwrap_or_else(default_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "tls".to_owned(),
            mount_path: TLS_DIR.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

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
