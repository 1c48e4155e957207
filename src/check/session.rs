//! The TDS session of a check: one login for as long as the connection lasts, and a small read each `interval`.
//!
//! Each login and logout leaves a row in `alerts.status`, so a session is kept until it is lost. A read that the server rejects, because a
//! permission is missing or because the proxy server only allows inserts, is an answer too: the way to the ObjectServer is open.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, sleep_until, timeout},
};

use super::{
    Check, Observation, ServerInfo,
    link::{ConsumerGone, Failure, LinkReporter, now},
    login::{APPLICATION, Login},
};
use crate::{
    domain::{
        evidence::{Fault, Timing},
        resync::GatewaySession,
    },
    tds::{
        client::{ANSWER_MAX, Answer, Client, LoginError, PasswordPolicy, QueryError},
        login::LoginRecord,
        value::Value,
    },
};

/// Time from a login that failed, other than by a rejection, to the next.
const LOGIN_RETRY: Duration = Duration::from_secs(1);
/// A session that lasts shorter than this is followed by the next only after [`LOGIN_RETRY`].
const SHORT: Duration = Duration::from_secs(5);
/// Beyond `unresponsiveAfter`: a session without an answer for this time is given up for a new one.
const GIVE_UP: Duration = Duration::from_secs(300);

/// What the ObjectServer is called and whether it acts as primary: a few rows that always exist.
const PROPERTIES: &str = "select PropName, Value from catalog.properties where PropName in ('Name', 'ActingPrimary')";
/// The sessions of gateways, which copy between the ObjectServers.
const GATEWAYS: &str = "select ConnectionID, AppDescription from catalog.connections where AppName = 'GATEWAY'";

/// Logs in on `stream` and asks each `interval` until the session ends. `Ok` if it had been logged in: then the next attempt may be made at
/// once.
pub(super) async fn run<S>(
    stream: S,
    login: &Login,
    timing: &Timing,
    reporter: &mut LinkReporter,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limit = timing.unresponsive_after + GIVE_UP;
    let client = log_in(stream, login, timing, limit, reporter).await?;
    let begun = now();
    tracing::debug!(server = client.server(), "check logged in");
    let mut session = Session {
        client,
        login,
        timing,
        limit,
        reporter,
    };
    session.ask_until_lost().await?;
    if now().duration_since(begun) < SHORT {
        sleep(LOGIN_RETRY).await;
    }
    Ok(())
}

async fn log_in<S>(
    stream: S,
    login: &Login,
    timing: &Timing,
    limit: Duration,
    reporter: &mut LinkReporter,
) -> Result<Client<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // A login of the side's other check that gets no answer must not hold up this one.
    let turn = timeout(timing.interval, login.refusals.turn()).await.ok();
    if let Some(refusal) = login.refusals.current(now()) {
        return Err(Failure::login(refusal.message));
    }
    let record = LoginRecord::new(&login.credentials.user, &login.credentials.password, APPLICATION);
    let policy = PasswordPolicy::on_stream(false, login.allow_plaintext);
    let attempt = Client::with_policy(stream, &record, policy, ANSWER_MAX);
    match reporter.answer(now(), limit, attempt).await? {
        Ok(client) => {
            login.refusals.accepted();
            Ok(client)
        }
        Err(error) => {
            let (fault, message) = (fault(&error), error.to_string());
            if fault == Fault::Login {
                login.refusals.refused(message.clone(), now());
            } else {
                drop(turn);
                sleep(LOGIN_RETRY).await;
            }
            Err(Failure::Fault { fault, message })
        }
    }
}

const fn fault(error: &LoginError) -> Fault {
    match error {
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
    }
}

struct Session<'a, S> {
    client: Client<S>,
    login: &'a Login,
    timing: &'a Timing,
    /// How long to wait for an answer once its lateness is reported.
    limit: Duration,
    reporter: &'a mut LinkReporter,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<'_, S> {
    async fn ask_until_lost(&mut self) -> Result<(), ConsumerGone> {
        let mut gateways = self.login.gateways.clone();
        loop {
            let asked = now();
            let with_gateways = *gateways.borrow_and_update();
            let info = match self.ask(asked, with_gateways).await {
                Ok(info) => info,
                Err(Failure::ConsumerGone) => return Err(ConsumerGone),
                Err(Failure::NoAnswer | Failure::Fault { .. }) => return self.reporter.silent(now()).await,
            };
            match self.mismatch(&info) {
                None => self.reporter.answering().await?,
                Some(message) => {
                    let fault = Fault::WrongServer;
                    self.reporter
                        .failed_since(asked, Failure::Fault { fault, message })
                        .await?;
                }
            }
            self.reporter.send(Observation::Server(info)).await?;
            tokio::select! {
                error = self.client.lost() => {
                    tracing::debug!(%error, "check session ended");
                    // Reported before the next attempt: it may confirm at once what another check has observed.
                    return self.reporter.silent(now()).await;
                }
                () = sleep_until((asked + self.timing.interval).into()) => {}
                // The consumer wants an answer now. One that drops the sender ends this task as well.
                _ = gateways.changed() => {}
            }
        }
    }

    /// Asks for the properties, and for the gateways if they are wanted. The path check leaves those to the direct one.
    async fn ask(&mut self, asked: Instant, with_gateways: bool) -> Result<ServerInfo, Failure> {
        let properties = self.query(asked, PROPERTIES).await?;
        let gateways = if with_gateways && self.reporter.check() == Check::Direct {
            let answer = self.query(asked, GATEWAYS).await?;
            Some(answer.map(|answer| gateway_sessions(&answer)))
        } else {
            None
        };
        let property = |name: &str| properties.as_ref().ok().and_then(|answer| property(answer, name));
        Ok(ServerInfo {
            check: self.reporter.check(),
            asked,
            answered: now(),
            name: property("Name"),
            acting_primary: property("ActingPrimary").map(|value| value.eq_ignore_ascii_case("TRUE")),
            gateways,
        })
    }

    /// Sends one query. The inner error is that of the server, which is an answer.
    async fn query(&mut self, asked: Instant, sql: &str) -> Result<Result<Answer, String>, Failure> {
        let query = self.client.query(sql);
        match self.reporter.answer(asked, self.limit, query).await? {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ QueryError::Sql { .. }) => Ok(Err(error.to_string())),
            Err(error) => {
                tracing::debug!(%error, "check session ended");
                Err(Failure::connection(error))
            }
        }
    }

    /// The message for a server other than the declared one; `None` if it is that one, or its name is not known.
    fn mismatch(&self, info: &ServerInfo) -> Option<String> {
        let Login {
            object_server, proxy, ..
        } = self.login;
        let name = match &info.name {
            Some(name) => name,
            // A proxy server may put its own name into its messages.
            None if proxy.is_some() && info.check == Check::Path => return None,
            None => self.client.server().filter(|name| !name.is_empty())?,
        };
        (name != object_server).then(|| format!("server identifies itself as {name}, expected {object_server}"))
    }
}

fn property(answer: &Answer, name: &str) -> Option<String> {
    let text = |value: &Value| value.text().map(|text| text.trim().to_owned());
    answer
        .rows()
        .find(|row| row.get("PropName").and_then(text).as_deref() == Some(name))?
        .get("Value")
        .and_then(text)
}

fn gateway_sessions(answer: &Answer) -> Vec<GatewaySession> {
    let text = |value: Option<&Value>| {
        let text = value.and_then(Value::text);
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    answer
        .rows()
        .map(|row| GatewaySession {
            id: text(row.get("ConnectionID")),
            description: text(row.get("AppDescription")),
        })
        .collect()
}

#[cfg(test)]
mod tests;
