//! Column types: the byte that stands for each, and the declared maximum that some carry.

use crate::tds::Error;
use crate::tds::wire::{Reader, Writer};

/// The type of a column, with the declared maximum in bytes where the format carries one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// One byte, unsigned.
    Int1,
    /// Two bytes, signed.
    Int2,
    /// Four bytes, signed.
    Int4,
    /// Eight bytes, signed.
    Int8,
    /// One byte, 0 or 1.
    Bit,
    /// Eight bytes, IEEE 754.
    Float8,
    /// Days since 1900-01-01 and 1/300 seconds since midnight, four bytes each.
    DateTime,
    /// An integer of 1, 2, 4 or 8 bytes, or NULL.
    IntN(u8),
    /// An unsigned integer of 1, 2, 4 or 8 bytes, or NULL.
    UintN(u8),
    /// A float of 4 or 8 bytes, or NULL.
    FloatN(u8),
    /// A date and time of 8 bytes, or NULL.
    DateTimeN(u8),
    /// Text up to 255 bytes.
    VarChar(u8),
    /// Text of fixed length up to 255 bytes.
    Char(u8),
    /// Bytes up to 255.
    VarBinary(u8),
    /// Bytes of fixed length up to 255.
    Binary(u8),
    /// Text with a four-byte length. `Summary` and `ExtendedAttr` can be longer than 255 bytes.
    LongChar(u32),
    /// Bytes with a four-byte length.
    LongBinary(u32),
    /// Text stored apart from its row.
    Text(u32),
    /// Bytes stored apart from their row.
    Image(u32),
}

impl DataType {
    /// The byte that stands for the type.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Int1 => 0x30,
            Self::Int2 => 0x34,
            Self::Int4 => 0x38,
            Self::Int8 => 0xbf,
            Self::Bit => 0x32,
            Self::Float8 => 0x3e,
            Self::DateTime => 0x3d,
            Self::IntN(_) => 0x26,
            Self::UintN(_) => 0x44,
            Self::FloatN(_) => 0x6d,
            Self::DateTimeN(_) => 0x6f,
            Self::VarChar(_) => 0x27,
            Self::Char(_) => 0x2f,
            Self::VarBinary(_) => 0x25,
            Self::Binary(_) => 0x2d,
            Self::LongChar(_) => 0xaf,
            Self::LongBinary(_) => 0xe1,
            Self::Text(_) => 0x23,
            Self::Image(_) => 0x22,
        }
    }

    /// Reads the type byte and the declared maximum after it.
    ///
    /// # Errors
    ///
    /// [`Error::Undefined`] for a type that is not in this list, [`Error::Truncated`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        const MAX: &str = "maximum length of a column";
        Ok(match reader.u8("type of a column")? {
            0x30 => Self::Int1,
            0x34 => Self::Int2,
            0x38 => Self::Int4,
            0xbf => Self::Int8,
            0x32 => Self::Bit,
            0x3e => Self::Float8,
            0x3d => Self::DateTime,
            0x26 => Self::IntN(reader.u8(MAX)?),
            0x44 => Self::UintN(reader.u8(MAX)?),
            0x6d => Self::FloatN(reader.u8(MAX)?),
            0x6f => Self::DateTimeN(reader.u8(MAX)?),
            0x27 => Self::VarChar(reader.u8(MAX)?),
            0x2f => Self::Char(reader.u8(MAX)?),
            0x25 => Self::VarBinary(reader.u8(MAX)?),
            0x2d => Self::Binary(reader.u8(MAX)?),
            0xaf => Self::LongChar(reader.u32(MAX)?),
            0xe1 => Self::LongBinary(reader.u32(MAX)?),
            code @ (0x23 | 0x22) => {
                let max = reader.u32(MAX)?;
                reader.counted16("table name of a text column")?;
                if code == 0x23 {
                    Self::Text(max)
                } else {
                    Self::Image(max)
                }
            }
            found => {
                return Err(Error::Undefined {
                    what: "type of a column",
                    found: found.into(),
                });
            }
        })
    }

    /// Writes the type byte and the declared maximum after it.
    pub fn encode(self, writer: &mut Writer<'_>) {
        writer.u8(self.code());
        match self {
            Self::Int1 | Self::Int2 | Self::Int4 | Self::Int8 | Self::Bit | Self::Float8 | Self::DateTime => {}
            Self::IntN(max)
            | Self::UintN(max)
            | Self::FloatN(max)
            | Self::DateTimeN(max)
            | Self::VarChar(max)
            | Self::Char(max)
            | Self::VarBinary(max)
            | Self::Binary(max) => writer.u8(max),
            Self::LongChar(max) | Self::LongBinary(max) => writer.u32(max),
            Self::Text(max) | Self::Image(max) => {
                writer.u32(max);
                writer.u16(0);
            }
        }
    }
}
