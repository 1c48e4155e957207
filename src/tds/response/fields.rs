//! The tokens of an answer that have fields of their own.
//!
//! Their announced length bounds them; bytes after the known fields are skipped, so that a newer server may add some.

use crate::tds::wire::{Reader, Writer, text};
use crate::tds::{Error, token};

/// LOGINACK: whether the login was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginAck {
    /// [`LoginAck::SUCCEED`], [`LoginAck::FAIL`] or [`LoginAck::NEGOTIATE`]; 0x80 may be set for a secure session.
    pub status: u8,
    /// TDS version as four numbers, `[5, 0, 0, 0]`, in this order whatever the client's byte order.
    pub tds_version: [u8; 4],
    /// The server product.
    pub program: String,
    /// Its version as four numbers.
    pub program_version: [u8; 4],
}

impl LoginAck {
    /// The client is logged in.
    pub const SUCCEED: u8 = 5;
    /// The login was rejected; a message has the reason.
    pub const FAIL: u8 = 6;
    /// The server demands more, such as an encrypted password.
    pub const NEGOTIATE: u8 = 7;

    const SECURE_SESSION: u8 = 0x80;

    /// The status without the bit for a secure session.
    #[must_use]
    pub const fn verdict(&self) -> u8 {
        self.status & !Self::SECURE_SESSION
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut content = reader.content(false, "LOGINACK")?;
        Ok(Self {
            status: content.u8("status of LOGINACK")?,
            tds_version: content.array("version of LOGINACK")?,
            program: text(content.counted8("program of LOGINACK")?),
            program_version: content.array("program version of LOGINACK")?,
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        writer.content(false, "LOGINACK", |content| {
            content.u8(self.status);
            content.bytes(&self.tds_version);
            content.counted8(self.program.as_bytes(), "program of LOGINACK")?;
            content.bytes(&self.program_version);
            Ok(())
        })
    }
}

/// ENVCHANGE: one property of the session that the server changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvChange {
    /// Which property: one of the constants, or another number.
    pub kind: u8,
    /// Its new value.
    pub new: String,
    /// Its value before.
    pub old: String,
}

impl EnvChange {
    /// The current database.
    pub const DATABASE: u8 = 1;
    /// The language of messages.
    pub const LANGUAGE: u8 = 2;
    /// The character set.
    pub const CHARSET: u8 = 3;
    /// The packet size as decimal text, which counts from the next message on.
    pub const PACKET_SIZE: u8 = 4;

    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, Error> {
        let mut content = reader.content(false, "ENVCHANGE")?;
        let mut changes = Vec::new();
        while !content.is_empty() {
            changes.push(Self {
                kind: content.u8("type of ENVCHANGE")?,
                new: text(content.counted8("new value of ENVCHANGE")?),
                old: text(content.counted8("old value of ENVCHANGE")?),
            });
        }
        Ok(changes)
    }

    pub(super) fn encode_all(changes: &[Self], writer: &mut Writer<'_>) -> Result<(), Error> {
        writer.content(false, "ENVCHANGE", |content| {
            for change in changes {
                content.u8(change.kind);
                content.counted8(change.new.as_bytes(), "new value of ENVCHANGE")?;
                content.counted8(change.old.as_bytes(), "old value of ENVCHANGE")?;
            }
            Ok(())
        })
    }
}

/// Which of the three DONE tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoneKind {
    /// DONE.
    Statement,
    /// DONEPROC.
    Procedure,
    /// DONEINPROC.
    InProcedure,
}

/// DONE: the end of a result. The last one, without [`Done::MORE`], ends the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Which token.
    pub kind: DoneKind,
    /// Status bits: the constants of this type.
    pub status: u16,
    /// State of the transaction, on whose numbers the sources disagree: ignored.
    pub transaction: u16,
    /// Rows; valid with [`Done::COUNT`].
    pub count: u32,
}

impl Done {
    /// Status bit: more results follow.
    pub const MORE: u16 = 0x01;
    /// Status bit: the statement failed.
    pub const ERROR: u16 = 0x02;
    /// Status bit: `count` is valid.
    pub const COUNT: u16 = 0x10;
    /// Status bit: this acknowledges a cancel.
    pub const CANCELLED: u16 = 0x20;

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.status & Self::MORE == 0
    }

    /// The number of rows, if the server gave one.
    #[must_use]
    pub const fn rows(self) -> Option<u32> {
        if self.status & Self::COUNT == 0 {
            None
        } else {
            Some(self.count)
        }
    }

    pub(super) fn decode(kind: DoneKind, reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            kind,
            status: reader.u16("status of DONE")?,
            transaction: reader.u16("transaction state of DONE")?,
            count: reader.u32("count of DONE")?,
        })
    }

    pub(super) fn encode(self, writer: &mut Writer<'_>) {
        writer.u8(match self.kind {
            DoneKind::Statement => token::DONE,
            DoneKind::Procedure => token::DONEPROC,
            DoneKind::InProcedure => token::DONEINPROC,
        });
        writer.u16(self.status);
        writer.u16(self.transaction);
        writer.u32(self.count);
    }
}
