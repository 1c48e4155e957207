//! The rules of the CRD: each a function with the CEL expression that API servers evaluate, the same check in Rust, and
//! the message.
//!
//! The types name the CEL expression in their `validation` attributes. The check in Rust is for objects that were
//! stored before a rule existed or while rules were switched off:
//! [`Pair::validate`](crate::domain::pair::Pair::validate) runs it.

mod text;

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use kube::core::Rule;

pub use text::*;

use super::{
    CaBundleSpec, DrainSpec, Engine, FailbackSpec, HealthCheckSpec, LABEL_MANAGED_BY, LABEL_PART_OF, ListenerTlsSpec,
    ProxyOverrides, ProxyPairSpec, ProxyProperties, ProxySpec, ResyncPolicy, ServiceSpec, ServiceType, Side, TlsMode,
};

/// A rule on a `T`.
#[derive(Clone, Debug)]
pub struct SpecRule<T: ?Sized + 'static> {
    cel: Cow<'static, str>,
    holds: fn(&T) -> bool,
    /// What is wrong, and what to write instead.
    pub message: &'static str,
}

/// A field breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BrokenRule {
    /// Path of the field, such as `spec.primary.serverName`.
    pub field: String,
    /// The message of the rule.
    pub message: &'static str,
}

impl<T: ?Sized> SpecRule<T> {
    fn new(cel: impl Into<Cow<'static, str>>, holds: fn(&T) -> bool, message: &'static str) -> Self {
        Self {
            cel: cel.into(),
            holds,
            message,
        }
    }

    /// The rule for the CRD.
    pub fn cel(&self) -> Rule {
        Rule::new(self.cel.clone()).message(self.message)
    }

    /// Checks the value of the field `field`.
    ///
    /// # Errors
    ///
    /// [`BrokenRule`] with the message of the rule.
    pub fn check(&self, field: &str, value: &T) -> Result<(), BrokenRule> {
        match (self.holds)(value) {
            true => Ok(()),
            false => Err(self.broken(field)),
        }
    }

    /// The error for the field `field`.
    pub fn broken(&self, field: &str) -> BrokenRule {
        BrokenRule {
            field: field.to_owned(),
            message: self.message,
        }
    }
}

/// The expression once for each side, with `SIDE` replaced by the side's path, and `operator` between the two.
fn sides(operator: &str, cel: &str) -> String {
    Side::BOTH
        .map(|side| cel.replace("SIDE", &format!("self.{}", side.label())))
        .join(operator)
}

/// The expression holds for both sides.
fn each_side(cel: &str) -> String {
    sides(" && ", cel)
}

/// The expression holds for at least one side.
fn any_side(cel: &str) -> String {
    sides(" || ", cel)
}

/// Of `at`: whether it has a field that only nco_proxyserv uses.
fn has_proxyserv_fields(at: &str) -> String {
    [
        "image",
        "imagePullPolicy",
        "properties",
        "secretName",
        "ncHome",
        "gateResources",
        "initResources",
    ]
    .map(|field| format!("has({at}.{field})"))
    .join(" || ")
}

/// Whether a side forwards the probes' TLS to its ObjectServer.
const PASSES_THROUGH: &str = "has(SIDE.proxy) && has(SIDE.proxy.tls) ? SIDE.proxy.tls.mode == 'PassThrough' : \
                              has(self.proxy.tls) && self.proxy.tls.mode == 'PassThrough'";

fn passes_through(proxy: &ProxyOverrides) -> bool {
    proxy.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::PassThrough)
}

fn uses_proxyserv_fields(proxy: &ProxyOverrides) -> bool {
    proxy.image.is_some()
        || proxy.image_pull_policy.is_some()
        || proxy.properties.is_some()
        || proxy.secret_name.is_some()
        || proxy.nc_home.is_some()
        || proxy.gate_resources.is_some()
        || proxy.init_resources.is_some()
}

// === spec ===

/// The ObjectServers of the two sides have different names.
pub fn two_object_servers() -> SpecRule<ProxyPairSpec> {
    SpecRule::new(
        "self.primary.objectServer.name != self.backup.objectServer.name",
        |spec| spec.primary.object_server.name != spec.backup.object_server.name,
        "primary and backup have the same ObjectServer name: bind each proxy to its own ObjectServer, such as AGG_P \
         and AGG_B",
    )
}

/// The ObjectServers of the two sides have different addresses.
pub fn two_addresses() -> SpecRule<ProxyPairSpec> {
    SpecRule::new(
        "self.primary.objectServer.port != self.backup.objectServer.port || \
         !(self.primary.objectServer.host.lowerAscii() in [self.backup.objectServer.host.lowerAscii(), \
         self.backup.objectServer.host.lowerAscii() + '.'] || self.backup.objectServer.host.lowerAscii() == \
         self.primary.objectServer.host.lowerAscii() + '.')",
        |spec| {
            let [primary, backup] = [&spec.primary.object_server, &spec.backup.object_server];
            // DNS knows neither case nor the difference between a name and the same one with a dot at its end.
            let name = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            primary.port != backup.port || name(&primary.host) != name(&backup.host)
        },
        "primary and backup have the same ObjectServer address: give each its own host or port, not the address of a \
         virtual pair",
    )
}

/// The two proxies have different names.
pub fn two_proxy_names() -> SpecRule<ProxyPairSpec> {
    SpecRule::new(
        "self.primary.serverName != self.backup.serverName",
        |spec| spec.primary.server_name != spec.backup.server_name,
        "primary.serverName and backup.serverName are the same: give the proxies different names, such as PROXY_P and \
         PROXY_B",
    )
}

/// The virtual pair is not called like one of its proxies.
pub fn virtual_name() -> SpecRule<ProxyPairSpec> {
    SpecRule::new(
        "self.serverName != self.primary.serverName && self.serverName != self.backup.serverName",
        |spec| spec.server_name != spec.primary.server_name && spec.server_name != spec.backup.server_name,
        "serverName is the name of the virtual pair and must differ from both proxies' names, such as PROXY_V",
    )
}

/// Waiting for the resync needs a user that can query the ObjectServers.
pub fn resync_needs_login() -> SpecRule<ProxyPairSpec> {
    SpecRule::new(
        "!has(self.failback.resync) || self.failback.resync.policy != 'Required' || has(self.healthCheck.login)",
        |spec| {
            let resync = spec.failback.resync.as_ref();
            resync.is_none_or(|resync| resync.policy != ResyncPolicy::Required) || spec.health_check.login.is_some()
        },
        "failback.resync.policy Required queries the ObjectServers and needs a user for that: set \
         healthCheck.login.secretName, or set policy: Ignored",
    )
}

/// No ObjectServer is called like the virtual pair or a proxy.
pub fn object_server_names() -> SpecRule<ProxyPairSpec> {
    SpecRule::new(
        "!([self.primary.objectServer.name, self.backup.objectServer.name].exists(o, o in [self.serverName, \
         self.primary.serverName, self.backup.serverName]))",
        |spec| {
            let proxies = [&spec.server_name, &spec.primary.server_name, &spec.backup.server_name];
            let servers = [&spec.primary.object_server.name, &spec.backup.object_server.name];
            !servers.iter().any(|server| proxies.contains(server))
        },
        "an ObjectServer and a proxy have the same name: omni.dat holds each name once, so use different names",
    )
}

/// With engine Relay no side has fields that only nco_proxyserv uses.
pub fn sides_without_proxyserv_fields() -> SpecRule<ProxyPairSpec> {
    let any = any_side(&format!(
        "(has(SIDE.proxy) && ({}))",
        has_proxyserv_fields("SIDE.proxy")
    ));
    SpecRule::new(
        format!("self.proxy.engine != 'Relay' || !({any})"),
        |spec| {
            let sides = [&spec.primary.proxy, &spec.backup.proxy];
            spec.proxy.engine != Engine::Relay || !sides.into_iter().flatten().any(uses_proxyserv_fields)
        },
        "image, imagePullPolicy, properties, secretName, ncHome, gateResources and initResources of a side apply to \
         engine Proxyserv only: set proxy.engine: Proxyserv, or remove them",
    )
}

/// With engine Proxyserv each side has an image.
pub fn proxyserv_needs_image() -> SpecRule<ProxyPairSpec> {
    let each = each_side("has(SIDE.proxy) && has(SIDE.proxy.image)");
    SpecRule::new(
        format!("self.proxy.engine != 'Proxyserv' || (has(self.proxy.image) || ({each}))"),
        |spec| {
            let has_image = |side| spec.proxy(side).image.is_some();
            spec.proxy.engine != Engine::Proxyserv || Side::BOTH.into_iter().all(has_image)
        },
        "engine Proxyserv needs an image with your nco_proxyserv: set proxy.image",
    )
}

/// nco_proxyserv has a key store when it connects to its ObjectServer with TLS.
pub fn proxyserv_needs_key_store() -> SpecRule<ProxyPairSpec> {
    let each = each_side(
        "(!has(SIDE.objectServer.tls) || (has(self.proxy.secretName) || (has(SIDE.proxy) && \
         has(SIDE.proxy.secretName))))",
    );
    SpecRule::new(
        format!("self.proxy.engine != 'Proxyserv' || {each}"),
        |spec| {
            let has_tls = |side| spec.side(side).object_server.tls.is_some();
            let has_key_store = |side| !has_tls(side) || spec.proxy(side).secret_name.is_some();
            spec.proxy.engine != Engine::Proxyserv || Side::BOTH.into_iter().all(has_key_store)
        },
        "nco_proxyserv needs omni.kdb and omni.sth for TLS: set proxy.secretName to the Secret that has them",
    )
}

/// The probes' TLS is passed through with engine Relay only.
pub fn pass_through_needs_relay() -> SpecRule<ProxyPairSpec> {
    let each = each_side(&format!("!({PASSES_THROUGH})"));
    SpecRule::new(
        format!("self.proxy.engine != 'Proxyserv' || {each}"),
        |spec| {
            let is_terminated = |side| !passes_through(&spec.proxy(side));
            spec.proxy.engine != Engine::Proxyserv || Side::BOTH.into_iter().all(is_terminated)
        },
        "tls.mode PassThrough applies to engine Relay only: the gate speaks plain TDS with nco_proxyserv, so that it \
         can check the path through it; set tls.mode: Terminate",
    )
}

/// TLS is passed through only to ObjectServers that speak it.
pub fn pass_through_needs_tls() -> SpecRule<ProxyPairSpec> {
    let each = each_side(&format!("(!({PASSES_THROUGH}) || has(SIDE.objectServer.tls))"));
    SpecRule::new(
        format!("self.proxy.engine != 'Relay' || {each}"),
        |spec| {
            let has_tls = |side| spec.side(side).object_server.tls.is_some();
            let is_terminated = |side| !passes_through(&spec.proxy(side)) || has_tls(side);
            spec.proxy.engine != Engine::Relay || Side::BOTH.into_iter().all(is_terminated)
        },
        "with engine Relay and tls.mode PassThrough the ObjectServers terminate the probes' TLS: set \
         objectServer.tls, or use tls.mode: Terminate",
    )
}

/// Both sides take TLS from probes, or neither.
pub fn tls_on_both_sides() -> SpecRule<ProxyPairSpec> {
    let same = sides(" == ", "(has(SIDE.proxy) && has(SIDE.proxy.tls))");
    SpecRule::new(
        format!("has(self.proxy.tls) || {same}"),
        |spec| {
            let has_tls = |side| spec.proxy(side).tls.is_some();
            has_tls(Side::Primary) == has_tls(Side::Backup)
        },
        "probes connect to both sides under one name, with TLS or without: set tls for both sides, in proxy.tls or in \
         primary.proxy.tls and backup.proxy.tls",
    )
}

// === spec.primary.objectServer.tls.caBundle ===

/// A CA bundle is in one place.
pub fn one_ca_bundle() -> SpecRule<CaBundleSpec> {
    SpecRule::new(
        "has(self.configMapName) != has(self.secretName)",
        |bundle| bundle.config_map_name.is_some() != bundle.secret_name.is_some(),
        "set either caBundle.configMapName or caBundle.secretName",
    )
}

// === spec.service ===

/// A load balancer class goes with a load balancer.
pub fn load_balancer_class() -> SpecRule<ServiceSpec> {
    SpecRule::new(
        "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'",
        |service| service.load_balancer_class.is_none() || service.type_ == ServiceType::LoadBalancer,
        "loadBalancerClass applies to type LoadBalancer only: set service.type: LoadBalancer, or remove it",
    )
}

/// A node port goes with a type that has node ports.
pub fn node_port() -> SpecRule<ServiceSpec> {
    SpecRule::new(
        "!has(self.nodePort) || self.type != 'ClusterIP'",
        |service| service.node_port.is_none() || service.type_ != ServiceType::ClusterIP,
        "nodePort applies to types NodePort and LoadBalancer only: set service.type, or remove it",
    )
}

// === spec.healthCheck ===

/// The interval is neither a burden nor useless.
pub fn interval() -> SpecRule<HealthCheckSpec> {
    SpecRule::new(
        "duration(self.interval) >= duration('100ms') && duration(self.interval) <= duration('1m')",
        |check| (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&check.interval.get()),
        "interval must be between 100ms and 1m",
    )
}

/// A refused connection is not doubted for longer than a missing answer.
pub fn unreachable_after() -> SpecRule<HealthCheckSpec> {
    SpecRule::new(
        "duration(self.unreachableAfter) <= duration(self.unresponsiveAfter)",
        |check| check.unreachable_after.get() <= check.unresponsive_after.get(),
        "unreachableAfter must not exceed unresponsiveAfter: a refused connection is stronger evidence than a missing \
         answer",
    )
}

/// One late answer does not lead to a failover.
pub fn unresponsive_after() -> SpecRule<HealthCheckSpec> {
    SpecRule::new(
        "duration(self.unresponsiveAfter) >= duration(self.interval) + duration(self.interval) && \
         duration(self.unresponsiveAfter) >= duration('2s') && duration(self.unresponsiveAfter) <= duration('10m')",
        |check| {
            let unresponsive_after = check.unresponsive_after.get();
            let bounds = Duration::from_secs(2)..=Duration::from_secs(600);
            unresponsive_after >= check.interval.get() * 2 && bounds.contains(&unresponsive_after)
        },
        "unresponsiveAfter must be between 2s and 10m, and at least twice the interval, so that one late answer does \
         not lead to a failover",
    )
}

/// A machine is not given up for a packet that is late, and not later than a server that is slow.
pub fn lost_after() -> SpecRule<HealthCheckSpec> {
    SpecRule::new(
        "duration(self.lostAfter) >= duration('500ms') && duration(self.lostAfter) <= duration(self.unresponsiveAfter)",
        |check| {
            let lost_after = check.lost_after.get();
            lost_after >= Duration::from_millis(500) && lost_after <= check.unresponsive_after.get()
        },
        "lostAfter must be between 500ms and unresponsiveAfter: a machine of which nothing comes back is gone, one that is slow still \
         acknowledges",
    )
}

/// A side that is up again is believed within the time that a person waits.
pub fn healthy_after() -> SpecRule<HealthCheckSpec> {
    SpecRule::new(
        "duration(self.healthyAfter) <= duration('1h')",
        |check| check.healthy_after.get() <= Duration::from_secs(3600),
        "healthyAfter must be at most 1h; failback.stableFor may be longer",
    )
}

// === spec.failback ===

/// The primary is restored within a day of being up.
pub fn stable_for() -> SpecRule<FailbackSpec> {
    SpecRule::new(
        "duration(self.stableFor) <= duration('24h')",
        |failback| failback.stable_for.get() <= Duration::from_secs(24 * 3600),
        "failback.stableFor must be at most 24h; to stay on the backup, set failback.mode: Never",
    )
}

/// The backup does not serve longer than a week for nothing.
pub fn minimum_on_backup() -> SpecRule<FailbackSpec> {
    SpecRule::new(
        "duration(self.minimumOnBackup) <= duration('168h')",
        |failback| failback.minimum_on_backup.get() <= Duration::from_secs(168 * 3600),
        "failback.minimumOnBackup must be at most 168h (a week); to stay on the backup, set failback.mode: Never",
    )
}

// === spec.failback.drain ===

/// A drain does not wait longer than load balancers take.
pub fn drain_delay() -> SpecRule<DrainSpec> {
    SpecRule::new(
        "duration(self.delay) <= duration('10m')",
        |drain| drain.delay.get() <= Duration::from_secs(600),
        "drain.delay must be at most 10m: write the time that the load balancer takes to follow a changed Service",
    )
}

/// A drain ends, and not at once.
pub fn grace_period() -> SpecRule<DrainSpec> {
    SpecRule::new(
        "duration(self.gracePeriod) >= duration('1s') && duration(self.gracePeriod) <= duration('10m')",
        |drain| (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&drain.grace_period.get()),
        "drain.gracePeriod must be between 1s and 10m",
    )
}

// === spec.proxy ===

/// With engine Relay there are no fields that only nco_proxyserv uses.
pub fn relay_without_proxyserv_fields() -> SpecRule<ProxySpec> {
    SpecRule::new(
        format!("self.engine != 'Relay' || !({})", has_proxyserv_fields("self")),
        |proxy| proxy.engine != Engine::Relay || !uses_proxyserv_fields(&proxy.pod),
        "image, imagePullPolicy, properties, secretName, ncHome, gateResources and initResources apply to engine \
         Proxyserv only: set proxy.engine: Proxyserv, or remove them",
    )
}

/// A gate that terminates TLS has a certificate.
pub fn terminate_needs_secret() -> SpecRule<ListenerTlsSpec> {
    SpecRule::new(
        "self.mode != 'Terminate' || has(self.secretName)",
        |tls| tls.mode != TlsMode::Terminate || tls.secret_name.is_some(),
        "tls.mode Terminate needs tls.secretName: set it to a Secret of type kubernetes.io/tls with the proxy's \
         certificate",
    )
}

/// A gate that passes TLS through has no certificate.
pub fn pass_through_without_secret() -> SpecRule<ListenerTlsSpec> {
    SpecRule::new(
        "self.mode != 'PassThrough' || !has(self.secretName)",
        |tls| tls.mode != TlsMode::PassThrough || tls.secret_name.is_none(),
        "tls.secretName applies to tls.mode Terminate only: with PassThrough the gate needs no certificate, so remove \
         it",
    )
}

/// The labels by which the operator finds what it made stay its own.
pub fn labels() -> SpecRule<BTreeMap<String, String>> {
    SpecRule::new(
        "self.all(k, !k.startsWith('proxypair.dev/') && !(k in ['app.kubernetes.io/managed-by', \
         'app.kubernetes.io/part-of']))",
        |labels| {
            let reserved = [LABEL_MANAGED_BY, LABEL_PART_OF];
            let is_reserved = |label: &String| label.starts_with(RESERVED) || reserved.contains(&label.as_str());
            !labels.keys().any(is_reserved)
        },
        "the labels app.kubernetes.io/managed-by, app.kubernetes.io/part-of and those under proxypair.dev/ are set by \
         the operator: remove them, or use a prefix of your own",
    )
}

/// The annotations by which the operator knows a pod's template stay its own.
pub fn annotations() -> SpecRule<BTreeMap<String, String>> {
    SpecRule::new(
        "self.all(k, !k.startsWith('proxypair.dev/'))",
        |annotations| !annotations.keys().any(|key| key.starts_with(RESERVED)),
        "annotations under proxypair.dev/ are set by the operator: use a prefix of your own",
    )
}

/// Prefix of the operator's own labels and annotations.
const RESERVED: &str = "proxypair.dev/";

// === spec.proxy.properties ===

/// `Name` comes from `serverName`.
pub fn property_name() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.Name)",
        |properties| properties.name.is_none(),
        "Name is set by the operator: write the proxies' names in primary.serverName and backup.serverName",
    )
}

/// `RemoteServer` comes from `objectServer`.
pub fn property_remote_server() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.RemoteServer)",
        |properties| properties.remote_server.is_none(),
        "RemoteServer is set by the operator: write the ObjectServers in primary.objectServer and backup.objectServer",
    )
}

/// `AuthUserName` comes from the Secret.
pub fn property_auth_user_name() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.AuthUserName)",
        |properties| properties.auth_user_name.is_none(),
        "AuthUserName is set by the operator: write it under that key in the Secret that proxy.secretName names",
    )
}

/// `AuthPassword` comes from the Secret.
pub fn property_auth_password() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.AuthPassword)",
        |properties| properties.auth_password.is_none(),
        "AuthPassword is set by the operator: write it under that key in the Secret that proxy.secretName names",
    )
}

/// The key file comes from the Secret.
pub fn property_config_key_file() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.ConfigKeyFile)",
        |properties| properties.config_key_file.is_none(),
        "ConfigKeyFile is set by the operator: write the key file under encryption.keyfile in the Secret that \
         proxy.secretName names",
    )
}

/// The operator writes the properties file.
pub fn property_props_file() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.PropsFile)",
        |properties| properties.props_file.is_none(),
        "PropsFile is set by the operator: write each property under proxy.properties",
    )
}

/// Kubernetes does what the process agent does elsewhere.
pub fn property_process_agent() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.PAAwareID) && !has(self.PAServerName)",
        |properties| properties.pa_aware_id.is_none() && properties.pa_server_name.is_none(),
        "PAAwareID and PAServerName are for the process agent: Kubernetes restarts the proxy here, so remove them",
    )
}

/// Options that make nco_proxyserv exit.
pub fn property_help_and_version() -> SpecRule<ProxyProperties> {
    SpecRule::new(
        "!has(self.Help) && !has(self.Version)",
        |properties| properties.help.is_none() && properties.version.is_none(),
        "Help and Version make nco_proxyserv print and exit: remove them",
    )
}
