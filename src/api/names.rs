//! Labels, annotations and condition types, each string once. Reasons are in [`Reason`](super::Reason).

/// API group of the custom resource and prefix of ProxyPair's own labels and annotations.
pub const GROUP: &str = "proxypair.dev";
/// Field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "proxypair";
/// Value of [`LABEL_MANAGED_BY`] on every child object.
pub const MANAGED_BY: &str = "proxypair";

/// Value of [`LABEL_NAME`] on every child object.
pub const NAME: &str = "netcool-proxy";
/// Value of [`LABEL_COMPONENT`] on every child object.
pub const COMPONENT: &str = "proxy";
/// Value of [`LABEL_PART_OF`] on every child object.
pub const PART_OF: &str = "netcool";

/// The application; [`NAME`] unless the user declares another.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// The ProxyPair's name, unless the user declares another.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Role in the application; [`COMPONENT`] unless the user declares another.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Version of the operator that applied the object last; not on pods.
pub const LABEL_VERSION: &str = "app.kubernetes.io/version";
/// Which program manages the object; always [`MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// What the object is a part of; always [`PART_OF`].
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// The ProxyPair's name.
pub const LABEL_PAIR: &str = "proxypair.dev/pair";
/// `primary` or `backup`.
pub const LABEL_SIDE: &str = "proxypair.dev/side";
/// On a proxy pod: `true` if the virtual Service may lead to it while its side serves. The operator takes a gate out by it.
pub const LABEL_ROUTED: &str = "proxypair.dev/routed";
/// Value of [`LABEL_ROUTED`] on a pod that the virtual Service leads to.
pub const ROUTED: &str = "true";
/// Value of [`LABEL_ROUTED`] on a pod that was taken out.
pub const NOT_ROUTED: &str = "false";
/// Role of a Service; Kubernetes copies it to the EndpointSlices.
pub const LABEL_ROLE: &str = "proxypair.dev/role";
/// On an EndpointSlice: the name of its Service. Set by Kubernetes.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Value of [`LABEL_ROLE`] on the virtual Service.
pub const ROLE_VIRTUAL: &str = "virtual";
/// Value of [`LABEL_ROLE`] on the Service of one side.
pub const ROLE_SIDE: &str = "side";

/// On a Deployment and its pods: a hash of the pod template, by which the operator knows which pods are up to date.
pub const ANNOTATION_TEMPLATE: &str = "proxypair.dev/template";

/// On a proxy pod of engine Proxyserv: the resourceVersion of the Secret with its login and keys.
pub const ANNOTATION_SECRET_VERSION: &str = "proxypair.dev/secret-version";

/// Condition: the serving side is up, the Service points at it, and the children are as declared.
pub const CONDITION_READY: &str = "Ready";
/// Condition: both sides are up, so that a failure of one does not stop the traffic.
pub const CONDITION_PROTECTED: &str = "Protected";
/// Condition: the virtual Service points at the primary.
pub const CONDITION_PRIMARY_SERVING: &str = "PrimaryServing";
/// Condition: the primary side is up.
pub const CONDITION_PRIMARY_HEALTHY: &str = "PrimaryHealthy";
/// Condition: the backup side is up.
pub const CONDITION_BACKUP_HEALTHY: &str = "BackupHealthy";
/// Condition: the password of `healthCheck.login` goes over TLS only. Absent without a login.
pub const CONDITION_LOGIN_PROTECTED: &str = "LoginProtected";

/// Name of the probes' port on Services and pods.
pub const PORT_PROXY: &str = "proxy";

/// Key in the Secrets of `proxy.secretName` and `healthCheck.login.secretName`: the user to log in as.
pub const AUTH_USER_NAME: &str = "AuthUserName";
/// Key in the same Secrets: that user's password; for nco_proxyserv plain or encrypted.
pub const AUTH_PASSWORD: &str = "AuthPassword";
/// Key in the Secret of `proxy.secretName`: nco_proxyserv's key store.
pub const OMNI_KDB: &str = "omni.kdb";
/// Key in that Secret: the key store's stashed password.
pub const OMNI_STH: &str = "omni.sth";
/// Key in that Secret: the key of encrypted properties.
pub const ENCRYPTION_KEYFILE: &str = "encryption.keyfile";
