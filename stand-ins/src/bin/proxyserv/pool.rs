//! The sessions with the ObjectServer, and the one queue of statements that they take turns to answer.
//!
//! Each session has one statement outstanding. A client has one too, so the queue is never longer than there are clients, and first come, first
//! served is fair.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use proxypair::tds::client::Client;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::properties::Properties;
use stand_ins::dial::Target;
use stand_ins::wire::Wire;

/// Pause before the ObjectServer is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Pause after a login that was refused: repeated failures disable an account.
const RETRY_LOGIN: Duration = Duration::from_secs(5);

/// How long connecting and logging in may take.
const LOGIN_DEADLINE: Duration = Duration::from_secs(10);

/// What happens to clients when the ObjectServer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenGone {
    /// The proxy server exits.
    Exit,
    /// It accepts clients and lets their statements wait.
    Stay,
    /// It accepts clients and answers their statements with an error.
    AnswerErrors,
}

impl FromStr for WhenGone {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        Ok(match word {
            "exit" => Self::Exit,
            "stay" => Self::Stay,
            "answer-errors" => Self::AnswerErrors,
            _ => bail!("\"{word}\" is none of exit, stay and answer-errors"),
        })
    }
}

/// A statement and where its answer goes: the payload in little-endian order with narrow formats, or why there is none.
struct Job {
    sql: String,
    reply: oneshot::Sender<Result<Vec<u8>, String>>,
}

/// The pool.
#[derive(Debug, Clone)]
pub struct Pool {
    jobs: mpsc::Sender<Job>,
    workers: Arc<Workers>,
}

#[derive(Debug)]
struct Workers {
    target: Target,
    when_gone: WhenGone,
    ratio: usize,
    clients: AtomicUsize,
    started: AtomicUsize,
    queue: Mutex<mpsc::Receiver<Job>>,
    fatal: std::sync::Mutex<Option<oneshot::Sender<anyhow::Error>>>,
}

/// A client that counts.
#[derive(Debug)]
pub struct Present(Pool);

impl Pool {
    /// A pool with one session, and what says that the proxy server must exit.
    pub async fn start(
        target: Target,
        when_gone: WhenGone,
        properties: &Properties,
    ) -> anyhow::Result<(Self, oneshot::Receiver<anyhow::Error>)> {
        let (jobs, queue) = mpsc::channel(properties.connections);
        let (fatal, gone) = oneshot::channel();
        let workers = Arc::new(Workers {
            target,
            when_gone,
            ratio: properties.ratio,
            clients: AtomicUsize::new(0),
            started: AtomicUsize::new(1),
            queue: Mutex::new(queue),
            fatal: std::sync::Mutex::new(Some(fatal)),
        });
        let first = match when_gone {
            WhenGone::Exit => Some(workers.log_in().await?),
            WhenGone::Stay | WhenGone::AnswerErrors => None,
        };
        tokio::spawn(Arc::clone(&workers).work(first));
        Ok((Self { jobs, workers }, gone))
    }

    /// Counts a client, and opens one more session where there are too many for those that are; `None` above `limit`.
    pub fn enter(&self, limit: usize) -> Option<Present> {
        let workers = &self.workers;
        let clients = workers.clients.fetch_add(1, Ordering::Relaxed) + 1;
        let present = Present(self.clone());
        if clients > limit {
            return None;
        }
        if clients > workers.started.load(Ordering::Relaxed) * workers.ratio {
            workers.started.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(Arc::clone(workers).work(None));
        }
        Some(present)
    }

    /// The answer to a statement. To drop the future is to withdraw the statement, unless it is on its way.
    pub async fn ask(&self, sql: String) -> Result<Vec<u8>, String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the proxy server is stopping".to_owned();
        self.jobs.send(Job { sql, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.workers.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    async fn log_in(&self) -> anyhow::Result<Client<Wire>> {
        let client = timeout(LOGIN_DEADLINE, self.target.log_in()).await;
        let client = client.with_context(|| format!("no answer from {}", self.target.address))??;
        tracing::info!(address = self.target.address, "session with the ObjectServer");
        Ok(client)
    }

    async fn next(&self) -> Option<Job> {
        loop {
            let job = self.queue.lock().await.recv().await?;
            if !job.reply.is_closed() {
                return Some(job);
            }
        }
    }

    /// One session after the other, until nobody can ask any more or the proxy server exits.
    async fn work(self: Arc<Self>, first: Option<Client<Wire>>) {
        let mut next = first;
        let mut unanswered = None;
        loop {
            let client = match next.take() {
                Some(client) => Ok(client),
                None => self.log_in().await,
            };
            let error = match client {
                Ok(client) => match self.serve(client, &mut unanswered).await {
                    None => return,
                    Some(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(error = format!("{error:#}"), "no session with the ObjectServer");
            match self.when_gone {
                WhenGone::Exit => return self.exit(error),
                WhenGone::Stay => sleep(pause_after(&error)).await,
                WhenGone::AnswerErrors => self.refuse_all(&mut unanswered, pause_after(&error)).await,
            }
        }
    }

    /// Answers statements until the session is lost, which is the result, or nobody can ask any more.
    async fn serve(&self, mut client: Client<Wire>, unanswered: &mut Option<Job>) -> Option<anyhow::Error> {
        loop {
            let job = match unanswered.take() {
                Some(job) => job,
                None => tokio::select! {
                    error = client.lost() => return Some(error.into()),
                    job = self.next() => job?,
                },
            };
            match client.exchange(&job.sql).await {
                Ok(payload) => drop(job.reply.send(Ok(payload))),
                Err(error) => {
                    *unanswered = Some(job).filter(|job| !job.reply.is_closed());
                    return Some(error.into());
                }
            }
        }
    }

    async fn refuse_all(&self, unanswered: &mut Option<Job>, time: Duration) {
        let refuse = |job: Job| drop(job.reply.send(Err("The ObjectServer is not available.".to_owned())));
        if let Some(job) = unanswered.take() {
            refuse(job);
        }
        let all = async {
            while let Some(job) = self.next().await {
                refuse(job);
            }
        };
        let _ = timeout(time, all).await;
    }

    fn exit(&self, error: anyhow::Error) {
        let mut fatal = self.fatal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(fatal) = fatal.take() {
            let _ = fatal.send(error.context("the ObjectServer is gone"));
        }
    }
}

fn pause_after(error: &anyhow::Error) -> Duration {
    use proxypair::tds::client::LoginError;
    match error.downcast_ref() {
        Some(LoginError::Refused { .. }) => RETRY_LOGIN,
        _ => RETRY,
    }
}
