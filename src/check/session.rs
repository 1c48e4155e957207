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
    link::{Failure, LinkReporter, now},
    login::{APPLICATION, Login},
};
use crate::{
    domain::{
        evidence::{Fault, Timing},
        resync::GatewaySession,
    },
    foreign::{cut, foreign},
    tds::{
        client::{Answer, Client, LoginError, PasswordPolicy, QueryError},
        encryption::EncryptionError,
        login::LoginRecord,
        packet::PacketType,
        value::Value,
    },
};

/// Time from a login that failed, other than by a rejection, to the next.
const LOGIN_RETRY: Duration = Duration::from_secs(1);
/// The same for one that could not be written: only another Secret helps, and that starts the check anew.
const UNWRITABLE_RETRY: Duration = Duration::from_secs(60);
/// A session that lasts shorter than this is followed by the next only after [`LOGIN_RETRY`].
const SHORT: Duration = Duration::from_secs(5);
/// Beyond `unresponsiveAfter`: a session without an answer for this time is given up for a new one.
const GIVE_UP: Duration = Duration::from_secs(300);
/// Largest answer in bytes to one of the two questions: a few rows of two short columns. In memory it is up to a hundred times as large.
const ANSWER_MAX: usize = 64 << 10;
/// Most gateway sessions that are looked at. An ObjectServer of a pair has one or two.
const GATEWAYS_MAX: usize = 32;
/// Longest `AppDescription` and `ConnectionID` of a gateway in characters; [`crate::api`] allows 64 for the declared one.
const DESCRIPTION_MAX: usize = 100;

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
    tracing::debug!(server = client.server().map(foreign), "check logged in");
    let mut session = Session {
        client,
        login,
        timing,
        limit,
        reporter,
    };
    let ended = session.ask_until_lost().await;
    // What the server has said belongs to this session: after a restart it may be wrong at once.
    reporter.send(Observation::SessionEnded(reporter.check())).await?;
    ended?;
    if now().duration_since(begun) < SHORT {
        reporter.during(sleep(LOGIN_RETRY)).await?;
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
    // Servers take seconds to reject a login on purpose. One that gets no answer at all must not hold up the side's other check for ever.
    let turn = reporter
        .during(timeout(timing.unresponsive_after, login.refusals.turn()))
        .await?;
    if let Some(refusal) = login.refusal(now()) {
        return Err(refusal.failure());
    }
    let record = LoginRecord::new(&login.credentials.user, &login.credentials.password, APPLICATION);
    let policy = PasswordPolicy::on_stream(false, login.allow_plaintext);
    let began = now();
    let attempt = Client::with_policy(stream, &record, policy, ANSWER_MAX);
    let error = match reporter.answer(began, limit, attempt).await? {
        Ok(client) => {
            login.refusals.accepted();
            return Ok(client);
        }
        Err(error) => error,
    };
    let failure = failed_login(&error);
    if let Failure::Fault {
        fault: Fault::Login,
        message,
    } = &failure
    {
        login.refusals.refused(Fault::Login, message.clone(), began, now());
        return Err(failure);
    }
    drop(turn);
    if let Failure::Fault {
        fault: Fault::Protocol,
        message,
    } = &failure
    {
        note_undecodable(login, message, began, reporter);
        return Err(failure);
    }
    let pause = match error {
        LoginError::Unwritable(_) | LoginError::Encryption(_) => UNWRITABLE_RETRY,
        _ => LOGIN_RETRY,
    };
    reporter.failed(failure).await?;
    reporter.during(sleep(pause)).await?;
    Err(Failure::NoAnswer)
}

/// What a login that led to nothing says about the server, if anything.
fn failed_login(error: &LoginError) -> Failure {
    match error {
        LoginError::Io(source) => Failure::io(source, error),
        LoginError::Closed { .. } => Failure::connection(error),
        LoginError::Encryption(EncryptionError::Crypto | EncryptionError::Protocol(_)) => Failure::unseen(error),
        LoginError::Refused { .. }
        | LoginError::EncryptionDemanded
        | LoginError::Encryption(EncryptionError::Key(_) | EncryptionError::TooLong { .. })
        | LoginError::OfferRefused { .. }
        | LoginError::Unauthenticated => Failure::fault(Fault::Login, error),
        // A packet of TDS, though not an answer: that is no proof of another server.
        LoginError::NotTds { first } if PacketType(*first).is_known() => Failure::fault(Fault::Protocol, error),
        LoginError::NotTds { .. } => Failure::fault(Fault::WrongServer, error),
        LoginError::Protocol(_) | LoginError::OlderProtocol { .. } | LoginError::NoVerdict => {
            Failure::fault(Fault::Protocol, error)
        }
        LoginError::Unwritable(_) => Failure::unseen(error),
    }
}

/// Stops the logins of this check for a while, and warns of the first such answer in a row.
fn note_undecodable(login: &Login, message: &str, began: Instant, reporter: &LinkReporter) {
    let is_first = login
        .undecodable
        .refused(Fault::Protocol, message.to_owned(), began, now());
    if is_first {
        tracing::warn!(
            object_server = login.object_server,
            check = ?reporter.check(),
            message,
            "an ObjectServer's answer cannot be decoded"
        );
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
    /// `Ok` when the connection was lost: the next attempt shows what that means.
    async fn ask_until_lost(&mut self) -> Result<(), Failure> {
        let mut gateways = self.login.gateways.clone();
        loop {
            let asked = now();
            let with_gateways = *gateways.borrow_and_update();
            let info = match self.ask(asked, with_gateways).await {
                Ok(info) => info,
                Err(Lost::Connection) => return Ok(self.reporter.silent(now()).await?),
                Err(Lost::Failed(failure)) => return Err(failure),
            };
            self.login.undecodable.accepted();
            match self.mismatch(&info) {
                None => self.reporter.answering().await?,
                Some(message) => {
                    let failure = Failure::fault(Fault::WrongServer, message);
                    self.reporter.failed_since(asked, failure).await?;
                }
            }
            self.reporter.send(Observation::Server(info)).await?;
            tokio::select! {
                error = self.client.lost() => return match self.lost(asked, &error) {
                    // Reported before the next attempt: it may confirm at once what another check has observed.
                    Lost::Connection => Ok(self.reporter.silent(now()).await?),
                    Lost::Failed(failure) => Err(failure),
                },
                () = sleep_until((asked + self.timing.interval).into()) => {}
                // The consumer wants an answer now. One that drops the sender ends this task as well.
                _ = gateways.changed() => {}
            }
        }
    }

    /// What an error that ends the session means.
    fn lost(&self, asked: Instant, error: &QueryError) -> Lost {
        let message = foreign(&error.to_string());
        tracing::debug!(message, "check session ended");
        match error {
            QueryError::Protocol(_) => {
                note_undecodable(self.login, &message, asked, self.reporter);
                Lost::Failed(Failure::fault(Fault::Protocol, message))
            }
            QueryError::Unwritable(_) => Lost::Failed(Failure::unseen(message)),
            QueryError::Io(source) => match Failure::io(source, message) {
                failure @ Failure::Unseen { .. } => Lost::Failed(failure),
                _ => Lost::Connection,
            },
            QueryError::Closed | QueryError::Sql { .. } => Lost::Connection,
        }
    }

    /// Asks for the properties, and for the gateways if they are wanted. The path check leaves those to the direct one.
    async fn ask(&mut self, asked: Instant, with_gateways: bool) -> Result<ServerInfo, Lost> {
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
    async fn query(&mut self, asked: Instant, sql: &str) -> Result<Result<Answer, String>, Lost> {
        let query = self.client.query(sql);
        match self.reporter.answer(asked, self.limit, query).await? {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ QueryError::Sql { .. }) => Ok(Err(foreign(&error.to_string()))),
            Err(error) => Err(self.lost(asked, &error)),
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
        (name != object_server).then(|| {
            let name = cut(name, DESCRIPTION_MAX);
            format!("server identifies itself as {name}, expected {object_server}")
        })
    }
}

/// Why a session has ended.
enum Lost {
    /// It was closed, or given up: the next attempt shows what that means.
    Connection,
    /// For a reason that is known.
    Failed(Failure),
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoAnswer => Self::Connection,
            failure => Self::Failed(failure),
        }
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
        text.map(|text| cut(&text, DESCRIPTION_MAX)).unwrap_or_default()
    };
    answer
        .rows()
        .take(GATEWAYS_MAX)
        .map(|row| GatewaySession {
            id: text(row.get("ConnectionID")),
            description: text(row.get("AppDescription")),
        })
        .collect()
}

#[cfg(test)]
mod tests;
