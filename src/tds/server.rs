//! The server's half of the protocol. The product is a client only: this is for the stand-ins of an ObjectServer and a proxy server, and for
//! tests. Everything else in [`tds`](super) reads and writes messages of both directions.

use aws_lc_rs::rand;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};

use super::encryption::{
    Challenge, EncryptionError, HAS_PARAMETERS, MESSAGE_CHALLENGE, MESSAGE_PASSWORD, Parameters, SUITE_RSA_OAEP, field,
    key,
};
use super::format::{COLUMN_NULLABLE, Column};
use super::response::{Done, DoneKind, MessageForm, ServerMessage, Token, Tokens};
use super::value::{DataType, Value};
use super::wire::ByteOrder;

/// Length of a nonce in bytes.
const NONCE_LEN: usize = 20;

/// Asks clients for encrypted passwords, with one key for as long as the server runs.
#[derive(Debug)]
pub struct Challenger {
    key: OaepPrivateDecryptingKey,
    public: Vec<u8>,
}

impl Challenger {
    /// One with a new key of 2048 bits.
    ///
    /// # Errors
    ///
    /// [`EncryptionError::Crypto`], [`EncryptionError::Key`].
    pub fn generate() -> Result<Self, EncryptionError> {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| EncryptionError::Crypto)?;
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| EncryptionError::Crypto)?;
        Ok(Self {
            key: OaepPrivateDecryptingKey::new(key).map_err(|_| EncryptionError::Crypto)?,
            public: key::to_pem(public.as_ref())?,
        })
    }

    /// A new challenge.
    ///
    /// # Errors
    ///
    /// [`EncryptionError::Crypto`].
    pub fn challenge(&self) -> Result<Challenge, EncryptionError> {
        let mut nonce = vec![0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| EncryptionError::Crypto)?;
        Ok(Challenge {
            key: self.public.clone(),
            nonce,
        })
    }

    /// The password in a client's answer; `None` when it is not one to this challenge.
    ///
    /// # Errors
    ///
    /// [`EncryptionError::Protocol`] when the answer is not TDS.
    pub fn open(
        &self,
        challenge: &Challenge,
        payload: &[u8],
        order: ByteOrder,
    ) -> Result<Option<String>, EncryptionError> {
        let mut finder = Parameters::of(MESSAGE_PASSWORD);
        for token in Tokens::new(payload, order) {
            finder.take(token?);
        }
        let parameters = finder.found().unwrap_or_default();
        let [Value::Binary(encrypted), ..] = parameters.as_slice() else {
            return Ok(None);
        };
        let mut plain = vec![0; self.key.min_output_size()];
        let Ok(plain) = self.key.decrypt(&OAEP_SHA1_MGF1SHA1, encrypted, &mut plain, None) else {
            return Ok(None);
        };
        let password = plain.strip_prefix(challenge.nonce.as_slice());
        Ok(password.and_then(|password| String::from_utf8(password.to_vec()).ok()))
    }
}

/// The tokens with which a server sends a challenge, between LOGINACK and DONE. The declared lengths are exact: FreeTDS takes them for the lengths of
/// key and nonce.
#[must_use]
pub fn challenge_tokens(challenge: &Challenge) -> [Token; 3] {
    let exact = |bytes: &[u8]| field(DataType::LongBinary(u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    [
        Token::Negotiation {
            status: HAS_PARAMETERS,
            id: MESSAGE_CHALLENGE,
        },
        Token::ParamFormat {
            wide: false,
            fields: vec![field(DataType::Int4), exact(&challenge.key), exact(&challenge.nonce)],
        },
        Token::Params(vec![
            Value::Int(SUITE_RSA_OAEP),
            Value::Binary(challenge.key.clone()),
            Value::Binary(challenge.nonce.clone()),
        ]),
    ]
}

impl Column {
    /// A column that may be NULL.
    #[must_use]
    pub fn nullable(name: &str, data_type: DataType) -> Self {
        Self {
            name: name.to_owned(),
            status: COLUMN_NULLABLE,
            data_type,
        }
    }
}

impl ServerMessage {
    /// An extended message without parameters: an information up to class 10, else an error.
    #[must_use]
    pub fn new(number: u32, class: u8, server: &str, text: &str) -> Self {
        Self {
            form: MessageForm::Extended {
                sql_state: Self::NO_SQL_STATE.to_owned(),
                status: if class <= Self::INFORMATION_MAX {
                    Self::INFORMATION
                } else {
                    0
                },
                transaction: 0,
            },
            number,
            state: 1,
            class,
            text: text.to_owned(),
            server: server.to_owned(),
            procedure: String::new(),
            line: 1,
        }
    }
}

impl Done {
    /// The end of a statement with these status bits and, if there is one, a number of rows.
    #[must_use]
    pub const fn statement(status: u16, count: Option<u32>) -> Self {
        let (status, count) = match count {
            Some(count) => (status | Self::COUNT, count),
            None => (status, 0),
        };
        Self {
            kind: DoneKind::Statement,
            status,
            transaction: 0,
            count,
        }
    }
}
