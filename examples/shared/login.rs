//! The server's half of a login, for everything here that is logged in to.

use std::time::Duration;

use proxypair::tds::Error;
use proxypair::tds::channel::{Channel, ReceiveError};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::PacketType;
use proxypair::tds::response::{AnswerWriter, Done, EnvChange, LoginAck, Message, Token};

use crate::wire::Wire;

/// How long a connection may take to log in.
pub const LOGIN_DEADLINE: Duration = Duration::from_secs(30);

const LOGIN_FAILED: u32 = 4002;
const LOGIN_FAILED_CLASS: u8 = 14;

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub enum LoginFailure {
    /// It took too long.
    #[error("no login within {LOGIN_DEADLINE:?}")]
    Late,
    /// The first byte is that of a TLS handshake.
    #[error("client speaks TLS on a plain port")]
    Tls,
    /// The first packet is another one.
    #[error("first packet has type {0:#04x}, which is no login")]
    NotALogin(u8),
    /// It cannot be read.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// It did not arrive.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads a login record; `None` when the client left before.
pub async fn receive(channel: &mut Channel<Wire>) -> Result<Option<LoginRecord>, LoginFailure> {
    let login = tokio::time::timeout(LOGIN_DEADLINE, receive_patiently(channel));
    login.await.map_err(|_| LoginFailure::Late)?
}

async fn receive_patiently(channel: &mut Channel<Wire>) -> Result<Option<LoginRecord>, LoginFailure> {
    match channel.peek().await? {
        None => return Ok(None),
        Some(PacketType::LOGIN) => {}
        Some(PacketType(0x16)) => return Err(LoginFailure::Tls),
        Some(PacketType(other)) => return Err(LoginFailure::NotALogin(other)),
    }
    let Some(message) = channel.receive().await? else {
        return Ok(None);
    };
    Ok(Some(LoginRecord::decode(&message.payload)?))
}

/// The reply to a login that is right. The server's name is in its message, as `server`.
pub fn accepted(login: &LoginRecord, server: &str) -> Result<Vec<u8>, Error> {
    let change = |kind, new: &str, old: &str| {
        Token::EnvChange(vec![EnvChange {
            kind,
            new: new.to_owned(),
            old: old.to_owned(),
        }])
    };
    let mut tokens = vec![login_ack(LoginAck::SUCCEED)];
    if !login.capability.request.is_empty() {
        tokens.push(Token::Capability(login.capability.clone()));
    }
    tokens.extend([
        change(EnvChange::PACKET_SIZE, "512", "512"),
        change(EnvChange::CHARSET, "utf8", &login.charset),
        change(EnvChange::DATABASE, "alerts", ""),
        Token::Message(Message::new(5701, 10, server, "Changed database context to 'alerts'.")),
        change(EnvChange::LANGUAGE, &login.language, ""),
        Token::Done(Done::statement(0, None)),
    ]);
    written(login, &tokens)
}

/// The reply to a login that is wrong; the server closes after it.
pub fn refused(login: &LoginRecord, server: &str) -> Result<Vec<u8>, Error> {
    let tokens = [
        login_ack(LoginAck::FAIL),
        Token::Message(Message::new(LOGIN_FAILED, LOGIN_FAILED_CLASS, server, "Login failed.")),
        Token::Done(Done::statement(Done::ERROR, None)),
    ];
    written(login, &tokens)
}

fn login_ack(status: u8) -> Token {
    Token::LoginAck(LoginAck {
        status,
        tds_version: [5, 0, 0, 0],
        program: "SQL Server".to_owned(),
        program_version: [15, 0, 0, 0],
    })
}

fn written(login: &LoginRecord, tokens: &[Token]) -> Result<Vec<u8>, Error> {
    let mut answer = AnswerWriter::new(login.order);
    for token in tokens {
        answer.push(token)?;
    }
    Ok(answer.into_payload())
}
