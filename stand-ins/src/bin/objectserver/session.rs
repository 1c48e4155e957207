//! One session: a login, then requests until somebody leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxypair::tds::capability::WIDE_TABLES;
use proxypair::tds::channel::{Channel, ReceiveError};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::{Message, PacketType};
use proxypair::tds::request::RequestToken;
use proxypair::tds::response::{AnswerWriter, Done, Token};
use proxypair::tds::wire::text;
use proxypair::tds::{Error, token};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::answer;
use crate::database::{ConnectionRow, Database, Outcome};
use crate::sql::{self, Names, Statement};
use crate::state::State;
use stand_ins::login::{self, LOGIN_DEADLINE, LoginFailure};
use stand_ins::wire::Wire;

/// Largest message from a client: a login is 600 bytes, an insert a few thousand.
const REQUEST_MAX: usize = 1 << 20;

/// Application name of a proxy server.
const PROXY: &str = "PROXY";

/// Why a session ended other than by the client leaving.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the handshake failed: {0}")]
    Handshake(#[source] std::io::Error),
    #[error(transparent)]
    Login(#[from] LoginFailure),
    #[error("packet of type {0:#04x} is no request")]
    NotARequest(u8),
    #[error(transparent)]
    Protocol(#[from] Error),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Send(#[from] std::io::Error),
}

/// Serves one connection until it ends or is reset.
pub async fn run(stream: TcpStream, peer: SocketAddr, state: Arc<State>, database: Database) {
    let _ = stream.set_nodelay(true);
    let mut resets = state.resets();
    let stream = tokio::select! {
        stream = encrypt(stream, &state) => stream,
        _ = resets.changed() => return,
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return tracing::info!(%peer, %error, "session ended"),
    };
    let mut session = Session {
        channel: Channel::new(stream, REQUEST_MAX),
        state,
        database,
    };
    let result = tokio::select! {
        result = session.serve() => result,
        _ = resets.changed() => {
            let _ = SockRef::from(session.channel.stream().tcp()).set_linger(Some(Duration::ZERO));
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::info!(%peer, %error, "session ended");
    }
}

async fn encrypt(stream: TcpStream, state: &State) -> Result<Wire, Failure> {
    let Some(identity) = &state.identity else {
        return Ok(Wire::Plain(stream));
    };
    let handshake = tokio::time::timeout(LOGIN_DEADLINE, identity.accept(stream));
    handshake
        .await
        .map_err(|_| LoginFailure::Late)?
        .map_err(Failure::Handshake)
}

struct Session {
    channel: Channel<Wire>,
    state: Arc<State>,
    database: Database,
}

impl Session {
    async fn serve(&mut self) -> Result<(), Failure> {
        let Some(login) = login::receive(&mut self.channel).await? else {
            return Ok(());
        };
        self.state.answering().await;
        let password = self.state.passwords.of(&mut self.channel, &login).await?;
        if !password.is_some_and(|password| self.state.admits(&login.user, &password)) {
            tracing::info!(user = login.user, application = login.application, "login refused");
            self.state.count_refusal(&login.application);
            tokio::time::sleep(self.state.refuses_after).await;
            let reply = login::refused(&login, &self.state.name)?;
            self.channel.send(PacketType::RESPONSE, &reply).await?;
            return Ok(self.channel.shutdown().await?);
        }
        let present = self.state.enter(connection_row(self.state.next_session(), &login));
        self.record("connect", &present.row).await;
        let result = tokio::select! {
            result = self.converse(&login, present.row.id) => result,
            () = present.dropped() => Ok(()),
        };
        self.record("disconnect", &present.row).await;
        result
    }

    /// The event that the stock triggers `connection_watch_connect` and `connection_watch_disconnect` insert.
    async fn record(&self, what: &str, row: &ConnectionRow) {
        if self.state.watches_connections {
            let text = format!("{}:{}:{}:{what}", row.app_name, row.host_name, row.log_name).replace('\'', "''");
            let sql = format!(
                "insert into alerts.status (Identifier, Node, Manager, AlertGroup, Severity, Summary) \
                 values ('{text}', '', 'ConnectionWatch', 'ConnectionWatch', 4, '{text}')"
            );
            self.database.write(sql).await;
        }
    }

    async fn converse(&mut self, login: &LoginRecord, session: u32) -> Result<(), Failure> {
        let reply = login::accepted(login, &self.state.name)?;
        self.channel.send(PacketType::RESPONSE, &reply).await?;
        let names = Names {
            server: self.state.name.clone(),
            session,
        };
        while let Some(message) = self.channel.receive().await? {
            self.state.answering().await;
            self.state.lock.open_to(session).await;
            let (reply, leaves) = self.handle(&message, login, &names).await?;
            self.state.answering().await;
            self.channel.send(PacketType::RESPONSE, &reply).await?;
            if leaves {
                return Ok(self.channel.shutdown().await?);
            }
        }
        Ok(())
    }

    async fn handle(&self, message: &Message, login: &LoginRecord, names: &Names) -> Result<(Vec<u8>, bool), Failure> {
        let mut answer = AnswerWriter::new(login.order);
        let requests = match message.kind {
            PacketType::NORMAL => RequestToken::decode_all(&message.payload, login.order)?,
            PacketType::LANGUAGE => vec![RequestToken::Language {
                sql: text(&message.payload),
                has_parameters: false,
            }],
            PacketType::ATTENTION => {
                answer.push(&Token::Done(Done::statement(Done::CANCELLED, None)))?;
                return Ok((answer.into_payload(), false));
            }
            PacketType(other) => return Err(Failure::NotARequest(other)),
        };
        let mut leaves = false;
        let mut statements = Vec::new();
        for request in requests {
            match request {
                RequestToken::Language { sql, .. } => statements.extend(sql::parse(&sql, names)),
                RequestToken::Logout => leaves = true,
                RequestToken::Option { .. } => statements.push(Statement::Unsupported {
                    token: token::OPTIONCMD,
                }),
                RequestToken::Unknown { token } => statements.push(Statement::Unsupported { token }),
            }
        }
        if statements.is_empty() {
            statements.push(Statement::Ignored);
        }
        let wide = login.capability.requests(WIDE_TABLES);
        let restricted = login.application == PROXY && self.state.properties.restricts_proxies();
        let last = statements.len() - 1;
        for (index, statement) in statements.into_iter().enumerate() {
            let more = if index < last { Done::MORE } else { 0 };
            if restricted && !is_open_to_proxies(&statement) {
                let reason = "Permission denied: RestrictProxySQL is TRUE.";
                answer::write_error(&answer::DENIED, reason, &names.server, &mut answer)?;
                break;
            }
            if !self.execute(statement, names, wide, more, &mut answer).await? {
                break;
            }
        }
        Ok((answer.into_payload(), leaves))
    }

    /// Runs one statement and appends its answer; `false` when it failed, which ends the answer.
    async fn execute(
        &self,
        statement: Statement,
        names: &Names,
        wide: bool,
        more: u16,
        answer: &mut AnswerWriter,
    ) -> Result<bool, Error> {
        let outcome = match statement {
            Statement::Select(sql) => self.database.read(sql).await,
            Statement::Write(sql) => self.database.write(sql).await,
            Statement::SessionId => answer::session_id(names.session),
            Statement::SetProperty { name, value } => match self.state.properties.set(&name, &value) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(error.to_string()),
            },
            Statement::DropConnection(id) if self.state.drop_connection(id) => Outcome::Done,
            Statement::DropConnection(id) => Outcome::Failed(format!("There is no connection {id}.")),
            Statement::Lock(true) => {
                self.state.lock.take(names.session).await;
                Outcome::Done
            }
            Statement::Lock(false) => {
                self.state.lock.release(names.session);
                Outcome::Done
            }
            Statement::Ignored => Outcome::Done,
            Statement::Unsupported { token } => {
                let reason = format!("Request {token:#04x} is not supported.");
                answer::write_error(&answer::UNSUPPORTED, &reason, &names.server, answer)?;
                return Ok(false);
            }
            Statement::Refused { word } => Outcome::Failed(format!("Incorrect syntax near '{word}'.")),
        };
        match outcome {
            Outcome::Table(table) => answer::write_table(table, wide, more, answer)?,
            Outcome::Done => answer.push(&Token::Done(Done::statement(more, None)))?,
            Outcome::Written(rows) => answer.push(&Token::Done(Done::statement(more, Some(rows))))?,
            Outcome::Failed(reason) => {
                answer::write_error(&answer::SYNTAX, &reason, &names.server, answer)?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What `RestrictProxySQL` leaves to a proxy. The number of the session is not asked from a table.
fn is_open_to_proxies(statement: &Statement) -> bool {
    match statement {
        Statement::Write(sql) => sql::is_event(sql),
        Statement::Ignored | Statement::SessionId => true,
        _ => false,
    }
}

/// The login record has no field for `AppDescription`. This stand-in takes the process field when it is not a number, so that a client can
/// choose one of up to 30 bytes, and else the name of the client's library.
fn connection_row(id: u32, login: &LoginRecord) -> ConnectionRow {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_number = login.process.bytes().all(|byte| byte.is_ascii_digit());
    let description = if is_number { &login.program } else { &login.process };
    ConnectionRow {
        id,
        app_name: login.application.clone(),
        app_description: description.clone(),
        host_name: login.host.clone(),
        log_name: login.user.clone(),
        is_real_time: 0,
        connect_time: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
    }
}
