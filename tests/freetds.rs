//! FreeTDS, an independent implementation, as a client of the stand-in ObjectServer.
//!
//! Client and stand-in share the codec and would share its mistakes; `tsql` and `bsqldb` do not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use testkit::directory::Directory;
use testkit::programs::ObjectServer;

/// Exit code of `bsqldb` when a login was refused.
const LOGIN_REFUSED: i32 = 14;
/// Exit code of `bsqldb` when a statement was wrong.
const SQL_ERROR: i32 = 15;

const USER: &str = "netcool";
const PASSWORD: &str = "secret";

struct FreeTds {
    home: Directory,
}

impl FreeTds {
    fn new(server: SocketAddr) -> Self {
        let home = Directory::new();
        let (host, port) = (server.ip(), server.port());
        let entry = format!("[AGG_P]\nhost = {host}\nport = {port}\ntds version = 5.0\n");
        fs::write(home.path().join("freetds.conf"), entry).unwrap();
        Self { home }
    }

    fn run(&self, program: &str, arguments: &[&str], password: &str, input: &str) -> Output {
        let child = Command::new(program)
            .args(["-S", "AGG_P", "-U", USER, "-P", password])
            .args(arguments)
            .env("FREETDSCONF", self.home.path().join("freetds.conf"))
            .env("HOME", self.home.path())
            .env("TDSVER", "5.0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{program} is missing: apt-get install freetds-bin")
            }
            other => other.unwrap(),
        };
        // A program that could not log in may be gone before it has read everything; its exit code tells.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs statements, one batch each, and gives the rows as lines.
    fn bsqldb(&self, batches: &[&str]) -> Result<Vec<String>, Output> {
        let input: String = batches.iter().map(|batch| format!("{batch}\ngo\n")).collect();
        let output = self.run("bsqldb", &["-q", "-h", "-t,"], PASSWORD, &input);
        if !output.status.success() {
            return Err(output);
        }
        Ok(stdout(&output).lines().map(|line| line.trim_end().to_owned()).collect())
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start() -> (ObjectServer, FreeTds) {
    let server = ObjectServer::start("AGG_P", &["--user", USER, "--password", PASSWORD]);
    let freetds = FreeTds::new(server.address);
    (server, freetds)
}

#[test]
fn tsql_logs_in_and_finds_its_server_and_itself() {
    let (_server, freetds) = start();
    let sql = "select Value from catalog.properties where PropName = 'ServerName'\ngo\n\
               select AppName, LogName from catalog.connections\ngo\nquit\n";
    let output = freetds.run("tsql", &[], PASSWORD, sql);
    assert!(output.status.success(), "{output:?}");
    let lines = stdout(&output);
    assert!(lines.contains("AGG_P"), "{lines}");
    assert!(lines.contains("TSQL\tnetcool"), "{lines}");
}

#[test]
fn a_wrong_password_is_refused() {
    let (_server, freetds) = start();
    let output = freetds.run("bsqldb", &["-q"], "wrong", "select 1\ngo\n");
    assert_eq!(output.status.code(), Some(LOGIN_REFUSED), "{output:?}");
    let output = freetds.run("tsql", &[], "wrong", "quit\n");
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn a_repeated_event_is_counted_and_not_stored_twice() {
    let (_server, freetds) = start();
    let rows = freetds.bsqldb(&[
        "insert into alerts.status (Identifier, Node, Summary, Severity, FirstOccurrence, LastOccurrence) \
         values ('e', 'n', 'it''s down', 3, 100, 100)",
        "insert into alerts.status (Identifier, Node, Summary, Severity, FirstOccurrence, LastOccurrence) \
         values ('e', 'n', 'still; down', 5, 200, 200);",
        "select Identifier, Tally, Summary, Severity, FirstOccurrence, LastOccurrence, ServerName from alerts.status",
    ]);
    assert_eq!(rows.unwrap(), ["e,2,still; down,5,100,200,AGG_P"]);
}

#[test]
fn a_summary_longer_than_255_bytes_arrives_whole() {
    let (_server, freetds) = start();
    let summary = "0123456789".repeat(100);
    let rows = freetds.bsqldb(&[
        &format!("insert into alerts.status (Identifier, Summary) values ('long', '{summary}')"),
        "select Summary from alerts.status where Identifier = 'long'",
    ]);
    assert_eq!(rows.unwrap(), [summary]);
}

#[test]
fn a_wrong_statement_is_an_error() {
    let (_server, freetds) = start();
    let output = freetds.bsqldb(&["select nothing from nowhere.at_all"]).unwrap_err();
    assert_eq!(output.status.code(), Some(SQL_ERROR), "{output:?}");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("Server 'AGG_P'"), "{words}");
}

#[test]
fn two_thousand_rows_arrive_in_order() {
    let (_server, freetds) = start();
    let values: Vec<_> = (1..=2000)
        .map(|n| format!("('event-{n}', 'text of event {n}')"))
        .collect();
    let rows = freetds.bsqldb(&[
        &format!(
            "insert into alerts.status (Identifier, Summary) values {}",
            values.join(", ")
        ),
        "select Serial, Identifier, Summary from alerts.status order by Serial",
    ]);
    let wanted: Vec<_> = (1..=2000).map(|n| format!("{n},event-{n},text of event {n}")).collect();
    assert_eq!(rows.unwrap(), wanted);
}

#[test]
fn acknowledged_events_survive_a_kill() {
    let (mut server, freetds) = start();
    let insert = |n| format!("insert into alerts.status (Identifier) values ('kept-{n}')");
    freetds.bsqldb(&[&insert(1), &insert(2)]).unwrap();
    server.kill();
    assert!(freetds.bsqldb(&["select 1"]).is_err());
    server.start_again();
    let rows = freetds.bsqldb(&["select Identifier from alerts.status order by Serial"]);
    assert_eq!(rows.unwrap(), ["kept-1", "kept-2"]);
}
