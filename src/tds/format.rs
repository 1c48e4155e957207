//! Formats: the columns of a result and the fields of a parameter list.
//!
//! There are two of each. The wide one (ROWFMT2, PARAMFMT2) has four-byte lengths and status bits, and for rows also the names of catalog,
//! schema, table and column. A server sends ROWFMT2 when the client's capabilities ask for wide tables, and ROWFMT otherwise.
//! Sources: FreeTDS `src/tds/token.c`, go-dblib `tds/rowFmtPackage.go`, captured results.

use super::Error;
use super::value::{DataType, Value};
use super::wire::{Reader, Writer, text};

/// Most columns that a format may have. `alerts.status` has some eighty; the limit keeps a hostile format from growing.
pub const COLUMNS_MAX: usize = 1024;

/// Status bit of a column: it may be NULL.
pub const COLUMN_NULLABLE: u32 = 0x20;

/// One column or parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name; for a wide row format the label. At most 255 bytes.
    pub name: String,
    /// Bits such as [`COLUMN_NULLABLE`]; only the lowest eight travel in a narrow format.
    pub status: u32,
    /// Its type.
    pub data_type: DataType,
}

/// Which of the four format tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatKind {
    /// Four-byte length and status.
    pub wide: bool,
    /// Rows, else parameters.
    pub rows: bool,
}

/// Reads the content of a format after its token byte.
///
/// # Errors
///
/// [`Error::NoColumns`], [`Error::TooLong`] above [`COLUMNS_MAX`], [`Error::Surplus`] when the columns end before the announced length, and those of
/// [`DataType::decode`].
pub fn decode_format(kind: FormatKind, reader: &mut Reader<'_>) -> Result<Vec<Column>, Error> {
    let mut content = reader.content(kind.wide, "format")?;
    let count = usize::from(content.u16("number of columns")?);
    if count == 0 {
        return Err(Error::NoColumns { what: "format" });
    }
    if count > COLUMNS_MAX {
        return Err(Error::TooLong {
            what: "number of columns",
            length: count,
            limit: COLUMNS_MAX,
        });
    }
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(decode_column(kind, &mut content)?);
    }
    content.finish("format")?;
    Ok(columns)
}

fn decode_column(kind: FormatKind, content: &mut Reader<'_>) -> Result<Column, Error> {
    let mut name = content.counted8("name of a column")?;
    if kind.wide && kind.rows {
        content.counted8("catalog of a column")?;
        content.counted8("schema of a column")?;
        content.counted8("table of a column")?;
        let column = content.counted8("name of a column")?;
        if name.is_empty() {
            name = column;
        }
    }
    let status = if kind.wide {
        content.u32("status of a column")?
    } else {
        content.u8("status of a column")?.into()
    };
    content.u32("user type of a column")?;
    let data_type = DataType::decode(content)?;
    content.counted8("locale of a column")?;
    Ok(Column {
        name: text(name),
        status,
        data_type,
    })
}

/// Writes the content of a format after its token byte.
///
/// # Errors
///
/// [`Error::NoColumns`]; [`Error::TooLong`] for a name above 255 bytes, for more than [`COLUMNS_MAX`] columns, or for more than a narrow format can hold.
pub fn encode_format(kind: FormatKind, columns: &[Column], writer: &mut Writer<'_>) -> Result<(), Error> {
    let too_many = || Error::TooLong {
        what: "number of columns",
        length: columns.len(),
        limit: COLUMNS_MAX,
    };
    if columns.is_empty() {
        return Err(Error::NoColumns { what: "format" });
    }
    if columns.len() > COLUMNS_MAX {
        return Err(too_many());
    }
    writer.content(kind.wide, "format", |content| {
        content.u16(u16::try_from(columns.len()).map_err(|_| too_many())?);
        for column in columns {
            content.counted8(column.name.as_bytes(), "name of a column")?;
            if kind.wide && kind.rows {
                content.bytes(&[0, 0, 0]);
                content.counted8(column.name.as_bytes(), "name of a column")?;
            }
            if kind.wide {
                content.u32(column.status);
            } else {
                let [.., low] = column.status.to_be_bytes();
                content.u8(low);
            }
            content.u32(0);
            column.data_type.encode(content);
            content.u8(0);
        }
        Ok(())
    })
}

/// Reads one value per column.
///
/// # Errors
///
/// Those of [`Value::decode`].
pub fn decode_values(columns: &[Column], reader: &mut Reader<'_>) -> Result<Vec<Value>, Error> {
    // Each value has at least one byte.
    let mut values = Vec::with_capacity(columns.len().min(reader.left()));
    for column in columns {
        values.push(Value::decode(column.data_type, reader)?);
    }
    Ok(values)
}

/// Writes one value per column.
///
/// # Errors
///
/// [`Error::ColumnCount`] when the numbers differ, and those of [`Value::encode`].
pub fn encode_values(columns: &[Column], values: &[Value], writer: &mut Writer<'_>) -> Result<(), Error> {
    if columns.len() != values.len() {
        return Err(Error::ColumnCount {
            wanted: columns.len(),
            found: values.len(),
        });
    }
    for (column, value) in columns.iter().zip(values) {
        value.encode(column.data_type, writer)?;
    }
    Ok(())
}
