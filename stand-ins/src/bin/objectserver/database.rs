//! The tables, on SQLite: one thread that writes, one that reads.
//!
//! The writer takes every statement that is waiting, runs them in one transaction, and answers after the commit. So an acknowledged insert
//! survives a killed process, and thousands of sessions share the cost of a commit. `alerts` is a file in write-ahead mode, written without
//! waiting for the disk: what the kernel has, a killed process cannot take back, and a slow disk would show in measurements as an outage.
//! `catalog` is made anew in memory before a statement that names it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};
use tokio::sync::oneshot;

/// Most bytes of values in one result.
const RESULT_MAX: usize = 64 << 20;

/// Most statements in one transaction.
const BATCH_MAX: usize = 1000;

/// How long the parent and the child wait for each other's locks.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A live session, as `catalog.connections` shows it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectionRow {
    /// Number of the session.
    #[serde(rename = "ConnectionID")]
    pub id: u32,
    /// Application name of its login.
    pub app_name: String,
    /// What the client says of itself.
    pub app_description: String,
    /// The client's machine.
    pub host_name: String,
    /// The user.
    pub log_name: String,
    /// Always 0: no session here is notified of changes.
    pub is_real_time: u8,
    /// Seconds since 1970.
    pub connect_time: i64,
}

/// A result, as SQLite has it.
#[derive(Debug, Default)]
pub struct Table {
    /// Names and, where SQLite knows it, declared types of the columns.
    pub columns: Vec<(String, Option<String>)>,
    /// Rows.
    pub rows: Vec<Vec<rusqlite::types::Value>>,
}

/// What a statement gave.
#[derive(Debug)]
pub enum Outcome {
    /// Rows.
    Table(Table),
    /// Number of rows written.
    Written(u32),
    /// Nothing to tell.
    Done,
    /// The engine's complaint.
    Failed(String),
}

/// What `catalog` holds at the moment.
pub trait Catalog: Send + Sync + 'static {
    /// Rows of `catalog.connections`.
    fn connections(&self) -> Vec<ConnectionRow>;
    /// Rows of `catalog.properties`: name and value.
    fn properties(&self) -> Vec<(String, String)>;
}

struct Job {
    sql: String,
    reply: oneshot::Sender<Outcome>,
}

/// The two threads.
#[derive(Debug, Clone)]
pub struct Database {
    writer: Sender<Job>,
    reader: Sender<Job>,
}

impl Database {
    /// Opens the tables below `directory`, making them when they are not there.
    pub fn start(directory: &Path, server: &str, catalog: impl Catalog + Clone) -> anyhow::Result<Self> {
        let writing = open(directory, server)?;
        let reading = open(directory, server)?;
        let (writer, writes) = channel();
        let (reader, reads) = channel();
        let catalog_of_writer = catalog.clone();
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write_all(&writing, &writes, &catalog_of_writer))?;
        thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || read_all(&reading, &reads, &catalog))?;
        Ok(Self { writer, reader })
    }

    /// Runs a statement that only reads.
    pub async fn read(&self, sql: String) -> Outcome {
        Self::ask(&self.reader, sql).await
    }

    /// Runs a statement that writes; returns when it is on disk.
    pub async fn write(&self, sql: String) -> Outcome {
        Self::ask(&self.writer, sql).await
    }

    async fn ask(thread: &Sender<Job>, sql: String) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let gone = || Outcome::Failed("the database has stopped".to_owned());
        if thread.send(Job { sql, reply }).is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }
}

/// Opens the file with a name of its own for each schema, as OMNIbus has them.
pub fn open(directory: &Path, server: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute("ATTACH ?1 AS alerts", [file(directory).to_string_lossy()])?;
    connection.execute("ATTACH ':memory:' AS catalog", [])?;
    connection.execute_batch(
        "PRAGMA temp_store = MEMORY; PRAGMA alerts.journal_mode = WAL; PRAGMA alerts.synchronous = OFF;
         CREATE TABLE catalog.connections (ConnectionID INTEGER, AppName VARCHAR(64), AppDescription VARCHAR(64),
             HostName VARCHAR(64), LogName VARCHAR(64), IsRealTime INTEGER, ConnectTime INTEGER);
         CREATE TABLE catalog.properties (PropName VARCHAR(64), Value VARCHAR(255));
         BEGIN IMMEDIATE;",
    )?;
    connection.execute_batch(include_str!("schema.sql"))?;
    connection.execute("DELETE FROM alerts.server WHERE Name <> ?1", [server])?;
    connection.execute(
        "INSERT INTO alerts.server (Name) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM alerts.server)",
        [server],
    )?;
    connection.execute_batch("COMMIT;")?;
    Ok(connection)
}

/// Opens the file for reading only, without waiting for the process that writes to it, or while there is none.
pub fn open_reading(directory: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute("ATTACH ?1 AS alerts", [file(directory).to_string_lossy()])?;
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA query_only = TRUE;")?;
    Ok(connection)
}

fn file(directory: &Path) -> PathBuf {
    directory.join("alerts.db")
}

fn write_all(connection: &Connection, jobs: &Receiver<Job>, catalog: &impl Catalog) {
    while let Ok(first) = jobs.recv() {
        let batch = std::iter::once(first).chain(jobs.try_iter()).take(BATCH_MAX);
        let mut done = Vec::new();
        let mut lost = connection
            .execute_batch("BEGIN IMMEDIATE")
            .err()
            .map(|error| error.to_string());
        for job in batch {
            if lost.is_some() {
                done.push((job.reply, Outcome::Failed("the transaction is lost".to_owned())));
                continue;
            }
            let outcome = match refresh_catalog(connection, &job.sql, catalog) {
                Ok(()) => write_one(connection, &job.sql),
                Err(error) => Outcome::Failed(error.to_string()),
            };
            if connection.is_autocommit() {
                lost = Some("the engine rolled it back".to_owned());
            }
            done.push((job.reply, outcome));
        }
        if lost.is_none() {
            lost = connection.execute_batch("COMMIT").err().map(|error| error.to_string());
        }
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        for (reply, outcome) in done {
            let outcome = match &lost {
                Some(error) => Outcome::Failed(format!("the transaction is lost: {error}")),
                None => outcome,
            };
            let _ = reply.send(outcome);
        }
    }
}

fn write_one(connection: &Connection, sql: &str) -> Outcome {
    let before = connection.total_changes();
    match connection.execute(sql, []) {
        // A de-duplicated insert is written by a trigger, which SQLite does not count; OMNIbus says that one row was affected.
        Ok(0) => Outcome::Written((connection.total_changes() > before).into()),
        Ok(rows) => Outcome::Written(u32::try_from(rows).unwrap_or(u32::MAX)),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn read_all(connection: &Connection, jobs: &Receiver<Job>, catalog: &impl Catalog) {
    while let Ok(Job { sql, reply }) = jobs.recv() {
        let outcome = match refresh_catalog(connection, &sql, catalog) {
            Ok(()) => select(connection, &sql),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let _ = reply.send(outcome);
    }
}

/// Runs a statement that must only read.
pub fn select(connection: &Connection, sql: &str) -> Outcome {
    let table = connection
        .prepare(sql)
        .map_err(|error| error.to_string())
        .and_then(|mut statement| {
            if statement.readonly() {
                collect(&mut statement)
            } else {
                Err("only a statement that reads may begin with select".to_owned())
            }
        });
    match table {
        Ok(table) => Outcome::Table(table),
        Err(error) => Outcome::Failed(error),
    }
}

fn collect(statement: &mut Statement<'_>) -> Result<Table, String> {
    let mut table = Table {
        columns: (statement.columns().iter())
            .map(|column| (column.name().to_owned(), column.decl_type().map(str::to_owned)))
            .collect(),
        rows: Vec::new(),
    };
    let mut size = 0;
    let mut rows = statement.query([]).map_err(|error| error.to_string())?;
    while let Some(row) = rows.next().map_err(|error| error.to_string())? {
        let mut values = Vec::new();
        for index in 0..table.columns.len() {
            let value = row.get_ref(index).map_err(|error| error.to_string())?;
            size += match value {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() + 32,
                _ => 32,
            };
            values.push(value.try_into().map_err(|_| "a text is not UTF-8".to_owned())?);
        }
        table.rows.push(values);
        if size > RESULT_MAX {
            return Err(format!("the result is larger than {RESULT_MAX} bytes"));
        }
    }
    Ok(table)
}

fn refresh_catalog(connection: &Connection, sql: &str, catalog: &impl Catalog) -> rusqlite::Result<()> {
    if !sql.to_ascii_lowercase().contains("catalog") {
        return Ok(());
    }
    connection.execute("DELETE FROM catalog.connections", [])?;
    connection.execute("DELETE FROM catalog.properties", [])?;
    let mut insert =
        connection.prepare_cached("INSERT INTO catalog.connections VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for row in catalog.connections() {
        insert.execute((
            row.id,
            row.app_name,
            row.app_description,
            row.host_name,
            row.log_name,
            row.is_real_time,
            row.connect_time,
        ))?;
    }
    let mut insert = connection.prepare_cached("INSERT INTO catalog.properties VALUES (?1, ?2)")?;
    for row in catalog.properties() {
        insert.execute(row)?;
    }
    Ok(())
}
