//! `spec`: what a user declares. The schema and the CEL rules reject mistakes when the manifest is applied.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, ProxyOverrides, ProxyPairStatus, ProxySpec, Side, rules};

/// A primary and a backup Netcool/OMNIbus proxy server, each bound to exactly one ObjectServer, behind one Service that
/// probes connect to.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "proxypair.dev",
    version = "v1alpha1",
    kind = "ProxyPair",
    plural = "proxypairs",
    shortname = "pp",
    category = "netcool",
    namespaced,
    status = "ProxyPairStatus",
    derive = "PartialEq",
    doc = "A primary and a backup Netcool/OMNIbus proxy server, each bound to exactly one ObjectServer, behind one \
           Service that probes connect to. The operator continuously checks that each side can deliver events, points \
           the Service at the backup when the primary fails, and moves every probe back when the primary has \
           recovered.",
    printcolumn(
        name = "Serving", type_ = "string", json_path = ".status.serving",
        description = "The side the virtual Service points at.",
    ),
    printcolumn(
        name = "ObjectServer", type_ = "string", json_path = ".status.objectServer",
        description = "The ObjectServer that receives the events.",
    ),
    printcolumn(
        name = "Primary", type_ = "string", json_path = ".status.primary.health",
        description = "Health of the primary side.",
    ),
    printcolumn(
        name = "Backup", type_ = "string", json_path = ".status.backup.health",
        description = "Health of the backup side.",
    ),
    printcolumn(
        name = "Clients", type_ = "integer", json_path = ".status.connections",
        description = "Probe sessions on both sides.",
    ),
    printcolumn(
        name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether the serving side is up and the children are as declared.",
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::pair_name().cel(),
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::two_object_servers().cel(),
    validation = rules::two_addresses().cel(),
    validation = rules::two_proxy_names().cel(),
    validation = rules::virtual_name().cel(),
    validation = rules::resync_needs_login().cel(),
    validation = rules::object_server_names().cel(),
    validation = rules::sides_without_proxyserv_fields().cel(),
    validation = rules::proxyserv_needs_image().cel(),
    validation = rules::proxyserv_needs_key_store().cel(),
    validation = rules::pass_through_needs_relay().cel(),
    validation = rules::pass_through_needs_tls().cel(),
    validation = rules::tls_on_both_sides().cel(),
)]
pub struct ProxyPairSpec {
    /// The virtual pair's name in the omni.dat made for probes, such as PROXY_V: at most 29 upper-case letters, digits
    /// and underscores, not beginning with a digit.
    #[x_kube(validation = rules::server_name().cel())]
    #[schemars(length(min = 1, max = 256))]
    pub server_name: String,

    /// The preferred side: it serves unless it has failed.
    pub primary: SideSpec,

    /// The side that serves while the primary has failed.
    pub backup: SideSpec,

    /// Settings of both proxies; `primary.proxy` and `backup.proxy` override single fields.
    #[serde(default)]
    pub proxy: ProxySpec,

    /// Labels and annotations of all objects that the operator makes for this pair, and of the proxy pods.
    #[serde(default)]
    pub common_metadata: CommonMetadata,

    /// The virtual Service that probes connect to. It has the ProxyPair's name.
    #[serde(default)]
    pub service: ServiceSpec,

    /// When a side counts as up and when as down.
    #[serde(default)]
    pub health_check: HealthCheckSpec,

    /// When and how the operator fails back to the primary.
    #[serde(default)]
    pub failback: FailbackSpec,
}

impl ProxyPairSpec {
    /// What a failback waits for until the ObjectServers are resynchronised; `None` if it does not wait.
    pub fn resync(&self) -> Option<ResyncSpec> {
        self.health_check.login.as_ref()?;
        Some(self.failback.resync.clone().unwrap_or_default()).filter(|resync| resync.policy == ResyncPolicy::Required)
    }

    /// The settings of the proxy of one side: `spec.proxy`, with those replaced that the side sets.
    pub fn proxy(&self, side: Side) -> ProxyOverrides {
        self.proxy.pod.overridden_by(self.side(side).proxy.as_ref())
    }

    /// The spec of one side.
    pub fn side(&self, side: Side) -> &SideSpec {
        match side {
            Side::Primary => &self.primary,
            Side::Backup => &self.backup,
        }
    }
}

/// Labels and annotations of all objects that the operator makes for a pair, and of the proxy pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommonMetadata {
    /// Labels, such as those that a policy of the cluster requires. A change replaces the proxy pods, first that of the
    /// side that does not serve.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = rules::labels().cel())]
    pub labels: BTreeMap<String, String>,

    /// Annotations. A change replaces the proxy pods, first that of the side that does not serve.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = rules::annotations().cel())]
    pub annotations: BTreeMap<String, String>,
}

/// One proxy server and the ObjectServer that it is bound to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideSpec {
    /// The proxy server's name, such as PROXY_P: at most 29 upper-case letters, digits and underscores, not beginning
    /// with a digit.
    #[x_kube(validation = rules::server_name().cel())]
    #[schemars(length(min = 1, max = 256))]
    pub server_name: String,

    /// The one ObjectServer this side delivers to.
    pub object_server: ObjectServerSpec,

    /// Overrides single fields of `spec.proxy` for this side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyOverrides>,
}

/// The address of an ObjectServer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectServerSpec {
    /// The ObjectServer's name, such as AGG_P: at most 29 upper-case letters, digits and underscores, not beginning
    /// with a digit.
    #[x_kube(validation = rules::server_name().cel())]
    #[schemars(length(min = 1, max = 256))]
    pub name: String,

    /// Host name or IP address, resolved again at every connection.
    #[x_kube(validation = rules::host().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// TCP port; 4100 is OMNIbus's default.
    #[serde(default = "default_object_server_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// TLS for connections to the ObjectServer. The Common Name of its certificate must be `name`, as OMNIbus requires
    /// it for proxy servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ObjectServerTlsSpec>,
}

/// TLS for connections to an ObjectServer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectServerTlsSpec {
    /// The CA certificates that the ObjectServer's certificate is verified with.
    pub ca_bundle: CaBundleSpec,
}

/// Where CA certificates are: in a ConfigMap or in a Secret.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_ca_bundle().cel())]
pub struct CaBundleSpec {
    /// The ConfigMap with the CA certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::config_map_name().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub config_map_name: Option<String>,

    /// The Secret with the CA certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::secret_name().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,

    /// The key of the CA certificates, which are in PEM format.
    #[serde(default = "default_ca_key")]
    #[x_kube(validation = rules::key().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_object_server_port() -> i32 {
    4100
}

/// Type of the Services that probes connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reachable from within the cluster.
    #[default]
    ClusterIP,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable through a load balancer.
    LoadBalancer,
}

impl ServiceType {
    /// The word Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// The virtual Service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::load_balancer_class().cel(),
    validation = rules::node_port().cel(),
)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// The port probes connect to; 4400 is OMNIbus's default for proxy servers.
    #[serde(default = "default_service_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// The port on every node, with type NodePort or LoadBalancer. If unset, Kubernetes chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,

    /// Annotations for the Service, such as those that configure a load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub annotations: BTreeMap<String, String>,

    /// The load balancer implementation, with type LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
}

fn default_service_port() -> i32 {
    4400
}

impl Default for ServiceSpec {
    fn default() -> Self {
        Self {
            type_: ServiceType::default(),
            port: default_service_port(),
            node_port: None,
            annotations: BTreeMap::new(),
            load_balancer_class: None,
        }
    }
}

/// When a side counts as up and when as down.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::interval().cel(),
    validation = rules::unreachable_after().cel(),
    validation = rules::unresponsive_after().cel(),
    validation = rules::lost_after().cel(),
    validation = rules::healthy_after().cel(),
)]
pub struct HealthCheckSpec {
    /// Time between two checks of a side, 100ms to 1m. A closed connection is noticed at once, whatever the interval.
    #[serde(default = "default_interval")]
    pub interval: Duration,

    /// How long connections must be refused or closed until the side counts as down. `0s`: until one immediate retry
    /// has failed, too.
    #[serde(default = "default_unreachable_after")]
    pub unreachable_after: Duration,

    /// How long a side may leave a check unanswered until it counts as down: 2s to 10m, and at least twice the interval.
    /// Choose more than a busy ObjectServer takes to answer.
    #[serde(default = "default_unresponsive_after")]
    pub unresponsive_after: Duration,

    /// How long nothing at all may come back from the machine of a proxy, neither an answer nor the acknowledgement of a connection, until its
    /// gate counts as lost: 500ms to `unresponsiveAfter`. Other gates of the pair must see nothing of it either; while none can be asked,
    /// `unresponsiveAfter` counts. Choose more than twice what a packet takes there and back.
    #[serde(default = "default_lost_after")]
    pub lost_after: Duration,

    /// How long a side that was down must pass every check until it counts as up, at most 1h.
    #[serde(default = "default_healthy_after")]
    pub healthy_after: Duration,

    /// Adds checks with a login: one TDS session through each proxy and one directly to each ObjectServer, kept open,
    /// with a small query each `interval`. If unset, a side counts as up while connections to its ObjectServer stay
    /// open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginSpec>,
}

/// The user that the operator's checks log in as. It needs to read `catalog.properties` and `catalog.connections` (role
/// CatalogUser).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginSpec {
    /// Secret in the namespace of the ProxyPair, with the keys AuthUserName (at most 30 bytes) and AuthPassword (at most
    /// 253 bytes). A change takes effect at once.
    #[x_kube(validation = rules::secret_name().cel())]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,

    /// Allows the password to be sent unencrypted to an ObjectServer without `tls`. If false, it is sent to such a
    /// server only in encrypted form, and the login fails if the server does not support that. The encryption stops
    /// listeners only: the key is not certified, so whoever can answer in the server's place gets the password. Only
    /// `tls` prevents that; without it the condition LoginProtected is False.
    #[serde(default)]
    pub allow_plaintext_login: bool,
}

fn default_interval() -> Duration {
    Duration::from_secs(1)
}

fn default_unreachable_after() -> Duration {
    Duration::from_secs(1)
}

fn default_unresponsive_after() -> Duration {
    Duration::from_secs(15)
}

fn default_lost_after() -> Duration {
    Duration::from_secs(1)
}

fn default_healthy_after() -> Duration {
    Duration::from_secs(5)
}

impl Default for HealthCheckSpec {
    fn default() -> Self {
        Self {
            interval: default_interval(),
            unreachable_after: default_unreachable_after(),
            unresponsive_after: default_unresponsive_after(),
            lost_after: default_lost_after(),
            healthy_after: default_healthy_after(),
            login: None,
        }
    }
}

/// Whether the operator fails back to the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailbackMode {
    /// As soon as every condition for a failback is met.
    #[default]
    Automatic,
    /// Never: probes stay on the backup until the backup fails.
    Never,
}

/// When and how the operator fails back to the primary.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::stable_for().cel(),
    validation = rules::minimum_on_backup().cel(),
)]
pub struct FailbackSpec {
    /// Automatic: the operator fails back to the primary. Never: probes stay on the backup until the backup fails.
    #[serde(default)]
    pub mode: FailbackMode,

    /// How long the primary must be up without interruption before a failback, at most 24h.
    #[serde(default = "default_stable_for")]
    pub stable_for: Duration,

    /// Minimum time that the backup serves before a failback, at most 168h.
    #[serde(default = "default_minimum_on_backup")]
    pub minimum_on_backup: Duration,

    /// Whether a failback waits until the ObjectServer gateway has resynchronised the ObjectServers. If unset: Required
    /// if `healthCheck.login` is set, otherwise Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<ResyncSpec>,

    /// How sessions on the side that no longer serves are closed.
    #[serde(default)]
    pub drain: DrainSpec,
}

/// Whether a failback waits for the ObjectServer gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResyncPolicy {
    /// It waits until the gateway is connected to both ObjectServers and the backup ObjectServer no longer acts as
    /// primary.
    #[default]
    Required,
    /// It does not wait.
    Ignored,
}

/// When the ObjectServers count as resynchronised. Queried with the `healthCheck.login`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResyncSpec {
    /// Required: a failback waits until the gateway is connected to both ObjectServers and `ActingPrimary` is FALSE on
    /// the backup one. Ignored: it does not wait, for sites without a gateway or with one that OMNIbus's automation
    /// does not recognise.
    #[serde(default)]
    pub policy: ResyncPolicy,

    /// The `AppDescription` of the gateway's sessions in `catalog.connections`. OMNIbus's automation resets
    /// `ActingPrimary` only for `failover_gate`, which the multitier gateway configuration sets.
    #[serde(default = "default_gateway_description")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::gateway_description().cel())]
    pub gateway_description: String,
}

fn default_gateway_description() -> String {
    "failover_gate".to_owned()
}

impl Default for ResyncSpec {
    fn default() -> Self {
        Self {
            policy: ResyncPolicy::default(),
            gateway_description: default_gateway_description(),
        }
    }
}

fn default_stable_for() -> Duration {
    Duration::from_secs(60)
}

fn default_minimum_on_backup() -> Duration {
    Duration::from_secs(0)
}

impl Default for FailbackSpec {
    fn default() -> Self {
        Self {
            mode: FailbackMode::default(),
            stable_for: default_stable_for(),
            minimum_on_backup: default_minimum_on_backup(),
            resync: None,
            drain: DrainSpec::default(),
        }
    }
}

/// How sessions are closed after a switch: each at a moment when none of its requests is unanswered.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::drain_delay().cel(),
    validation = rules::grace_period().cel(),
)]
pub struct DrainSpec {
    /// How long after a switch the former side goes on serving, at most 10m; never less than the 1.5s that nodes take. Set
    /// it to the time that a load balancer with pod IPs as targets takes to follow a changed Service.
    #[serde(default = "default_drain_delay")]
    pub delay: Duration,

    /// After this time, 1s to 10m, the remaining sessions are closed even if a request is unanswered.
    #[serde(default = "default_grace_period")]
    pub grace_period: Duration,

    /// Number of sessions closed per second, so that the probes do not all log in at once. More are closed if not all would be within three
    /// quarters of `gracePeriod`.
    #[serde(default = "default_connections_per_second")]
    #[schemars(range(min = 1, max = 10000))]
    pub connections_per_second: i32,
}

fn default_drain_delay() -> Duration {
    Duration::from_secs(0)
}

fn default_grace_period() -> Duration {
    Duration::from_secs(30)
}

fn default_connections_per_second() -> i32 {
    100
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self {
            delay: default_drain_delay(),
            grace_period: default_grace_period(),
            connections_per_second: default_connections_per_second(),
        }
    }
}
