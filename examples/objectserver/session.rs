//! One session: a login, then requests until somebody leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxypair::tds::capability::WIDE_TABLES;
use proxypair::tds::channel::{Channel, ReceiveError};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::{Message as Packets, PacketType};
use proxypair::tds::request::Request;
use proxypair::tds::response::{AnswerWriter, Done, Token};
use proxypair::tds::wire::text;
use proxypair::tds::{Error, token};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::answer;
use crate::database::{ConnectionRow, Database, Outcome};
use crate::server::State;
use crate::sql::{self, Names, Statement};

/// Largest message from a client: a login is 600 bytes, an insert a few thousand.
const REQUEST_MAX: usize = 1 << 20;

/// How long a connection may take to log in.
const LOGIN_DEADLINE: Duration = Duration::from_secs(30);

/// Why a session ended other than by the client leaving.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no login within {LOGIN_DEADLINE:?}")]
    NoLogin,
    #[error("client speaks TLS on a plain port")]
    Tls,
    #[error("first packet has type {0:#04x}, which is no login")]
    NotALogin(u8),
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
    let mut session = Session {
        channel: Channel::new(stream, REQUEST_MAX),
        state,
        database,
    };
    let result = tokio::select! {
        result = session.serve() => result,
        _ = resets.changed() => {
            let _ = SockRef::from(session.channel.stream()).set_linger(Some(Duration::ZERO));
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::info!(%peer, %error, "session ended");
    }
}

struct Session {
    channel: Channel<TcpStream>,
    state: Arc<State>,
    database: Database,
}

impl Session {
    async fn serve(&mut self) -> Result<(), Failure> {
        let login = tokio::time::timeout(LOGIN_DEADLINE, self.login());
        let Some(login) = login.await.map_err(|_| Failure::NoLogin)?? else {
            return Ok(());
        };
        self.state.answering().await;
        let number = self.state.next_session();
        let encrypts = login.encryption != 0 && login.password.is_empty();
        let admitted = !encrypts && self.state.admits(&login.user, &login.password);
        let reply = if admitted {
            answer::accepted(&login, &self.state.name)?
        } else {
            answer::refused(&login, &self.state.name)?
        };
        let present = admitted.then(|| self.state.enter(connection_row(number, &login)));
        self.channel.send(PacketType::RESPONSE, &reply).await?;
        if present.is_none() {
            tracing::info!(user = login.user, encrypts, "login refused");
            return Ok(self.channel.shutdown().await?);
        }
        let names = Names {
            server: self.state.name.clone(),
            session: number,
        };
        while let Some(message) = self.channel.receive().await? {
            self.state.answering().await;
            let (reply, leaves) = self.handle(&message, &login, &names).await?;
            self.state.answering().await;
            self.channel.send(PacketType::RESPONSE, &reply).await?;
            if leaves {
                return Ok(self.channel.shutdown().await?);
            }
        }
        Ok(())
    }

    async fn login(&mut self) -> Result<Option<LoginRecord>, Failure> {
        match self.channel.peek().await? {
            None => return Ok(None),
            Some(PacketType::LOGIN) => {}
            Some(PacketType(0x16)) => return Err(Failure::Tls),
            Some(PacketType(other)) => return Err(Failure::NotALogin(other)),
        }
        let Some(message) = self.channel.receive().await? else {
            return Ok(None);
        };
        Ok(Some(LoginRecord::decode(&message.payload)?))
    }

    async fn handle(&self, message: &Packets, login: &LoginRecord, names: &Names) -> Result<(Vec<u8>, bool), Failure> {
        let mut answer = AnswerWriter::new(login.order);
        let requests = match message.kind {
            PacketType::NORMAL => Request::decode_all(&message.payload, login.order)?,
            PacketType::LANGUAGE => vec![Request::Language {
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
                Request::Language { sql, .. } => statements.extend(sql::parse(&sql, names)),
                Request::Logout => leaves = true,
                Request::Option { .. } => statements.push(Statement::Unsupported {
                    token: token::OPTIONCMD,
                }),
                Request::Unknown { token } => statements.push(Statement::Unsupported { token }),
            }
        }
        if statements.is_empty() {
            statements.push(Statement::Ignored);
        }
        let wide = login.capability.requests(WIDE_TABLES);
        let last = statements.len() - 1;
        for (index, statement) in statements.into_iter().enumerate() {
            let more = if index < last { Done::MORE } else { 0 };
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
            Statement::Ignored => {
                answer.push(&Token::Done(Done::statement(more, None)))?;
                return Ok(true);
            }
            Statement::Unsupported { token } => {
                let reason = format!("Request {token:#04x} is not supported.");
                answer::write_error(&answer::UNSUPPORTED, &reason, &names.server, answer)?;
                return Ok(false);
            }
            Statement::Refused { word } => Outcome::Failed(format!("Incorrect syntax near '{word}'.")),
        };
        match outcome {
            Outcome::Table(table) => answer::write_table(table, wide, more, answer)?,
            Outcome::Written(rows) => answer.push(&Token::Done(Done::statement(more, Some(rows))))?,
            Outcome::Failed(reason) => {
                answer::write_error(&answer::SYNTAX, &reason, &names.server, answer)?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn connection_row(id: u32, login: &LoginRecord) -> ConnectionRow {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ConnectionRow {
        id,
        app_name: login.application.clone(),
        app_description: login.program.clone(),
        host_name: login.host.clone(),
        log_name: login.user.clone(),
        is_real_time: 0,
        connect_time: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
    }
}
