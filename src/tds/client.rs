//! A small TDS 5.0 client over any byte stream: log in, query, log out.
//!
//! Expected flow:
//!
//! 1. The caller connects (and does the TLS handshake where there is one: TLS starts with the first byte).
//! 2. [`Client::login`] sends the login record and returns once the server has answered *succeed*, completely.
//! 3. [`Client::query`] sends SQL and returns the whole answer. One query at a time.
//! 4. Between queries [`Client::lost`] returns as soon as the server closes the session, so that a killed server is seen in milliseconds.
//! 5. [`Client::close`] sends a logout and closes without waiting for the answer, which some servers never send.
//!
//! Guarantees: an answer larger than the limit ends the session instead of growing; an error answer of the server
//! ([`QueryError::Sql`]) leaves the session usable.
//!
//! Assumptions: the caller sets a deadline around each step (`tokio::time::timeout`) and drops the client when it passes. There is no
//! cancel: after a deadline it is unknown what the server has done, and a dropped connection is the only state that both ends agree on.
//!
//! The caller chooses how the password is sent, by a [`PasswordPolicy`]. [`PasswordPolicy::Plain`] sends it in clear text: right in TLS, and the
//! one form that an ObjectServer accepts in FIPS mode too. A server that demands an encrypted one all the same gets it.
//! [`PasswordPolicy::Encrypted`] never sends it in clear text: it logs in with an empty password and the offer to send the real one encrypted. A
//! server that does not know the offer takes the empty password for the real one. If it rejects it, it has counted a failed login
//! ([`LoginError::OfferRefused`]): do not try again before something has changed. If it accepts it, it has not authenticated the client, and the
//! session is given up ([`LoginError::Unauthenticated`]). Therefore a caller that may send clear text does not offer encryption first: each of its
//! logins could cost a failed one.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::channel::{Channel, ReceiveError};
use super::encryption::{Challenge, OFFER};
use super::login::LoginRecord;
use super::packet::{Message, PacketType};
use super::request::RequestToken;
use super::response::{Done, EnvChange, LoginAck, ServerMessage, Token, Tokens};
use super::wire::ByteOrder;

mod answer;
mod error;

pub use answer::{Answer, ResultSet, Row};
pub use error::{LoginError, QueryError};

/// Largest answer in bytes that [`Client::login`] accepts: ample for a health check.
pub const ANSWER_MAX: usize = 1 << 20;

/// How the password of a login may be sent. An empty password is never encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PasswordPolicy {
    /// In clear text, unless the server demands encryption.
    #[default]
    Plain,
    /// Encrypted or not at all.
    Encrypted,
}

impl PasswordPolicy {
    /// `Plain` on a stream that is encrypted itself, or where the user allows clear text.
    #[must_use]
    pub const fn on_stream(encrypted: bool, allow_plaintext: bool) -> Self {
        if encrypted || allow_plaintext {
            Self::Plain
        } else {
            Self::Encrypted
        }
    }
}

/// The result of a login.
enum Verdict {
    Welcome,
    Challenged(Challenge),
}

/// A session on a stream.
#[derive(Debug)]
pub struct Client<S> {
    channel: Channel<S>,
    order: ByteOrder,
    server: Option<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Client<S> {
    /// Logs in on a connected stream with the password in clear text, and accepts answers up to [`ANSWER_MAX`].
    ///
    /// # Errors
    ///
    /// See [`LoginError`]; the stream is dropped with it.
    pub async fn login(stream: S, login: &LoginRecord) -> Result<Self, LoginError> {
        Self::with_policy(stream, login, PasswordPolicy::Plain, ANSWER_MAX).await
    }

    /// Logs in with the password as `policy` allows, and accepts answers up to `limit` bytes.
    ///
    /// # Errors
    ///
    /// See [`LoginError`].
    pub async fn with_policy(
        stream: S,
        login: &LoginRecord,
        policy: PasswordPolicy,
        limit: usize,
    ) -> Result<Self, LoginError> {
        let mut client = Self {
            channel: Channel::new(stream, limit),
            order: login.order,
            server: None,
        };
        let withheld = policy == PasswordPolicy::Encrypted && !login.password.is_empty();
        let mut payload = Vec::new();
        if withheld {
            let offer = LoginRecord {
                password: String::new(),
                encryption: OFFER,
                ..login.clone()
            };
            offer.encode(&mut payload).map_err(LoginError::Protocol)?;
        } else {
            login.encode(&mut payload).map_err(LoginError::Protocol)?;
        }
        let challenge = match client.ask_to_log_in(PacketType::LOGIN, &payload).await {
            Ok(Verdict::Welcome) if withheld => return Err(LoginError::Unauthenticated),
            Ok(Verdict::Welcome) => return Ok(client),
            Ok(Verdict::Challenged(challenge)) => challenge,
            Err(LoginError::Refused { number, text }) if withheld => {
                return Err(LoginError::OfferRefused { number, text });
            }
            Err(error) => return Err(error),
        };
        let payload = challenge
            .answer(&login.password, login.order)
            .map_err(LoginError::Encryption)?;
        match client.ask_to_log_in(PacketType::NORMAL, &payload).await? {
            Verdict::Welcome => Ok(client),
            Verdict::Challenged(_) => Err(LoginError::EncryptionDemanded),
        }
    }

    /// Name of the server in the last message that had one; it may be that of a proxy server.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The stream below.
    #[must_use]
    pub const fn stream(&self) -> &S {
        self.channel.stream()
    }

    /// Sends `sql` and waits for the whole answer.
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

    /// Sends `sql` and returns the encoded answer, in the byte order of the login: for a proxy that forwards it. It may contain an error of the
    /// server.
    ///
    /// # Errors
    ///
    /// Those of [`QueryError`] that end the session.
    pub async fn exchange(&mut self, sql: &str) -> Result<Vec<u8>, QueryError> {
        let request = RequestToken::Language {
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

    /// Sends a logout and closes.
    ///
    /// # Errors
    ///
    /// The stream's error; the session is over all the same.
    pub async fn close(mut self) -> io::Result<()> {
        let mut payload = Vec::new();
        RequestToken::Logout
            .encode(self.order, &mut payload)
            .map_err(io::Error::other)?;
        self.channel.send(PacketType::NORMAL, &payload).await?;
        self.channel.shutdown().await
    }

    async fn receive(&mut self) -> Result<Message, QueryError> {
        match self.channel.receive().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(QueryError::Closed),
            Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(QueryError::Closed),
            Err(ReceiveError::Io(error)) => Err(QueryError::Io(error)),
            Err(ReceiveError::Protocol(error)) => Err(QueryError::Protocol(error)),
        }
    }

    async fn login_answer(&mut self) -> Result<Message, LoginError> {
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

    async fn ask_to_log_in(&mut self, kind: PacketType, payload: &[u8]) -> Result<Verdict, LoginError> {
        let sent = self.channel.send(kind, payload).await;
        sent.map_err(LoginError::Io)?;
        let answer = self.login_answer().await?;
        self.judge(&answer)
    }

    fn judge(&mut self, answer: &Message) -> Result<Verdict, LoginError> {
        let tokens = Tokens::new(&answer.payload, self.order).collect::<Result<Vec<_>, _>>();
        let tokens = tokens.map_err(LoginError::Protocol)?;
        let mut ack = None;
        let mut messages: Vec<&ServerMessage> = Vec::new();
        let mut done: Option<Done> = None;
        for token in &tokens {
            match token {
                Token::LoginAck(found) => ack = Some(found),
                Token::Message(message) => messages.push(message),
                Token::EnvChange(changes) => self.follow(changes),
                Token::Done(found) => done = Some(*found),
                _ => {}
            }
        }
        self.learn_server(messages.iter().copied());
        let refused = || {
            let reason = messages.iter().find(|message| message.is_error());
            LoginError::Refused {
                number: reason.map_or(0, |message| message.number),
                text: reason.map_or_else(String::new, |message| message.text.clone()),
            }
        };
        let Some(ack) = ack else {
            return Err(if messages.iter().any(|message| message.is_error()) {
                refused()
            } else {
                LoginError::NoVerdict
            });
        };
        match ack.verdict() {
            LoginAck::SUCCEED if ack.tds_version[0] < 5 => Err(LoginError::OlderProtocol {
                version: ack.tds_version,
            }),
            LoginAck::SUCCEED if done.is_some_and(Done::is_final) => Ok(Verdict::Welcome),
            LoginAck::FAIL => Err(refused()),
            LoginAck::NEGOTIATE => match Challenge::from_tokens(&tokens) {
                Some(challenge) => Ok(Verdict::Challenged(challenge)),
                None => Err(LoginError::EncryptionDemanded),
            },
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

    fn learn_server<'m>(&mut self, mut messages: impl Iterator<Item = &'m ServerMessage>) {
        if let Some(message) = messages.find(|message| !message.server.is_empty()) {
            self.server = Some(message.server.clone());
        }
    }
}

#[cfg(test)]
mod tests;
