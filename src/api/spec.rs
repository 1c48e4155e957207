//! `spec`: what a user declares. Whatever the schema and CEL can refuse is refused when the manifest is applied.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, ProxyOverrides, ProxyPairStatus, ProxySpec, Side};

/// A primary and a backup Netcool/OMNIbus proxy server, each bound to exactly one ObjectServer, behind one Service that probes connect to.
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
    doc = "A primary and a backup Netcool/OMNIbus proxy server, each bound to exactly one ObjectServer, behind one Service that probes connect to. The operator proves continuously that an event sent to each side would arrive, points the Service at the backup when the primary fails, and brings every probe home when the primary is back.",
    printcolumn(name = "Serving", type_ = "string", json_path = ".status.serving", description = "The side the virtual Service points at."),
    printcolumn(name = "ObjectServer", type_ = "string", json_path = ".status.objectServer", description = "The ObjectServer that receives the events."),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary.health", description = "Health of the primary side."),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.backup.health", description = "Health of the backup side."),
    printcolumn(name = "Clients", type_ = "integer", json_path = ".status.connections", description = "Probe sessions on both sides."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether the pair serves and is as declared."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 46 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes a Service: write at most 46 lower-case letters, digits and dashes, beginning with a letter, such as proxy-v"),
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.primary.objectServer.name != self.backup.objectServer.name").message("primary and backup name the same ObjectServer: bind each proxy to its own, such as AGG_P and AGG_B"),
    validation = Rule::new("self.primary.objectServer.host != self.backup.objectServer.host || self.primary.objectServer.port != self.backup.objectServer.port").message("primary and backup have the same ObjectServer address: give each its own host or port, never that of a virtual pair"),
    validation = Rule::new("self.primary.serverName != self.backup.serverName").message("primary.serverName and backup.serverName are the same: name the two proxies differently, such as PROXY_P and PROXY_B"),
    validation = Rule::new("self.serverName != self.primary.serverName && self.serverName != self.backup.serverName").message("serverName is the virtual pair's name and must differ from both proxies' names, such as PROXY_V"),
    validation = Rule::new("!has(self.failback.resync) || self.failback.resync.policy != 'Required' || has(self.healthCheck.login)").message("failback.resync.policy Required asks the ObjectServers and needs a user for that: set healthCheck.login.secretName, or write policy: Ignored"),
    validation = Rule::new("!([self.primary.objectServer.name, self.backup.objectServer.name].exists(o, o in [self.serverName, self.primary.serverName, self.backup.serverName]))").message("an ObjectServer and a proxy have the same name: omni.dat holds each name once, so name them differently"),
    validation = Rule::new("self.proxy.engine != 'Relay' || !((has(self.primary.proxy) && (has(self.primary.proxy.image) || has(self.primary.proxy.imagePullPolicy) || has(self.primary.proxy.properties) || has(self.primary.proxy.secretName) || has(self.primary.proxy.ncHome))) || (has(self.backup.proxy) && (has(self.backup.proxy.image) || has(self.backup.proxy.imagePullPolicy) || has(self.backup.proxy.properties) || has(self.backup.proxy.secretName) || has(self.backup.proxy.ncHome))))").message("image, imagePullPolicy, properties, secretName and ncHome of a side are for nco_proxyserv: set proxy.engine: Proxyserv or leave them out"),
    validation = Rule::new("self.proxy.engine != 'Proxyserv' || (has(self.proxy.image) || (has(self.primary.proxy) && has(self.primary.proxy.image) && has(self.backup.proxy) && has(self.backup.proxy.image)))").message("engine Proxyserv needs the image with your nco_proxyserv: write it in proxy.image"),
    validation = Rule::new("self.proxy.engine != 'Proxyserv' || (!has(self.primary.objectServer.tls) || (has(self.proxy.secretName) || (has(self.primary.proxy) && has(self.primary.proxy.secretName)))) && (!has(self.backup.objectServer.tls) || (has(self.proxy.secretName) || (has(self.backup.proxy) && has(self.backup.proxy.secretName))))").message("nco_proxyserv needs omni.kdb and omni.sth for TLS: name the Secret that has them in proxy.secretName"),
    validation = Rule::new("self.proxy.engine != 'Proxyserv' || !(has(self.primary.proxy) && has(self.primary.proxy.tls) ? self.primary.proxy.tls.mode == 'PassThrough' : has(self.proxy.tls) && self.proxy.tls.mode == 'PassThrough') && !(has(self.backup.proxy) && has(self.backup.proxy.tls) ? self.backup.proxy.tls.mode == 'PassThrough' : has(self.proxy.tls) && self.proxy.tls.mode == 'PassThrough')").message("tls.mode PassThrough goes with engine Relay: behind the gate nco_proxyserv speaks in the clear, or the way through it could not be proved, so write tls.mode Terminate"),
    validation = Rule::new("self.proxy.engine != 'Relay' || (!(has(self.primary.proxy) && has(self.primary.proxy.tls) ? self.primary.proxy.tls.mode == 'PassThrough' : has(self.proxy.tls) && self.proxy.tls.mode == 'PassThrough') || has(self.primary.objectServer.tls)) && (!(has(self.backup.proxy) && has(self.backup.proxy.tls) ? self.backup.proxy.tls.mode == 'PassThrough' : has(self.proxy.tls) && self.proxy.tls.mode == 'PassThrough') || has(self.backup.objectServer.tls))").message("with engine Relay and tls.mode PassThrough the ObjectServers end the probes' TLS: write objectServer.tls, or use tls.mode Terminate"),
    validation = Rule::new("has(self.proxy.tls) || (has(self.primary.proxy) && has(self.primary.proxy.tls)) == (has(self.backup.proxy) && has(self.backup.proxy.tls))").message("probes reach both sides under one name, with TLS or without: give both sides tls, in proxy.tls or in primary.proxy.tls and backup.proxy.tls"),
)]
pub struct ProxyPairSpec {
    /// The virtual pair's name in the omni.dat made for probes, such as PROXY_V: at most 29 upper-case letters, digits and underscores,
    /// not beginning with a digit.
    #[x_kube(validation = Rule::new("self.matches('^[A-Z_][A-Z0-9_]{0,28}$')").message("write a server name as OMNIbus allows it: at most 29 upper-case letters, digits and underscores, not beginning with a digit, such as PROXY_V"))]
    #[schemars(length(min = 1, max = 256))]
    pub server_name: String,

    /// The side that serves unless it has failed.
    pub primary: SideSpec,

    /// The side that stands in. The operator never restores to it by itself.
    pub backup: SideSpec,

    /// How both proxies run; `primary.proxy` and `backup.proxy` override single fields.
    #[serde(default)]
    pub proxy: ProxySpec,

    /// The virtual Service that probes connect to. It has the ProxyPair's name.
    #[serde(default)]
    pub service: ServiceSpec,

    /// When a side counts as up and as down.
    #[serde(default)]
    pub health_check: HealthCheckSpec,

    /// When and how the primary is restored.
    #[serde(default)]
    pub failback: FailbackSpec,
}

impl ProxyPairSpec {
    /// What must have become of the gateway's resync before a failback; `None` when that is ignored.
    pub fn resync(&self) -> Option<ResyncSpec> {
        self.health_check.login.as_ref()?;
        Some(self.failback.resync.clone().unwrap_or_default()).filter(|resync| resync.policy == ResyncPolicy::Required)
    }

    /// The declaration of one side.
    pub fn side(&self, side: Side) -> &SideSpec {
        match side {
            Side::Primary => &self.primary,
            Side::Backup => &self.backup,
        }
    }
}

/// One proxy server and the ObjectServer it is bound to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideSpec {
    /// The proxy server's name, such as PROXY_P: at most 29 upper-case letters, digits and underscores, not beginning with a digit.
    #[x_kube(validation = Rule::new("self.matches('^[A-Z_][A-Z0-9_]{0,28}$')").message("write a server name as OMNIbus allows it: at most 29 upper-case letters, digits and underscores, not beginning with a digit, such as PROXY_P"))]
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
    /// The ObjectServer's name, such as AGG_P: at most 29 upper-case letters, digits and underscores, not beginning with a digit.
    #[x_kube(validation = Rule::new("self.matches('^[A-Z_][A-Z0-9_]{0,28}$')").message("write a server name as OMNIbus allows it: at most 29 upper-case letters, digits and underscores, not beginning with a digit, such as AGG_P"))]
    #[schemars(length(min = 1, max = 256))]
    pub name: String,

    /// Host name or IP address, resolved again at every connection.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$') || self.matches('^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$')").message("write a host name or an IP address without port or brackets, such as aggp.example.com; the port has a field of its own"))]
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// TCP port; 4100 is OMNIbus's default.
    #[serde(default = "default_object_server_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// TLS towards the ObjectServer. Its certificate's Common Name must be `name`, as OMNIbus demands of proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ObjectServerTlsSpec>,
}

/// TLS towards an ObjectServer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectServerTlsSpec {
    /// The authorities that may have signed the ObjectServer's certificate.
    pub ca_bundle: CaBundleSpec,
}

/// Where certificates of authorities are: in a ConfigMap or in a Secret.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapName) != has(self.secretName)").message("write either caBundle.configMapName or caBundle.secretName"))]
pub struct CaBundleSpec {
    /// The ConfigMap that holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("write the name of a ConfigMap: lower-case letters, digits, dashes and dots"))]
    #[schemars(length(min = 1, max = 253))]
    pub config_map_name: Option<String>,

    /// The Secret that holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("write the name of a Secret: lower-case letters, digits, dashes and dots"))]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,

    /// The key under which they stand there, in PEM.
    #[serde(default = "default_ca_key")]
    #[x_kube(validation = Rule::new("self.matches('^[-._A-Za-z0-9]+$')").message("write a key of a ConfigMap or Secret: letters, digits, dashes, dots and underscores, such as ca.crt"))]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_object_server_port() -> i32 {
    4100
}

/// Type of the virtual Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reached from within the cluster.
    #[default]
    ClusterIP,
    /// Reached on a port of every node.
    NodePort,
    /// Reached through a load balancer.
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
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'").message("loadBalancerClass goes with type LoadBalancer: set service.type: LoadBalancer or leave it out"),
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'").message("nodePort goes with type NodePort or LoadBalancer: set service.type or leave it out"),
)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// The port probes connect to; 4400 is OMNIbus's default for proxy servers.
    #[serde(default = "default_service_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// The port on every node, with type NodePort or LoadBalancer. Without it Kubernetes chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,

    /// Annotations for the Service, as load balancers ask for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,

    /// Which load balancer implementation takes the Service, with type LoadBalancer.
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

/// When a side counts as up and as down.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.interval) >= duration('100ms') && duration(self.interval) <= duration('1m')").message("interval must lie between 100ms and 1m"),
    validation = Rule::new("duration(self.unreachableAfter) <= duration(self.unresponsiveAfter)").message("unreachableAfter must not exceed unresponsiveAfter: a refused connection is better proof than silence"),
    validation = Rule::new("duration(self.unresponsiveAfter) >= duration(self.interval) + duration(self.interval) && duration(self.unresponsiveAfter) >= duration('2s')").message("unresponsiveAfter must be at least 2s and at least twice the interval, so that one late answer moves nothing"),
)]
pub struct HealthCheckSpec {
    /// Time between two checks of a side, 100ms to 1m. A closed connection is seen at once, whatever the interval.
    #[serde(default = "default_interval")]
    pub interval: Duration,

    /// How long a refused or closed connection must last until the side is down. `0s`: one immediate re-check.
    #[serde(default = "default_unreachable_after")]
    pub unreachable_after: Duration,

    /// How long a side may be silent until it is down, at least 2s. A busy ObjectServer is not a dead one.
    #[serde(default = "default_unresponsive_after")]
    pub unresponsive_after: Duration,

    /// How long a side that was down must pass every check until it is up.
    #[serde(default = "default_healthy_after")]
    pub healthy_after: Duration,

    /// Adds proof by TDS sessions: one through each proxy and one straight to each ObjectServer, kept open, with a cheap read each
    /// `interval`. Without it a side counts as up while connections to its ObjectServer are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginSpec>,
}

/// The user that the operator logs in with to check. It needs to read `catalog.properties` and `catalog.connections` (role CatalogUser).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginSpec {
    /// Secret in the namespace of the ProxyPair, with the keys AuthUserName and AuthPassword. A change is picked up at once.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,

    /// Lets the password travel in the clear to an ObjectServer without `tls`. Without it such a server is offered an encrypted password;
    /// one that does not know how to take it refuses the login.
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

fn default_healthy_after() -> Duration {
    Duration::from_secs(5)
}

impl Default for HealthCheckSpec {
    fn default() -> Self {
        Self {
            interval: default_interval(),
            unreachable_after: default_unreachable_after(),
            unresponsive_after: default_unresponsive_after(),
            healthy_after: default_healthy_after(),
            login: None,
        }
    }
}

/// Whether the primary is restored by the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailbackMode {
    /// As soon as every condition for it holds.
    #[default]
    Automatic,
    /// Never: probes stay on the backup until it fails.
    Never,
}

/// When and how the primary is restored.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailbackSpec {
    /// Automatic: the operator restores the primary. Never: probes stay on the backup until the backup fails.
    #[serde(default)]
    pub mode: FailbackMode,

    /// How long the primary must be up without a break before it is restored.
    #[serde(default = "default_stable_for")]
    pub stable_for: Duration,

    /// How long the backup serves at the least.
    #[serde(default = "default_minimum_on_backup")]
    pub minimum_on_backup: Duration,

    /// Whether the gateway must have brought the ObjectServers back in step before. Without it: Required if there is a
    /// `healthCheck.login`, else Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<ResyncSpec>,

    /// How the sessions on the side that is left are ended.
    #[serde(default)]
    pub drain: DrainSpec,
}

/// Whether a failback waits for the ObjectServer gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResyncPolicy {
    /// The gateway is attached to both ObjectServers, and the backup one does not act as primary any more.
    #[default]
    Required,
    /// The primary is restored without asking.
    Ignored,
}

/// When the ObjectServers count as in step. Asked with the `healthCheck.login`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResyncSpec {
    /// Required: the gateway is attached to both ObjectServers and `ActingPrimary` is FALSE on the backup one. Ignored: the primary is
    /// restored without asking, for sites without a gateway or with one that the automation does not know.
    #[serde(default)]
    pub policy: ResyncPolicy,

    /// The `AppDescription` of the gateway's sessions in `catalog.connections`. OMNIbus's automation resets `ActingPrimary` only for
    /// `failover_gate`, which the multitier gateway configuration sets.
    #[serde(default = "default_gateway_description")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_ .:/-]+$')").message("gatewayDescription is compared with AppDescription in catalog.connections: write letters, digits, blanks and _ . : / - only, such as failover_gate"))]
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

/// How sessions are ended when their side is left: each at a moment when no request is unanswered.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.gracePeriod) >= duration('1s') && duration(self.gracePeriod) <= duration('10m')").message("drain.gracePeriod must lie between 1s and 10m"))]
pub struct DrainSpec {
    /// After this time the sessions that are left are closed in the middle of a request, 1s to 10m.
    #[serde(default = "default_grace_period")]
    pub grace_period: Duration,

    /// At most so many sessions are closed in a second, so that the probes do not all log in at once.
    #[serde(default = "default_connections_per_second")]
    #[schemars(range(min = 1, max = 10000))]
    pub connections_per_second: i32,
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
            grace_period: default_grace_period(),
            connections_per_second: default_connections_per_second(),
        }
    }
}
