//! `status`: what the operator found and did. Intent (`target`) and fact (`serving`) are two fields, so that a successor finishes a
//! switch that was begun.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Side};

/// What the operator found and did.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPairStatus {
    /// Fact: the side the virtual Service points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Side>,

    /// Intent: differs from `serving` only while a switch is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Side>,

    /// Why a switch that is under way was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<Switching>,

    /// The ObjectServer that receives the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_server: Option<String>,

    /// Since when `serving` is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Since when the serving side is down, while there is no side to go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,

    /// The `metadata.generation` that the operator has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Probe sessions on both sides, counted by the gates.
    #[serde(default)]
    pub connections: i32,

    /// What is known of the primary side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<SideStatus>,

    /// What is known of the backup side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<SideStatus>,

    /// What a failback waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<FailbackStatus>,

    /// The newest ten switches, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<Switch>,

    /// Ready, Protected, PrimaryServing, PrimaryHealthy and BackupHealthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ProxyPairStatus {
    /// What is known of one side.
    pub fn side(&self, side: Side) -> Option<&SideStatus> {
        match side {
            Side::Primary => self.primary.as_ref(),
            Side::Backup => self.backup.as_ref(),
        }
    }
}

/// Health of a side: would an event sent to it arrive?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// It would.
    Up,
    /// It would not.
    Down,
    /// The evidence is missing or stale; it never justifies a switch.
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
    /// The proxy pod refuses connections or closed them.
    ProxyUnreachable,
    /// The proxy pod is silent.
    ProxyUnresponsive,
    /// The ObjectServer refuses connections or closed them.
    ObjectServerUnreachable,
    /// The ObjectServer is silent.
    ObjectServerUnresponsive,
    /// Proxy and ObjectServer are both there, the way between them is not.
    PathBroken,
    /// A certificate was refused: the ObjectServer's, or those of gate and operator.
    TlsRejected,
    /// The ObjectServer refuses the login of `healthCheck.login`, or asks for something that it cannot give.
    LoginRefused,
    /// The server behind the address says another name than the pair gives it.
    WrongObjectServer,
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
        }
    }
}

/// What is known of one side.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideStatus {
    /// Would an event sent to this side arrive?
    pub health: Health,

    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,

    /// In words what was seen, while the side is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Since when `health` is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Probe sessions on this side, counted by its gate.
    #[serde(default)]
    pub connections: i32,

    /// The ObjectServer of this side.
    pub object_server: String,

    /// What the ObjectServer's property `ActingPrimary` says, while a `healthCheck.login` reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acting_primary: Option<bool>,

    /// When the certificate that the proxy shows to probes ends to be valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_certificate_expires: Option<Time>,

    /// When the certificate that the ObjectServer shows ends to be valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_server_certificate_expires: Option<Time>,
}

/// What a failback waits for, while the backup serves.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailbackStatus {
    /// In words, each thing that is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,

    /// The earliest moment of a failback, when only time is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,

    /// Probe sessions that are still on the side that does not serve.
    #[serde(default, alias = "connectionsLeft")]
    pub connections_remaining: i32,
}

/// What a switch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SwitchKind {
    /// Away from a side that had failed.
    Failover,
    /// Home to the primary.
    Failback,
    /// Away from a side whose pod is being replaced.
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

/// A switch that was begun and is not finished.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switching {
    /// What it is.
    pub kind: SwitchKind,
    /// The failure it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When it was decided.
    pub started_at: MicroTime,
}

/// A switch that is finished.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// What it was.
    pub kind: SwitchKind,
    /// The side it went to.
    pub to: Side,
    /// The failure it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When it was decided.
    pub started_at: MicroTime,
    /// When the EndpointSlices showed the new side.
    pub finished_at: MicroTime,
    /// From `startedAt` to `finishedAt`.
    pub duration: Duration,
}
