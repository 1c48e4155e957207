//! [`Pair`]: a ProxyPair that was found valid. What is built from one cannot fail.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use rustls::pki_types::ServerName;

use crate::{
    api::{Engine, ProxyOverrides, ProxyPair, ProxyPairSpec, ProxyProperties, PullPolicy, Side, TlsMode},
    dial::Address,
};

/// A ProxyPair that was found valid.
#[derive(Clone, Debug)]
pub struct Pair {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Makes children go with the ProxyPair.
    pub owner: OwnerReference,
    /// What the user declares.
    pub spec: ProxyPairSpec,
    /// Where the ObjectServers of primary and backup are.
    pub object_servers: [Address; 2],
    /// What the probes of primary and backup speak.
    pub listeners: [Listener; 2],
    /// The proxy servers of primary and backup, with engine Proxyserv.
    pub proxyservs: Option<[ProxyservPod; 2]>,
    /// The name in the gates' certificate. It is never resolved: the operator dials pod addresses and checks this name.
    pub gate_name: ServerName<'static>,
}

/// What probes speak to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// TDS in the clear.
    Plain,
    /// TLS, which the gate ends with the certificate in a Secret.
    Terminate {
        /// Name of the Secret.
        secret_name: String,
    },
    /// TLS, which whatever stands behind the gate ends.
    PassThrough,
}

/// The user's own nco_proxyserv, behind the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyservPod {
    /// Where its image is pulled from.
    pub image: String,
    /// When.
    pub pull_policy: Option<PullPolicy>,
    /// `$NCHOME` in the image.
    pub nc_home: String,
    /// The Secret with login and keys.
    pub secret_name: Option<String>,
    /// What the user sets.
    pub properties: ProxyProperties,
}

/// Why a ProxyPair cannot be acted on. The schema and CEL refuse the same when a manifest is applied; an object stored before a rule
/// was made, or while the rules were switched off, is found here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPair {
    /// An object that did not come from an API server.
    #[error("the ProxyPair has no {0}")]
    Incomplete(&'static str),
    /// Both sides would deliver to the same ObjectServer.
    #[error("primary and backup have the same ObjectServer {0}: bind each proxy to its own, such as AGG_P and AGG_B")]
    SameObjectServer(String),
    /// omni.dat holds each name once.
    #[error(
        "the server name {0} stands for two servers: name the virtual pair, both proxies and both ObjectServers differently"
    )]
    SameServerName(String),
    /// The names of pair and namespace do not make a DNS name.
    #[error("{0} is no DNS name: use lower-case letters, digits and dashes in metadata.name")]
    Name(String),
    /// nco_proxyserv comes in the user's image.
    #[error("engine Proxyserv needs the image with your nco_proxyserv: write it in proxy.image")]
    NoImage,
    /// The gate cannot end TLS without one.
    #[error(
        "tls.mode Terminate needs tls.secretName: name a Secret of type kubernetes.io/tls with the proxy's certificate"
    )]
    NoCertificate,
    /// Both sides are reached under one name.
    #[error("probes reach both sides under one name, with TLS or without: give both sides tls")]
    OneSidedTls,
    /// The authorities stand in one object.
    #[error("write either caBundle.configMapName or caBundle.secretName")]
    CaBundle,
    /// A port that TCP does not have.
    #[error("{field} is {value}: write a port from 1 to 65535")]
    Port {
        /// Path of the field.
        field: &'static str,
        /// What stands there.
        value: i32,
    },
}

impl Pair {
    /// Checks `object` and takes from it what the operator acts on.
    pub fn validate(object: &ProxyPair) -> Result<Self, InvalidPair> {
        let spec = &object.spec;
        let [primary, backup] = [&spec.primary.object_server, &spec.backup.object_server];
        if primary.name == backup.name || (&primary.host, primary.port) == (&backup.host, backup.port) {
            return Err(InvalidPair::SameObjectServer(backup.name.clone()));
        }
        let mut names = [
            &spec.server_name,
            &spec.primary.server_name,
            &spec.backup.server_name,
            &primary.name,
            &backup.name,
        ];
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidPair::SameServerName(twice[0].clone()));
        }
        let port = |field, value: i32| {
            u16::try_from(value)
                .ok()
                .filter(|port| *port > 0)
                .ok_or(InvalidPair::Port { field, value })
        };
        port("spec.service.port", spec.service.port)?;
        let listeners = both(|side| listener(spec, side))?;
        if (listeners[0] == Listener::Plain) != (listeners[1] == Listener::Plain) {
            return Err(InvalidPair::OneSidedTls);
        }
        let bundles = [primary, backup].into_iter().filter_map(|server| server.tls.as_ref());
        if bundles
            .map(|tls| &tls.ca_bundle)
            .any(|bundle| bundle.config_map_name.is_some() == bundle.secret_name.is_some())
        {
            return Err(InvalidPair::CaBundle);
        }
        let proxyservs = match spec.proxy.engine {
            Engine::Relay => None,
            Engine::Proxyserv => Some(both(|side| proxyserv(spec, side))?),
        };
        let name = object.name_any();
        let namespace = object.namespace().ok_or(InvalidPair::Incomplete("namespace"))?;
        let gate_name = format!("gate.{name}.{namespace}.proxypair.internal");
        Ok(Self {
            uid: object.uid().ok_or(InvalidPair::Incomplete("uid"))?,
            generation: object.meta().generation.unwrap_or_default(),
            owner: object.controller_owner_ref(&()).ok_or(InvalidPair::Incomplete("uid"))?,
            spec: spec.clone(),
            object_servers: [
                Address::new(
                    primary.host.clone(),
                    port("spec.primary.objectServer.port", primary.port)?,
                ),
                Address::new(backup.host.clone(), port("spec.backup.objectServer.port", backup.port)?),
            ],
            listeners,
            proxyservs,
            gate_name: ServerName::try_from(gate_name.clone()).map_err(|_| InvalidPair::Name(gate_name))?,
            name,
            namespace,
        })
    }

    /// Name of the virtual Service.
    pub fn service_name(&self) -> String {
        self.name.clone()
    }

    /// Name of the Deployment and the Service of one side.
    pub fn side_name(&self, side: Side) -> String {
        format!("{}-{}", self.name, side.label())
    }

    /// Name of the Secret with the gates' keys.
    pub fn gate_tls_name(&self) -> String {
        format!("{}-gate-tls", self.name)
    }

    /// Name of the Secret with the operator's keys for the gates.
    pub fn operator_tls_name(&self) -> String {
        format!("{}-operator-tls", self.name)
    }

    /// Name of the ServiceAccount of the proxy pods.
    pub fn service_account_name(&self) -> String {
        format!("{}-proxy", self.name)
    }

    /// How the proxy of one side runs.
    pub fn proxy(&self, side: Side) -> ProxyOverrides {
        proxy_of(&self.spec, side)
    }

    /// What the probes of one side speak.
    pub fn listener(&self, side: Side) -> &Listener {
        let [primary, backup] = &self.listeners;
        if side == Side::Primary { primary } else { backup }
    }

    /// The proxy server of one side, with engine Proxyserv.
    pub fn proxyserv(&self, side: Side) -> Option<&ProxyservPod> {
        let [primary, backup] = self.proxyservs.as_ref()?;
        Some(if side == Side::Primary { primary } else { backup })
    }

    /// Where the ObjectServer of one side is.
    pub fn object_server(&self, side: Side) -> &Address {
        let [primary, backup] = &self.object_servers;
        if side == Side::Primary { primary } else { backup }
    }
}

/// `$NCHOME` where IBM's installer puts it.
const NC_HOME: &str = "/opt/IBM/tivoli/netcool";

fn proxy_of(spec: &ProxyPairSpec, side: Side) -> ProxyOverrides {
    spec.proxy.pod.overridden_by(spec.side(side).proxy.as_ref())
}

fn both<T>(of: impl Fn(Side) -> Result<T, InvalidPair>) -> Result<[T; 2], InvalidPair> {
    Ok([of(Side::Primary)?, of(Side::Backup)?])
}

fn listener(spec: &ProxyPairSpec, side: Side) -> Result<Listener, InvalidPair> {
    let Some(tls) = proxy_of(spec, side).tls else {
        return Ok(Listener::Plain);
    };
    match (tls.mode, tls.secret_name) {
        (TlsMode::PassThrough, _) => Ok(Listener::PassThrough),
        (TlsMode::Terminate, Some(secret_name)) => Ok(Listener::Terminate { secret_name }),
        (TlsMode::Terminate, None) => Err(InvalidPair::NoCertificate),
    }
}

fn proxyserv(spec: &ProxyPairSpec, side: Side) -> Result<ProxyservPod, InvalidPair> {
    let settings = proxy_of(spec, side);
    Ok(ProxyservPod {
        image: settings.image.ok_or(InvalidPair::NoImage)?,
        pull_policy: settings.image_pull_policy,
        nc_home: settings.nc_home.unwrap_or_else(|| NC_HOME.to_owned()),
        secret_name: settings.secret_name,
        properties: settings.properties.unwrap_or_default(),
    })
}

#[cfg(test)]
pub mod fixture;
