//! `status`: the observed state. Intent (`target`) and fact (`serving`) are two fields, so that a new leader can finish
//! a switch that another one began.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Side};

/// Longest message in status in characters, as the schema has it. Whatever servers say, the status stays small.
pub const STATUS_MESSAGE_MAX: usize = 1024;

/// Observed state of the pair.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPairStatus {
    /// The side that the virtual Service points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Side>,

    /// The side that the virtual Service shall point at. It differs from `serving` only while a switch is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Side>,

    /// The switch that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<Switching>,

    /// The ObjectServer that receives the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_server: Option<String>,

    /// When the current side began to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// When the serving side went down, while it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,

    /// The `metadata.generation` that the operator acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Probe sessions on both sides, counted by the gates.
    #[serde(default)]
    pub connections: i32,

    /// State of the primary side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<SideStatus>,

    /// State of the backup side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<SideStatus>,

    /// What a failback waits for, while the backup serves, and the sessions that remain on the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<FailbackStatus>,

    /// Gates that nothing answers for and that the traffic has left. Node agents reset the sessions that still lead to
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub lost_gates: Vec<LostGate>,

    /// The newest ten switches, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<Switch>,

    /// Ready, Protected, PrimaryServing, PrimaryHealthy and BackupHealthy; with `healthCheck.login` also LoginProtected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ProxyPairStatus {
    /// State of one side.
    pub fn side(&self, side: Side) -> Option<&SideStatus> {
        match side {
            Side::Primary => self.primary.as_ref(),
            Side::Backup => self.backup.as_ref(),
        }
    }
}

/// Health of a side: whether an event sent to it would reach its ObjectServer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// It passes every check.
    Up,
    /// A check has failed for long enough.
    Down,
    /// There is no observation, or none recent enough. It never leads to a switch.
    Unknown,
}

impl Health {
    /// The word in status, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "Up",
            Self::Down => "Down",
            Self::Unknown => "Unknown",
        }
    }
}

/// Why a side is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Cause {
    /// There is no proxy pod.
    ProxyMissing,
    /// The proxy pod is being deleted or evicted.
    #[serde(alias = "ProxyLeaving")]
    ProxyTerminating,
    /// The proxy pod refuses connections, or closed them.
    ProxyUnreachable,
    /// The proxy pod does not answer.
    ProxyUnresponsive,
    /// The ObjectServer refuses connections, or closed them.
    ObjectServerUnreachable,
    /// The ObjectServer does not answer.
    ObjectServerUnresponsive,
    /// Proxy and ObjectServer respond, and no request gets through from one to the other.
    PathBroken,
    /// A certificate was rejected: the ObjectServer's, or that of gate or operator.
    TlsRejected,
    /// The ObjectServer rejects the login of `healthCheck.login`, or requires something that the operator does not
    /// support.
    LoginRefused,
    /// The server at the address has another name than `objectServer.name`.
    WrongObjectServer,
    /// The ObjectServer answers in a way that the operator cannot decode. Probes may be served all the same.
    ProtocolError,
}

impl Cause {
    /// The word in status, metric labels, event reasons and condition reasons.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProxyMissing => "ProxyMissing",
            Self::ProxyTerminating => "ProxyTerminating",
            Self::ProxyUnreachable => "ProxyUnreachable",
            Self::ProxyUnresponsive => "ProxyUnresponsive",
            Self::ObjectServerUnreachable => "ObjectServerUnreachable",
            Self::ObjectServerUnresponsive => "ObjectServerUnresponsive",
            Self::PathBroken => "PathBroken",
            Self::TlsRejected => "TlsRejected",
            Self::LoginRefused => "LoginRefused",
            Self::WrongObjectServer => "WrongObjectServer",
            Self::ProtocolError => "ProtocolError",
        }
    }
}

/// State of one side.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideStatus {
    /// Up, Down, or Unknown while there is no recent observation.
    pub health: Health,

    /// Why the side is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,

    /// Details of what was observed, while the side is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// When `health` changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Probe sessions on this side, counted by its gates.
    #[serde(default)]
    pub connections: i32,

    /// The gates of this side.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub gates: Vec<GateStatus>,

    /// The ObjectServer of this side.
    pub object_server: String,

    /// The ObjectServer's property `ActingPrimary`, read with the `healthCheck.login`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acting_primary: Option<bool>,

    /// Expiry time of the certificate that the proxy presents to probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_certificate_expires: Option<Time>,

    /// Expiry time of the certificate that the ObjectServer presents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_server_certificate_expires: Option<Time>,
}

/// State of one gate.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// The name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,

    /// The node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,

    /// Up if an event sent through this gate would reach the ObjectServer, Down, or Unknown while there is no recent observation.
    pub health: Health,

    /// Why the gate is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,

    /// Whether the virtual Service leads to it while its side serves. A gate that cannot serve is taken out while another one can.
    pub routed: bool,

    /// Probe sessions on it, by its last report.
    #[serde(default)]
    pub connections: i32,
}

/// A gate that is lost, most often with its node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostGate {
    /// Its side.
    pub side: Side,

    /// The name of its pod, which may be gone.
    #[schemars(length(max = 253))]
    pub pod: String,

    /// The node that the pod ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,

    /// The address of the pod.
    #[schemars(length(max = 45))]
    pub address: String,

    /// Probe sessions on it by its last report.
    #[serde(default)]
    pub connections: i32,

    /// When it was declared lost.
    pub since: Time,
}

/// What a failback waits for, while the backup serves.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailbackStatus {
    /// Each condition that is not met yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 1024)))]
    pub waiting_for: Vec<String>,

    /// Earliest time of the failback, if it waits only for time to pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,

    /// Probe sessions that remain on the side that does not serve.
    #[serde(default, alias = "connectionsLeft")]
    pub connections_remaining: i32,
}

/// Kind of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SwitchKind {
    /// From a side that failed to the other one.
    Failover,
    /// Back to the primary.
    Failback,
    /// Planned: from a side whose pod is being replaced to the other one.
    #[serde(alias = "Move")]
    Switchover,
}

impl SwitchKind {
    /// The word in status, metric labels and event reasons.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "Failover",
            Self::Failback => "Failback",
            Self::Switchover => "Switchover",
        }
    }
}

/// A switch that is under way.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switching {
    /// Kind of the switch.
    pub kind: SwitchKind,
    /// Why the serving side went down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When the switch was decided.
    pub started_at: MicroTime,
}

/// A finished switch.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// Kind of the switch.
    pub kind: SwitchKind,
    /// The side that serves after the switch.
    pub to: Side,
    /// Why the other side went down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When the switch was decided.
    pub started_at: MicroTime,
    /// When the EndpointSlices showed the new side.
    pub finished_at: MicroTime,
    /// From `startedAt` to `finishedAt`.
    pub duration: Duration,
}
