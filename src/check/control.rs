//! The control check: a session with a gate on which the operator pings, receives reports and sends the command in force.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::{
    Check, Observation,
    link::{ConsumerGone, Failure, LinkReporter, now},
    tls,
};
use crate::{
    domain::evidence::{Link, Timing},
    foreign::{MESSAGE_MAX, cut, foreign},
    protocol::{MAX_LINE, Report, Request, Upstream},
};

/// Time from a failed attempt to the next.
const RETRY: Duration = Duration::from_millis(100);
/// A session that lasts shorter than this is followed by the next only after [`RETRY`].
const SHORT: Duration = Duration::from_secs(1);
/// Pings sent at the least within `unresponsiveAfter`.
const PINGS: u32 = 6;
/// Pings without an answer above which no further one is sent: a silent gate would only have to catch up on them.
const UNANSWERED_MAX: usize = 2;

/// What the operator sends to a gate. It is sent again on each new session.
#[derive(Clone, Debug)]
pub struct GateCommands {
    /// Name of this operator process: its identity in the leader Lease.
    pub holder: String,
    /// Term of its leadership. A gate rejects commands with a lower term than it has seen.
    pub term: u64,
    /// The command in force; `None` until there is one.
    pub command: Option<Request>,
    /// Increased with each command. One that the gate rejected is commanded again, although it is the same.
    pub number: u64,
    /// Increased to get a report now instead of at the next ping.
    pub ask: u64,
}

/// Keeps a session with the gate at `address` until the receiver of `out` or the sender of `commands` is dropped.
pub async fn check_gate(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    timing: Timing,
    commands: watch::Receiver<GateCommands>,
    out: mpsc::Sender<Observation>,
) {
    let dial = || tls::connect(address, name.clone(), Arc::clone(&config), &timing);
    let Err(ConsumerGone) = hold(&timing, dial, commands, out).await;
}

/// Makes one session after the other on what `dial` connects to.
async fn hold<S, D>(
    timing: &Timing,
    dial: impl Fn() -> D,
    mut commands: watch::Receiver<GateCommands>,
    out: mpsc::Sender<Observation>,
) -> Result<Infallible, ConsumerGone>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: Future<Output = Result<S, Failure>>,
{
    let mut reporter = LinkReporter::new(Check::Control, timing, out);
    loop {
        let failure = match reporter.connect(dial()).await {
            Ok(stream) => {
                let mut session = ControlSession {
                    lines: Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE)),
                    timing,
                    reporter: &mut reporter,
                    unanswered: VecDeque::new(),
                    nonce: 0,
                    has_reported: false,
                    is_silent: false,
                };
                let begun = now();
                let Err(failure) = session.run(&mut commands).await;
                match failure {
                    Failure::Fault { .. } | Failure::NoAnswer if session.has_reported => {
                        let since = session.ended_at();
                        tracing::debug!(reason = ?failure, "session with the gate ended");
                        reporter.fails_since(since);
                        if now().duration_since(begun) < SHORT {
                            reporter.during(sleep(RETRY)).await?;
                        }
                        continue;
                    }
                    failure => failure,
                }
            }
            Err(failure) => failure,
        };
        reporter.failed(failure).await?;
        reporter.during(sleep(RETRY)).await?;
    }
}

struct ControlSession<'a, S> {
    lines: Framed<S, LinesCodec>,
    timing: &'a Timing,
    reporter: &'a mut LinkReporter,
    /// Pings without an answer, oldest first, with the time at which each was sent.
    unanswered: VecDeque<(u64, Instant)>,
    nonce: u64,
    /// At least one report has come.
    has_reported: bool,
    /// The last state reported is silence.
    is_silent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ControlSession<'_, S> {
    /// Runs the session until it fails.
    async fn run(&mut self, commands: &mut watch::Receiver<GateCommands>) -> Result<Infallible, Failure> {
        let GateCommands {
            holder,
            term,
            command,
            number,
            ask: _,
        } = commands.borrow_and_update().clone();
        self.send(&Request::Hello { holder, term }).await?;
        let mut sent = None;
        self.send_command(command, number, &mut sent).await?;
        // A silence counts from the ping that it leaves unanswered, so pings must be more frequent than silence is long.
        let mut tick = interval(self.timing.interval.min(self.timing.unresponsive_after / PINGS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = self.lines.next() => {
                    let line = line.ok_or_else(|| Failure::connection("the gate closed the session"))?;
                    self.receive(&line.map_err(|error| lost(&error))?).await?;
                }
                _ = tick.tick() => {
                    self.report_silence().await?;
                    self.ping().await?;
                }
                changed = commands.changed() => {
                    changed.map_err(|_| ConsumerGone)?;
                    let GateCommands { command, number, .. } = commands.borrow_and_update().clone();
                    self.send_command(command, number, &mut sent).await?;
                    self.ping().await?;
                }
            }
        }
    }

    /// When the session ended: a session that was silent failed when the silence began.
    fn ended_at(&self) -> Instant {
        let silent_since = self.unanswered.front().filter(|_| self.is_silent);
        silent_since.map_or_else(now, |(_, sent)| *sent)
    }

    /// Sends `command` unless the one with this number was sent on this session already.
    async fn send_command(
        &mut self,
        command: Option<Request>,
        number: u64,
        sent: &mut Option<u64>,
    ) -> Result<(), Failure> {
        if let Some(command) = command
            && *sent != Some(number)
        {
            self.send(&command).await?;
            *sent = Some(number);
        }
        Ok(())
    }

    async fn ping(&mut self) -> Result<(), Failure> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            return Ok(());
        }
        self.nonce += 1;
        self.unanswered.push_back((self.nonce, now()));
        self.send(&Request::Ping { nonce: self.nonce }).await
    }

    /// Reports the beginning of a silence once, and then that it lasts.
    async fn report_silence(&mut self) -> Result<(), ConsumerGone> {
        match self.unanswered.front() {
            Some((_, since)) if !self.is_silent => {
                self.is_silent = true;
                self.reporter.report(Link::Silent { since: *since }).await
            }
            Some(_) => self.reporter.unchanged(),
            None => Ok(()),
        }
    }

    async fn receive(&mut self, line: &str) -> Result<(), Failure> {
        let report: Report = serde_json::from_str(line)
            .map_err(|error| Failure::connection(format!("failed to parse the gate's report: {error}")))?;
        let report = cleaned(report);
        if let Some(answered) = report.answers {
            while self.unanswered.front().is_some_and(|(nonce, _)| *nonce <= answered) {
                self.unanswered.pop_front();
            }
        }
        self.reporter.send(Observation::Report { at: now(), report }).await?;
        if !self.has_reported || (self.is_silent && self.unanswered.is_empty()) {
            self.has_reported = true;
            self.is_silent = false;
            self.reporter.answering().await?;
        }
        Ok(())
    }

    async fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let line = serde_json::to_string(request).map_err(Failure::unseen)?;
        self.lines.send(line).await.map_err(|error| lost(&error))
    }
}

/// Why a session has ended.
fn lost(error: &LinesCodecError) -> Failure {
    match error {
        LinesCodecError::Io(source) => Failure::io(source, error),
        LinesCodecError::MaxLineLengthExceeded => Failure::connection(error),
    }
}

/// The report with texts that may go into status: a gate repeats what servers, certificates and resolvers say.
fn cleaned(mut report: Report) -> Report {
    for name in [&mut report.gate, &mut report.object_server, &mut report.instance] {
        *name = foreign(name);
    }
    if let Upstream::Unreachable { message, .. } = &mut report.upstream {
        *message = cut(message, MESSAGE_MAX);
    }
    for words in [&mut report.listen_error, &mut report.rejected_command]
        .into_iter()
        .flatten()
    {
        *words = cut(words, MESSAGE_MAX);
    }
    report
}

#[cfg(test)]
mod tests;
