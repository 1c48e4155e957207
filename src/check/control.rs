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
    time::{self, MissedTickBehavior, interval, sleep, sleep_until},
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
    lookout::{self, Depth},
    protocol::{LookAt, MAX_LINE, Report, Request, Upstream},
};

/// Time from a failed attempt to the next.
const RETRY: Duration = Duration::from_millis(100);
/// A session that lasts shorter than this is followed by the next only after [`RETRY`].
const SHORT: Duration = Duration::from_secs(1);
/// Pings sent at the least within `unresponsiveAfter`.
const PINGS: u32 = 6;
/// The same within `lostAfter`.
const PINGS_BEFORE_LOST: u32 = 2;
/// After this time an unanswered ping is reported as silence: others may then be asked what they see.
const SUSPECTED_AFTER: Duration = Duration::from_millis(200);
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
    /// The other gates that it is to look at.
    pub look_at: Vec<LookAt>,
    /// While this is not 0, the operator looks itself whether anything comes back from the machine of this gate, and says so with this number.
    pub question: u64,
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
    let looks = look_at_host(address, commands.clone(), out.clone());
    tokio::select! {
        Err(ConsumerGone) = hold(&timing, dial, commands, out) => {}
        Err(ConsumerGone) = looks => {}
    }
}

/// Looks at the machine of a gate while there is a question about it.
async fn look_at_host(
    address: SocketAddr,
    mut commands: watch::Receiver<GateCommands>,
    out: mpsc::Sender<Observation>,
) -> Result<Infallible, ConsumerGone> {
    loop {
        let asked = commands.wait_for(|commands| commands.question != 0).await;
        let question = asked.map_err(|_| ConsumerGone)?.question;
        let seen = lookout::round(address, Depth::Host).await;
        let sent = out.send(Observation::Host { question, seen }).await;
        sent.map_err(|_| ConsumerGone)?;
        sleep(lookout::AGAIN).await;
    }
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
                    look_at: Vec::new(),
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
    /// The other gates that this one is to look at.
    look_at: Vec<LookAt>,
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
            look_at,
            ask: _,
            question: _,
        } = commands.borrow_and_update().clone();
        self.look_at = look_at;
        self.send(&Request::Hello { holder, term }).await?;
        let mut sent = None;
        self.send_command(command, number, &mut sent).await?;
        // A silence counts from the ping that it leaves unanswered, so pings must be more frequent than silence is long.
        let every = (self.timing.unresponsive_after / PINGS).min(self.timing.lost_after / PINGS_BEFORE_LOST);
        let mut tick = interval(self.timing.interval.min(every));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let suspected_at = self.suspected_at();
            tokio::select! {
                line = self.lines.next() => {
                    let line = line.ok_or_else(|| Failure::connection("the gate closed the session"))?;
                    self.receive(&line.map_err(|error| lost(&error))?).await?;
                }
                _ = tick.tick() => {
                    if self.is_silent {
                        self.reporter.unchanged()?;
                    }
                    self.ping().await?;
                }
                () = sleep_until(suspected_at), if !self.is_silent && !self.unanswered.is_empty() => {
                    self.report_silence().await?;
                }
                changed = commands.changed() => {
                    changed.map_err(|_| ConsumerGone)?;
                    let GateCommands { command, number, look_at, .. } = commands.borrow_and_update().clone();
                    self.look_at = look_at;
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
        let look_at = self.look_at.clone();
        self.send(&Request::Ping {
            nonce: self.nonce,
            look_at,
        })
        .await
    }

    /// When the oldest unanswered ping is late.
    fn suspected_at(&self) -> time::Instant {
        let sent = self.unanswered.front().map_or_else(now, |(_, sent)| *sent);
        time::Instant::from_std(sent + SUSPECTED_AFTER)
    }

    /// Reports the beginning of a silence.
    async fn report_silence(&mut self) -> Result<(), ConsumerGone> {
        let Some((_, since)) = self.unanswered.front() else {
            return Ok(());
        };
        self.is_silent = true;
        self.reporter.report(Link::Silent { since: *since }).await
    }

    async fn receive(&mut self, line: &str) -> Result<(), Failure> {
        let report: Report = serde_json::from_str(line)
            .map_err(|error| Failure::connection(format!("failed to parse the gate's report: {error}")))?;
        let report = cleaned(report);
        let before = self.unanswered.len();
        if let Some(answered) = report.answers {
            while self.unanswered.front().is_some_and(|(nonce, _)| *nonce <= answered) {
                self.unanswered.pop_front();
            }
        }
        self.reporter.send(Observation::Report { at: now(), report }).await?;
        let oldest = self.unanswered.front().map(|(_, sent)| *sent);
        let late = oldest.filter(|sent| now() >= *sent + SUSPECTED_AFTER);
        match late {
            None if !self.has_reported || self.is_silent => {
                self.is_silent = false;
                self.reporter.answering().await?;
            }
            // Each answer ends the silence before it, however late the next one is: a slow way is not a silent gate.
            Some(since) if self.is_silent && self.unanswered.len() < before => {
                self.reporter.report(Link::Silent { since }).await?;
            }
            None | Some(_) => {}
        }
        self.has_reported = true;
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
