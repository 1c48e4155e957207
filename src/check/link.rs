//! The state of a check's connection, reported to the consumer of the observations.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{self, timeout, timeout_at},
};

use super::{Check, Observation};
use crate::domain::evidence::{Fault, Link, Timing};

/// After this time an unanswered attempt to connect is given up for a new one, whose first packet the kernel sends at once.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The current time, on the clock that tests can pause.
pub(super) fn now() -> Instant {
    time::Instant::now().into_std()
}

/// The receiver of the observations was dropped: the check ends.
#[derive(Debug)]
pub(super) struct ConsumerGone;

/// Why a connection could not be made or is no longer used.
#[derive(Debug)]
pub(super) enum Failure {
    /// It failed in a way that is still to be reported.
    Fault { fault: Fault, message: String },
    /// No answer came in time. The silence is already reported.
    NoAnswer,
    /// See [`ConsumerGone`].
    ConsumerGone,
}

impl Failure {
    /// The connection was refused or closed.
    pub(super) fn connection(message: impl ToString) -> Self {
        Self::Fault {
            fault: Fault::Connection,
            message: message.to_string(),
        }
    }

    /// The server rejected the operator's login.
    pub(super) const fn login(message: String) -> Self {
        Self::Fault {
            fault: Fault::Login,
            message,
        }
    }
}

impl From<ConsumerGone> for Failure {
    fn from(ConsumerGone: ConsumerGone) -> Self {
        Self::ConsumerGone
    }
}

/// Reports the state of one check's connection, and remembers since when it has not worked.
pub(super) struct LinkReporter {
    check: Check,
    /// Time after which a missing answer is reported as silence.
    interval: Duration,
    /// When the first of the failures in a row began; `None` while the connection works.
    failing_since: Option<Instant>,
    out: mpsc::Sender<Observation>,
}

impl LinkReporter {
    pub(super) const fn new(check: Check, timing: &Timing, out: mpsc::Sender<Observation>) -> Self {
        Self {
            check,
            interval: timing.interval,
            failing_since: None,
            out,
        }
    }

    pub(super) const fn check(&self) -> Check {
        self.check
    }

    pub(super) fn is_consumer_gone(&self) -> bool {
        self.out.is_closed()
    }

    /// Runs one attempt to connect. It is reported as silent after `interval` and given up after [`ATTEMPT`].
    pub(super) async fn connect<S>(&mut self, dial: impl Future<Output = Result<S, Failure>>) -> Result<S, Failure> {
        let started = now();
        let until = time::Instant::now() + ATTEMPT;
        let mut dial = pin!(dial);
        if let Ok(done) = timeout(self.interval.min(ATTEMPT), &mut dial).await {
            return done;
        }
        self.silent(started).await?;
        timeout_at(until, dial).await.unwrap_or(Err(Failure::NoAnswer))
    }

    /// Waits for the answer to something sent at `since`. It is reported as silent after `interval`, and given up `limit` after that.
    pub(super) async fn answer<T>(
        &mut self,
        since: Instant,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut answer = pin!(answer);
        if let Ok(answer) = timeout(self.interval, &mut answer).await {
            return Ok(answer);
        }
        self.silent(since).await?;
        timeout(limit, answer).await.map_err(|_| Failure::NoAnswer)
    }

    /// The connection works.
    pub(super) async fn answering(&mut self) -> Result<(), ConsumerGone> {
        self.failing_since = None;
        self.report(Link::Answering).await
    }

    /// Nothing has come back since `since`, or since an earlier failure.
    pub(super) async fn silent(&mut self, since: Instant) -> Result<(), ConsumerGone> {
        let since = self.fails_since(since);
        self.report(Link::Silent { since }).await
    }

    /// The connection cannot be made or used.
    pub(super) async fn failed(&mut self, failure: Failure) -> Result<(), ConsumerGone> {
        self.failed_since(now(), failure).await
    }

    /// The same, seen on something sent at `since`. A failure that repeats keeps the moment of the first.
    pub(super) async fn failed_since(&mut self, since: Instant, failure: Failure) -> Result<(), ConsumerGone> {
        let since = self.fails_since(since);
        match failure {
            Failure::Fault { fault, message } => self.report(Link::Failed { since, fault, message }).await,
            Failure::NoAnswer if self.out.is_closed() => Err(ConsumerGone),
            Failure::NoAnswer => Ok(()),
            Failure::ConsumerGone => Err(ConsumerGone),
        }
    }

    /// Remembers that the connection has not worked since `since`, or since an earlier failure; returns the earlier of the two.
    pub(super) fn fails_since(&mut self, since: Instant) -> Instant {
        *self.failing_since.get_or_insert(since)
    }

    /// Sends the state as it is.
    pub(super) async fn report(&self, link: Link) -> Result<(), ConsumerGone> {
        self.send(Observation::Link(self.check, link)).await
    }

    /// Sends any observation of this check.
    pub(super) async fn send(&self, observation: Observation) -> Result<(), ConsumerGone> {
        self.out.send(observation).await.map_err(|_| ConsumerGone)
    }
}
