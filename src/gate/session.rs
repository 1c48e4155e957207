//! One probe's session: dial, forwarding, and the conditions that end it.
//!
//! Expected flow:
//!
//! 1. The login is complete before this module is called ([`login`](super::login)). Where TLS passes through, the first record counts as that,
//!    and the first application data must arrive within the login timeout too.
//! 2. The ObjectServer is dialled. Its first byte must arrive within the message timeout.
//! 3. Bytes are forwarded. There is no limit on the time between messages. Within a message the client may pause for the message timeout;
//!    time during which the ObjectServer does not read does not count.
//! 4. When one end closes its direction, the other is closed too, and the session ends when nothing has been forwarded for the message
//!    timeout. When the ObjectServer closes, the probe's connection is closed.
//!
//! In a drain the session ends with a permit of the [`Pacer`], taken only while no request is unanswered. Reading, forwarding and this
//! decision happen in one task: a request is either forwarded, and then the session lives until its answer is written, or it is never
//! forwarded. The only exception is the drain's deadline.

use std::{future::Future, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use super::{
    drain::Pacer,
    forward::{ForwardState, Forwarder, Progress},
    login::Login,
    metrics::{Ending, GateMetrics, RefusalReason},
    mode::{ClosedBy, Mode},
    tracker::Outstanding,
    upstream::SessionResults,
};
use crate::dial::DialError;

/// Time without traffic after which a session counts as between messages, where headers cannot show it.
const QUIET: Duration = Duration::from_secs(1);

/// How long a closed session waits for the probe to close too. Without it, bytes that the probe still sends would reset the connection and
/// destroy the last answer on its way.
pub const LINGER: Duration = Duration::from_secs(1);

/// Time limits of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimeouts {
    /// From the connection to the end of the login message.
    pub login: Duration,
    /// From one byte of a message to the next.
    pub message: Duration,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It never reached the ObjectServer.
    Refused(RefusalReason),
    /// It was a session.
    Ended(Ending),
}

/// What a session needs besides its connection.
#[derive(Debug)]
pub struct SessionContext<'a> {
    /// The gate's mode.
    pub mode: watch::Receiver<Mode>,
    /// Issues the permits to close.
    pub pacer: &'a Pacer,
    /// Counts bytes.
    pub metrics: &'a GateMetrics,
    /// The time limits.
    pub timeouts: SessionTimeouts,
    /// When the login must be complete: [`SessionTimeouts::login`] after the probe has connected.
    pub login_by: Instant,
    /// What sessions find out about the server.
    pub results: &'a SessionResults,
}

/// Serves one probe, whose `login` was received, until its session is over. Closes the connection to the ObjectServer, not the probe's: see
/// [`close`].
pub async fn serve<C, U, D>(
    client: &mut C,
    login: Login,
    dial: impl FnOnce() -> D,
    context: SessionContext<'_>,
) -> Outcome
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<U, DialError>>,
{
    let SessionContext {
        mut mode,
        pacer,
        metrics,
        timeouts,
        login_by,
        results,
    } = context;
    let dialled = tokio::select! {
        biased;
        _ = mode.wait_for(|mode| *mode != Mode::Open) => return Outcome::Refused(RefusalReason::NotAdmitting),
        dialled = dial() => dialled,
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(error) => {
            debug!(%error, "failed to connect a session to the ObjectServer");
            return Outcome::Refused(if error.is_local() {
                RefusalReason::Local
            } else {
                RefusalReason::Upstream
            });
        }
    };
    let mut forwarder = Forwarder::join(client, upstream, login, metrics);
    let ending = forward(&mut forwarder, mode, pacer, login_by, timeouts, results).await;
    if ending == Ending::Upstream && !forwarder.has_answer() {
        results.failed();
    }
    Outcome::Ended(ending)
}

/// Closes a probe's connection without losing the last answer: closes the sending direction, then waits up to [`LINGER`] for the probe to
/// close. If the probe sent a request at the same moment and the gate just closed, the kernel would reset the connection.
pub async fn close<C: AsyncRead + AsyncWrite + Unpin>(mut client: C) {
    let mut discarded = [0; 512];
    let linger = async {
        if client.shutdown().await.is_err() {
            return;
        }
        while matches!(client.read(&mut discarded).await, Ok(1..)) {}
    };
    // The connection is dropped either way.
    let _timed_out = timeout(LINGER, linger).await;
}

async fn forward<C, U>(
    forwarder: &mut Forwarder<'_, C, U>,
    mut mode: watch::Receiver<Mode>,
    pacer: &Pacer,
    login_by: Instant,
    timeouts: SessionTimeouts,
    results: &SessionResults,
) -> Ending
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut timers = SessionTimers::new(login_by, Instant::now(), timeouts);
    let mut is_answered = false;
    loop {
        let drained_by = match *mode.borrow_and_update() {
            Mode::Open | Mode::Refusing => None,
            Mode::Draining { deadline, .. } => Some(deadline),
            Mode::Closed(ClosedBy::Command) => return Ending::Dropped,
            Mode::Closed(ClosedBy::Upstream) => return Ending::UpstreamLost,
        };
        let now = Instant::now();
        let traffic = forwarder.traffic(drained_by.is_some());
        if traffic.has_answer && !is_answered {
            is_answered = true;
            results.answered();
        }
        let client_quiet_since = (!forwarder.is_waiting_for_upstream()).then(|| forwarder.client_quiet_since());
        if let Some(expired) = timers.update(now, traffic, client_quiet_since, forwarder.active_at()) {
            return expired;
        }
        let may_close = timers.may_close(now);
        if drained_by.is_some_and(|deadline| now >= deadline) {
            return if may_close {
                Ending::DrainedIdle
            } else {
                Ending::DrainedDeadline
            };
        }
        let wake = timers.next(now).into_iter().chain(drained_by).min();
        tokio::select! {
            biased;
            progress = forwarder.advance(drained_by.is_some(), traffic) => if let Progress::Ended(how) = progress {
                return how;
            },
            changed = mode.changed() => if changed.is_err() {
                return Ending::Stopped;
            },
            () = pacer.permit(), if may_close => return Ending::DrainedIdle,
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
        }
    }
}

/// A session's timers, updated whenever its forwarding state changes or one of them is due.
#[derive(Debug)]
struct SessionTimers {
    login_by: Instant,
    answer_by: Instant,
    timeouts: SessionTimeouts,
    traffic: Option<ForwardState>,
    /// When the client must go on with its message.
    message_by: Option<Instant>,
    /// When something must have been forwarded in a session of which one end has closed its direction.
    half_closed_by: Option<Instant>,
    /// Since when no byte was forwarded, while headers cannot show whether a request is unanswered.
    quiet_since: Option<Instant>,
}

impl SessionTimers {
    fn new(login_by: Instant, now: Instant, timeouts: SessionTimeouts) -> Self {
        Self {
            login_by,
            answer_by: now + timeouts.message,
            timeouts,
            traffic: None,
            message_by: None,
            half_closed_by: None,
            quiet_since: None,
        }
    }

    /// Updates the timers. `client_quiet_since` is since when the client could have sent its next byte; `None` while the ObjectServer does not
    /// read, because then the client cannot go on. Returns how the session ends if a timer has expired.
    fn update(
        &mut self,
        now: Instant,
        traffic: ForwardState,
        client_quiet_since: Option<Instant>,
        active_at: Instant,
    ) -> Option<Ending> {
        let before = self.traffic.replace(traffic);
        let message = self.timeouts.message;
        self.message_by = traffic
            .is_mid_message
            .then(|| client_quiet_since.unwrap_or(now) + message);
        let was_half_closed = before.is_some_and(|before| before.is_half_closed);
        self.half_closed_by = traffic.is_half_closed.then(|| match self.half_closed_by {
            Some(by) if was_half_closed => by.max(active_at + message),
            _ => now + message,
        });
        self.quiet_since = match (traffic.outstanding, before) {
            (Outstanding::Unsure, Some(before))
                if before.outstanding == Outstanding::Unsure && before.activity == traffic.activity =>
            {
                self.quiet_since
            }
            (Outstanding::Unsure, _) => Some(now),
            _ => None,
        };
        if !traffic.has_logged_in && now >= self.login_by {
            return Some(Ending::LoginTimeout);
        }
        if !traffic.has_answer && now >= self.answer_by {
            return Some(Ending::NoAnswer);
        }
        let is_late = |by: Option<Instant>| by.is_some_and(|by| now >= by);
        (is_late(self.message_by) || is_late(self.half_closed_by)).then_some(Ending::MessageTimeout)
    }

    /// Whether no request is unanswered, or seems to be because the session was quiet for [`QUIET`].
    fn may_close(&self, now: Instant) -> bool {
        match self.traffic.map(|traffic| traffic.outstanding) {
            Some(Outstanding::Nothing) => true,
            Some(Outstanding::Unsure) => self.quiet_since.is_some_and(|since| now >= since + QUIET),
            Some(Outstanding::Request) | None => false,
        }
    }

    /// When to update the timers next, even without traffic.
    fn next(&self, now: Instant) -> Option<Instant> {
        let login = self
            .traffic
            .is_none_or(|traffic| !traffic.has_logged_in)
            .then_some(self.login_by);
        let answer = self
            .traffic
            .is_none_or(|traffic| !traffic.has_answer)
            .then_some(self.answer_by);
        let quiet = self.quiet_since.map(|since| since + QUIET).filter(|at| *at > now);
        [login, answer, self.message_by, self.half_closed_by, quiet]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests;
