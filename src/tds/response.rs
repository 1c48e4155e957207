//! What a server sends: a message of type [`PacketType::RESPONSE`](super::packet::PacketType::RESPONSE) made of tokens.

use super::capability::Capability;
use super::format::{Column, FormatKind, decode_format, decode_values, encode_format, encode_values};
use super::value::Value;
use super::wire::{ByteOrder, Reader, Writer};
use super::{Error, token};

mod fields;

pub use fields::{Done, DoneKind, EnvChange, LoginAck, Message, MessageForm};

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
    Message(Message),
    /// The columns of the rows that follow.
    RowFormat {
        /// Sent as ROWFMT2.
        wide: bool,
        /// The columns.
        columns: Vec<Column>,
    },
    /// A row, one value per column of the last row format.
    Row(Vec<Value>),
    /// Formatting hints, which nobody needs; OMNIbus sends them between format and rows.
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
            token::EED => Token::Message(Message::decode_extended(reader)?),
            token::ERROR => Token::Message(Message::decode_short(MessageForm::Error, reader)?),
            token::INFO => Token::Message(Message::decode_short(MessageForm::Info, reader)?),
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

/// Writes an answer token by token, remembering the formats that rows and parameters need.
#[derive(Debug)]
pub struct AnswerWriter {
    order: ByteOrder,
    rows: Option<Vec<Column>>,
    params: Option<Vec<Column>>,
    payload: Vec<u8>,
}

impl AnswerWriter {
    /// An empty answer to a client with this byte order.
    #[must_use]
    pub const fn new(order: ByteOrder) -> Self {
        Self {
            order,
            rows: None,
            params: None,
            payload: Vec::new(),
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The payload of the message.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// Appends one token. After an error nothing of the token has been written.
    ///
    /// # Errors
    ///
    /// [`Error::NoFormat`] for a row or parameters before their format, [`Error::TooLong`] for a text that does not fit its length field,
    /// and those of [`Value::encode`].
    pub fn push(&mut self, token: &Token) -> Result<(), Error> {
        let before = self.payload.len();
        let result = self.encode(token);
        if result.is_err() {
            self.payload.truncate(before);
        }
        result
    }

    fn encode(&mut self, token: &Token) -> Result<(), Error> {
        let Self {
            order,
            rows,
            params,
            payload,
        } = self;
        let mut writer = Writer::new(payload, *order);
        match token {
            Token::LoginAck(ack) => {
                writer.u8(token::LOGINACK);
                ack.encode(&mut writer)
            }
            Token::Capability(capability) => {
                writer.u8(token::CAPABILITY);
                capability.encode(&mut writer)
            }
            Token::EnvChange(changes) => {
                writer.u8(token::ENVCHANGE);
                EnvChange::encode_all(changes, &mut writer)
            }
            Token::Message(message) => message.encode(&mut writer),
            Token::RowFormat { wide, columns } => {
                writer.u8(if *wide { token::ROWFMT2 } else { token::ROWFMT });
                let kind = FormatKind {
                    wide: *wide,
                    rows: true,
                };
                encode_format(kind, columns, &mut writer)?;
                *rows = Some(columns.clone());
                Ok(())
            }
            Token::Row(values) => {
                writer.u8(token::ROW);
                let columns = rows.as_deref().ok_or(Error::NoFormat { what: "row" })?;
                encode_values(columns, values, &mut writer)
            }
            Token::Control(content) => {
                writer.u8(token::CONTROL);
                writer.counted16(content, "CONTROL")
            }
            Token::OrderBy { wide: false, content } => {
                writer.u8(token::ORDERBY);
                writer.counted16(content, "ORDERBY")
            }
            Token::OrderBy { wide: true, content } => {
                writer.u8(token::ORDERBY2);
                writer.counted32(content, "ORDERBY2")
            }
            Token::ReturnStatus(status) => {
                writer.u8(token::RETURNSTATUS);
                writer.u32(status.cast_unsigned());
                Ok(())
            }
            Token::ParamFormat { wide, fields } => {
                writer.u8(if *wide { token::PARAMFMT2 } else { token::PARAMFMT });
                let kind = FormatKind {
                    wide: *wide,
                    rows: false,
                };
                encode_format(kind, fields, &mut writer)?;
                *params = Some(fields.clone());
                Ok(())
            }
            Token::Params(values) => {
                writer.u8(token::PARAMS);
                let fields = params.as_deref().ok_or(Error::NoFormat { what: "parameter list" })?;
                encode_values(fields, values, &mut writer)
            }
            Token::Negotiation { status, id } => {
                writer.bytes(&[token::MSG, 3, *status]);
                writer.u16(*id);
                Ok(())
            }
            Token::Option {
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
            Token::Done(done) => {
                done.encode(&mut writer);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
