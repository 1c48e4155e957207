//! `spec.proxy`: what stands behind the gate in a proxy pod, and how that pod runs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProxyProperties;

/// What stands behind the gate in a proxy pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    /// The gate dials the ObjectServer itself: nothing to license.
    #[default]
    Relay,
    /// The gate dials the user's own nco_proxyserv beside it, which dials the ObjectServer.
    Proxyserv,
}

/// When nodes pull an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start of a pod.
    Always,
    /// When the node has no image of that name.
    IfNotPresent,
    /// Never: the node must have it.
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

/// Who ends the probes' TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// The gate, with the certificate of the proxy.
    #[default]
    Terminate,
    /// Whatever stands behind the gate: the proxy server of engine Proxyserv, the ObjectServer of engine Relay.
    PassThrough,
}

/// TLS towards probes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'Terminate' || has(self.secretName)").message("tls.mode Terminate needs tls.secretName: name a Secret of type kubernetes.io/tls with the proxy's certificate"),
    validation = Rule::new("self.mode != 'PassThrough' || !has(self.secretName)").message("tls.secretName goes with tls.mode Terminate: with PassThrough the gate needs no certificate, so leave it out"),
)]
pub struct ListenerTlsSpec {
    /// Terminate: the gate ends the probes' TLS with the certificate in `secretName`. PassThrough: it forwards the encrypted bytes, and the
    /// proxy server (engine Proxyserv) or the ObjectServer (engine Relay) ends it.
    #[serde(default)]
    pub mode: TlsMode,

    /// With Terminate: the Secret of type kubernetes.io/tls with the proxy's certificate, whose Common Name probes compare with the
    /// proxy's name. A changed certificate is taken without closing a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("write the name of a Secret: lower-case letters, digits, dashes and dots"))]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// How the proxies of a pair run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.engine != 'Relay' || !(has(self.image) || has(self.imagePullPolicy) || has(self.properties) || has(self.secretName) || has(self.ncHome))").message("image, imagePullPolicy, properties, secretName and ncHome are for nco_proxyserv: set proxy.engine: Proxyserv or leave them out"),
)]
pub struct ProxySpec {
    /// What stands behind the gate. `Relay`: nothing, the gate dials the ObjectServer itself. `Proxyserv`: nco_proxyserv from your own image.
    #[serde(default)]
    pub engine: Engine,

    /// The rest, each of which a side can override.
    #[serde(flatten)]
    pub pod: ProxyOverrides,
}

/// What can be set for both sides and overridden for one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyOverrides {
    /// With engine Proxyserv: the image with nco_proxyserv, installed under `ncHome`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][-A-Za-z0-9_./:@]*$')").message("write an image as registry/name:tag or registry/name@sha256:digest, without spaces"))]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// With engine Proxyserv: when nodes pull that image. Without it Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// With engine Proxyserv: properties of nco_proxyserv under OMNIbus's own names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<ProxyProperties>,

    /// With engine Proxyserv: the Secret with AuthUserName and AuthPassword for the ObjectServer, and omni.kdb, omni.sth and
    /// encryption.keyfile as far as the proxy needs them. A change replaces the pods, the idle side's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("write the name of a Secret: lower-case letters, digits, dashes and dots"))]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,

    /// With engine Proxyserv: $NCHOME in the image. Without it: /opt/IBM/tivoli/netcool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9_][-A-Za-z0-9_.]*)+$')").message("write ncHome as an absolute path without a slash at its end, such as /opt/IBM/tivoli/netcool"))]
    #[schemars(length(min = 2, max = 256))]
    pub nc_home: Option<String>,

    /// TLS towards probes. Without it they connect in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsSpec>,

    /// Compute resources of the container that carries the traffic: the gate with engine Relay, the proxy server with engine Proxyserv.
    /// Without it: requests of 50m CPU and 64Mi of memory, a limit of 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Taints that the proxy pod tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Scheduling rules. Without it the two sides prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Secrets with credentials for the image registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,

    /// The pod's priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Labels added to the proxy pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('proxypair.dev/') && !k.startsWith('app.kubernetes.io/'))").message("labels under proxypair.dev/ and app.kubernetes.io/ are the operator's: use a prefix of your own"))]
    pub pod_labels: Option<BTreeMap<String, String>>,

    /// Annotations added to the proxy pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('proxypair.dev/'))").message("annotations under proxypair.dev/ are the operator's: use a prefix of your own"))]
    pub pod_annotations: Option<BTreeMap<String, String>>,
}

impl ProxyOverrides {
    /// These fields, with those that `side` sets put over them.
    pub fn overridden_by(&self, side: Option<&Self>) -> Self {
        let Some(side) = side else { return self.clone() };
        let Self {
            image,
            image_pull_policy,
            properties,
            secret_name,
            nc_home,
            tls,
            resources,
            node_selector,
            tolerations,
            affinity,
            image_pull_secrets,
            priority_class_name,
            pod_labels,
            pod_annotations,
        } = side.clone();
        Self {
            image: image.or_else(|| self.image.clone()),
            image_pull_policy: image_pull_policy.or(self.image_pull_policy),
            properties: properties.or_else(|| self.properties.clone()),
            secret_name: secret_name.or_else(|| self.secret_name.clone()),
            nc_home: nc_home.or_else(|| self.nc_home.clone()),
            tls: tls.or_else(|| self.tls.clone()),
            resources: resources.or_else(|| self.resources.clone()),
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
