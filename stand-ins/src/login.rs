//! The server's half of a login, for everything here that is logged in to.

use std::sync::OnceLock;
use std::time::Duration;

use proxypair::tds::Error;
use proxypair::tds::channel::{Channel, ReceiveError};
use proxypair::tds::encryption::{EncryptionError, OFFER_ENCRYPT3};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::PacketType;
use proxypair::tds::response::{AnswerWriter, Done, EnvChange, LoginAck, ServerMessage, Token};
use proxypair::tds::server::{Challenger, challenge_tokens};

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
    /// The password could not be asked for.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What a server does about encrypted passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Encryption {
    /// Asks every client for one.
    Required,
    /// Asks the clients that offer one.
    Offered,
    /// Does not know it, and takes what is in the login record.
    Off,
}

/// The server's half of encrypted passwords. Its key is made when it is needed first.
#[derive(Debug)]
pub struct Passwords {
    encryption: Encryption,
    challenger: OnceLock<Challenger>,
}

impl Passwords {
    /// Without a key yet.
    pub const fn new(encryption: Encryption) -> Self {
        Self {
            encryption,
            challenger: OnceLock::new(),
        }
    }

    /// The password of a login, asked for if need be. `None` when the client holds it back and is not asked, or gives a wrong answer: an empty
    /// password that came with an offer is never taken for the password.
    pub async fn of(&self, channel: &mut Channel<Wire>, login: &LoginRecord) -> Result<Option<String>, LoginFailure> {
        let held_back = login.encryption != 0 && login.password.is_empty();
        let asks = match self.encryption {
            Encryption::Required => true,
            Encryption::Offered => held_back && login.encryption & OFFER_ENCRYPT3 != 0,
            Encryption::Off => false,
        };
        if !asks {
            return Ok(Some(login.password.clone()).filter(|_| !held_back));
        }
        let challenger = match self.challenger.get() {
            Some(challenger) => challenger,
            None => {
                let made = Challenger::generate()?;
                self.challenger.get_or_init(|| made)
            }
        };
        let challenge = challenger.challenge()?;
        let mut tokens = vec![login_ack(LoginAck::NEGOTIATE)];
        tokens.extend(challenge_tokens(&challenge));
        tokens.push(Token::Done(Done::statement(0, None)));
        channel.send(PacketType::RESPONSE, &written(login, &tokens)?).await?;
        let answer = tokio::time::timeout(LOGIN_DEADLINE, channel.receive()).await;
        let Some(answer) = answer.map_err(|_| LoginFailure::Late)?? else {
            return Ok(None);
        };
        Ok(challenger.open(&challenge, &answer.payload, login.order)?)
    }
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
        Token::Message(ServerMessage::new(
            5701,
            10,
            server,
            "Changed database context to 'alerts'.",
        )),
        change(EnvChange::LANGUAGE, &login.language, ""),
        Token::Done(Done::statement(0, None)),
    ]);
    written(login, &tokens)
}

/// The reply to a login that is wrong; the server closes after it.
pub fn refused(login: &LoginRecord, server: &str) -> Result<Vec<u8>, Error> {
    let tokens = [
        login_ack(LoginAck::FAIL),
        Token::Message(ServerMessage::new(
            LOGIN_FAILED,
            LOGIN_FAILED_CLASS,
            server,
            "Login failed.",
        )),
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
