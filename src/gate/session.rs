//! One probe's session: login header, dial, forwarding, and the conditions that end it.
//!
//! Expected flow:
//!
//! 1. If the gate ends TLS, the handshake is complete before this module is called. The first packet header is read; it must be that of a TDS
//!    login. The complete login message must arrive within the login timeout, which includes the handshake. Where TLS passes through, the
//!    first record counts as the header and the first application data as the login.
//! 2. The ObjectServer is dialled, not before: a client that sends no login costs it nothing.
//! 3. Bytes are forwarded. There is no limit on the time between messages. A message must be complete within the message timeout of its
//!    first byte; time during which the ObjectServer does not read does not count.
//! 4. When one end closes its direction, the other is closed too and has the message timeout to finish. When the ObjectServer closes, the
//!    probe's connection is closed.
//!
//! In a drain the session ends with a permit of the [`Pacer`], taken only while no request is unanswered. Reading, forwarding and this
//! decision happen in one task: a request is either forwarded, and then the session lives until its answer is written, or it is never
//! forwarded. The only exception is the drain's deadline.

use std::{future::Future, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::debug;

use super::{
    drain::Pacer,
    forward::{ForwardState, Forwarder, Lane, Progress},
    framing::{Accepts, Framing},
    metrics::{Ending, GateMetrics, RefusalReason},
    mode::{ClosedBy, Mode},
    tracker::Outstanding,
};
use crate::dial::DialError;

/// Time without traffic after which a session counts as between messages, where headers cannot show it.
const QUIET: Duration = Duration::from_secs(1);

/// How long a closed session waits for the probe to close too. Without it, bytes that the probe still sends would reset the connection and
/// destroy the last answer on its way.
const LINGER: Duration = Duration::from_secs(1);

/// Time limits of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimeouts {
    /// From the connection to the end of the login message.
    pub login: Duration,
    /// From the first byte of a message to its last.
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
    /// The protocols that the probe may speak.
    pub accepts: Accepts,
}

/// Serves one probe until its session is over. Closes the connection to the ObjectServer, not the probe's: see [`close`].
pub async fn serve<C, U, D>(client: &mut C, dial: impl FnOnce() -> D, context: SessionContext<'_>) -> Outcome
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
        accepts,
    } = context;
    let set_up = async {
        let (first, framing) = match timeout_at(login_by, first_bytes(client, accepts)).await {
            Ok(first) => first?,
            Err(_) => return Err(RefusalReason::LoginTimeout),
        };
        match dial().await {
            Ok(upstream) => Ok((first, framing, upstream)),
            Err(error) => {
                debug!(%error, "failed to connect a session to the ObjectServer");
                Err(RefusalReason::Upstream)
            }
        }
    };
    let set_up = tokio::select! {
        biased;
        _ = mode.wait_for(|mode| *mode != Mode::Open) => Err(RefusalReason::NotAdmitting),
        set_up = set_up => set_up,
    };
    let (first, framing, upstream) = match set_up {
        Ok(set_up) => set_up,
        Err(reason) => return Outcome::Refused(reason),
    };
    match Forwarder::join(client, upstream, first, framing, metrics) {
        Ok(forwarder) => Outcome::Ended(forward(forwarder, mode, pacer, login_by, timeouts).await),
        Err(_) => Outcome::Refused(RefusalReason::NotLogin),
    }
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

async fn first_bytes<C: AsyncRead + Unpin>(client: &mut C, accepts: Accepts) -> Result<(Lane, Framing), RefusalReason> {
    let mut lane = Lane::default();
    loop {
        if lane.fill(client).await.unwrap_or(0) == 0 {
            return Err(RefusalReason::Gone);
        }
        if let Some(framing) = Framing::detect(lane.waiting(), accepts)? {
            return Ok((lane, framing));
        }
    }
}

async fn forward<C, U>(
    mut forwarder: Forwarder<'_, C, U>,
    mut mode: watch::Receiver<Mode>,
    pacer: &Pacer,
    login_by: Instant,
    timeouts: SessionTimeouts,
) -> Ending
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut timers = SessionTimers::new(login_by, timeouts);
    loop {
        let drained_by = match *mode.borrow_and_update() {
            Mode::Open => None,
            Mode::Draining { deadline, .. } => Some(deadline),
            Mode::Closed(ClosedBy::Command) => return Ending::Dropped,
            Mode::Closed(ClosedBy::Upstream) => return Ending::UpstreamLost,
        };
        let now = Instant::now();
        let traffic = forwarder.traffic(drained_by.is_some());
        if let Some(expired) = timers.update(now, traffic, forwarder.messages(), forwarder.is_waiting_for_upstream()) {
            return expired;
        }
        if drained_by.is_some_and(|deadline| now >= deadline) {
            return Ending::DrainedDeadline;
        }
        let may_close = timers.may_close(now);
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
    timeouts: SessionTimeouts,
    traffic: Option<ForwardState>,
    /// When the current message began, and how many had been completed then.
    message: Option<(Instant, u64)>,
    half_closed_since: Option<Instant>,
    /// Since when no byte was forwarded, while headers cannot show whether a request is unanswered.
    quiet_since: Option<Instant>,
}

impl SessionTimers {
    const fn new(login_by: Instant, timeouts: SessionTimeouts) -> Self {
        Self {
            login_by,
            timeouts,
            traffic: None,
            message: None,
            half_closed_since: None,
            quiet_since: None,
        }
    }

    /// Updates the timers. Returns how the session ends if one has expired.
    fn update(
        &mut self,
        now: Instant,
        traffic: ForwardState,
        messages: u64,
        is_waiting_for_upstream: bool,
    ) -> Option<Ending> {
        let before = self.traffic.replace(traffic);
        self.message = match self.message {
            _ if !traffic.is_mid_message => None,
            // While the ObjectServer does not read, the client cannot go on: that delay does not count.
            Some((began, completed)) if completed == messages && !is_waiting_for_upstream => Some((began, completed)),
            _ => Some((now, messages)),
        };
        self.half_closed_since = traffic.is_half_closed.then_some(self.half_closed_since.unwrap_or(now));
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
        let is_late = |since: Option<Instant>| since.is_some_and(|since| now >= since + self.timeouts.message);
        (is_late(self.message.map(|(began, _)| began)) || is_late(self.half_closed_since))
            .then_some(Ending::MessageTimeout)
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
        let message = self.message.map(|(began, _)| began + self.timeouts.message);
        let half_closed = self.half_closed_since.map(|since| since + self.timeouts.message);
        let quiet = self.quiet_since.map(|since| since + QUIET).filter(|at| *at > now);
        [login, message, half_closed, quiet].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
