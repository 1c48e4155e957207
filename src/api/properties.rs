//! `spec.proxy.properties`: the 25 properties of nco_proxyserv under OMNIbus's own names, each with its type and range.
//!
//! nco_proxyserv ends at its start when its properties file has a name it does not know. Here the API server refuses the manifest instead.
//! Properties that the operator writes itself, or that mean nothing in a pod, are in the schema only so that the refusal can say where to
//! write what was meant.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much nco_proxyserv writes to its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageLevel {
    /// Everything.
    Debug,
    /// And more.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
    /// What it ends of.
    Fatal,
}

/// How encrypted values of properties are to be decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigCryptoAlg {
    /// As nco_aes_crypt encrypts by itself.
    #[serde(rename = "AES")]
    Aes,
    /// As FIPS 140-2 asks for.
    #[serde(rename = "AES_FIPS")]
    AesFips,
}

/// Properties of nco_proxyserv. A side's properties replace those of `spec.proxy` as a whole.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.Name)").message("Name is the operator's: write the proxies' names in primary.serverName and backup.serverName"),
    validation = Rule::new("!has(self.RemoteServer)").message("RemoteServer is the operator's: write the ObjectServers in primary.objectServer and backup.objectServer"),
    validation = Rule::new("!has(self.AuthUserName)").message("AuthUserName is the operator's: write it under that key into the Secret that proxy.secretName names"),
    validation = Rule::new("!has(self.AuthPassword)").message("AuthPassword is the operator's: write it under that key into the Secret that proxy.secretName names"),
    validation = Rule::new("!has(self.ConfigKeyFile)").message("ConfigKeyFile is the operator's: write the key file under encryption.keyfile into the Secret that proxy.secretName names"),
    validation = Rule::new("!has(self.PropsFile)").message("PropsFile is the operator's: write each property under proxy.properties"),
    validation = Rule::new("!has(self.PAAwareID) && !has(self.PAServerName)").message("PAAwareID and PAServerName are for the process agent: Kubernetes restarts the proxy here, so leave them out"),
    validation = Rule::new("!has(self.Help) && !has(self.Version)").message("Help and Version make nco_proxyserv print and end: leave them out"),
)]
pub struct ProxyProperties {
    /// Refused: the Secret that `proxy.secretName` names has it.
    #[serde(default, rename = "AuthPassword", skip_serializing_if = "Option::is_none")]
    pub auth_password: Option<String>,

    /// Refused: the Secret that `proxy.secretName` names has it.
    #[serde(default, rename = "AuthUserName", skip_serializing_if = "Option::is_none")]
    pub auth_user_name: Option<String>,

    /// Seconds between two heartbeats to probes. OMNIbus's default is 10.
    #[serde(default, rename = "ClientHeartbeatRate", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub client_heartbeat_rate: Option<i32>,

    /// How encrypted values are to be decrypted, with the key in `encryption.keyfile`. OMNIbus's default is AES.
    #[serde(default, rename = "ConfigCryptoAlg", skip_serializing_if = "Option::is_none")]
    pub config_crypto_alg: Option<ConfigCryptoAlg>,

    /// Refused: the Secret that `proxy.secretName` names has the key file.
    #[serde(default, rename = "ConfigKeyFile", skip_serializing_if = "Option::is_none")]
    pub config_key_file: Option<String>,

    /// Probe connections for each connection to the ObjectServer. OMNIbus's default is 10.
    #[serde(default, rename = "ConnectionRatio", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub connection_ratio: Option<i32>,

    /// Probe connections at the most. OMNIbus's default is 256.
    #[serde(default, rename = "Connections", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30000))]
    pub connections: Option<i32>,

    /// Whether debug messages are written. OMNIbus's default is FALSE.
    #[serde(default, rename = "DebugMode", skip_serializing_if = "Option::is_none")]
    pub debug_mode: Option<bool>,

    /// Refused: it makes nco_proxyserv print its options and end.
    #[serde(default, rename = "Help", skip_serializing_if = "Option::is_none")]
    pub help: Option<bool>,

    /// Whether one thread does all communication. OMNIbus's default is FALSE.
    #[serde(default, rename = "Ipc.SingleThreaded", skip_serializing_if = "Option::is_none")]
    pub ipc_single_threaded: Option<bool>,

    /// Seconds that the ObjectServer may take to answer. OMNIbus's default is 60.
    #[serde(default, rename = "Ipc.Timeout", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub ipc_timeout: Option<i32>,

    /// Whether the log of the communication library is cut at its size. OMNIbus's default is TRUE.
    #[serde(
        default,
        rename = "Ipc.TruncateVendorLogFile",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipc_truncate_vendor_log_file: Option<bool>,

    /// Kilobytes of the communication library's log, at most 65536: the pod's volume for logs holds 256Mi. OMNIbus's default is 1024.
    #[serde(default, rename = "Ipc.VendorLogFileSize", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub ipc_vendor_log_file_size: Option<i32>,

    /// Kilobytes of the log, at most 65536: the pod's volume for logs holds 256Mi. OMNIbus's default is 1024.
    #[serde(default, rename = "MaxLogFileSize", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_log_file_size: Option<i32>,

    /// How much is logged: debug, info, warn, error or fatal. OMNIbus's default is warn.
    #[serde(default, rename = "MessageLevel", skip_serializing_if = "Option::is_none")]
    pub message_level: Option<MessageLevel>,

    /// Where the log goes: stdout, stderr, or a file under $OMNIHOME/log. Without it stderr, so that `kubectl logs` and status show it.
    #[serde(default, rename = "MessageLog", skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[-A-Za-z0-9_./$]+$')").message("write MessageLog as stdout, stderr or a path of letters, digits and _ . - / $, such as $OMNIHOME/log/proxy.log"))]
    #[schemars(length(min = 1, max = 256))]
    pub message_log: Option<String>,

    /// Refused: `serverName` of the side says it.
    #[serde(default, rename = "Name", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Refused: the process agent has no part in a pod.
    #[serde(default, rename = "PAAwareID", skip_serializing_if = "Option::is_none")]
    pub pa_aware_id: Option<i32>,

    /// Refused: the process agent has no part in a pod.
    #[serde(default, rename = "PAServerName", skip_serializing_if = "Option::is_none")]
    pub pa_server_name: Option<String>,

    /// Whether nco_proxyserv ends at a property it does not know. OMNIbus's default is TRUE.
    #[serde(default, rename = "Props.CheckNames", skip_serializing_if = "Option::is_none")]
    pub props_check_names: Option<bool>,

    /// Refused: the operator writes the file.
    #[serde(default, rename = "PropsFile", skip_serializing_if = "Option::is_none")]
    pub props_file: Option<String>,

    /// Refused: `objectServer` of the side says it.
    #[serde(default, rename = "RemoteServer", skip_serializing_if = "Option::is_none")]
    pub remote_server: Option<String>,

    /// Whether probes must log in. OMNIbus's default is FALSE.
    #[serde(default, rename = "SecureMode", skip_serializing_if = "Option::is_none")]
    pub secure_mode: Option<bool>,

    /// Whether the name of the log has the number of the process in it. OMNIbus's default is FALSE.
    #[serde(default, rename = "UniqueLog", skip_serializing_if = "Option::is_none")]
    pub unique_log: Option<bool>,

    /// Refused: it makes nco_proxyserv print its version and end.
    #[serde(default, rename = "Version", skip_serializing_if = "Option::is_none")]
    pub version: Option<bool>,
}
