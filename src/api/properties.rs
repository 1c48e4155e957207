//! `spec.proxy.properties`: the 25 properties of nco_proxyserv under OMNIbus's own names, each with its type and range.
//!
//! nco_proxyserv exits at start if its properties file has an unknown name. Here the API server rejects the manifest
//! instead. Properties that the operator writes itself, or that have no use in a pod, are in the schema only so that
//! the message can say where to write the value.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Lowest level of the messages that nco_proxyserv logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageLevel {
    /// Debug messages and everything above.
    Debug,
    /// Informational messages and everything above.
    Info,
    /// Warnings and everything above.
    Warn,
    /// Errors and fatal errors.
    Error,
    /// Fatal errors only.
    Fatal,
}

/// Algorithm of encrypted property values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigCryptoAlg {
    /// The default of nco_aes_crypt.
    #[serde(rename = "AES")]
    Aes,
    /// The algorithm for FIPS 140-2.
    #[serde(rename = "AES_FIPS")]
    AesFips,
}

/// Properties of nco_proxyserv. A side's properties replace those of `spec.proxy` as a whole.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = rules::property_name().cel(),
    validation = rules::property_remote_server().cel(),
    validation = rules::property_auth_user_name().cel(),
    validation = rules::property_auth_password().cel(),
    validation = rules::property_config_key_file().cel(),
    validation = rules::property_props_file().cel(),
    validation = rules::property_process_agent().cel(),
    validation = rules::property_help_and_version().cel(),
)]
pub struct ProxyProperties {
    /// Not allowed: it belongs in the Secret that `proxy.secretName` names.
    #[serde(default, rename = "AuthPassword", skip_serializing_if = "Option::is_none")]
    pub auth_password: Option<String>,

    /// Not allowed: it belongs in the Secret that `proxy.secretName` names.
    #[serde(default, rename = "AuthUserName", skip_serializing_if = "Option::is_none")]
    pub auth_user_name: Option<String>,

    /// Seconds between two heartbeats to probes. OMNIbus's default is 10.
    #[serde(default, rename = "ClientHeartbeatRate", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub client_heartbeat_rate: Option<i32>,

    /// Algorithm of encrypted values; the key is `encryption.keyfile` in the Secret. OMNIbus's default is AES.
    #[serde(default, rename = "ConfigCryptoAlg", skip_serializing_if = "Option::is_none")]
    pub config_crypto_alg: Option<ConfigCryptoAlg>,

    /// Not allowed: the key file belongs in the Secret that `proxy.secretName` names.
    #[serde(default, rename = "ConfigKeyFile", skip_serializing_if = "Option::is_none")]
    pub config_key_file: Option<String>,

    /// Number of probe connections that share one connection to the ObjectServer. OMNIbus's default is 10.
    #[serde(default, rename = "ConnectionRatio", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub connection_ratio: Option<i32>,

    /// Maximum number of probe connections. OMNIbus's default is 256.
    #[serde(default, rename = "Connections", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30000))]
    pub connections: Option<i32>,

    /// Whether debug messages are logged. OMNIbus's default is FALSE.
    #[serde(default, rename = "DebugMode", skip_serializing_if = "Option::is_none")]
    pub debug_mode: Option<bool>,

    /// Not allowed: it makes nco_proxyserv print its options and exit.
    #[serde(default, rename = "Help", skip_serializing_if = "Option::is_none")]
    pub help: Option<bool>,

    /// Whether one thread does all communication. OMNIbus's default is FALSE.
    #[serde(default, rename = "Ipc.SingleThreaded", skip_serializing_if = "Option::is_none")]
    pub ipc_single_threaded: Option<bool>,

    /// Seconds to wait for an answer from the ObjectServer. OMNIbus's default is 60.
    #[serde(default, rename = "Ipc.Timeout", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub ipc_timeout: Option<i32>,

    /// Whether the communication library's log is truncated at its maximum size. OMNIbus's default is TRUE.
    #[serde(
        default,
        rename = "Ipc.TruncateVendorLogFile",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipc_truncate_vendor_log_file: Option<bool>,

    /// Maximum size of the communication library's log in kilobytes, up to 65536: the pod's volume for logs holds
    /// 256Mi. OMNIbus's default is 1024.
    #[serde(default, rename = "Ipc.VendorLogFileSize", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub ipc_vendor_log_file_size: Option<i32>,

    /// Maximum size of the log in kilobytes, up to 65536: the pod's volume for logs holds 256Mi. OMNIbus's default is
    /// 1024.
    #[serde(default, rename = "MaxLogFileSize", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_log_file_size: Option<i32>,

    /// Lowest level that is logged: debug, info, warn, error or fatal. OMNIbus's default is warn.
    #[serde(default, rename = "MessageLevel", skip_serializing_if = "Option::is_none")]
    pub message_level: Option<MessageLevel>,

    /// Where the log is written: stdout, stderr, or a file under $OMNIHOME/log. If unset: stderr, so that `kubectl
    /// logs` and status show it.
    #[serde(default, rename = "MessageLog", skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::message_log().cel())]
    #[schemars(length(min = 1, max = 256))]
    pub message_log: Option<String>,

    /// Not allowed: it is the `serverName` of the side.
    #[serde(default, rename = "Name", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Not allowed: there is no process agent in a pod.
    #[serde(default, rename = "PAAwareID", skip_serializing_if = "Option::is_none")]
    pub pa_aware_id: Option<i32>,

    /// Not allowed: there is no process agent in a pod.
    #[serde(default, rename = "PAServerName", skip_serializing_if = "Option::is_none")]
    pub pa_server_name: Option<String>,

    /// Whether nco_proxyserv exits if it does not know a property. OMNIbus's default is TRUE.
    #[serde(default, rename = "Props.CheckNames", skip_serializing_if = "Option::is_none")]
    pub props_check_names: Option<bool>,

    /// Not allowed: the operator writes the file.
    #[serde(default, rename = "PropsFile", skip_serializing_if = "Option::is_none")]
    pub props_file: Option<String>,

    /// Not allowed: it is the `objectServer` of the side.
    #[serde(default, rename = "RemoteServer", skip_serializing_if = "Option::is_none")]
    pub remote_server: Option<String>,

    /// Whether probes must log in. OMNIbus's default is FALSE.
    #[serde(default, rename = "SecureMode", skip_serializing_if = "Option::is_none")]
    pub secure_mode: Option<bool>,

    /// Whether the process ID is part of the log's name. OMNIbus's default is FALSE.
    #[serde(default, rename = "UniqueLog", skip_serializing_if = "Option::is_none")]
    pub unique_log: Option<bool>,

    /// Not allowed: it makes nco_proxyserv print its version and exit.
    #[serde(default, rename = "Version", skip_serializing_if = "Option::is_none")]
    pub version: Option<bool>,
}
