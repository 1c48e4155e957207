//! The second phase of a reconciliation: reads what a pair refers to, and the keys of its gates, which are made or renewed where that is due.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{
    apply::Applier,
    context::Context,
    keys::{self, CA_CRT, KeySet, SecretData, TLS_CRT, TLS_KEY},
    reconcile::{ReconcileError, declared},
    registry::key,
};
use crate::{
    api::{ProxyPair, Reason, Side, Sides},
    check::{self, Credentials},
    clock::wall,
    cluster::ApplyError,
    domain::{
        children,
        pair::{Listener, Pair},
        references::{Contents, Need, authorities, drop_unread, lacking, listener_certificate, login, named_in, needs},
        status::Problem,
    },
    tls::ObjectServerTls,
    worker::{Handover, Keys},
};

/// What stands in the Secrets and ConfigMaps that a pair refers to.
pub struct Dereferenced {
    needs: Vec<Need>,
    /// What was read.
    pub contents: Contents,
    authorities: Sides<Option<Vec<u8>>>,
    unusable_listeners: Sides<Option<Problem>>,
    /// What is missing or unusable.
    pub problem: Option<Problem>,
}

impl Dereferenced {
    /// Reads them all.
    pub async fn read(pair: &Pair, context: &Context) -> Result<Self, ApplyError> {
        let needs = needs(pair);
        let mut contents = context.references.read(&key(pair), &named_in(&needs)).await?;
        drop_unread(&needs, &mut contents);
        let authorities = Sides::from_fn(|side| authorities(pair, side, &contents));
        let unusable_listeners = Sides::from_fn(|side| unusable_listener(pair, side, &contents));
        let lacks = needs.iter().find_map(|need| lacking(need, &contents));
        let problem = lacks.or_else(|| {
            Side::BOTH.into_iter().find_map(|side| {
                let of_bundle = || unusable(pair, side, authorities[side].as_deref()?);
                unusable_listeners[side].clone().or_else(of_bundle)
            })
        });
        Ok(Self {
            needs,
            contents,
            authorities,
            unusable_listeners,
            problem,
        })
    }

    /// What the worker gets of it.
    pub fn handover(&self, pair: &Arc<Pair>, object: &Arc<ProxyPair>) -> Handover {
        Handover {
            login: login(pair, &self.contents).map(|(user, password)| Credentials { user, password }),
            authorities: Sides::from_fn(|side| {
                let bundle = self.authorities[side].clone()?;
                unusable(pair, side, &bundle).is_none().then(|| Arc::new(bundle))
            }),
            ..declared(pair, object)
        }
    }

    /// Whether the pod of that side could not start.
    pub fn hold_back(&self, side: Side) -> bool {
        let mut of_side = self.needs.iter().filter(|need| need.side == Some(side));
        // A gate that has a usable certificate keeps it; one that starts without accepts nobody.
        self.unusable_listeners[side].is_some() || of_side.any(|need| lacking(need, &self.contents).is_some())
    }
}

/// What is wrong with a CA bundle, if anything.
fn unusable(pair: &Pair, side: Side, bundle: &[u8]) -> Option<Problem> {
    let name = &pair.spec.side(side).object_server.name;
    ObjectServerTls::new(bundle, name).err().map(|error| Problem {
        reason: Reason::CaBundleUnusable,
        message: format!("spec.{}.objectServer.tls: {error}", side.label()),
    })
}

/// What is wrong with the certificate that the gate of one side presents to probes, if anything.
fn unusable_listener(pair: &Pair, side: Side, contents: &Contents) -> Option<Problem> {
    let (certificate, key) = listener_certificate(pair, side, contents)?;
    let Listener::Terminate { secret_name } = pair.listener(side) else {
        return None;
    };
    let problem = |message: String| Problem {
        reason: Reason::CertificateUnusable,
        message: format!(
            "Secret {secret_name}, for the probes of the {} side: {message}",
            side.label()
        ),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) => return Some(problem("tls.crt contains no certificate: write one in PEM".to_owned())),
        Err(error) => {
            return Some(problem(format!(
                "tls.crt is not PEM ({error}): write the certificate in PEM"
            )));
        }
    };
    let key = match PrivateKeyDer::from_pem_slice(key) {
        Ok(key) => key,
        Err(error) => {
            return Some(problem(format!(
                "tls.key is no key in PEM ({error}): write one that is not encrypted"
            )));
        }
    };
    let usable = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    usable
        .err()
        .map(|error| problem(format!("tls.crt and tls.key cannot be used: {error}")))
}

/// The keys of gates and operator.
pub struct PairKeys(KeySet);

impl PairKeys {
    /// When they are to be renewed.
    pub const fn renew_at(&self) -> Timestamp {
        self.0.renew_at
    }

    /// As the checks use them.
    pub fn for_worker(&self, gate_name: &str) -> Result<Keys, ReconcileError> {
        let text = |key| self.0.operator.get(key).map(String::as_str).unwrap_or_default();
        Ok(Keys {
            config: check::client_config(text(CA_CRT), text(TLS_CRT), text(TLS_KEY))?,
            gate_name: check::server_name(gate_name)?,
            certificate: text(TLS_CRT).to_owned(),
        })
    }
}

/// Reads the keys, and makes or renews them where that is due.
pub async fn dereference_keys(
    pair: &Pair,
    context: &Context,
    applier: &mut Applier<'_>,
) -> Result<PairKeys, ReconcileError> {
    let gate = applier.look::<Secret>(&pair.gate_tls_name()).await?;
    let operator = applier.look::<Secret>(&pair.operator_tls_name()).await?;
    let current = operator
        .as_ref()
        .map(|operator| (gate.as_ref().map(content).unwrap_or_default(), content(operator)));
    let lifetime = context.settings.certificate_lifetime;
    let keys = keys::renewed(current.clone(), &pair.gate_name, lifetime, wall())?;
    if current.as_ref() == Some(&(keys.gate.clone(), keys.operator.clone())) {
        for secret in [&gate, &operator].into_iter().flatten() {
            applier.note(secret);
        }
        return Ok(PairKeys(keys));
    }
    // The operator's first: it holds the authority, from which the gates' can be made again.
    for (name, data) in [
        (pair.operator_tls_name(), &keys.operator),
        (pair.gate_tls_name(), &keys.gate),
    ] {
        applier.patch(&children::tls_secret(pair, name, data.clone())).await?;
    }
    tracing::info!("made new keys for the gates");
    Ok(PairKeys(keys))
}

fn content(secret: &Secret) -> SecretData {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(&value.0)))
        .collect()
}
