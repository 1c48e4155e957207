//! Answers in the words of a real server.

use proxypair::tds::Error;
use proxypair::tds::format::Column;
use proxypair::tds::response::{AnswerWriter, Done, ServerMessage, Token};
use proxypair::tds::value::{DataType, Value};
use rusqlite::types::Value as Stored;

use crate::database::{Outcome, Table};

/// Number and class of an error.
pub struct Complaint {
    number: u32,
    class: u8,
}

/// The statement is wrong.
pub const SYNTAX: Complaint = Complaint { number: 102, class: 15 };

/// The request is one that ObjectServers do not know.
pub const UNSUPPORTED: Complaint = Complaint {
    number: 2801,
    class: 16,
};

/// The user may not do that.
pub const DENIED: Complaint = Complaint {
    number: 10330,
    class: 14,
};

const SHORT_TEXT_MAX: usize = 255;
const LONG_TEXT_MAX: u32 = 16_384;
const MESSAGE_TEXT_MAX: usize = 1000;

impl Complaint {
    fn message(&self, server: &str, text: &str) -> ServerMessage {
        ServerMessage::new(self.number, self.class, server, text)
    }
}

/// The number of a session, under the name that FreeTDS expects.
pub fn session_id(session: u32) -> Outcome {
    Outcome::Table(Table {
        columns: vec![("spid".to_owned(), None)],
        rows: vec![vec![Stored::Integer(session.into())]],
    })
}

/// Appends a failure, which ends the answer.
pub fn write_error(complaint: &Complaint, reason: &str, server: &str, answer: &mut AnswerWriter) -> Result<(), Error> {
    let reason = &reason[..reason.floor_char_boundary(MESSAGE_TEXT_MAX)];
    answer.push(&Token::Message(complaint.message(server, reason)))?;
    answer.push(&Token::Done(Done::statement(Done::ERROR, None)))
}

/// Appends a result and the end of its statement.
pub fn write_table(table: Table, wide: bool, more: u16, answer: &mut AnswerWriter) -> Result<(), Error> {
    let columns: Vec<_> = (0..table.columns.len()).map(|index| column(&table, index)).collect();
    let count = u32::try_from(table.rows.len()).unwrap_or(u32::MAX);
    let types: Vec<_> = columns.iter().map(|column| column.data_type).collect();
    answer.push(&Token::RowFormat { wide, columns })?;
    for row in table.rows {
        let values = row
            .into_iter()
            .zip(&types)
            .map(|(stored, data_type)| value(stored, *data_type));
        answer.push(&Token::Row(values.collect()))?;
    }
    answer.push(&Token::Done(Done::statement(more, Some(count))))
}

/// The column's declared text length where SQLite knows it, else what its values need: a calculated column has no declared type.
fn column(table: &Table, index: usize) -> Column {
    let (name, declared) = &table.columns[index];
    let values = || table.rows.iter().filter_map(|row| row.get(index));
    let declared_length = declared.as_deref().and_then(text_length).unwrap_or(0);
    let longest = values()
        .filter_map(|value| match value {
            Stored::Text(text) => Some(text.len()),
            Stored::Blob(bytes) => Some(bytes.len()),
            _ => None,
        })
        .max();
    let data_type = if declared_length > 0 || longest.is_some() {
        let longest = longest.unwrap_or(0).max(declared_length);
        match u8::try_from(longest) {
            Ok(_) => DataType::VarChar(u8::MAX),
            Err(_) => DataType::LongChar(LONG_TEXT_MAX.max(u32::try_from(longest).unwrap_or(u32::MAX))),
        }
    } else if values().any(|value| matches!(value, Stored::Real(_))) {
        DataType::FloatN(8)
    } else if values().any(|value| matches!(value, Stored::Integer(n) if i32::try_from(*n).is_err())) {
        DataType::IntN(8)
    } else {
        DataType::IntN(4)
    };
    Column::nullable(&name[..name.floor_char_boundary(SHORT_TEXT_MAX)], data_type)
}

fn text_length(declared: &str) -> Option<usize> {
    declared.strip_prefix("VARCHAR(")?.strip_suffix(')')?.parse().ok()
}

/// SQLite may keep values of several kinds in one column; the client gets all in the kind of the column.
fn value(stored: Stored, data_type: DataType) -> Value {
    let is_text = matches!(data_type, DataType::VarChar(_) | DataType::LongChar(_));
    match stored {
        Stored::Null => Value::Null,
        Stored::Integer(value) if is_text => Value::Text(value.to_string().into_bytes()),
        Stored::Integer(value) if matches!(data_type, DataType::FloatN(_)) => Value::Float(value as f64),
        Stored::Integer(value) => Value::Int(value),
        Stored::Real(value) if is_text => Value::Text(value.to_string().into_bytes()),
        Stored::Real(value) => Value::Float(value),
        Stored::Text(text) if text.is_empty() => Value::Null,
        Stored::Text(text) => Value::Text(text.into_bytes()),
        Stored::Blob(bytes) => Value::Text(bytes),
    }
}
