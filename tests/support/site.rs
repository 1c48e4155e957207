//! What surrounds ObjectServers in the field: users with passwords.

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::{namespace::Namespace, stand_ins::ServerOptions};

/// The Secret with the operator's user.
pub const CHECK: &str = "netcool-check";
/// The Secret with the ObjectServers' users.
const USERS: &str = "netcool-users";
/// The operator's user.
const CHECK_USER: &str = "check";
/// Its password.
pub const CHECK_PASSWORD: &str = "it-is-me-again";

/// An OMNIbus site.
#[derive(Clone, Debug, Default)]
pub struct Site {}

impl Site {
    /// Makes what it consists of.
    pub async fn found(&self, namespace: &Namespace) -> Result<()> {
        let users = format!("root:\n{CHECK_USER}:{CHECK_PASSWORD}\n");
        namespace
            .apply::<Secret>(secret(USERS, &json!({"users": users})))
            .await?;
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

    /// What a ProxyPair must say of it. No gateway copies between the ObjectServers.
    pub fn spec(&self) -> Value {
        json!({
            "healthCheck": {"login": {"secretName": CHECK, "allowPlaintextLogin": true}},
            "failback": {"resync": {"policy": "Ignored"}},
        })
    }
}

/// Gives the operator's Secret this password.
pub async fn set_check_password(namespace: &Namespace, password: &str) -> Result<()> {
    let data = json!({"AuthUserName": CHECK_USER, "AuthPassword": password});
    namespace.apply::<Secret>(secret(CHECK, &data)).await.map(drop)
}

fn secret(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}
