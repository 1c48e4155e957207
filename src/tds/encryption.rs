//! Passwords that are encrypted for the server: the client's half of the login method ENCRYPT3. [`server`](super::server) has the other half.
//!
//! Expected flow:
//!
//! 1. The client logs in with an empty password and [`OFFER`] in the login record.
//! 2. The server answers LOGINACK *negotiate*, MSG 30, and as parameters the number of the cipher suite, its RSA public key (PKCS#1, in PEM) and a
//!    nonce: a [`Challenge`].
//! 3. The client sends MSG 31 with the nonce and the password, encrypted by RSA-OAEP with SHA-1, and MSG 32 with the same for remote servers, of which
//!    it names none: [`Challenge::answer`].
//! 4. The server answers the login.
//!
//! Sources: FreeTDS's `tsql` as client of a server on loopback, the list of messages in FreeTDS `include/freetds/proto.h`, go-dblib
//! `tds/loginConfig.go`. The older ENCRYPT and ENCRYPT2 and the newer ENCRYPT4 are not known here.
//!
//! Caveats: for a server that does not know it the first step is a login with an empty password. Such a server rejects it, which counts as a
//! failed login and may in the end disable the account; or it accepts it, and then the client is not authenticated. OAEP protects the password
//! from eavesdroppers, and not from a man in the middle: the server's key is not certified. TLS does both.

use aws_lc_rs::rsa::OAEP_SHA1_MGF1SHA1;

use super::Error;
use super::format::Column;
use super::response::{AnswerWriter, Token};
use super::value::{DataType, Value};
use super::wire::ByteOrder;

pub(super) mod key;

/// What a client puts into the login record's `encryption`: ENCRYPT2 and ENCRYPT3, as FreeTDS does.
pub const OFFER: u8 = 0xa0;

/// The bit of ENCRYPT3 in it.
pub const OFFER_ENCRYPT3: u8 = 0x80;

/// Message of the server with the challenge.
pub const MESSAGE_CHALLENGE: u16 = 30;
/// Message of the client with the password.
pub const MESSAGE_PASSWORD: u16 = 31;
/// Message of the client with the passwords for remote servers.
pub const MESSAGE_REMOTE_PASSWORDS: u16 = 32;

/// Status of a message: parameters follow.
pub(super) const HAS_PARAMETERS: u8 = 1;

/// The one cipher suite that was ever seen.
pub(super) const SUITE_RSA_OAEP: i64 = 1;

/// Why a password could not be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The server's key is no RSA public key.
    #[error("the server's key cannot be used: {0}")]
    Key(String),
    /// Password and nonce together are longer than the key can encrypt.
    #[error("a password and nonce of {length} bytes do not fit the server's key, which takes {limit}")]
    TooLong {
        /// Bytes to encrypt.
        length: usize,
        /// Bytes that the key takes.
        limit: usize,
    },
    /// RSA itself.
    #[error("the cryptographic library failed")]
    Crypto,
    /// The message is not TDS.
    #[error("broken message: {0}")]
    Protocol(#[from] Error),
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Its public key in PEM.
    pub key: Vec<u8>,
    /// What goes in front of the password, so that no answer is good twice.
    pub nonce: Vec<u8>,
}

impl Challenge {
    /// The challenge in the parameters of [`MESSAGE_CHALLENGE`]; `None` when it is of a kind that is not known here.
    pub(super) fn from_parameters(parameters: Vec<Value>) -> Option<Self> {
        let mut values = parameters.into_iter();
        match [values.next()?, values.next()?, values.next()?] {
            [Value::Int(SUITE_RSA_OAEP), Value::Binary(key), Value::Binary(nonce)] => Some(Self { key, nonce }),
            _ => None,
        }
    }

    /// The client's message with this password; a message of type [`NORMAL`](super::packet::PacketType::NORMAL).
    ///
    /// # Errors
    ///
    /// [`EncryptionError`].
    pub fn answer(&self, password: &str, order: ByteOrder) -> Result<Vec<u8>, EncryptionError> {
        let encrypted = self.encrypt(password.as_bytes())?;
        let remote = self.encrypt(password.as_bytes())?;
        answer_message(encrypted, remote, order).map_err(EncryptionError::Protocol)
    }

    fn encrypt(&self, password: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let key = key::from_pem(&self.key)?;
        let plain = [&self.nonce, password].concat();
        let limit = key.max_plaintext_size(&OAEP_SHA1_MGF1SHA1);
        if plain.len() > limit {
            let length = plain.len();
            return Err(EncryptionError::TooLong { length, limit });
        }
        let mut encrypted = vec![0; key.ciphertext_size()];
        let length = key
            .encrypt(&OAEP_SHA1_MGF1SHA1, &plain, &mut encrypted, None)
            .map_err(|_| EncryptionError::Crypto)?
            .len();
        encrypted.truncate(length);
        Ok(encrypted)
    }
}

/// Parameter formats are narrow in a login, whatever the capabilities say.
fn answer_message(password: Vec<u8>, remote: Vec<u8>, order: ByteOrder) -> Result<Vec<u8>, Error> {
    let exact = |bytes: &[u8]| field(DataType::LongBinary(u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    let message = |id, fields, values| {
        let status = HAS_PARAMETERS;
        let format = Token::ParamFormat { wide: false, fields };
        [Token::Negotiation { status, id }, format, Token::Params(values)]
    };
    let own = message(MESSAGE_PASSWORD, vec![exact(&password)], vec![Value::Binary(password)]);
    let nameless = field(DataType::VarChar(u8::MAX));
    let remote_fields = vec![nameless, exact(&remote)];
    let remotes = message(
        MESSAGE_REMOTE_PASSWORDS,
        remote_fields,
        vec![Value::Null, Value::Binary(remote)],
    );
    let mut writer = AnswerWriter::new(order);
    for token in own.iter().chain(&remotes) {
        writer.push(token)?;
    }
    Ok(writer.into_payload())
}

/// Finds the parameters that follow one message, in tokens that are given to it one after the other. It keeps nothing else.
#[derive(Debug)]
pub(super) struct Parameters {
    message: u16,
    /// The newest message is that one, and its parameters have not come yet.
    is_next: bool,
    /// The message has come: a second one of that number does not count.
    has_come: bool,
    found: Option<Vec<Value>>,
}

impl Parameters {
    pub(super) const fn of(message: u16) -> Self {
        Self {
            message,
            is_next: false,
            has_come: false,
            found: None,
        }
    }

    pub(super) fn take(&mut self, token: Token) {
        match token {
            Token::Negotiation { id, .. } => {
                self.is_next = id == self.message && !self.has_come;
                self.has_come |= self.is_next;
            }
            Token::Params(values) if self.is_next => {
                self.is_next = false;
                self.found = Some(values);
            }
            _ => {}
        }
    }

    pub(super) fn found(self) -> Option<Vec<Value>> {
        self.found
    }
}

pub(super) const fn field(data_type: DataType) -> Column {
    Column {
        name: String::new(),
        status: 0,
        data_type,
    }
}

#[cfg(test)]
mod tests;
