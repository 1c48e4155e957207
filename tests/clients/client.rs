//! The independent clients, each with the same interface: start, request, finish.
//!
//! `tsql` and `bsqldb` print rows and nothing around them, so a request is followed by one that gives a row of its own: [`MARK`]. jTDS and
//! pymssql are driven by the small programs beside this file, which print where a request ends.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use testkit::directory::Directory;
use testkit::gate::within;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::stage::USER;

/// The row after each request of a FreeTDS program.
const MARK: &str = "(end of request)";

/// One of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Tsql,
    Bsqldb,
    Jtds,
    Pymssql,
}

/// A client at work. It is killed when dropped.
pub struct Running {
    client: Client,
    child: Child,
    input: Option<ChildStdin>,
    output: JoinHandle<String>,
    errors: JoinHandle<String>,
    _home: Directory,
}

/// What a client printed about its session.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The login was refused.
    pub refused: bool,
    /// What came back for each request, as far as the session went.
    pub answers: Vec<Answer>,
    /// What the client wrote for people, to be shown when a test fails.
    pub words: String,
}

/// What came back for one request.
#[derive(Debug, Default)]
pub struct Answer {
    /// The rows of all its statements.
    pub rows: Vec<Vec<String>>,
    /// It ended as it should, perhaps with an error of SQL.
    pub complete: bool,
    /// The client printed an error; FreeTDS's programs do not print for which request.
    pub error: bool,
    /// The client cancelled it.
    pub cancelled: bool,
}

impl Transcript {
    /// The rows of one request.
    pub fn rows(&self, request: usize) -> &[Vec<String>] {
        match self.answers.get(request) {
            Some(answer) if answer.complete => &answer.rows,
            _ => panic!("request {request} has no complete answer: {self:#?}"),
        }
    }

    /// How many statements were wrong.
    pub fn errors(&self) -> usize {
        self.answers.iter().filter(|answer| answer.error).count() + self.words.matches("Msg 102").count()
    }
}

impl Client {
    pub const ALL: [Self; 4] = [Self::Tsql, Self::Bsqldb, Self::Jtds, Self::Pymssql];

    /// The name that it gives itself as an application.
    pub const fn application(self) -> &'static str {
        match self {
            Self::Tsql => "TSQL",
            Self::Bsqldb => "bsqldb",
            Self::Jtds => "jTDS",
            Self::Pymssql => "pymssql",
        }
    }

    /// Whether it goes on after an error of SQL: `bsqldb` exits.
    pub const fn survives_errors(self) -> bool {
        !matches!(self, Self::Bsqldb)
    }

    /// Starts it; it logs in at once.
    pub fn start(self, server: SocketAddr, password: &str) -> Running {
        let home = Directory::new();
        let mut command = self.command(server, password, &home);
        let child = command
            .env("TDSVER", "5.0")
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("{command:?}: {error}: run `make clients`"),
            other => other.unwrap(),
        };
        Running {
            client: self,
            input: child.stdin.take(),
            output: collect(child.stdout.take().unwrap()),
            errors: collect(child.stderr.take().unwrap()),
            child,
            _home: home,
        }
    }

    fn command(self, server: SocketAddr, password: &str, home: &Directory) -> Command {
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let mut command = match self {
            Self::Tsql => Command::new("tsql"),
            Self::Bsqldb => Command::new("bsqldb"),
            Self::Jtds => Command::new("java"),
            Self::Pymssql => Command::new(installed("python/bin/python")),
        };
        match self {
            Self::Tsql | Self::Bsqldb => {
                let entry = format!("[AGG_P]\nhost = {host}\nport = {port}\ntds version = 5.0\n");
                let file = home.path().join("freetds.conf");
                fs::write(&file, entry).unwrap();
                command.env("FREETDSCONF", file);
                command.args(["-S", "AGG_P", "-U", USER, "-P", password]);
                // No prompts, no headers; columns end with a tab.
                let quiet: &[&str] = if self == Self::Tsql {
                    &["-o", "qh"]
                } else {
                    &["-q", "-h", "-t", "\t"]
                };
                command.args(quiet);
            }
            Self::Jtds => {
                // The client's own start is most of what a test waits for.
                command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]);
                command.arg("-cp").arg(class_path());
                command.args(["Jtds", &host, &port, USER, password]);
            }
            Self::Pymssql => {
                command.arg(source("pymssql_client.py"));
                command.args([&host, &port, USER, password]);
            }
        }
        command
    }

    fn is_freetds_program(self) -> bool {
        matches!(self, Self::Tsql | Self::Bsqldb)
    }
}

impl Running {
    /// Sends a request of one line, and returns whether the client is still running.
    pub async fn request(&mut self, sql: &str) -> bool {
        let line = if self.client.is_freetds_program() {
            format!("{sql}\ngo\nselect '{MARK}'\ngo\n")
        } else {
            format!("{sql}\n")
        };
        let input = self.input.as_mut().unwrap();
        let written = within("the client reads", input.write_all(line.as_bytes())).await;
        written.is_ok() && input.flush().await.is_ok()
    }

    /// Waits until the client has done everything and left.
    pub async fn finish(mut self) -> Transcript {
        drop(self.input.take());
        let status = within("the client ends", self.child.wait()).await.unwrap();
        let (output, words) = (self.output.await.unwrap(), self.errors.await.unwrap());
        let mut transcript = if self.client.is_freetds_program() {
            let mut transcript = freetds_transcript(&output);
            // 14 from bsqldb is a refused login, 1 from tsql any failure to connect.
            transcript.refused = !status.success() && words.contains("4002");
            transcript
        } else {
            transcript(&output)
        };
        transcript.words = format!("{status}\n{words}");
        transcript
    }
}

fn collect(mut stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    })
}

fn fields(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

fn freetds_transcript(output: &str) -> Transcript {
    let mut answers = vec![Answer::default()];
    for line in output.lines() {
        let open = answers.last_mut().unwrap();
        if line == MARK {
            open.complete = true;
            answers.push(Answer::default());
        } else if !line.is_empty() {
            // `bsqldb` has an empty line between the results of one request.
            open.rows.push(fields(line));
        }
    }
    if answers.last().is_some_and(|answer| answer.rows.is_empty()) {
        answers.pop();
    }
    Transcript {
        answers,
        ..Transcript::default()
    }
}

fn transcript(output: &str) -> Transcript {
    let mut transcript = Transcript::default();
    let mut open = Answer::default();
    let mut lost = false;
    for line in output.lines() {
        let (word, rest) = line.split_once('\t').unwrap_or((line, ""));
        match word {
            "ready" => {}
            "refused" => transcript.refused = true,
            "row" => open.rows.push(fields(rest)),
            "error" => open.error = true,
            "cancelled" => open.cancelled = true,
            "lost" => lost = true,
            "end" => {
                open.complete = !lost;
                transcript.answers.push(std::mem::take(&mut open));
            }
            other => panic!("the client says {other:?}: {output}"),
        }
    }
    transcript
}

/// What `tests/clients/install` has fetched.
fn installed(path: &str) -> PathBuf {
    // Where a target is named, the tests' directory is one level deeper in Cargo's.
    let mut targets = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors();
    let found = targets.find_map(|target| Some(target.join("clients").join(path)).filter(|path| path.exists()));
    found.unwrap_or_else(|| panic!("clients/{path} is not in the target directory: run `make clients`"))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// jTDS and the program that drives it, compiled once for each run of the tests.
fn class_path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        let classes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        let output = std::process::Command::new("javac")
            .arg("-d")
            .arg(&classes)
            .arg(source("Jtds.java"))
            .output()
            .unwrap_or_else(|error| panic!("javac: {error}: run `make clients`"));
        assert!(output.status.success(), "{output:?}");
        format!("{}:{}", installed("jtds.jar").display(), classes.display())
    });
    &PATH
}
