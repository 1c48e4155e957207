//! Errors of logins and queries.

use std::io;

use crate::tds::Error;
use crate::tds::encryption::EncryptionError;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The connection failed.
    #[error("connection failed during the login: {0}")]
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
    /// The answer is not TDS 5.0.
    #[error("the answer to the login cannot be decoded: {0}")]
    Protocol(#[source] Error),
    /// The login cannot be written as TDS 5.0: nothing was sent, and it says nothing about the server.
    #[error("the login cannot be sent: {0}")]
    Unwritable(#[source] Error),
    /// User or password was refused.
    #[error("login refused: {text} (message {number})")]
    Refused {
        /// Number of the server's message; 0 when it sent none.
        number: u32,
        /// Its text; empty when it sent none.
        text: String,
    },
    /// The server demands a password encrypted in a way that is not known here. Trying again cannot help.
    #[error("the server demands password encryption by an unsupported method")]
    EncryptionDemanded,
    /// The password could not be encrypted for the server.
    #[error("failed to encrypt the password: {0}")]
    Encryption(#[source] EncryptionError),
    /// The server refused the login that offered an encrypted password, without asking for it. It does not know encryption, or not the user; it has
    /// counted a failed login.
    #[error(
        "the server does not ask for an encrypted password and rejects an empty one: {text} (message {number}); use TLS, or allow clear text"
    )]
    OfferRefused {
        /// Number of the server's message; 0 when it sent none.
        number: u32,
        /// Its text; empty when it sent none.
        text: String,
    },
    /// The server let the empty password in that came with the offer of an encrypted one.
    #[error("the server accepts an empty password for this user")]
    Unauthenticated,
    /// The server speaks an older version of TDS, whose rows look different.
    #[error("the server speaks TDS {}.{}", .version[0], .version[1])]
    OlderProtocol {
        /// The version in its LOGINACK.
        version: [u8; 4],
    },
    /// The answer ended and contained no result of the login.
    #[error("the server neither accepted nor refused the login")]
    NoVerdict,
}

/// Why a query has no answer. All but [`QueryError::Sql`] end the session.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(#[source] io::Error),
    /// The server closed the session.
    #[error("closed by the server")]
    Closed,
    /// The answer is not TDS 5.0.
    #[error("the answer cannot be decoded: {0}")]
    Protocol(#[source] Error),
    /// The query cannot be written as TDS 5.0: nothing was sent, and it says nothing about the server.
    #[error("the query cannot be sent: {0}")]
    Unwritable(#[source] Error),
    /// The statement failed on the server. The session remains usable.
    #[error("{server}: {text} (message {number}, class {class})")]
    Sql {
        /// Name of the server that sent the message; may be empty.
        server: String,
        /// Number of its message; 0 when it sent none.
        number: u32,
        /// Class of its message; 0 when it sent none.
        class: u8,
        /// Its text.
        text: String,
    },
}
