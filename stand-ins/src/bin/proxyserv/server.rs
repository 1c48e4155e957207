//! The clients: a login of their own for each, and their statements passed on.

use std::sync::Arc;
use std::time::Duration;

use proxypair::tds::Error;
use proxypair::tds::capability::WIDE_TABLES;
use proxypair::tds::channel::{Channel, ReceiveError};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::{Message, PacketType};
use proxypair::tds::request::RequestToken;
use proxypair::tds::response::{AnswerWriter, Done, ServerMessage, Token, Tokens};
use proxypair::tds::wire::{ByteOrder, text};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::pool::Pool;
use crate::properties::Properties;
use stand_ins::login::{self, Encryption, LoginFailure, Passwords};
use stand_ins::wire::Wire;

/// Largest message from a client.
const REQUEST_MAX: usize = 1 << 20;

/// Pause after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Number and class of the error for a statement that could not be passed on.
const UNAVAILABLE: (u32, u8) = (4902, 17);

/// The same for a request that is no statement.
const UNSUPPORTED: (u32, u8) = (2801, 16);

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Login(#[from] LoginFailure),
    #[error("packet of type {0:#04x} is no request")]
    NotARequest(u8),
    #[error(transparent)]
    Protocol(#[from] Error),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Accepts clients for ever.
pub async fn accept_all(listener: TcpListener, properties: Arc<Properties>, pool: Pool) {
    let passwords = Arc::new(Passwords::new(Encryption::Offered));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let session = run(stream, Arc::clone(&properties), Arc::clone(&passwords), pool.clone());
                tokio::spawn(async move {
                    if let Err(error) = session.await {
                        tracing::info!(%peer, %error, "session ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a client");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn run(
    stream: TcpStream,
    properties: Arc<Properties>,
    passwords: Arc<Passwords>,
    pool: Pool,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut channel = Channel::new(Wire::Plain(stream), REQUEST_MAX);
    let Some(login) = login::receive(&mut channel).await? else {
        return Ok(());
    };
    let present = pool.enter(properties.connections);
    let password = passwords.of(&mut channel, &login).await?;
    if present.is_none() || !password.is_some_and(|password| admits(&properties, &login.user, &password)) {
        tracing::info!(user = login.user, application = login.application, "login refused");
        let reply = login::refused(&login, &properties.name)?;
        channel.send(PacketType::RESPONSE, &reply).await?;
        return Ok(channel.shutdown().await?);
    }
    let reply = login::accepted(&login, &properties.name)?;
    channel.send(PacketType::RESPONSE, &reply).await?;
    let session = Session {
        login,
        name: properties.name.clone(),
        pool,
    };
    session.converse(&mut channel).await
}

/// Who is let in: anybody, unless `SecureMode` is TRUE.
fn admits(properties: &Properties, user: &str, password: &str) -> bool {
    !properties.secure || (user == properties.user && password == properties.password)
}

struct Session {
    login: LoginRecord,
    name: String,
    pool: Pool,
}

impl Session {
    async fn converse(&self, channel: &mut Channel<Wire>) -> Result<(), Failure> {
        while let Some(message) = channel.receive().await? {
            let (sql, leaves) = match self.read(&message)? {
                Asked::Sql(sql) => (sql, false),
                Asked::SqlAndLogout(sql) => (sql, true),
                Asked::Nothing(status) => {
                    let mut answer = AnswerWriter::new(self.login.order);
                    answer.push(&Token::Done(Done::statement(status, None)))?;
                    channel.send(PacketType::RESPONSE, &answer.into_payload()).await?;
                    continue;
                }
                Asked::Unsupported(token) => {
                    let reason = format!("Request {token:#04x} is not supported.");
                    channel
                        .send(PacketType::RESPONSE, &self.error(UNSUPPORTED, &reason)?)
                        .await?;
                    continue;
                }
            };
            let reply = if sql.trim().is_empty() {
                let mut answer = AnswerWriter::new(self.login.order);
                answer.push(&Token::Done(Done::statement(0, None)))?;
                answer.into_payload()
            } else {
                let Some(answer) = self.ask(sql, channel).await? else {
                    return Ok(());
                };
                answer
            };
            channel.send(PacketType::RESPONSE, &reply).await?;
            if leaves {
                return Ok(channel.shutdown().await?);
            }
        }
        Ok(())
    }

    /// Asks the ObjectServer; `None` when the client leaves meanwhile.
    async fn ask(&self, sql: String, channel: &mut Channel<Wire>) -> Result<Option<Vec<u8>>, Failure> {
        let answer = self.pool.ask(sql);
        tokio::pin!(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            next = channel.peek() => match next? {
                None => return Ok(None),
                Some(_) => answer.await,
            },
        };
        Ok(Some(match answer {
            Ok(payload) => self.translate(&payload)?,
            Err(reason) => self.error(UNAVAILABLE, &reason)?,
        }))
    }

    fn read(&self, message: &Message) -> Result<Asked, Failure> {
        let requests = match message.kind {
            PacketType::NORMAL => RequestToken::decode_all(&message.payload, self.login.order)?,
            PacketType::LANGUAGE => return Ok(Asked::Sql(text(&message.payload))),
            PacketType::ATTENTION => return Ok(Asked::Nothing(Done::CANCELLED)),
            PacketType(other) => return Err(Failure::NotARequest(other)),
        };
        let mut statements = Vec::new();
        let mut leaves = false;
        for request in requests {
            match request {
                RequestToken::Language { sql, .. } => statements.push(sql),
                RequestToken::Logout => leaves = true,
                RequestToken::Option { .. } => return Ok(Asked::Unsupported(proxypair::tds::token::OPTIONCMD)),
                RequestToken::Unknown { token } => return Ok(Asked::Unsupported(token)),
            }
        }
        let sql = statements.join(";\n");
        Ok(if leaves {
            Asked::SqlAndLogout(sql)
        } else {
            Asked::Sql(sql)
        })
    }

    /// The ObjectServer's answer in the client's byte order and with the formats that it understands. What the ObjectServer changed in its session
    /// with the proxy server is none of the client's business.
    fn translate(&self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let wide = self.login.capability.requests(WIDE_TABLES);
        let mut answer = AnswerWriter::new(self.login.order);
        for token in Tokens::new(payload, ByteOrder::Little) {
            match token? {
                Token::EnvChange(_) => {}
                Token::RowFormat { columns, .. } => answer.push(&Token::RowFormat { wide, columns })?,
                other => answer.push(&other)?,
            }
        }
        Ok(answer.into_payload())
    }

    fn error(&self, (number, class): (u32, u8), reason: &str) -> Result<Vec<u8>, Error> {
        let mut answer = AnswerWriter::new(self.login.order);
        answer.push(&Token::Message(ServerMessage::new(number, class, &self.name, reason)))?;
        answer.push(&Token::Done(Done::statement(Done::ERROR, None)))?;
        Ok(answer.into_payload())
    }
}

enum Asked {
    Sql(String),
    SqlAndLogout(String),
    Nothing(u16),
    Unsupported(u8),
}
