//! Labels, annotations and condition types, each string once. Reasons are in [`Reason`](super::Reason).

/// API group of the custom resource and prefix of ProxyPair's own labels and annotations.
pub const GROUP: &str = "proxypair.dev";
/// Field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "proxypair";
/// Value of [`LABEL_MANAGED_BY`] on every child object.
pub const MANAGED_BY: &str = "proxypair";

/// Who makes the object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// What the object is a part of; always `netcool`.
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// The ProxyPair's name.
pub const LABEL_PAIR: &str = "proxypair.dev/pair";
/// `primary` or `backup`.
pub const LABEL_SIDE: &str = "proxypair.dev/side";
/// On the virtual Service and, copied by Kubernetes, on its EndpointSlices.
pub const LABEL_ROLE: &str = "proxypair.dev/role";
/// Value of [`LABEL_ROLE`] on the virtual Service.
pub const ROLE_VIRTUAL: &str = "virtual";
/// Value of [`LABEL_ROLE`] on the Service of one side.
pub const ROLE_SIDE: &str = "side";

/// On a Deployment and its pods: which pod template this is, so that both sides are never replaced at once.
pub const ANNOTATION_TEMPLATE: &str = "proxypair.dev/template";

/// On a proxy pod of engine Proxyserv: the resourceVersion of the Secret that it took its login and keys from.
pub const ANNOTATION_SECRET_VERSION: &str = "proxypair.dev/secret-version";

/// Condition: the serving side is up, the Service points at it and the children are as declared.
pub const CONDITION_READY: &str = "Ready";
/// Condition: both sides are up, so that one more failure is survived.
pub const CONDITION_PROTECTED: &str = "Protected";
/// Condition: the virtual Service points at the primary.
pub const CONDITION_PRIMARY_SERVING: &str = "PrimaryServing";
/// Condition: the primary side is up.
pub const CONDITION_PRIMARY_HEALTHY: &str = "PrimaryHealthy";
/// Condition: the backup side is up.
pub const CONDITION_BACKUP_HEALTHY: &str = "BackupHealthy";

/// Name of the probes' port on Services and pods.
pub const PORT_PROXY: &str = "proxy";

/// In the Secret of `proxy.secretName`: the user that nco_proxyserv logs in as.
pub const AUTH_USER_NAME: &str = "AuthUserName";
/// There: that user's password, plain or encrypted.
pub const AUTH_PASSWORD: &str = "AuthPassword";
/// There: nco_proxyserv's key store.
pub const OMNI_KDB: &str = "omni.kdb";
/// There: the key store's password.
pub const OMNI_STH: &str = "omni.sth";
/// There: the file that decrypts encrypted properties.
pub const ENCRYPTION_KEYFILE: &str = "encryption.keyfile";
