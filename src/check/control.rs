//! The session with a gate: pings, reports, and the one order that is in force.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Framed, LinesCodec};

use super::{
    Check, Observation,
    hold::{Refused, Trouble, connect},
};
use crate::{
    domain::evidence::{Link, Timing},
    protocol::{MAX_LINE, Report, Request},
};

/// Time from a failed attempt to the next.
const RETRY: Duration = Duration::from_millis(100);
/// Questions asked at the least within `unresponsiveAfter`.
const QUESTIONS: u32 = 6;

/// What the operator wants of a gate. It is said again on each new session.
#[derive(Clone, Debug)]
pub struct GateCommands {
    /// Name of this operator process.
    pub holder: String,
    /// Term of its leadership: a gate obeys nobody with a lower one than it has heard of.
    pub term: u64,
    /// The order in force; `None` until one is decided.
    pub order: Option<Request>,
    /// Grows when an answer is wanted now rather than at the next tick.
    pub ask: u64,
}

type Lines = Framed<TlsStream<TcpStream>, LinesCodec>;

/// Holds the session with the gate at `address`. Returns when nobody listens.
pub async fn check_gate(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    timing: Timing,
    mut steering: watch::Receiver<GateCommands>,
    out: mpsc::Sender<Observation>,
) {
    let mut trouble = Trouble::new(Check::Control, &timing, out.clone());
    loop {
        let Some(dialled) = trouble.attempt(connect(address, &name, &config, &timing)).await else {
            return;
        };
        let ended = match dialled {
            Ok(stream) => {
                let lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
                let mut session = Session {
                    lines,
                    timing,
                    trouble: &mut trouble,
                    out: &out,
                    asked: VecDeque::new(),
                    nonce: 0,
                    heard: false,
                    silent: false,
                };
                match session.run(&mut steering).await {
                    Ended::NobodyListens => return,
                    Ended::Lost(since, reason) if session.heard => {
                        tracing::debug!(%address, reason, "session with the gate ended");
                        trouble.lost(since);
                        continue;
                    }
                    Ended::Lost(_, reason) => Refused::plain(reason),
                }
            }
            Err(refused) => refused,
        };
        if !trouble.failed(ended).await {
            return;
        }
        sleep(RETRY).await;
    }
}

enum Ended {
    NobodyListens,
    Lost(Instant, String),
}

struct Session<'a> {
    lines: Lines,
    timing: Timing,
    trouble: &'a mut Trouble,
    out: &'a mpsc::Sender<Observation>,
    /// Pings without an answer, oldest first.
    asked: VecDeque<(u64, Instant)>,
    nonce: u64,
    /// At least one report has come.
    heard: bool,
    /// Silence was said and not taken back.
    silent: bool,
}

impl Session<'_> {
    async fn run(&mut self, steering: &mut watch::Receiver<GateCommands>) -> Ended {
        match self.converse(steering).await {
            Ok(()) => Ended::NobodyListens,
            // A session that had been silent failed when the silence began.
            Err(reason) => Ended::Lost(
                self.asked
                    .front()
                    .filter(|_| self.silent)
                    .map_or_else(Instant::now, |(_, since)| *since),
                reason,
            ),
        }
    }

    /// `Ok` when nobody listens any more, else why the session ended.
    async fn converse(&mut self, steering: &mut watch::Receiver<GateCommands>) -> Result<(), String> {
        let GateCommands {
            holder,
            term,
            order,
            ask: _,
        } = steering.borrow_and_update().clone();
        let mut ordered = order.clone();
        self.send(&Request::Hello { holder, term }).await?;
        if let Some(order) = order {
            self.send(&order).await?;
        }
        // A silence counts from the question that it leaves unanswered, so that questions must come more often than silence is allowed.
        let mut tick = interval(self.timing.interval.min(self.timing.unresponsive_after / QUESTIONS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = self.lines.next() => {
                    let line = line.ok_or("the gate closed the session")?.map_err(|error| error.to_string())?;
                    let report: Report = serde_json::from_str(&line).map_err(|error| format!("the gate sent what is no report: {error}"))?;
                    if !self.hear(report).await {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {
                    if let Some((_, since)) = self.asked.front()
                        && !self.silent
                    {
                        self.silent = true;
                        if !self.trouble.say(Link::Silent { since: *since }).await {
                            return Ok(());
                        }
                    }
                    self.ping().await?;
                }
                changed = steering.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let GateCommands { order, .. } = steering.borrow_and_update().clone();
                    if let Some(order) = order.filter(|order| ordered.as_ref() != Some(order)) {
                        self.send(&order).await?;
                        ordered = Some(order);
                    }
                    self.ping().await?;
                }
            }
        }
    }

    async fn ping(&mut self) -> Result<(), String> {
        // One question at a time tells as much as many: a peer that is silent is not asked again.
        if self.asked.len() >= 2 {
            return Ok(());
        }
        self.nonce += 1;
        self.asked.push_back((self.nonce, Instant::now()));
        self.send(&Request::Ping { nonce: self.nonce }).await
    }

    /// Takes in a report. `false` when nobody listens any more.
    async fn hear(&mut self, report: Report) -> bool {
        if let Some(refusal) = &report.rejected_command {
            tracing::warn!(gate = report.gate, refusal, "the gate refused an order");
        }
        if let Some(nonce) = report.answers {
            while self.asked.front().is_some_and(|(asked, _)| *asked <= nonce) {
                self.asked.pop_front();
            }
        }
        let said = self
            .out
            .send(Observation::Report {
                at: Instant::now(),
                report,
            })
            .await
            .is_ok();
        if !self.heard || (self.silent && self.asked.is_empty()) {
            self.heard = true;
            self.silent = false;
            return said && self.trouble.answering().await;
        }
        said
    }

    async fn send(&mut self, request: &Request) -> Result<(), String> {
        let line = serde_json::to_string(request).map_err(|error| error.to_string())?;
        self.lines.send(line).await.map_err(|error| error.to_string())
    }
}
