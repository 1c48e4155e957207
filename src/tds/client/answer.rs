//! The answer to a query: its results, their row counts, and the server's messages.

use super::QueryError;
use crate::tds::Error;
use crate::tds::format::Column;
use crate::tds::response::{Done, ServerMessage, Token, Tokens};
use crate::tds::value::Value;
use crate::tds::wire::ByteOrder;

/// The answer to one query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Results with columns, in the order in which they came.
    pub results: Vec<ResultSet>,
    /// Row counts of the statements, where the server gave one.
    pub counts: Vec<u32>,
    /// Errors and informations from the server.
    pub messages: Vec<ServerMessage>,
    failed: bool,
}

/// A result with columns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResultSet {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, one value per column.
    pub rows: Vec<Vec<Value>>,
}

/// One row, whose values are found by the names of their columns.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [Column],
    values: &'a [Value],
}

impl<'a> Row<'a> {
    /// The value in the column of this name. Upper and lower case do not count, nor do NUL bytes at the end, which ObjectServers send.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&'a Value> {
        let is_it = |candidate: &Column| candidate.name.trim_end_matches('\0').eq_ignore_ascii_case(column);
        let index = self.columns.iter().position(is_it)?;
        self.values.get(index)
    }
}

impl Answer {
    /// Rows of the first result; none when there is no result.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.results.iter().take(1).flat_map(|result| {
            result.rows.iter().map(|values| Row {
                columns: &result.columns,
                values,
            })
        })
    }

    pub(super) fn decode(payload: &[u8], order: ByteOrder) -> Result<Self, Error> {
        let mut answer = Self::default();
        let mut finished = false;
        for token in Tokens::new(payload, order) {
            match token? {
                Token::Message(message) => answer.messages.push(message),
                Token::RowFormat { columns, .. } => answer.results.push(ResultSet {
                    columns,
                    rows: Vec::new(),
                }),
                Token::Row(values) => {
                    if let Some(result) = answer.results.last_mut() {
                        result.rows.push(values);
                    }
                }
                Token::Done(done) => {
                    finished = done.is_final();
                    answer.failed |= done.status & Done::ERROR != 0;
                    answer.counts.extend(done.rows());
                }
                _ => {}
            }
        }
        if finished { Ok(answer) } else { Err(Error::Unfinished) }
    }

    pub(super) fn failure(&self) -> Option<QueryError> {
        let message = self.messages.iter().find(|message| message.is_error());
        if message.is_none() && !self.failed {
            return None;
        }
        Some(QueryError::Sql {
            server: message.map_or_else(String::new, |message| message.server.clone()),
            number: message.map_or(0, |message| message.number),
            class: message.map_or(0, |message| message.class),
            text: message.map_or_else(
                || "the server reports a failure without a message".to_owned(),
                |message| message.text.clone(),
            ),
        })
    }
}
