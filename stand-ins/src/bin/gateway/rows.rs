//! Rows of `alerts.status`: reading them from one ObjectServer, writing them to the other.

use std::collections::HashMap;

use anyhow::Context;
use proxypair::tds::client::{Answer, ResultSet};
use proxypair::tds::format::Column;
use proxypair::tds::value::{DataType, Value};

use crate::side::Side;

/// Rows of one page of a whole table, and of one insert.
const PAGE: i64 = 1000;

/// Bytes of one insert, which a server must accept as one message.
const INSERT_MAX: usize = 256 * 1024;

/// Seconds by which the look for changed rows goes back: a change may be written a moment after its `StateChange`.
const OVERLAP: i64 = 3;

/// Rows that are written without their `Serial`, which each ObjectServer gives itself.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    columns: String,
    /// By `Identifier`, each as what stands between the parentheses of an insert.
    pub values: HashMap<String, String>,
}

/// All rows, and from now on only what changes after them.
pub async fn read_all(side: &mut Side) -> anyhow::Result<Rows> {
    let top = look(side).await?;
    let mut rows = Rows::default();
    let mut from = 0;
    while from < top {
        let sql = format!(
            "select * from alerts.status where Serial > {from} and Serial <= {}",
            from + PAGE
        );
        rows.take(&side.ask(&sql).await?)?;
        from += PAGE;
    }
    side.serial = top;
    Ok(rows)
}

/// Rows that came or changed since the last look.
pub async fn read_changes(side: &mut Side) -> anyhow::Result<Rows> {
    let (name, serial, since) = (side.name.clone(), side.serial, side.changed_since);
    let top = look(side).await?;
    let sql = format!(
        "select * from alerts.status where (Serial > {serial} and Serial <= {top} and ServerName = '{name}') \
         or (StateChange >= {since} and (Tally > 1 or Acknowledged <> 0 or Severity = 0))"
    );
    let mut rows = Rows::default();
    rows.take(&side.ask(&sql).await?)?;
    side.serial = top;
    Ok(rows)
}

/// The highest `Serial`; moves the time from which on changes are looked for.
async fn look(side: &mut Side) -> anyhow::Result<i64> {
    let answer = side
        .ask("select max(Serial) as Top, getdate() as Now from alerts.status")
        .await?;
    let row = answer.rows().next().context("no answer to a look")?;
    let number = |name| row.get(name).and_then(Value::int).unwrap_or_default();
    side.changed_since = number("Now") - OVERLAP;
    Ok(number("Top"))
}

impl Rows {
    /// Those that `other` has not, or has otherwise.
    pub fn missing_in(&self, other: &Self) -> Self {
        let differs = |identifier: &String, values: &String| other.values.get(identifier) != Some(values);
        let values = self
            .values
            .iter()
            .filter(|(identifier, values)| differs(identifier, values));
        Self {
            columns: self.columns.clone(),
            values: values
                .map(|(identifier, values)| (identifier.clone(), values.clone()))
                .collect(),
        }
    }

    /// Writes them; says how many.
    pub async fn write_to(&self, side: &mut Side) -> anyhow::Result<u64> {
        let head = format!("insert into alerts.status ({}) values ", self.columns);
        let mut sql = head.clone();
        let mut count = 0;
        for values in self.values.values() {
            if sql.len() > head.len() {
                sql.push_str(", ");
            }
            sql.push('(');
            sql.push_str(values);
            sql.push(')');
            count += 1;
            if sql.len() > INSERT_MAX || count % PAGE.unsigned_abs() == 0 {
                side.ask(&sql).await?;
                sql.clone_from(&head);
            }
        }
        if sql.len() > head.len() {
            side.ask(&sql).await?;
        }
        Ok(count)
    }

    fn take(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let result = answer.results.first().context("no rows in the answer")?;
        let is_serial = |column: &Column| column.name.eq_ignore_ascii_case("Serial");
        if self.columns.is_empty() {
            let names = result.columns.iter().filter(|column| !is_serial(column));
            let names: Vec<_> = names.map(|column| column.name.as_str()).collect();
            self.columns = names.join(", ");
        }
        let ResultSet { columns, rows } = result;
        let identifier = columns
            .iter()
            .position(|column| column.name.eq_ignore_ascii_case("Identifier"));
        let identifier = identifier.context("alerts.status has no Identifier")?;
        for row in rows {
            let pairs = columns.iter().zip(row).filter(|(column, _)| !is_serial(column));
            let values: Vec<_> = pairs.map(|(column, value)| literal(column, value)).collect();
            let key = row.get(identifier).and_then(Value::text).unwrap_or_default();
            self.values.insert(key, values.join(", "));
        }
        Ok(())
    }
}

/// On the wire an empty text and NULL are the same; no column of `alerts.status` is ever NULL.
fn literal(column: &Column, value: &Value) -> String {
    let is_text = matches!(
        column.data_type,
        DataType::VarChar(_) | DataType::Char(_) | DataType::LongChar(_) | DataType::Text(_)
    );
    match value.text() {
        Some(text) if is_text => format!("'{}'", text.replace('\'', "''")),
        Some(number) => number,
        None if is_text => "''".to_owned(),
        None => "0".to_owned(),
    }
}
