//! What surrounds ObjectServers in the field: users with passwords, certificates, a gateway, the user's own proxy servers.

use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use crate::{
    certificates::{Identity, Issuer},
    manifest::merge,
    namespace::Namespace,
    stand_ins::{FleetOptions, Gateway, OBJECT_SERVER_PORT, ObjectServer, ServerOptions},
};

/// The Secret with the operator's user.
pub const CHECK: &str = "netcool-check";
/// The Secret with the ObjectServers' users.
const USERS: &str = "netcool-users";
/// The operator's user.
const CHECK_USER: &str = "check";
/// Its password.
pub const CHECK_PASSWORD: &str = "it-is-me-again";

/// The gateway's user.
const GATEWAY_USER: &str = "gateway";
/// Its password.
const GATEWAY_PASSWORD: &str = "copy-that";

/// The ConfigMap with the authority, for the pair; and the Secret with it, for gateway and probes.
pub const CA: &str = "netcool-ca";
/// The Secret of the user's proxy servers.
pub const PROXY: &str = "netcool-proxy";
/// Their users; the second is for a Secret that changes.
pub const PROXY_USERS: [&str; 2] = ["proxy", "proxy2"];
/// The password of both.
const PROXY_PASSWORD: &str = "let#me:through";

/// What the user's proxy server does when its ObjectServer goes, which nothing documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenGone {
    /// It exits.
    Exits,
    /// It stays, and accepts probes whose events wait.
    Stays,
}

impl WhenGone {
    /// The image of a proxy server that does so.
    fn image(self) -> String {
        let images = std::env::var("NCO_PROXYSERV").unwrap_or_else(|_| "proxypair.test/nco-proxyserv:dev".to_owned());
        match self {
            Self::Exits => images + "-exit",
            Self::Stays => images + "-stay",
        }
    }
}

/// An OMNIbus site.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// A gateway copies between the ObjectServers, and failbacks wait for its resync.
    pub has_gateway: bool,
    /// Who signs the certificates of ObjectServers and proxies. Without it there is no TLS.
    pub authority: Option<Arc<Issuer>>,
    /// The gates forward the probes' TLS as it is, so that probes see the ObjectServers' certificates.
    pub passes_through: bool,
    /// More certificates that the ObjectServers can be told to show, each in a Secret of this name.
    pub spare: Vec<(&'static str, Identity)>,
    /// Engine Proxyserv; without it engine Relay.
    pub proxyserv: Option<WhenGone>,
}

impl Site {
    /// One with the user's own proxy servers.
    pub fn with_proxyserv(when_gone: WhenGone) -> Self {
        Self {
            proxyserv: Some(when_gone),
            ..Self::default()
        }
    }

    /// Makes what it consists of.
    pub async fn found(&self, namespace: &Namespace) -> Result<()> {
        let mut users = format!("root:\n{CHECK_USER}:{CHECK_PASSWORD}\n{GATEWAY_USER}:{GATEWAY_PASSWORD}\n");
        for user in PROXY_USERS {
            users += &format!("{user}:{PROXY_PASSWORD}\n");
        }
        namespace
            .apply::<Secret>(secret(USERS, &json!({"users": users})))
            .await?;
        if let Some(authority) = &self.authority {
            set_authorities(namespace, &authority.pem()).await?;
            let ca = secret(CA, &json!({"ca.crt": authority.pem()}));
            namespace.apply::<Secret>(ca).await?;
            for name in ["AGG_P", "AGG_B", "PROXY_P", "PROXY_B"] {
                set_certificate(namespace, &secret_of(name), &authority.issue(name)).await?;
            }
        }
        for (name, identity) in &self.spare {
            set_certificate(namespace, name, identity).await?;
        }
        if self.proxyserv.is_some() {
            let [user, _] = PROXY_USERS;
            let mut data = proxy_user(user);
            if let Some(authority) = &self.authority {
                // The stand-in takes authorities in PEM for a key store.
                data["omni.kdb"] = json!(authority.pem());
                data["omni.sth"] = json!("stash");
            }
            namespace.apply::<Secret>(secret(PROXY, &data)).await?;
        }
        set_check_password(namespace, CHECK_PASSWORD).await
    }

    /// How its ObjectServers are started.
    pub fn server(&self, name: &str) -> ServerOptions {
        let mut arguments = vec![format!("--users=/secrets/{USERS}/users")];
        let mut secrets = vec![USERS.to_owned()];
        if self.authority.is_some() {
            let own = secret_of(name);
            arguments.push(format!("--tls-cert=/secrets/{own}/tls.crt"));
            arguments.push(format!("--tls-key=/secrets/{own}/tls.key"));
            secrets.push(own);
            secrets.extend(self.spare.iter().map(|(name, _)| (*name).to_owned()));
        }
        ServerOptions {
            arguments,
            secrets,
            ..ServerOptions::default()
        }
    }

    /// What probes have as `SSLServerCommonName`: either of those that they may meet.
    pub fn common_names(&self) -> &'static str {
        match self.passes_through {
            true => "AGG_P,AGG_B",
            false => "PROXY_P,PROXY_B",
        }
    }

    /// Its probes.
    pub fn fleet(&self, options: &FleetOptions) -> FleetOptions {
        let mut options = options.clone();
        if self.authority.is_some() {
            options.arguments.push(format!("--tls-ca=/secrets/{CA}/ca.crt"));
            options
                .arguments
                .push(format!("--ssl-server-common-name={}", self.common_names()));
            options.secrets.push(CA.to_owned());
        }
        options
    }

    /// Starts its gateway, if it has one.
    pub async fn gateway(
        &self,
        namespace: &Namespace,
        primary: &ObjectServer,
        backup: &ObjectServer,
    ) -> Result<Option<Gateway>> {
        if !self.has_gateway {
            return Ok(None);
        }
        let mut arguments = vec![
            format!("--primary={}:{OBJECT_SERVER_PORT}", primary.host()),
            format!("--backup={}:{OBJECT_SERVER_PORT}", backup.host()),
            format!("--user={GATEWAY_USER}"),
            format!("--password={GATEWAY_PASSWORD}"),
        ];
        let mut secrets = Vec::new();
        if self.authority.is_some() {
            arguments.push(format!("--ca=/secrets/{CA}/ca.crt"));
            secrets.push(CA.to_owned());
        }
        Gateway::start(namespace, &arguments, &secrets).await.map(Some)
    }

    /// What a ProxyPair must say of it.
    pub fn spec(&self) -> Value {
        let policy = if self.has_gateway { "Required" } else { "Ignored" };
        let has_tls = self.authority.is_some();
        let mut spec = json!({
            "healthCheck": {"login": {"secretName": CHECK, "allowPlaintextLogin": !has_tls}},
            "failback": {"resync": {"policy": policy}},
        });
        if has_tls {
            let side = |proxy: &str| {
                let listener = match self.passes_through {
                    true => json!({"mode": "PassThrough"}),
                    false => json!({"secretName": secret_of(proxy)}),
                };
                json!({
                    "objectServer": {"tls": {"caBundle": {"configMapName": CA}}},
                    "proxy": {"tls": listener},
                })
            };
            merge(
                &mut spec,
                &json!({"primary": side("PROXY_P"), "backup": side("PROXY_B")}),
            );
        }
        if let Some(when_gone) = self.proxyserv {
            merge(
                &mut spec,
                &json!({"proxy": {"engine": "Proxyserv", "image": when_gone.image(), "secretName": PROXY}}),
            );
        }
        spec
    }
}

/// The Secret with the certificate of a server.
pub fn secret_of(server: &str) -> String {
    format!("{}-tls", server.to_lowercase().replace('_', "-"))
}

/// Gives a Secret this certificate.
pub async fn set_certificate(namespace: &Namespace, name: &str, identity: &Identity) -> Result<()> {
    let mut object = secret(name, &json!({"tls.crt": identity.certificate, "tls.key": identity.key}));
    object["type"] = json!("kubernetes.io/tls");
    namespace.apply::<Secret>(object).await.map(drop)
}

/// Gives the pair's CA bundle this text.
pub async fn set_authorities(namespace: &Namespace, pem: &str) -> Result<()> {
    let bundle = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CA},
        "data": {"ca.crt": pem},
    });
    namespace.apply::<ConfigMap>(bundle).await.map(drop)
}

/// Gives the operator's Secret this password.
pub async fn set_check_password(namespace: &Namespace, password: &str) -> Result<()> {
    let data = json!({"AuthUserName": CHECK_USER, "AuthPassword": password});
    namespace.apply::<Secret>(secret(CHECK, &data)).await.map(drop)
}

/// Writes a Secret for the user's proxy servers: they log in as `user`.
pub async fn set_proxy_user(namespace: &Namespace, name: &str, user: &str) -> Result<()> {
    namespace
        .apply::<Secret>(secret(name, &proxy_user(user)))
        .await
        .map(drop)
}

fn proxy_user(user: &str) -> Value {
    json!({"AuthUserName": user, "AuthPassword": PROXY_PASSWORD})
}

fn secret(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}
