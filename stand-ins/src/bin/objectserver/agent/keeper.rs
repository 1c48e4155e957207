//! The one owner of the child process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};

use crate::Options;
use crate::control::{Command, Report};

/// How long the child may take to listen or to answer a command.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// How long the child may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long a child whose pipes are closed may take to be gone.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Pause before a child that died by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What the API asks of the keeper.
#[derive(Debug)]
pub enum Order {
    Start,
    Stop,
    Kill,
    Look,
    /// From the next start on, the files in this directory.
    Certificate(PathBuf),
    Tell(Command),
}

/// How the child is.
#[derive(Debug)]
pub struct Status {
    /// Its process id; `None` while it is down.
    pub pid: Option<u32>,
    /// Since when it is up or down.
    pub since: Timestamp,
    /// What it says about itself.
    pub report: Option<Report>,
}

#[derive(Debug)]
struct Server {
    child: Child,
    pid: u32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// Keeps the child.
#[derive(Debug)]
pub struct Keeper {
    arguments: Vec<OsString>,
    restart: bool,
    server: Option<Server>,
    since: Timestamp,
}

impl Keeper {
    /// A keeper without a child, which will have the server's part of the agent's options.
    pub fn new(options: &Options) -> Self {
        Self {
            arguments: crate::arguments_of_child(),
            restart: options.restart,
            server: None,
            since: Timestamp::now(),
        }
    }

    /// Starts the child unless it runs, and waits until it listens.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start the server")?;
        let input = child.stdin.take().context("the server has no input")?;
        let output = child.stdout.take().context("the server has no output")?;
        let pid = child.id().context("the server has no process id")?;
        let mut server = Server {
            child,
            pid,
            input,
            output: BufReader::new(output).lines(),
        };
        server.report().await.context("the server does not listen")?;
        self.server = Some(server);
        self.since = Timestamp::now();
        Ok(())
    }

    /// Ends the child with SIGTERM, or with SIGKILL when it does not obey.
    pub async fn stop(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        server.signal(Signal::SIGTERM);
        if tokio::time::timeout(STOP_DEADLINE, server.child.wait()).await.is_err() {
            let _ = server.child.kill().await;
        }
        self.since = Timestamp::now();
    }

    /// Obeys the API, and notices when the child dies by itself.
    pub async fn obey(&mut self, mut inbox: mpsc::Receiver<(Order, oneshot::Sender<Result<Status, String>>)>) {
        loop {
            let died = async {
                match &mut self.server {
                    Some(server) => server.child.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = inbox.recv() => {
                    let Some((order, reply)) = order else { return };
                    let result = self.execute(order).await.map_err(|error| format!("{error:#}"));
                    let _ = reply.send(result);
                }
                _ = died => self.mourn().await,
            }
        }
    }

    /// The child died by itself.
    async fn mourn(&mut self) {
        tracing::warn!("the server died by itself");
        self.server = None;
        self.since = Timestamp::now();
        if self.restart {
            tokio::time::sleep(RESTART_PAUSE).await;
            if let Err(error) = self.start().await {
                tracing::error!(error = format!("{error:#}"), "failed to start the server again");
            }
        }
    }

    /// Has the next child show another certificate.
    fn show_certificate(&mut self, directory: &Path) -> anyhow::Result<()> {
        for (option, file) in [("--tls-cert=", "tls.crt"), ("--tls-key=", "tls.key")] {
            let given = |argument: &&mut OsString| argument.to_string_lossy().starts_with(option);
            let argument = self.arguments.iter_mut().find(given);
            let argument = argument.with_context(|| format!("the server was started without {option}FILE"))?;
            *argument = OsString::from(option);
            argument.push(directory.join(file));
        }
        Ok(())
    }

    async fn execute(&mut self, order: Order) -> anyhow::Result<Status> {
        let command = match order {
            Order::Start => {
                self.start().await?;
                Command::Report
            }
            Order::Stop => {
                self.stop().await;
                Command::Report
            }
            Order::Kill => {
                if let Some(mut server) = self.server.take() {
                    server.child.kill().await?;
                    self.since = Timestamp::now();
                }
                Command::Report
            }
            Order::Look => Command::Report,
            Order::Certificate(directory) => {
                self.show_certificate(&directory)?;
                Command::Report
            }
            Order::Tell(command) => {
                anyhow::ensure!(self.server.is_some(), "the server is down");
                command
            }
        };
        let report = match &mut self.server {
            Some(server) => match server.tell(&command).await {
                Ok(report) => Some(report),
                Err(error) if !server.has_ended().await => return Err(error),
                Err(_) => {
                    self.mourn().await;
                    None
                }
            },
            None => None,
        };
        Ok(Status {
            pid: self.server.as_ref().map(|server| server.pid),
            since: self.since,
            report,
        })
    }
}

impl Server {
    async fn tell(&mut self, command: &Command) -> anyhow::Result<Report> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.input.write_all(&line).await?;
        self.report().await
    }

    async fn report(&mut self) -> anyhow::Result<Report> {
        let line = tokio::time::timeout(ANSWER_DEADLINE, self.output.next_line()).await;
        let line = line.context("the server is silent")??.context("the server has ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Whether the process is gone. Its pipes close a moment before.
    async fn has_ended(&mut self) -> bool {
        tokio::time::timeout(END_DEADLINE, self.child.wait()).await.is_ok()
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
