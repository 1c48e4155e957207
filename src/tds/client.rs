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
//! Guarantees: an answer larger than the limit ends the session instead of growing, and so does a server that sends without being asked. What
//! a login costs is bounded by [`LOGIN_ANSWER_MAX`], whoever answers. An error answer of the server ([`QueryError::Sql`]) leaves the session
//! usable.
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

use super::Error;
use super::channel::{Channel, ReceiveError};
use super::encryption::{Challenge, MESSAGE_CHALLENGE, OFFER, Parameters};
use super::login::LoginRecord;
use super::packet::{Message, PacketType};
use super::request::RequestToken;
use super::response::{Done, EnvChange, LoginAck, ServerMessage, Token, Tokens};
use super::wire::ByteOrder;

mod answer;
mod error;

pub use answer::{Answer, ResultSet, Row};
pub use error::{LoginError, QueryError};

/// Largest answer to a query in bytes that [`Client::login`] accepts.
pub const ANSWER_MAX: usize = 1 << 20;

/// Largest answer to a login in bytes, whatever the limit for queries is. A known one has some hundred bytes, or 2 KiB with a challenge for
/// an encrypted password; whoever sends more has not been authenticated.
pub const LOGIN_ANSWER_MAX: usize = 32 << 10;

/// Most tokens in an answer to a login; a known one has ten.
const LOGIN_TOKENS_MAX: usize = 1000;

/// Most bytes that a server may send between two requests, headers of packets included. The sessions here subscribe to nothing.
const UNASKED_MAX: usize = 64 << 10;

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
    /// What [`Channel::received`] was when the newest answer had come.
    answered: u64,
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

    /// Logs in with the password as `policy` allows. From then on it accepts answers up to `limit` bytes; for the login itself
    /// [`LOGIN_ANSWER_MAX`] is the limit if it is smaller.
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
            channel: Channel::new(stream, limit.min(LOGIN_ANSWER_MAX)),
            order: login.order,
            server: None,
            answered: 0,
        };
        let withheld = policy == PasswordPolicy::Encrypted && !login.password.is_empty();
        let mut payload = Vec::new();
        if withheld {
            let offer = LoginRecord {
                password: String::new(),
                encryption: OFFER,
                ..login.clone()
            };
            // Found here, before anything is sent, and not after the server has counted a login with an empty password.
            login.encode(&mut Vec::new()).map_err(LoginError::Unwritable)?;
            offer.encode(&mut payload).map_err(LoginError::Unwritable)?;
        } else {
            login.encode(&mut payload).map_err(LoginError::Unwritable)?;
        }
        let challenge = match client.ask_to_log_in(PacketType::LOGIN, &payload).await {
            Ok(Verdict::Welcome) if withheld => return Err(LoginError::Unauthenticated),
            Ok(Verdict::Welcome) => return Ok(client.with_limit(limit)),
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
            Verdict::Welcome => Ok(client.with_limit(limit)),
            Verdict::Challenged(_) => Err(LoginError::EncryptionDemanded),
        }
    }

    fn with_limit(mut self, limit: usize) -> Self {
        self.channel.set_limit(limit);
        self.answered = self.channel.received();
        self
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
        request
            .encode(self.order, &mut payload)
            .map_err(QueryError::Unwritable)?;
        let sent = self.channel.send(PacketType::NORMAL, &payload).await;
        sent.map_err(QueryError::Io)?;
        let answer = self.receive().await?;
        self.answered = self.channel.received();
        Ok(answer.payload)
    }

    /// Waits until the session is lost, discarding messages that belong to no request, up to a limit. Safe to cancel.
    pub async fn lost(&mut self) -> QueryError {
        loop {
            let unasked = self.channel.received().saturating_sub(self.answered);
            if unasked > UNASKED_MAX as u64 {
                return QueryError::Protocol(Error::Unasked { limit: UNASKED_MAX });
            }
            // At most one read: a message that never ends would keep this from counting.
            match self.channel.discard().await {
                Ok(true) => {}
                Ok(false) => return QueryError::Closed,
                Err(ReceiveError::Io(error)) => return QueryError::Io(error),
                Err(ReceiveError::Protocol(error)) => return QueryError::Protocol(error),
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
            QueryError::Unwritable(source) => LoginError::Unwritable(source),
            QueryError::Closed | QueryError::Sql { .. } => LoginError::Closed { spoke: true },
        })
    }

    async fn ask_to_log_in(&mut self, kind: PacketType, payload: &[u8]) -> Result<Verdict, LoginError> {
        let sent = self.channel.send(kind, payload).await;
        sent.map_err(LoginError::Io)?;
        let answer = self.login_answer().await?;
        self.judge(&answer)
    }

    /// Reads the answer to a login token by token and keeps what decides it: an answer of many tokens takes no more memory than one of few.
    fn judge(&mut self, answer: &Message) -> Result<Verdict, LoginError> {
        let mut ack = None;
        let mut done: Option<Done> = None;
        let mut reason: Option<ServerMessage> = None;
        let mut server: Option<String> = None;
        let mut challenge = Parameters::of(MESSAGE_CHALLENGE);
        for (count, token) in Tokens::new(&answer.payload, self.order).enumerate() {
            if count >= LOGIN_TOKENS_MAX {
                let limit = LOGIN_TOKENS_MAX;
                return Err(LoginError::Protocol(Error::TooManyTokens { limit }));
            }
            match token.map_err(LoginError::Protocol)? {
                Token::LoginAck(found) => ack = Some((found.verdict(), found.tds_version)),
                Token::Message(message) => {
                    if server.is_none() && !message.server.is_empty() {
                        server = Some(message.server.clone());
                    }
                    if reason.is_none() && message.is_error() {
                        reason = Some(message);
                    }
                }
                Token::EnvChange(changes) => self.follow(&changes),
                Token::Done(found) => done = Some(found),
                token => challenge.take(token),
            }
        }
        self.server = server.or_else(|| self.server.take());
        let refused = |reason: Option<ServerMessage>| {
            let (number, text) = reason.map_or_else(Default::default, |message| (message.number, message.text));
            LoginError::Refused { number, text }
        };
        let Some((verdict, version)) = ack else {
            return Err(match reason {
                Some(reason) => refused(Some(reason)),
                None => LoginError::NoVerdict,
            });
        };
        match verdict {
            LoginAck::SUCCEED if version[0] < 5 => Err(LoginError::OlderProtocol { version }),
            LoginAck::SUCCEED if done.is_some_and(Done::is_final) => Ok(Verdict::Welcome),
            LoginAck::FAIL => Err(refused(reason)),
            LoginAck::NEGOTIATE => match challenge.found().and_then(Challenge::from_parameters) {
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
