//! Column formats and the values in rows and parameters.
//!
//! Only the types that OMNIbus tables need are known; another one is an error, because the length of its values is unknown too. A value's
//! own length counts, not the declared maximum: servers are known to send 69 bytes in a column of 30. Sources: FreeTDS `src/tds/token.c`,
//! go-dblib `asetypes`, captured results.

use super::Error;
use super::wire::{Reader, Writer};

mod data_type;

pub use data_type::DataType;

/// One value.
///
/// On the wire an empty text and NULL are the same; decoding gives [`Value::Null`] for both.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// Any integer but an unsigned one of 8 bytes above `i64::MAX`, which decodes as an error.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text as the server sent it; use [`Value::text`] to read it.
    Text(Vec<u8>),
    /// Bytes.
    Binary(Vec<u8>),
    /// A date and time.
    DateTime {
        /// Days since 1900-01-01.
        days: i32,
        /// 1/300 seconds since midnight.
        ticks: i32,
    },
}

impl Value {
    /// The value as text, or `None` when it is NULL. Trailing NUL bytes, which ObjectServers send, are cut.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Int(value) => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Text(bytes) | Self::Binary(bytes) => {
                Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
            }
            Self::DateTime { days, ticks } => Some(format!("{days}d {ticks}/300s")),
        }
    }

    /// The value as an integer, or `None` when it is of another kind.
    #[must_use]
    pub const fn int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a text",
            Self::Binary(_) => "a binary",
            Self::DateTime { .. } => "a date",
        }
    }

    /// Reads one value of the given type.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], and [`Error::Undefined`] for a length that the type cannot have.
    pub fn decode(data_type: DataType, reader: &mut Reader<'_>) -> Result<Self, Error> {
        match data_type {
            DataType::Int1 => integer(reader, 1),
            DataType::Int2 => integer(reader, 2),
            DataType::Int4 => integer(reader, 4),
            DataType::Int8 => integer(reader, 8),
            DataType::Bit => Ok(Self::Int(reader.u8("bit")?.into())),
            DataType::Float8 => float(reader, 8),
            DataType::DateTime => date_time(reader, 8),
            DataType::IntN(_) => nullable(reader, integer),
            DataType::UintN(_) => nullable(reader, unsigned),
            DataType::FloatN(_) => nullable(reader, float),
            DataType::DateTimeN(_) => nullable(reader, date_time),
            DataType::VarChar(_) | DataType::Char(_) => Ok(text(reader.counted8("text")?)),
            DataType::VarBinary(_) | DataType::Binary(_) => Ok(binary(reader.counted8("binary")?)),
            DataType::LongChar(_) => Ok(text(reader.counted32("long text")?)),
            DataType::LongBinary(_) => Ok(binary(reader.counted32("long binary")?)),
            DataType::Text(_) => Ok(stored_apart(reader)?.map_or(Self::Null, text)),
            DataType::Image(_) => Ok(stored_apart(reader)?.map_or(Self::Null, binary)),
        }
    }

    /// Writes the value for a column of the given type.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] when the value does not fit the type, [`Error::TooLong`] above the 255 bytes that a short type can hold.
    pub fn encode(&self, data_type: DataType, writer: &mut Writer<'_>) -> Result<(), Error> {
        use DataType as T;
        let wrong = || Error::WrongType {
            value: self.kind(),
            data_type: data_type.code(),
        };
        match (data_type, self) {
            (T::IntN(_) | T::UintN(_) | T::FloatN(_) | T::DateTimeN(_), Self::Null) => writer.u8(0),
            (T::VarChar(_) | T::Char(_) | T::VarBinary(_) | T::Binary(_), Self::Null) => writer.u8(0),
            (T::LongChar(_) | T::LongBinary(_), Self::Null) => writer.u32(0),
            (T::Text(_) | T::Image(_), Self::Null) => writer.u8(0),
            (T::Int1 | T::Bit, Self::Int(value)) => writer.u8(u8::try_from(*value).map_err(|_| wrong())?),
            (T::Int2, Self::Int(value)) => put_integer(writer, *value, 2).ok_or_else(wrong)?,
            (T::Int4, Self::Int(value)) => put_integer(writer, *value, 4).ok_or_else(wrong)?,
            (T::Int8, Self::Int(value)) => put_integer(writer, *value, 8).ok_or_else(wrong)?,
            (T::IntN(size), Self::Int(value)) => {
                writer.u8(size);
                put_integer(writer, *value, size).ok_or_else(wrong)?;
            }
            (T::UintN(size), Self::Int(value)) => {
                writer.u8(size);
                put_unsigned(writer, *value, size).ok_or_else(wrong)?;
            }
            (T::Float8, Self::Float(value)) => writer.u64(value.to_bits()),
            (T::FloatN(8), Self::Float(value)) => {
                writer.u8(8);
                writer.u64(value.to_bits());
            }
            (T::DateTime, Self::DateTime { days, ticks }) => {
                writer.u32(days.cast_unsigned());
                writer.u32(ticks.cast_unsigned());
            }
            (T::DateTimeN(8), Self::DateTime { days, ticks }) => {
                writer.u8(8);
                writer.u32(days.cast_unsigned());
                writer.u32(ticks.cast_unsigned());
            }
            (T::VarChar(_) | T::Char(_), Self::Text(bytes)) => writer.counted8(bytes, "text")?,
            (T::VarBinary(_) | T::Binary(_), Self::Binary(bytes)) => writer.counted8(bytes, "binary")?,
            (T::LongChar(_), Self::Text(bytes)) => writer.counted32(bytes, "long text")?,
            (T::LongBinary(_), Self::Binary(bytes)) => writer.counted32(bytes, "long binary")?,
            (T::Text(_), Self::Text(bytes)) | (T::Image(_), Self::Binary(bytes)) => {
                writer.u8(16);
                writer.bytes(&[0; 16 + 8]);
                writer.counted32(bytes, "text stored apart")?;
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

fn nullable(
    reader: &mut Reader<'_>,
    decode: impl FnOnce(&mut Reader<'_>, u8) -> Result<Value, Error>,
) -> Result<Value, Error> {
    match reader.u8("length of a value")? {
        0 => Ok(Value::Null),
        size => decode(reader, size),
    }
}

const fn bad_size(size: u8) -> Error {
    Error::Undefined {
        what: "length of a value",
        found: size as u32,
    }
}

fn integer(reader: &mut Reader<'_>, size: u8) -> Result<Value, Error> {
    Ok(Value::Int(match size {
        1 => reader.u8("integer")?.into(),
        2 => reader.u16("integer")?.cast_signed().into(),
        4 => reader.u32("integer")?.cast_signed().into(),
        8 => reader.u64("integer")?.cast_signed(),
        _ => return Err(bad_size(size)),
    }))
}

fn unsigned(reader: &mut Reader<'_>, size: u8) -> Result<Value, Error> {
    Ok(Value::Int(match size {
        1 => reader.u8("integer")?.into(),
        2 => reader.u16("integer")?.into(),
        4 => reader.u32("integer")?.into(),
        8 => i64::try_from(reader.u64("integer")?).map_err(|_| Error::Undefined {
            what: "unsigned integer above the signed range",
            found: u32::MAX,
        })?,
        _ => return Err(bad_size(size)),
    }))
}

fn float(reader: &mut Reader<'_>, size: u8) -> Result<Value, Error> {
    Ok(Value::Float(match size {
        4 => f32::from_bits(reader.u32("float")?).into(),
        8 => f64::from_bits(reader.u64("float")?),
        _ => return Err(bad_size(size)),
    }))
}

fn date_time(reader: &mut Reader<'_>, size: u8) -> Result<Value, Error> {
    if size != 8 {
        return Err(bad_size(size));
    }
    Ok(Value::DateTime {
        days: reader.u32("days")?.cast_signed(),
        ticks: reader.u32("ticks")?.cast_signed(),
    })
}

fn text(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        Value::Null
    } else {
        Value::Text(bytes.to_vec())
    }
}

fn binary(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        Value::Null
    } else {
        Value::Binary(bytes.to_vec())
    }
}

/// A text pointer and a time stamp come before the bytes; without a pointer there is no value.
fn stored_apart<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Error> {
    if reader.counted8("text pointer")?.is_empty() {
        return Ok(None);
    }
    reader.bytes(8, "time stamp of a text")?;
    reader.counted32("text stored apart").map(Some)
}

fn put_integer(writer: &mut Writer<'_>, value: i64, size: u8) -> Option<()> {
    match size {
        1 => writer.u8(u8::try_from(value).ok()?),
        2 => writer.u16(i16::try_from(value).ok()?.cast_unsigned()),
        4 => writer.u32(i32::try_from(value).ok()?.cast_unsigned()),
        8 => writer.u64(value.cast_unsigned()),
        _ => return None,
    }
    Some(())
}

fn put_unsigned(writer: &mut Writer<'_>, value: i64, size: u8) -> Option<()> {
    match size {
        1 => writer.u8(u8::try_from(value).ok()?),
        2 => writer.u16(u16::try_from(value).ok()?),
        4 => writer.u32(u32::try_from(value).ok()?),
        8 => writer.u64(u64::try_from(value).ok()?),
        _ => return None,
    }
    Some(())
}
