//! Messages of a server, errors and informations: EED, and the ERROR and INFO of TDS 4.

use crate::tds::wire::{Reader, Writer, text};
use crate::tds::{Error, token};

/// How a message travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageForm {
    /// EED, the form of TDS 5.0.
    Extended {
        /// Five letters, `ZZZZZ` when there is none.
        sql_state: String,
        /// Bit 0: parameters follow and belong to the message; bit 1: an information.
        status: u8,
        /// State of the transaction, on whose numbers the sources disagree: ignored.
        transaction: u16,
    },
    /// ERROR of TDS 4.
    Error,
    /// INFO of TDS 4.
    Info,
}

/// A message from the server: an error or an information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// How it travels.
    pub form: MessageForm,
    /// Its number, such as 4002 for a refused login.
    pub number: u32,
    /// Where in the server it arose.
    pub state: u8,
    /// How severe it is; see [`ServerMessage::is_error`].
    pub class: u8,
    /// The text.
    pub text: String,
    /// The server's name, at most 255 bytes.
    pub server: String,
    /// The stored procedure, if any, at most 255 bytes.
    pub procedure: String,
    /// Line in the SQL text, from 1; 0 when there is none.
    pub line: u16,
}

impl ServerMessage {
    /// Largest class that is only an information; FreeTDS draws the line here.
    pub const INFORMATION_MAX: u8 = 10;
    /// Status bit of an extended message that is an information.
    pub const INFORMATION: u8 = 2;

    pub(in crate::tds) const NO_SQL_STATE: &str = "ZZZZZ";

    /// Whether the request failed.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.class > Self::INFORMATION_MAX
    }

    pub(super) fn decode_extended(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut content = reader.content(false, "EED")?;
        let number = content.u32("number of a message")?;
        let state = content.u8("state of a message")?;
        let class = content.u8("class of a message")?;
        let form = MessageForm::Extended {
            sql_state: text(content.counted8("SQL state of a message")?),
            status: content.u8("status of a message")?,
            transaction: content.u16("transaction state of a message")?,
        };
        Self::decode_rest(form, number, state, class, &mut content)
    }

    pub(super) fn decode_short(form: MessageForm, reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut content = reader.content(false, "ERROR or INFO")?;
        let number = content.u32("number of a message")?;
        let state = content.u8("state of a message")?;
        let class = content.u8("class of a message")?;
        Self::decode_rest(form, number, state, class, &mut content)
    }

    fn decode_rest(
        form: MessageForm,
        number: u32,
        state: u8,
        class: u8,
        content: &mut Reader<'_>,
    ) -> Result<Self, Error> {
        Ok(Self {
            form,
            number,
            state,
            class,
            text: text(content.counted16("text of a message")?),
            server: text(content.counted8("server of a message")?),
            procedure: text(content.counted8("procedure of a message")?),
            line: content.u16("line of a message")?,
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        writer.u8(match self.form {
            MessageForm::Extended { .. } => token::EED,
            MessageForm::Error => token::ERROR,
            MessageForm::Info => token::INFO,
        });
        writer.content(false, "message", |content| {
            content.u32(self.number);
            content.u8(self.state);
            content.u8(self.class);
            if let MessageForm::Extended {
                sql_state,
                status,
                transaction,
            } = &self.form
            {
                content.counted8(sql_state.as_bytes(), "SQL state of a message")?;
                content.u8(*status);
                content.u16(*transaction);
            }
            content.counted16(self.text.as_bytes(), "text of a message")?;
            content.counted8(self.server.as_bytes(), "server of a message")?;
            content.counted8(self.procedure.as_bytes(), "procedure of a message")?;
            content.u16(self.line);
            Ok(())
        })
    }
}
