//! The TDS session of an eye: one login for as long as the connection lasts, and a cheap read each `interval`.
//!
//! A fresh login per check would leave a row in `alerts.status` each time, so a session is kept until it is lost. A read that the server
//! refuses, for want of a permission or because the proxy may only insert, is an answer all the same: the way to the ObjectServer is open.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};

use super::{
    Check, Observation, ServerInfo,
    hold::{Refused, Trouble},
    login::{APPLICATION, Login},
};
use crate::{
    domain::{
        evidence::{Fault, Link, Timing},
        resync::GatewaySession,
    },
    tds::{
        client::{ANSWER_MAX, Answer, Client, LoginError, PasswordPolicy, QueryError},
        login::LoginRecord,
    },
};

/// Time from a login that failed, other than by a refusal, to the next.
const LOGIN_RETRY: Duration = Duration::from_secs(1);
/// A session that lasts shorter than this is followed by the next only after [`LOGIN_RETRY`].
const SHORT: Duration = Duration::from_secs(5);
/// Beyond `unresponsiveAfter`: after this time without an answer a session is given up for a new one.
const HOPELESS: Duration = Duration::from_secs(300);

/// What an ObjectServer is and whether it stands in for the primary; a few rows, always there.
const PROPERTIES: &str =
    "select PropName, Value from catalog.properties where PropName in ('Name', 'ActingPrimary', 'BackupObjectServer')";
/// Who copies between the ObjectServers.
const GATEWAYS: &str = "select ConnectionID, AppDescription from catalog.connections where AppName = 'GATEWAY'";

/// What became of a session.
enum End {
    /// Nobody listens any more.
    NobodyListens,
    /// It worked, and ended.
    Lost,
}

/// Logs in on `stream` and asks until the session ends. `Ok` if it had worked: then the next attempt may come at once, unless nobody
/// listens any more.
pub(super) async fn log_in_and_ask<S>(
    stream: S,
    login: &Login,
    timing: &Timing,
    trouble: &mut Trouble,
    out: &mpsc::Sender<Observation>,
) -> Result<(), Refused>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let hopeless = timing.unresponsive_after + HOPELESS;
    // A login that hangs, on the way of the other eye, must not hold up this one.
    let turn = timeout(timing.interval, login.refusals.turn()).await.ok();
    if let Some(refusal) = login.refusals.standing(Instant::now()) {
        return Err(refused(refusal.message));
    }
    let record = LoginRecord::new(&login.credentials.user, &login.credentials.password, APPLICATION);
    let begun = Instant::now();
    let policy = PasswordPolicy::on_stream(false, login.allow_plaintext);
    let attempt = Client::with_policy(stream, &record, policy, ANSWER_MAX);
    let attempt = trouble.patiently(begun, hopeless, attempt).await;
    let client = match attempt {
        None => return Ok(()),
        Some(Err(silence)) => return Err(silence),
        Some(Ok(Ok(client))) => client,
        Some(Ok(Err(error))) => {
            let failed = login_failed(error);
            if failed.fault == Fault::Login {
                login.refusals.refused(failed.message.clone(), Instant::now());
            } else {
                drop(turn);
                sleep(LOGIN_RETRY).await;
            }
            return Err(failed);
        }
    };
    login.refusals.accepted();
    drop(turn);
    tracing::debug!(server = client.server(), "logged in to check");
    let mut session = Session {
        client,
        login,
        timing,
        hopeless,
        trouble,
        out,
    };
    if matches!(session.converse().await, End::Lost) && begun.elapsed() < SHORT {
        sleep(LOGIN_RETRY).await;
    }
    Ok(())
}

fn refused(message: String) -> Refused {
    Refused {
        fault: Fault::Login,
        message,
    }
}

fn login_failed(error: LoginError) -> Refused {
    let fault = match &error {
        LoginError::Io(_) | LoginError::Closed { .. } => Fault::Connection,
        LoginError::Refused { .. }
        | LoginError::EncryptionDemanded
        | LoginError::Encryption(_)
        | LoginError::OfferRefused { .. }
        | LoginError::Unauthenticated => Fault::Login,
        LoginError::NotTds { .. }
        | LoginError::Protocol(_)
        | LoginError::OlderProtocol { .. }
        | LoginError::NoVerdict => Fault::WrongServer,
    };
    Refused {
        fault,
        message: error.to_string(),
    }
}

struct Session<'a, S> {
    client: Client<S>,
    login: &'a Login,
    timing: &'a Timing,
    hopeless: Duration,
    trouble: &'a mut Trouble,
    out: &'a mpsc::Sender<Observation>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<'_, S> {
    async fn converse(&mut self) -> End {
        let mut wanted = self.login.gateways.clone();
        loop {
            let asked = Instant::now();
            let with_gateways = *wanted.borrow_and_update();
            let said = match self.ask(asked, with_gateways).await {
                Ok(Some(said)) => said,
                Ok(None) => return End::NobodyListens,
                Err(since) => return self.lost(since).await,
            };
            let link = match self.stranger(&said) {
                Some(message) => Link::Failed {
                    since: asked,
                    fault: Fault::WrongServer,
                    message,
                },
                None => Link::Answering,
            };
            let is_told = match link {
                Link::Answering => self.trouble.answering().await,
                link => self.trouble.say(link).await,
            };
            if !is_told || self.out.send(Observation::Server(said)).await.is_err() {
                return End::NobodyListens;
            }
            tokio::select! {
                error = self.client.lost() => {
                    tracing::debug!(%error, "a check session ended");
                    return self.lost(Instant::now()).await;
                }
                () = sleep_until((asked + self.timing.interval).into()) => {}
                // An answer is wanted now. A sender that is gone ends this task from outside.
                _ = wanted.changed() => {}
            }
        }
    }

    /// The session has ended. Said at once: whoever weighs another eye's word need not wait for the next attempt.
    async fn lost(&mut self, since: Instant) -> End {
        self.trouble.lost(since);
        if self.trouble.say(Link::Silent { since }).await {
            End::Lost
        } else {
            End::NobodyListens
        }
    }

    /// Asks both questions. `Ok(None)` when nobody listens any more; since when the session was no good, if it has ended.
    async fn ask(&mut self, asked: Instant, with_gateways: bool) -> Result<Option<ServerInfo>, Instant> {
        let Some(properties) = self.query(asked, PROPERTIES).await? else {
            return Ok(None);
        };
        let gateways = if with_gateways && self.trouble.eye() == Check::Direct {
            match self.query(asked, GATEWAYS).await? {
                None => return Ok(None),
                Some(answer) => Some(answer.map(|answer| gateway_sessions(&answer))),
            }
        } else {
            None
        };
        let property = |name: &str| properties.as_ref().ok().and_then(|answer| property(answer, name));
        Ok(Some(ServerInfo {
            eye: self.trouble.eye(),
            asked,
            heard: Instant::now(),
            name: property("Name"),
            acting_primary: property("ActingPrimary").map(|value| value.eq_ignore_ascii_case("TRUE")),
            gateways,
        }))
    }

    /// One question. The inner error is the server's refusal, which is an answer.
    async fn query(&mut self, asked: Instant, sql: &str) -> Result<Option<Result<Answer, String>>, Instant> {
        let answer = self
            .trouble
            .patiently(asked, self.hopeless, self.client.query(sql))
            .await;
        match answer {
            None => Ok(None),
            Some(Ok(Ok(answer))) => Ok(Some(Ok(answer))),
            Some(Ok(Err(error @ QueryError::Sql { .. }))) => Ok(Some(Err(error.to_string()))),
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, "a check session ended");
                Err(self.trouble.silent_since().unwrap_or_else(Instant::now))
            }
            Some(Err(_silence)) => Err(asked),
        }
    }

    /// In words, if it is another server than the declared one.
    fn stranger(&self, said: &ServerInfo) -> Option<String> {
        let Login {
            object_server, proxy, ..
        } = self.login;
        let name = match &said.name {
            Some(name) => name,
            // Through a proxy server the messages may carry its name.
            None if proxy.is_some() && said.eye == Check::Path => return None,
            None => self.client.server().filter(|name| !name.is_empty())?,
        };
        (name != object_server).then(|| format!("the server there says that it is {name}, not {object_server}"))
    }
}

fn property(answer: &Answer, name: &str) -> Option<String> {
    answer
        .rows()
        .find(|row| row.get("PropName").and_then(|value| value.text()).as_deref() == Some(name))?
        .get("Value")?
        .text()
        .map(|text| text.trim().to_owned())
}

fn gateway_sessions(answer: &Answer) -> Vec<GatewaySession> {
    let text = |value: Option<&crate::tds::value::Value>| {
        value
            .and_then(|value| value.text())
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    answer
        .rows()
        .map(|row| GatewaySession {
            id: text(row.get("ConnectionID")),
            description: text(row.get("AppDescription")),
        })
        .collect()
}

impl Trouble {
    /// Waits for something that the server owes since `since`, for `limit` at the longest, and says so when it is late. `None` when nobody
    /// listens any more; the inner error when the limit has passed.
    async fn patiently<T>(
        &mut self,
        since: Instant,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<Result<T, Refused>> {
        let mut answer = pin!(answer);
        if let Ok(answer) = timeout(self.interval(), &mut answer).await {
            return Some(Ok(answer));
        }
        let since = self.is_silent(since);
        self.say(Link::Silent { since }).await.then_some(())?;
        Some(timeout(limit, answer).await.map_err(|_| Refused::silence()))
    }
}

#[cfg(test)]
mod tests;
