//! What surrounds ObjectServers in the field: users with passwords, a gateway, the user's own proxy servers.

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::{
    namespace::Namespace,
    stand_ins::{Gateway, OBJECT_SERVER_PORT, ObjectServer, ServerOptions},
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
        if self.proxyserv.is_some() {
            let [user, _] = PROXY_USERS;
            set_proxy_user(namespace, PROXY, user).await?;
        }
        set_check_password(namespace, CHECK_PASSWORD).await
    }

    /// How its ObjectServers are started.
    pub fn server(&self, _name: &str) -> ServerOptions {
        ServerOptions {
            arguments: vec![format!("--users=/secrets/{USERS}/users")],
            secrets: vec![USERS.to_owned()],
            ..ServerOptions::default()
        }
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
        let arguments = [
            format!("--primary={}:{OBJECT_SERVER_PORT}", primary.host()),
            format!("--backup={}:{OBJECT_SERVER_PORT}", backup.host()),
            format!("--user={GATEWAY_USER}"),
            format!("--password={GATEWAY_PASSWORD}"),
        ];
        Gateway::start(namespace, &arguments, &[]).await.map(Some)
    }

    /// What a ProxyPair must say of it.
    pub fn spec(&self) -> Value {
        let policy = if self.has_gateway { "Required" } else { "Ignored" };
        let mut spec = json!({
            "healthCheck": {"login": {"secretName": CHECK, "allowPlaintextLogin": true}},
            "failback": {"resync": {"policy": policy}},
        });
        if let Some(when_gone) = self.proxyserv {
            spec["proxy"] = json!({"engine": "Proxyserv", "image": when_gone.image(), "secretName": PROXY});
        }
        spec
    }
}

/// Gives the operator's Secret this password.
pub async fn set_check_password(namespace: &Namespace, password: &str) -> Result<()> {
    let data = json!({"AuthUserName": CHECK_USER, "AuthPassword": password});
    namespace.apply::<Secret>(secret(CHECK, &data)).await.map(drop)
}

/// Writes a Secret for the user's proxy servers: they log in as `user`.
pub async fn set_proxy_user(namespace: &Namespace, name: &str, user: &str) -> Result<()> {
    let data = json!({"AuthUserName": user, "AuthPassword": PROXY_PASSWORD});
    namespace.apply::<Secret>(secret(name, &data)).await.map(drop)
}

fn secret(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}
