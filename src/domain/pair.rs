//! [`Pair`]: a ProxyPair that was found valid. What is built from one cannot fail.

mod checks;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::{
    address::Address,
    api::{
        Engine, ProxyOverrides, ProxyPair, ProxyPairSpec, ProxyProperties, PullPolicy, Side, Sides, TlsMode,
        rules::{self, BrokenRule},
    },
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
    /// Makes Kubernetes delete the children together with the ProxyPair.
    pub owner: OwnerReference,
    /// The spec as the user wrote it, with defaults.
    pub spec: ProxyPairSpec,
    /// Addresses of the ObjectServers.
    pub object_servers: Sides<Address>,
    /// What the sides accept from probes.
    pub listeners: Sides<Listener>,
    /// The nco_proxyserv of each side, with engine Proxyserv.
    pub proxyservs: Option<Sides<ProxyservPod>>,
    /// The name in the gates' certificate. It is never resolved: the operator connects to pod addresses and compares
    /// this name.
    pub gate_name: String,
}

/// What probes speak to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// TDS without TLS.
    Plain,
    /// TLS, terminated by the gate with the certificate in a Secret.
    Terminate {
        /// Name of the Secret.
        secret_name: String,
    },
    /// TLS, terminated by the ObjectServer.
    PassThrough,
}

/// The user's own nco_proxyserv, behind the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyservPod {
    /// The image that holds it.
    pub image: String,
    /// When nodes pull the image; `None` leaves it to Kubernetes.
    pub pull_policy: Option<PullPolicy>,
    /// `$NCHOME` in the image.
    pub nc_home: String,
    /// The Secret with login and keys.
    pub secret_name: Option<String>,
    /// The properties in the spec.
    pub properties: ProxyProperties,
}

/// Why the operator cannot act on a ProxyPair.
///
/// The schema and CEL refuse the same when a manifest is applied. An object that was stored before a rule existed, or
/// while rules were switched off, is found here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPair {
    /// The object did not come from an API server.
    #[error("the ProxyPair has no {0}")]
    Incomplete(&'static str),
    /// The spec breaks a rule of the CRD.
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    /// TCP has no such port.
    #[error("{field} is {value}: write a port from 1 to 65535")]
    Port {
        /// Path of the field.
        field: String,
        /// Its value.
        value: i32,
    },
}

impl Pair {
    /// Checks `object` and takes from it what the operator acts on.
    ///
    /// # Errors
    ///
    /// [`InvalidPair`], the first mistake that is found.
    pub fn validate(object: &ProxyPair) -> Result<Self, InvalidPair> {
        checks::check(object)?;
        let spec = &object.spec;
        let name = object.name_any();
        let namespace = object.namespace().ok_or(InvalidPair::Incomplete("namespace"))?;
        Ok(Self {
            uid: object.uid().ok_or(InvalidPair::Incomplete("uid"))?,
            generation: object.meta().generation.unwrap_or_default(),
            owner: object.controller_owner_ref(&()).ok_or(InvalidPair::Incomplete("uid"))?,
            spec: spec.clone(),
            object_servers: Sides::try_from_fn(|side| object_server(spec, side))?,
            listeners: Sides::try_from_fn(|side| listener(spec, side))?,
            proxyservs: match spec.proxy.engine {
                Engine::Relay => None,
                Engine::Proxyserv => Some(Sides::try_from_fn(|side| proxyserv(spec, side))?),
            },
            gate_name: format!("gate.{name}.{namespace}.proxypair.internal"),
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

    /// Name of the ConfigMap for probes.
    pub fn probes_name(&self) -> String {
        format!("{}-probes", self.name)
    }

    /// Name of the ServiceAccount of the proxy pods.
    pub fn service_account_name(&self) -> String {
        format!("{}-proxy", self.name)
    }

    /// `spec.proxy`, with the fields that the side overrides.
    pub fn proxy(&self, side: Side) -> ProxyOverrides {
        self.spec.proxy(side)
    }

    /// How many proxy pods one side has.
    pub fn replicas(&self, side: Side) -> i32 {
        self.proxy(side).replicas.unwrap_or(REPLICAS)
    }

    /// What one side accepts from probes.
    pub fn listener(&self, side: Side) -> &Listener {
        &self.listeners[side]
    }

    /// The nco_proxyserv of one side, with engine Proxyserv.
    pub fn proxyserv(&self, side: Side) -> Option<&ProxyservPod> {
        self.proxyservs.as_ref().map(|proxyservs| &proxyservs[side])
    }

    /// Address of the ObjectServer of one side.
    pub fn object_server(&self, side: Side) -> &Address {
        &self.object_servers[side]
    }
}

/// Proxy pods of a side, unless declared: one can fail, or be replaced, without a change of the ObjectServer.
const REPLICAS: i32 = 2;

/// `$NCHOME` of IBM's installer.
const NC_HOME: &str = "/opt/IBM/tivoli/netcool";

fn object_server(spec: &ProxyPairSpec, side: Side) -> Result<Address, InvalidPair> {
    let declared = &spec.side(side).object_server;
    let port = checks::port(&format!("spec.{}.objectServer.port", side.label()), declared.port)?;
    Ok(Address::new(declared.host.clone(), port))
}

fn listener(spec: &ProxyPairSpec, side: Side) -> Result<Listener, BrokenRule> {
    let Some(tls) = spec.proxy(side).tls else {
        return Ok(Listener::Plain);
    };
    match (tls.mode, tls.secret_name) {
        (TlsMode::PassThrough, _) => Ok(Listener::PassThrough),
        (TlsMode::Terminate, Some(secret_name)) => Ok(Listener::Terminate { secret_name }),
        (TlsMode::Terminate, None) => Err(rules::terminate_needs_secret().broken("spec.proxy.tls")),
    }
}

fn proxyserv(spec: &ProxyPairSpec, side: Side) -> Result<ProxyservPod, BrokenRule> {
    let settings = spec.proxy(side);
    let no_image = || rules::proxyserv_needs_image().broken("spec");
    Ok(ProxyservPod {
        image: settings.image.ok_or_else(no_image)?,
        pull_policy: settings.image_pull_policy,
        nc_home: settings.nc_home.unwrap_or_else(|| NC_HOME.to_owned()),
        secret_name: settings.secret_name,
        properties: settings.properties.unwrap_or_default(),
    })
}

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;
