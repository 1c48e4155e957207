//! Writing answers.

use super::Token;
use crate::tds::format::{Column, FormatKind, encode_format, encode_values};
use crate::tds::response::fields::EnvChange;
use crate::tds::wire::{ByteOrder, Writer};
use crate::tds::{Error, token};

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
    /// and those of [`Value::encode`](crate::tds::value::Value::encode).
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
