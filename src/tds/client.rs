//! A small TDS 5.0 client over any byte stream: log in, ask, leave.
//!
//! Expected flow:
//!
//! 1. The caller connects (and does the TLS handshake where there is one: TLS starts with the first byte).
//! 2. [`Client::login`] sends the login record and returns once the server said *succeed* and ended its answer.
//! 3. [`Client::query`] sends SQL and returns the whole answer. One question at a time.
//! 4. Between questions [`Client::lost`] returns as soon as the server closes the session, so that a killed server is seen in milliseconds.
//! 5. [`Client::close`] says good-bye and closes without waiting for the answer, which some servers never send.
//!
//! Guarantees: an answer larger than the limit ends the session instead of growing; an error answer of the server
//! ([`QueryError::Sql`]) leaves the session usable.
//!
//! Assumptions: the caller sets a deadline around each step (`tokio::time::timeout`) and drops the client when it passes. There is no
//! cancel: after a deadline nobody knows what the server has done, and a dropped connection is the only state that both ends agree on.
//! Passwords go over the stream as they are: encrypt the stream.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Error;
use super::channel::{Channel, ReceiveError};
use super::login::LoginRecord;
use super::packet::{Message as Packets, PacketType};
use super::request::Request;
use super::response::{Done, EnvChange, LoginAck, Message, Token, Tokens};
use super::wire::ByteOrder;

mod answer;

pub use answer::{Answer, ResultSet, Row};

/// Largest answer in bytes that a client accepts unless [`Client::with_limit`] says otherwise: ample for a health check.
pub const ANSWER_MAX: usize = 1 << 20;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The connection failed.
    #[error("connection failed during the login")]
    Io(#[source] io::Error),
    /// The server closed. Without a single byte before, the port may be one that expects TLS.
    #[error("closed by the server {}", if *.spoke { "during the login" } else { "before any TDS byte: is this a TLS port?" })]
    Closed {
        /// The server had sent something.
        spoke: bool,
    },
    /// The first bytes are not the header of a TDS answer.
    #[error("the answer begins with {first:#04x}, which is not TDS")]
    NotTds {
        /// The first byte; 0x15 is a TLS alert.
        first: u8,
    },
    /// The answer is not TDS 5.0, or the login cannot be written as such.
    #[error("the login broke the protocol")]
    Protocol(#[source] Error),
    /// User or password was refused.
    #[error("login refused: {text} (message {number})")]
    Refused {
        /// Number of the server's message; 0 when it sent none.
        number: u32,
        /// Its text; empty when it sent none.
        text: String,
    },
    /// The server demands an encrypted password, which this client does not offer. Trying again cannot help.
    #[error("the server demands an encrypted password")]
    EncryptionDemanded,
    /// The server speaks an older version of TDS, whose rows look different.
    #[error("the server speaks TDS {}.{}", .version[0], .version[1])]
    OlderProtocol {
        /// The version in its LOGINACK.
        version: [u8; 4],
    },
    /// The answer ended without a word about the login.
    #[error("the server neither accepted nor refused the login")]
    NoVerdict,
}

/// Why a query has no answer. All but [`QueryError::Sql`] end the session.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The connection failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The server closed the session.
    #[error("closed by the server")]
    Closed,
    /// The answer is not TDS 5.0.
    #[error("the answer broke the protocol")]
    Protocol(#[source] Error),
    /// The server says that the statement failed. The session remains usable.
    #[error("{server}: {text} (message {number}, class {class})")]
    Sql {
        /// Name of the server that says so; may be empty.
        server: String,
        /// Number of its message; 0 when it sent none.
        number: u32,
        /// Class of its message; 0 when it sent none.
        class: u8,
        /// Its text.
        text: String,
    },
}

/// A session on a stream.
#[derive(Debug)]
pub struct Client<S> {
    channel: Channel<S>,
    order: ByteOrder,
    server: Option<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Client<S> {
    /// Logs in on a connected stream and accepts answers up to [`ANSWER_MAX`].
    ///
    /// # Errors
    ///
    /// See [`LoginError`]; the stream is dropped with it.
    pub async fn login(stream: S, login: &LoginRecord) -> Result<Self, LoginError> {
        Self::with_limit(stream, login, ANSWER_MAX).await
    }

    /// Logs in and accepts answers up to `limit` bytes.
    ///
    /// # Errors
    ///
    /// See [`LoginError`].
    pub async fn with_limit(stream: S, login: &LoginRecord, limit: usize) -> Result<Self, LoginError> {
        let mut client = Self {
            channel: Channel::new(stream, limit),
            order: login.order,
            server: None,
        };
        let mut payload = Vec::new();
        login.encode(&mut payload).map_err(LoginError::Protocol)?;
        let sent = client.channel.send(PacketType::LOGIN, &payload).await;
        sent.map_err(LoginError::Io)?;
        let answer = client.login_answer().await?;
        client.judge(&answer)?;
        Ok(client)
    }

    /// Name of the server, as it gave it in a message of the login or of an answer.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The stream below.
    #[must_use]
    pub const fn stream(&self) -> &S {
        self.channel.stream()
    }

    /// Asks `sql` and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// See [`QueryError`].
    pub async fn query(&mut self, sql: &str) -> Result<Answer, QueryError> {
        let payload = self.exchange(sql).await?;
        let answer = Answer::decode(&payload, self.order).map_err(QueryError::Protocol)?;
        self.learn_server(answer.messages.iter());
        match answer.failure() {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    /// Asks `sql` and gives the answer as it came, in the byte order of the login: for those who pass it on. An error of the server is in it.
    ///
    /// # Errors
    ///
    /// Those of [`QueryError`] that end the session.
    pub async fn exchange(&mut self, sql: &str) -> Result<Vec<u8>, QueryError> {
        let request = Request::Language {
            sql: sql.to_owned(),
            has_parameters: false,
        };
        let mut payload = Vec::new();
        request.encode(self.order, &mut payload).map_err(QueryError::Protocol)?;
        let sent = self.channel.send(PacketType::NORMAL, &payload).await;
        sent.map_err(QueryError::Io)?;
        Ok(self.receive().await?.payload)
    }

    /// Waits until the session is lost, discarding messages that belong to no request. Safe to cancel.
    pub async fn lost(&mut self) -> QueryError {
        loop {
            if let Err(error) = self.receive().await {
                return error;
            }
        }
    }

    /// Says good-bye and closes.
    ///
    /// # Errors
    ///
    /// The stream's error; the session is over all the same.
    pub async fn close(mut self) -> io::Result<()> {
        let mut payload = Vec::new();
        Request::Logout
            .encode(self.order, &mut payload)
            .map_err(io::Error::other)?;
        self.channel.send(PacketType::NORMAL, &payload).await?;
        self.channel.shutdown().await
    }

    async fn receive(&mut self) -> Result<Packets, QueryError> {
        match self.channel.receive().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(QueryError::Closed),
            Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(QueryError::Closed),
            Err(ReceiveError::Io(error)) => Err(QueryError::Io(error)),
            Err(ReceiveError::Protocol(error)) => Err(QueryError::Protocol(error)),
        }
    }

    async fn login_answer(&mut self) -> Result<Packets, LoginError> {
        match self.channel.peek().await.map_err(LoginError::Io)? {
            None => return Err(LoginError::Closed { spoke: false }),
            Some(PacketType::RESPONSE) => {}
            Some(PacketType(first)) => return Err(LoginError::NotTds { first }),
        }
        self.receive().await.map_err(|error| match error {
            QueryError::Io(source) => LoginError::Io(source),
            QueryError::Protocol(source) => LoginError::Protocol(source),
            QueryError::Closed | QueryError::Sql { .. } => LoginError::Closed { spoke: true },
        })
    }

    fn judge(&mut self, answer: &Packets) -> Result<(), LoginError> {
        let mut ack = None;
        let mut messages: Vec<Message> = Vec::new();
        let mut done: Option<Done> = None;
        for token in Tokens::new(&answer.payload, self.order) {
            match token.map_err(LoginError::Protocol)? {
                Token::LoginAck(found) => ack = Some(found),
                Token::Message(message) => messages.push(message),
                Token::EnvChange(changes) => self.follow(&changes),
                Token::Done(found) => done = Some(found),
                _ => {}
            }
        }
        self.learn_server(messages.iter());
        let refused = || {
            let reason = messages.iter().find(|message| message.is_error());
            LoginError::Refused {
                number: reason.map_or(0, |message| message.number),
                text: reason.map_or_else(String::new, |message| message.text.clone()),
            }
        };
        let Some(ack) = ack else {
            return Err(if messages.iter().any(Message::is_error) {
                refused()
            } else {
                LoginError::NoVerdict
            });
        };
        match ack.verdict() {
            LoginAck::SUCCEED if ack.tds_version[0] < 5 => Err(LoginError::OlderProtocol {
                version: ack.tds_version,
            }),
            LoginAck::SUCCEED if done.is_some_and(Done::is_final) => Ok(()),
            LoginAck::FAIL => Err(refused()),
            LoginAck::NEGOTIATE => Err(LoginError::EncryptionDemanded),
            _ => Err(LoginError::NoVerdict),
        }
    }

    fn follow(&mut self, changes: &[EnvChange]) {
        for change in changes {
            if let (EnvChange::PACKET_SIZE, Ok(size)) = (change.kind, change.new.trim().parse()) {
                self.channel.set_packet_size(size);
            }
        }
    }

    fn learn_server<'m>(&mut self, mut messages: impl Iterator<Item = &'m Message>) {
        if let Some(message) = messages.find(|message| !message.server.is_empty()) {
            self.server = Some(message.server.clone());
        }
    }
}

#[cfg(test)]
mod tests;
