//! `spec.proxy`: what runs behind the gate in a proxy pod, and the settings of that pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProxyProperties, rules};

/// What runs behind the gate in a proxy pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    /// Nothing: the gate connects to the ObjectServer itself.
    #[default]
    Relay,
    /// The user's own nco_proxyserv: the gate connects to it, and it connects to the ObjectServer.
    Proxyserv,
}

/// When nodes pull an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start of a container.
    Always,
    /// If the node does not have the image.
    IfNotPresent,
    /// Never: the node must have the image.
    Never,
}

impl PullPolicy {
    /// The word Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Where the probes' TLS is terminated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// At the gate, with the certificate of the proxy.
    #[default]
    Terminate,
    /// At the ObjectServer, with engine Relay.
    PassThrough,
}

/// TLS for connections from probes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::terminate_needs_secret().cel(),
    validation = rules::pass_through_without_secret().cel(),
)]
pub struct ListenerTlsSpec {
    /// Terminate: the gate terminates the probes' TLS with the certificate in `secretName`. PassThrough, with engine
    /// Relay: the gate forwards the encrypted bytes, and the ObjectServer terminates TLS.
    #[serde(default)]
    pub mode: TlsMode,

    /// With Terminate: the Secret of type kubernetes.io/tls with the proxy's certificate, whose Common Name probes
    /// compare with the proxy's name. A renewed certificate is used for new sessions; open sessions stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::secret_name().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// Settings of the proxies of a pair.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::relay_without_proxyserv_fields().cel(),
)]
pub struct ProxySpec {
    /// What runs behind the gate. `Relay`: nothing, the gate connects to the ObjectServer itself. `Proxyserv`:
    /// nco_proxyserv from your own image.
    #[serde(default)]
    pub engine: Engine,

    /// The settings that a side can override.
    #[serde(flatten)]
    pub pod: ProxyOverrides,
}

/// Settings of both sides that one side can override.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyOverrides {
    /// Proxy pods of each side, from 1 to 3; all of a side are bound to the same ObjectServer. If unset: 2. With more than one, a proxy that
    /// fails, is evicted or is replaced alone moves no traffic to the other ObjectServer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3))]
    pub replicas: Option<i32>,

    /// With engine Proxyserv: the image with nco_proxyserv, installed under `ncHome`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::image().cel())]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// With engine Proxyserv: when nodes pull that image. If unset, Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// With engine Proxyserv: properties of nco_proxyserv under OMNIbus's own names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<ProxyProperties>,

    /// With engine Proxyserv: the Secret with AuthUserName and AuthPassword for the ObjectServer, and with omni.kdb,
    /// omni.sth and encryption.keyfile if the proxy needs them. A change replaces the pods, first that of the side that
    /// does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::secret_name().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,

    /// With engine Proxyserv: $NCHOME in the image. If unset: /opt/IBM/tivoli/netcool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::nc_home().cel())]
    #[schemars(length(min = 2, max = 256))]
    pub nc_home: Option<String>,

    /// TLS for connections from probes. If unset, probes connect without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsSpec>,

    /// Compute resources of the container that carries the traffic: the gate with engine Relay, nco_proxyserv with
    /// engine Proxyserv. If unset: requests of 50m CPU and 64Mi of memory, limits of 2 CPUs and 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// With engine Proxyserv: compute resources of the gate in front of nco_proxyserv. If unset: as for `resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_resources: Option<ResourceRequirements>,

    /// With engine Proxyserv: compute resources of each of the containers that prepare the files of nco_proxyserv and
    /// end before it starts. If unset: requests of 50m CPU and 64Mi of memory, limits of 1 CPU and 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_resources: Option<ResourceRequirements>,

    /// Users and groups of the proxy pods. If unset: the gate runs as the user of its image, and nco_proxyserv as user
    /// 1001 with the group 2001 for its files. If set, even to `{}`: all containers run as declared here, and otherwise
    /// as the user that the platform assigns or the image has. OpenShift's restricted-v2 needs `{}` with engine
    /// Proxyserv.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security_context: Option<PodSecurityContext>,

    /// Labels that a node must have. kubernetes.io/os: linux is added, unless it is set here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Taints that the proxy pod tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tolerations: Option<Vec<Toleration>>,

    /// Scheduling rules. If unset, the pods of the pair prefer different nodes and zones, first of all those of one side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Secrets with credentials for the image registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,

    /// The pod's priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Labels added to the proxy pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[x_kube(validation = rules::labels().cel())]
    pub pod_labels: Option<BTreeMap<String, String>>,

    /// Annotations added to the proxy pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(validation = rules::annotations().cel())]
    pub pod_annotations: Option<BTreeMap<String, String>>,
}

impl ProxyOverrides {
    /// These settings, with those replaced that `side` sets.
    pub fn overridden_by(&self, side: Option<&Self>) -> Self {
        let Some(side) = side else { return self.clone() };
        let Self {
            replicas,
            image,
            image_pull_policy,
            properties,
            secret_name,
            nc_home,
            tls,
            resources,
            gate_resources,
            init_resources,
            pod_security_context,
            node_selector,
            tolerations,
            affinity,
            image_pull_secrets,
            priority_class_name,
            pod_labels,
            pod_annotations,
        } = side.clone();
        Self {
            replicas: replicas.or(self.replicas),
            image: image.or_else(|| self.image.clone()),
            image_pull_policy: image_pull_policy.or(self.image_pull_policy),
            properties: properties.or_else(|| self.properties.clone()),
            secret_name: secret_name.or_else(|| self.secret_name.clone()),
            nc_home: nc_home.or_else(|| self.nc_home.clone()),
            tls: tls.or_else(|| self.tls.clone()),
            resources: resources.or_else(|| self.resources.clone()),
            gate_resources: gate_resources.or_else(|| self.gate_resources.clone()),
            init_resources: init_resources.or_else(|| self.init_resources.clone()),
            pod_security_context: pod_security_context.or_else(|| self.pod_security_context.clone()),
            node_selector: node_selector.or_else(|| self.node_selector.clone()),
            tolerations: tolerations.or_else(|| self.tolerations.clone()),
            affinity: affinity.or_else(|| self.affinity.clone()),
            image_pull_secrets: image_pull_secrets.or_else(|| self.image_pull_secrets.clone()),
            priority_class_name: priority_class_name.or_else(|| self.priority_class_name.clone()),
            pod_labels: pod_labels.or_else(|| self.pod_labels.clone()),
            pod_annotations: pod_annotations.or_else(|| self.pod_annotations.clone()),
        }
    }
}
