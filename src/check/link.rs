//! The state of a check's connection, reported to the consumer of the observations.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{self, timeout, timeout_at},
};

use super::{Check, Observation};
use crate::{
    dial::{DialError, Trust, is_local, is_unroutable},
    domain::evidence::{Fault, Link, Timing},
    foreign::{MESSAGE_MAX, cut, foreign},
};

/// After this time an unanswered attempt to connect is given up for a new one, whose first packet the kernel sends at once.
pub(super) const ATTEMPT: Duration = Duration::from_secs(2);

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
    /// This machine could not look: that says nothing about the other one.
    Unseen { message: String },
    /// No answer came in time. The silence is already reported.
    NoAnswer,
    /// See [`ConsumerGone`].
    ConsumerGone,
}

impl Failure {
    /// It failed for `fault`, in words that may be another's.
    pub(super) fn fault(fault: Fault, message: impl ToString) -> Self {
        let message = message.to_string();
        let message = match fault {
            // Made of several names, each of which is cut already.
            Fault::Tls => cut(&message, MESSAGE_MAX),
            Fault::Connection | Fault::Unroutable | Fault::Login | Fault::WrongServer | Fault::Protocol => {
                foreign(&message)
            }
        };
        Self::Fault { fault, message }
    }

    /// The connection was refused or closed.
    pub(super) fn connection(message: impl ToString) -> Self {
        Self::fault(Fault::Connection, message)
    }

    /// The operator could not look.
    pub(super) fn unseen(message: impl ToString) -> Self {
        Self::Unseen {
            message: foreign(&message.to_string()),
        }
    }

    /// What an error of a connection means: of this machine, a silence that the kernel has ended, or the other end's doing.
    pub(super) fn io(error: &std::io::Error, message: impl ToString) -> Self {
        if is_local(error) {
            Self::unseen(message)
        } else if error.kind() == std::io::ErrorKind::TimedOut {
            Self::NoAnswer
        } else if is_unroutable(error) {
            Self::fault(Fault::Unroutable, message)
        } else {
            Self::connection(message)
        }
    }
}

impl From<ConsumerGone> for Failure {
    fn from(ConsumerGone: ConsumerGone) -> Self {
        Self::ConsumerGone
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        if error.is_local() {
            Self::unseen(error)
        } else if error.is_silence() {
            Self::NoAnswer
        } else if error.is_tls_rejected() {
            Self::fault(Fault::Tls, error)
        } else if error.is_unroutable() {
            Self::fault(Fault::Unroutable, error)
        } else {
            Self::connection(error)
        }
    }
}

/// Reports the state of one check's connection, and remembers since when it has not worked.
///
/// While a state lasts, the check says each interval that it does ([`Observation::Unchanged`]): a check that says nothing any more has failed
/// itself, and what it said last is not believed for ever.
pub(super) struct LinkReporter {
    check: Check,
    /// Time after which a missing answer is reported as silence.
    interval: Duration,
    /// When the first of the failures in a row began; `None` while the connection works, and after a time in which nothing could be seen.
    failing_since: Option<Instant>,
    /// Why nothing could be seen, if that is the state: it is logged once.
    unseen: Option<String>,
    /// Connections on which nothing was proved, and which were lost.
    pub(super) trust: Trust,
    out: mpsc::Sender<Observation>,
}

impl LinkReporter {
    pub(super) fn new(check: Check, timing: &Timing, out: mpsc::Sender<Observation>) -> Self {
        Self {
            check,
            interval: timing.interval,
            failing_since: None,
            unseen: None,
            trust: Trust::new(timing.unresponsive_after),
            out,
        }
    }

    pub(super) const fn check(&self) -> Check {
        self.check
    }

    pub(super) fn is_consumer_gone(&self) -> bool {
        self.out.is_closed()
    }

    /// Waits for what this machine must find out before it can connect. It is reported as not seen after `interval`, for the reason `waits_for`.
    pub(super) async fn look_up<T>(
        &mut self,
        waits_for: &str,
        lookup: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut lookup = pin!(lookup);
        if let Ok(done) = timeout(self.interval, &mut lookup).await {
            return done;
        }
        self.unseen(waits_for.to_owned()).await?;
        self.during(lookup).await?
    }

    /// Runs one attempt to connect, which has limits of its own. It is reported as silent after `interval`.
    pub(super) async fn connect<S>(&mut self, dial: impl Future<Output = Result<S, Failure>>) -> Result<S, Failure> {
        let started = now();
        let mut dial = pin!(dial);
        let done = timeout(self.interval, &mut dial).await;
        // Also an attempt that was given up sooner.
        if matches!(done, Err(_) | Ok(Err(Failure::NoAnswer))) {
            self.silent(started).await?;
        }
        match done {
            Ok(done) => done,
            Err(_) => self.during(dial).await?,
        }
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
        let until = time::Instant::now() + limit;
        let answer = self.during(timeout_at(until, answer)).await?;
        answer.map_err(|_| Failure::NoAnswer)
    }

    /// Waits for something during which the state stays as it is.
    pub(super) async fn during<T>(&self, done: impl Future<Output = T>) -> Result<T, ConsumerGone> {
        let mut done = pin!(done);
        loop {
            if let Ok(done) = timeout(self.interval, &mut done).await {
                return Ok(done);
            }
            self.unchanged()?;
        }
    }

    /// The state is as it was reported last.
    pub(super) fn unchanged(&self) -> Result<(), ConsumerGone> {
        match self.out.try_send(Observation::Unchanged(self.check)) {
            // A consumer that has not received the last ones yet needs no further one.
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(ConsumerGone),
        }
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

    /// The operator cannot look, for a reason of its own. Failures before it and after it are not one.
    pub(super) async fn unseen(&mut self, message: String) -> Result<(), ConsumerGone> {
        self.failing_since = None;
        if self.unseen.as_ref() != Some(&message) {
            tracing::warn!(check = ?self.check, message, "a check cannot look");
            self.unseen = Some(message.clone());
        }
        self.send(Observation::Link(self.check, Link::Unseen { message })).await
    }

    /// The connection cannot be made or used.
    pub(super) async fn failed(&mut self, failure: Failure) -> Result<(), ConsumerGone> {
        self.failed_since(now(), failure).await
    }

    /// The same, seen on something sent at `since`. A failure that repeats keeps the moment of the first.
    pub(super) async fn failed_since(&mut self, since: Instant, failure: Failure) -> Result<(), ConsumerGone> {
        match failure {
            Failure::Fault { fault, message } => {
                let since = self.fails_since(since);
                self.report(Link::Failed { since, fault, message }).await
            }
            Failure::Unseen { message } => self.unseen(message).await,
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
    pub(super) async fn report(&mut self, link: Link) -> Result<(), ConsumerGone> {
        self.unseen = None;
        self.send(Observation::Link(self.check, link)).await
    }

    /// Sends any observation of this check.
    pub(super) async fn send(&self, observation: Observation) -> Result<(), ConsumerGone> {
        self.out.send(observation).await.map_err(|_| ConsumerGone)
    }
}
