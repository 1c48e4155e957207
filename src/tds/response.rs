//! What a server sends: a message of type [`PacketType::RESPONSE`](super::packet::PacketType::RESPONSE) made of tokens.

use super::capability::Capability;
use super::format::{Column, FormatKind, decode_format, decode_values};
use super::value::Value;
use super::wire::{ByteOrder, Reader};
use super::{Error, token};

mod fields;
mod message;
mod writer;

pub use fields::{Done, DoneKind, EnvChange, LoginAck};
pub use message::{MessageForm, ServerMessage};
pub use writer::AnswerWriter;

/// One token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// Whether the login was accepted.
    LoginAck(LoginAck),
    /// The server's capabilities.
    Capability(Capability),
    /// What the server changed in the session.
    EnvChange(Vec<EnvChange>),
    /// An error or an information.
    Message(ServerMessage),
    /// The columns of the rows that follow.
    RowFormat {
        /// Sent as ROWFMT2.
        wide: bool,
        /// The columns.
        columns: Vec<Column>,
    },
    /// A row, one value per column of the last row format.
    Row(Vec<Value>),
    /// Formatting hints, which are not used; OMNIbus sends them between format and rows.
    Control(Vec<u8>),
    /// The order of the rows.
    OrderBy {
        /// Sent as ORDERBY2.
        wide: bool,
        /// Its content, undecoded.
        content: Vec<u8>,
    },
    /// Return value of a stored procedure.
    ReturnStatus(i32),
    /// The fields of the parameters that follow.
    ParamFormat {
        /// Sent as PARAMFMT2.
        wide: bool,
        /// The fields.
        fields: Vec<Column>,
    },
    /// Parameters, one value per field of the last parameter format.
    Params(Vec<Value>),
    /// A step of the login negotiation.
    Negotiation {
        /// Bit 0: parameters follow.
        status: u8,
        /// Which step.
        id: u16,
    },
    /// An option's value.
    Option {
        /// What was done with it.
        command: u8,
        /// Which one.
        option: u8,
        /// The value.
        argument: Vec<u8>,
    },
    /// The end of a result.
    Done(Done),
}

/// The tokens of one message. After an error it ends.
#[derive(Debug)]
pub struct Tokens<'a> {
    reader: Reader<'a>,
    rows: Option<Vec<Column>>,
    params: Option<Vec<Column>>,
}

impl<'a> Tokens<'a> {
    /// The tokens in the payload of an answer to a client with this byte order.
    #[must_use]
    pub const fn new(payload: &'a [u8], order: ByteOrder) -> Self {
        Self {
            reader: Reader::new(payload, order),
            rows: None,
            params: None,
        }
    }

    fn decode(&mut self) -> Result<Token, Error> {
        let Self { reader, rows, params } = self;
        let kind = |wide, rows| FormatKind { wide, rows };
        Ok(match reader.u8("token")? {
            token::LOGINACK => Token::LoginAck(LoginAck::decode(reader)?),
            token::CAPABILITY => Token::Capability(Capability::decode(reader)?),
            token::ENVCHANGE => Token::EnvChange(EnvChange::decode_all(reader)?),
            token::EED => Token::Message(ServerMessage::decode_extended(reader)?),
            token::ERROR => Token::Message(ServerMessage::decode_short(MessageForm::Error, reader)?),
            token::INFO => Token::Message(ServerMessage::decode_short(MessageForm::Info, reader)?),
            found @ (token::ROWFMT | token::ROWFMT2) => {
                let wide = found == token::ROWFMT2;
                let columns = decode_format(kind(wide, true), reader)?;
                *rows = Some(columns.clone());
                Token::RowFormat { wide, columns }
            }
            token::ROW => {
                let columns = rows.as_deref().ok_or(Error::NoFormat { what: "row" })?;
                Token::Row(decode_values(columns, reader)?)
            }
            token::CONTROL => Token::Control(reader.counted16("CONTROL")?.to_vec()),
            token::ORDERBY => Token::OrderBy {
                wide: false,
                content: reader.counted16("ORDERBY")?.to_vec(),
            },
            token::ORDERBY2 => Token::OrderBy {
                wide: true,
                content: reader.counted32("ORDERBY2")?.to_vec(),
            },
            token::RETURNSTATUS => Token::ReturnStatus(reader.u32("RETURNSTATUS")?.cast_signed()),
            found @ (token::PARAMFMT | token::PARAMFMT2) => {
                let wide = found == token::PARAMFMT2;
                let fields = decode_format(kind(wide, false), reader)?;
                *params = Some(fields.clone());
                Token::ParamFormat { wide, fields }
            }
            token::PARAMS => {
                let fields = params.as_deref().ok_or(Error::NoFormat { what: "parameter list" })?;
                Token::Params(decode_values(fields, reader)?)
            }
            token::MSG => {
                let content = reader.counted8("MSG")?;
                let mut content = reader.over(content);
                Token::Negotiation {
                    status: content.u8("status of MSG")?,
                    id: content.u16("id of MSG")?,
                }
            }
            token::OPTIONCMD => {
                let mut content = reader.content(false, "OPTIONCMD")?;
                Token::Option {
                    command: content.u8("command of OPTIONCMD")?,
                    option: content.u8("option of OPTIONCMD")?,
                    argument: content.counted8("argument of OPTIONCMD")?.to_vec(),
                }
            }
            token::DONE => Token::Done(Done::decode(DoneKind::Statement, reader)?),
            token::DONEPROC => Token::Done(Done::decode(DoneKind::Procedure, reader)?),
            token::DONEINPROC => Token::Done(Done::decode(DoneKind::InProcedure, reader)?),
            found => {
                return Err(Error::Undefined {
                    what: "token of an answer",
                    found: found.into(),
                });
            }
        })
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Token, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let token = self.decode();
        if token.is_err() {
            self.reader.rest();
        }
        Some(token)
    }
}

#[cfg(test)]
mod tests;
