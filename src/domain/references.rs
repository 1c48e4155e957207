//! Which Secrets and ConfigMaps a pair refers to, which keys they must have, and the problem to report if they do not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    pair::{Listener, Pair},
    status::Problem,
};
use crate::{
    api::{AUTH_PASSWORD, AUTH_USER_NAME, CaBundleSpec, OMNI_KDB, OMNI_STH, Reason, Side},
    omnibus::{PropertyValue, property},
};

/// Key of a certificate in a Secret of type kubernetes.io/tls.
const TLS_CRT: &str = "tls.crt";
/// Key of its private key.
const TLS_KEY: &str = "tls.key";
/// Longest user of `healthCheck.login` in bytes: a login record of TDS 5.0 has no more room.
pub const CHECK_USER_MAX: usize = 30;
/// Longest password of `healthCheck.login` in bytes, for the same reason.
pub const CHECK_PASSWORD_MAX: usize = 253;

/// Added to the message about an object whose content is kept: deleting a Secret revokes nothing at once.
const KEPT: &str = "; what the operator read of it before stays in use until another operator leads";

/// Kind of an object that a pair refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReferenceKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ReferenceKind {
    /// The kind, as in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// An object in the namespace of the pair that refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Its kind.
    pub kind: ReferenceKind,
    /// `metadata.name`.
    pub name: String,
}

impl Reference {
    /// The Secret of that name.
    pub fn secret(name: &str) -> Self {
        Self {
            kind: ReferenceKind::Secret,
            name: name.to_owned(),
        }
    }

    /// The ConfigMap of that name.
    pub fn config_map(name: &str) -> Self {
        Self {
            kind: ReferenceKind::ConfigMap,
            name: name.to_owned(),
        }
    }
}

/// The data of an object that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// The bytes under each key.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// The data may be secret, so only the keys are printed.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("version", &self.version)
            .field("keys", &self.data.keys())
            .finish_non_exhaustive()
    }
}

/// The data of each object that a pair refers to; `None` for one that does not exist.
pub type Contents = BTreeMap<Reference, Option<Content>>;

/// One place in `spec` that refers to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The object that it refers to.
    pub reference: Reference,
    /// The field that names it.
    pub field: String,
    /// The keys that it must have.
    pub keys: Vec<String>,
    /// Keys of which it must have both or neither.
    pub together: Vec<[&'static str; 2]>,
    /// Keys whose values are written into a properties file.
    pub properties: Vec<&'static str>,
    /// Keys whose values the operator reads. Of the others it only has to know that they are there.
    pub values: Vec<String>,
    /// Keys whose values the operator logs in with, and the longest value of each in bytes.
    pub login: Vec<(&'static str, usize)>,
    /// The operator goes on with what it has read when that is gone, until another one leads.
    pub is_kept: bool,
    /// The side whose pod cannot start without the object.
    pub side: Option<Side>,
}

/// The keys of `healthCheck.login`'s Secret, and the longest value of each.
const LOGIN: [(&str, usize); 2] = [(AUTH_USER_NAME, CHECK_USER_MAX), (AUTH_PASSWORD, CHECK_PASSWORD_MAX)];

/// Every place in the spec of `pair` that refers to an object.
pub fn needs(pair: &Pair) -> Vec<Need> {
    let login = pair.spec.health_check.login.as_ref().map(|login| Need {
        reference: Reference::secret(&login.secret_name),
        field: "spec.healthCheck.login.secretName".to_owned(),
        keys: vec![AUTH_USER_NAME.to_owned(), AUTH_PASSWORD.to_owned()],
        together: Vec::new(),
        properties: Vec::new(),
        values: vec![AUTH_USER_NAME.to_owned(), AUTH_PASSWORD.to_owned()],
        login: LOGIN.to_vec(),
        is_kept: true,
        side: None,
    });
    let of_sides = Side::BOTH.into_iter().flat_map(|side| of_side(pair, side));
    of_sides.chain(login).collect()
}

/// The CA certificates for the ObjectServer of one side, in PEM; `None` without TLS, or if they are missing.
pub fn authorities(pair: &Pair, side: Side, contents: &Contents) -> Option<Vec<u8>> {
    let bundle = &pair.spec.side(side).object_server.tls.as_ref()?.ca_bundle;
    contents
        .get(&bundle_reference(bundle).0)?
        .as_ref()?
        .data
        .get(&bundle.key)
        .cloned()
}

/// The object that holds a CA bundle, and the field that names it.
fn bundle_reference(bundle: &CaBundleSpec) -> (Reference, &'static str) {
    match (&bundle.config_map_name, &bundle.secret_name) {
        (Some(name), _) => (Reference::config_map(name), "configMapName"),
        (None, name) => (Reference::secret(name.as_deref().unwrap_or_default()), "secretName"),
    }
}

/// User and password of `healthCheck.login`, without line feeds at the end; `None` without a login, or if one of them is missing or cannot be
/// sent.
pub fn login(pair: &Pair, contents: &Contents) -> Option<(String, String)> {
    let login = pair.spec.health_check.login.as_ref()?;
    let content = contents.get(&Reference::secret(&login.secret_name))?.as_ref()?;
    if LOGIN
        .iter()
        .any(|(key, longest)| unsendable(content, key, *longest).is_some())
    {
        return None;
    }
    Some((text(content, AUTH_USER_NAME)?, text(content, AUTH_PASSWORD)?))
}

/// Why a value cannot be sent in a login, and what to write instead. The value itself is never in it.
fn unsendable(content: &Content, key: &str, longest: usize) -> Option<String> {
    let text = text(content, key)?;
    if content
        .data
        .get(key)
        .is_some_and(|value| str::from_utf8(value).is_err())
    {
        return Some(format!("{key} is not UTF-8 text: write it in UTF-8"));
    }
    if text.chars().any(char::is_control) {
        return Some(format!("{key} has a control character: remove it"));
    }
    let length = text.len();
    (length > longest).then(|| {
        format!(
            "{key} is {length} bytes long, and a login to an ObjectServer has room for {longest}: use a shorter one"
        )
    })
}

fn text(content: &Content, key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(content.data.get(key)?);
    Some(text.trim_end_matches(['\r', '\n']).to_owned()).filter(|text| !text.is_empty())
}

/// The objects of [`needs`], each once.
pub fn named_in(needs: &[Need]) -> BTreeSet<Reference> {
    needs.iter().map(|need| need.reference.clone()).collect()
}

/// Drops what is not needed of the objects that were read: keys that nothing refers to, and secret values that nobody reads. Of those the
/// first byte stays, for whether there is one.
pub fn drop_unread(needs: &[Need], contents: &mut Contents) {
    for (reference, content) in contents {
        let needs: Vec<_> = needs.iter().filter(|need| need.reference == *reference).collect();
        let is_read = |key: &String| needs.iter().any(|need| need.values.contains(key));
        let is_needed = |key: &String| {
            let together = |need: &&Need| need.together.iter().flatten().any(|other| other == key);
            is_read(key) || needs.iter().any(|need| need.keys.contains(key) || together(need))
        };
        let Some(content) = content else { continue };
        content.data.retain(|key, _| is_needed(key));
        for (key, value) in &mut content.data {
            if !is_read(key) {
                *value = value.iter().take(1).copied().collect();
            }
        }
    }
}

/// The certificate and the key in PEM that the gate of one side presents to probes; `None` if it presents none, or they are missing.
pub fn listener_certificate<'a>(pair: &Pair, side: Side, contents: &'a Contents) -> Option<(&'a [u8], &'a [u8])> {
    let Listener::Terminate { secret_name } = pair.listener(side) else {
        return None;
    };
    let content = contents.get(&Reference::secret(secret_name))?.as_ref()?;
    Some((content.data.get(TLS_CRT)?, content.data.get(TLS_KEY)?))
}

fn of_side(pair: &Pair, side: Side) -> Vec<Need> {
    let mut needs = Vec::new();
    let declared = pair.spec.side(side);
    let own = declared.proxy.as_ref();
    let field = |name: &str, is_own: bool| match is_own {
        true => format!("spec.{}.proxy.{name}", side.label()),
        false => format!("spec.proxy.{name}"),
    };
    if let Some(tls) = &declared.object_server.tls {
        let bundle = &tls.ca_bundle;
        let (reference, name) = bundle_reference(bundle);
        needs.push(Need {
            reference,
            field: format!("spec.{}.objectServer.tls.caBundle.{name}", side.label()),
            keys: vec![bundle.key.clone()],
            together: Vec::new(),
            properties: Vec::new(),
            values: vec![bundle.key.clone()],
            login: Vec::new(),
            is_kept: true,
            side: Some(side),
        });
    }
    if let Listener::Terminate { secret_name: name } = pair.listener(side) {
        needs.push(Need {
            reference: Reference::secret(name),
            field: field("tls.secretName", own.is_some_and(|own| own.tls.is_some())),
            keys: vec![TLS_CRT.to_owned(), TLS_KEY.to_owned()],
            together: Vec::new(),
            properties: Vec::new(),
            values: vec![TLS_CRT.to_owned(), TLS_KEY.to_owned()],
            login: Vec::new(),
            is_kept: false,
            side: Some(side),
        });
    }
    if let Some(name) = pair
        .proxyserv(side)
        .and_then(|proxyserv| proxyserv.secret_name.as_ref())
    {
        let keys: &[&str] = match declared.object_server.tls {
            Some(_) => &[OMNI_KDB, OMNI_STH],
            None => &[],
        };
        needs.push(Need {
            reference: Reference::secret(name),
            field: field("secretName", own.is_some_and(|own| own.secret_name.is_some())),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            together: vec![[AUTH_USER_NAME, AUTH_PASSWORD], [OMNI_KDB, OMNI_STH]],
            properties: vec![AUTH_USER_NAME, AUTH_PASSWORD],
            values: vec![AUTH_USER_NAME.to_owned(), AUTH_PASSWORD.to_owned()],
            login: Vec::new(),
            is_kept: false,
            side: Some(side),
        });
    }
    needs
}

/// The problem, if an object or a key that `need` asks for is missing or unusable.
pub fn lacking(need: &Need, contents: &Contents) -> Option<Problem> {
    let Need {
        reference,
        field,
        keys,
        together,
        properties,
        values: _,
        login,
        is_kept,
        side: _,
    } = need;
    let kept = if *is_kept { KEPT } else { "" };
    let Reference { kind, name } = reference;
    let kind = kind.as_str();
    let Some(content) = contents.get(reference).and_then(Option::as_ref) else {
        return Some(Problem {
            reason: match reference.kind {
                ReferenceKind::Secret => Reason::SecretMissing,
                ReferenceKind::ConfigMap => Reason::ConfigMapMissing,
            },
            message: format!("{kind} {name} does not exist: create it, or change {field}{kept}"),
        });
    };
    let has = |key: &str| content.data.get(key).is_some_and(|value| !value.is_empty());
    let missing = keys.iter().map(String::as_str).find(|key| !has(key));
    let alone = together.iter().find_map(|[one, other]| match (has(one), has(other)) {
        (true, false) => Some(*other),
        (false, true) => Some(*one),
        _ => None,
    });
    let Some(key) = missing.or(alone) else {
        let unwritable = properties
            .iter()
            .find_map(|key| property(key, PropertyValue::Text(&text(content, key)?)).err())
            .map(|error| error.to_string());
        let unsendable = || {
            login
                .iter()
                .find_map(|(key, longest)| unsendable(content, key, *longest))
        };
        let unusable = unwritable.or_else(unsendable)?;
        return Some(Problem {
            reason: Reason::SecretUnusable,
            message: format!("{kind} {name} ({field}): {unusable}"),
        });
    };
    Some(Problem {
        reason: match reference.kind {
            ReferenceKind::Secret => Reason::SecretIncomplete,
            ReferenceKind::ConfigMap => Reason::ConfigMapIncomplete,
        },
        message: format!("{kind} {name} ({field}) has no key {key}, or it is empty: add it{kept}"),
    })
}

#[cfg(test)]
mod tests;
