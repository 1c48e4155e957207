//! One ObjectServer: the session with it, and what has been read from it.

use std::time::Duration;

use anyhow::{Context, ensure};
use proxypair::tds::client::{Answer, Client};
use proxypair::tds::login::LoginRecord;
use tokio::time::timeout;

use crate::Options;
use stand_ins::dial::{Target, tls_from};
use stand_ins::wire::Wire;

/// Application name of a gateway.
const APPLICATION: &str = "GATEWAY";

/// Largest answer in bytes: a page of rows.
const ANSWER_MAX: usize = 64 << 20;

/// How long an orderly end may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// One side of the gateway.
#[derive(Debug)]
pub struct Side {
    /// Name of the ObjectServer.
    pub name: String,
    /// New rows have a `Serial` above this.
    pub serial: i64,
    /// Changed rows have a `StateChange` of at least this.
    pub changed_since: i64,
    target: Target,
    patience: Duration,
    client: Option<Client<Wire>>,
}

impl Side {
    /// One that is not attached.
    pub fn new(name: &str, address: &str, options: &Options) -> anyhow::Result<Self> {
        let mut login = LoginRecord::new(&options.user, &options.password, APPLICATION);
        login.process.clone_from(&options.description);
        login.server = name.to_owned();
        Ok(Self {
            name: name.to_owned(),
            serial: 0,
            changed_since: 0,
            target: Target {
                address: address.to_owned(),
                tls: options.ca.as_deref().map(|ca| tls_from(ca, name)).transpose()?,
                login,
                answer_max: ANSWER_MAX,
            },
            patience: options.unresponsive_after,
            client: None,
        })
    }

    /// Whether there is a session.
    pub const fn is_attached(&self) -> bool {
        self.client.is_some()
    }

    /// Logs in.
    pub async fn attach(&mut self) -> anyhow::Result<()> {
        let client = timeout(self.patience, self.target.log_in()).await;
        let client = client.with_context(|| format!("{}: no answer", self.name))??;
        let said = client.server().unwrap_or_default();
        ensure!(said == self.name, "{} says that it is {said:?}", self.name);
        tracing::info!(server = self.name, "attached");
        self.client = Some(client);
        Ok(())
    }

    /// Forgets the session.
    pub fn lose(&mut self) {
        if self.client.take().is_some() {
            tracing::info!(server = self.name, "detached");
        }
    }

    /// Ends the session in an orderly way.
    pub async fn leave(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = timeout(CLOSE_DEADLINE, client.close()).await;
            tracing::info!(server = self.name, "left");
        }
    }

    /// Asks. A session that gives no answer is lost.
    pub async fn ask(&mut self, sql: &str) -> anyhow::Result<Answer> {
        let name = &self.name;
        let client = self.client.as_mut().with_context(|| format!("{name}: not attached"))?;
        let answer = match timeout(self.patience, client.query(sql)).await {
            Ok(answer) => answer.with_context(|| format!("{name}: no answer to {:.60}", sql)),
            Err(_) => Err(anyhow::anyhow!("{name}: silent for {:?}", self.patience)),
        };
        if answer.is_err() {
            self.lose();
        }
        answer
    }

    /// Waits until the session is lost; for ever when there is none.
    pub async fn lost(&mut self) {
        match &mut self.client {
            Some(client) => {
                let error = client.lost().await;
                tracing::info!(server = self.name, %error, "lost");
            }
            None => std::future::pending().await,
        }
        self.lose();
    }

    /// Sets `ActingPrimary`.
    pub async fn set_acting_primary(&mut self, acting: bool) -> anyhow::Result<()> {
        let value = if acting { "TRUE" } else { "FALSE" };
        self.ask(&format!("alter system set 'ActingPrimary' = {value};"))
            .await?;
        tracing::info!(server = self.name, acting, "ActingPrimary");
        Ok(())
    }
}
