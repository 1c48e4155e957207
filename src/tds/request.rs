//! What a client sends after its login: a message of type [`PacketType::NORMAL`](super::packet::PacketType::NORMAL) made of tokens.

use super::wire::{ByteOrder, Reader, Writer, text};
use super::{Error, token};

const PARAMETERS_FOLLOW: u8 = 1;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestToken {
    /// SQL text.
    Language {
        /// The text.
        sql: String,
        /// Parameters follow; they are not decoded.
        has_parameters: bool,
    },
    /// The client leaves. The server answers with an empty DONE and closes.
    Logout,
    /// The client sets or asks an option, as DBD::Sybase does after its login.
    Option {
        /// What to do with it.
        command: u8,
        /// Which one.
        option: u8,
        /// The value.
        argument: Vec<u8>,
    },
    /// A token that this codec does not know. Its length is unknown, so it ends the message.
    Unknown {
        /// The token byte.
        token: u8,
    },
}

impl RequestToken {
    /// Reads all requests of a message. It stops after one that has parameters or is unknown.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when a length points outside the message.
    pub fn decode_all(payload: &[u8], order: ByteOrder) -> Result<Vec<Self>, Error> {
        let mut reader = Reader::new(payload, order);
        let mut requests = Vec::new();
        while !reader.is_empty() {
            let request = Self::decode(&mut reader)?;
            let opaque_rest = matches!(
                request,
                Self::Unknown { .. }
                    | Self::Language {
                        has_parameters: true,
                        ..
                    }
            );
            requests.push(request);
            if opaque_rest {
                break;
            }
        }
        Ok(requests)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.u8("token")? {
            token::LANGUAGE => {
                let mut content = reader.content(true, "LANGUAGE")?;
                let status = content.u8("status of LANGUAGE")?;
                Ok(Self::Language {
                    sql: text(content.rest()),
                    has_parameters: status & PARAMETERS_FOLLOW != 0,
                })
            }
            token::LOGOUT => {
                reader.u8("options of LOGOUT")?;
                Ok(Self::Logout)
            }
            token::OPTIONCMD => {
                let mut content = reader.content(false, "OPTIONCMD")?;
                Ok(Self::Option {
                    command: content.u8("command of OPTIONCMD")?,
                    option: content.u8("option of OPTIONCMD")?,
                    argument: content.counted8("argument of OPTIONCMD")?.to_vec(),
                })
            }
            token => Ok(Self::Unknown { token }),
        }
    }

    /// Appends the request to the payload of a message.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] for an argument above 255 bytes or SQL above 4 GiB.
    pub fn encode(&self, order: ByteOrder, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut writer = Writer::new(out, order);
        match self {
            Self::Language { sql, has_parameters } => {
                writer.u8(token::LANGUAGE);
                writer.content(true, "LANGUAGE", |content| {
                    content.u8(if *has_parameters { PARAMETERS_FOLLOW } else { 0 });
                    content.bytes(sql.as_bytes());
                    Ok(())
                })
            }
            Self::Logout => {
                writer.bytes(&[token::LOGOUT, 0]);
                Ok(())
            }
            Self::Option {
                command,
                option,
                argument,
            } => {
                writer.u8(token::OPTIONCMD);
                writer.content(false, "OPTIONCMD", |content| {
                    content.bytes(&[*command, *option]);
                    content.counted8(argument, "argument of OPTIONCMD")
                })
            }
            Self::Unknown { token } => {
                writer.u8(*token);
                Ok(())
            }
        }
    }
}
