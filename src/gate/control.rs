//! The control port: takes the operator's requests and reports. The protocol is described in [`wire`](crate::protocol).

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};
use tracing::{debug, info, warn};

use super::Gate;
use super::steering::Refused;
use crate::protocol::{MAX_LINE, Report, Request};

/// Time from the end of the handshake to the first line.
const HELLO: Duration = Duration::from_secs(5);

/// Time that a reader has to take a report.
const SLOWEST_READER: Duration = Duration::from_secs(5);

/// Shortest time between two reports of nothing but counters.
const COUNTERS_EVERY: Duration = Duration::from_millis(100);

/// Why a control connection was closed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no hello came")]
    NoHello,
    #[error("the first line is no hello: {0}")]
    NotHello(String),
    #[error("a report was not taken in time")]
    SlowReader,
    #[error("the connection failed: {0}")]
    Line(#[from] LinesCodecError),
    #[error("the connection failed: {0}")]
    Close(#[from] std::io::Error),
    #[error("failed to write a report: {0}")]
    Report(#[from] serde_json::Error),
}

/// Serves one operator until it closes, breaks the protocol, or the gate exits.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(gate: Arc<Gate>, stream: S) {
    match converse(&gate, stream).await {
        Ok(()) => debug!("control connection over"),
        Err(error) => warn!(%error, "control connection closed"),
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(gate: &Gate, stream: S) -> Result<(), Broken> {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
    let first = timeout(HELLO, lines.next())
        .await
        .ok()
        .flatten()
        .ok_or(Broken::NoHello)??;
    let (holder, term) = match serde_json::from_str(&first) {
        Ok(Request::Hello { holder, term }) => (holder, term),
        Ok(other) => return Err(Broken::NotHello(format!("{other:?}"))),
        Err(error) => return Err(Broken::NotHello(error.to_string())),
    };
    gate.hear(&holder, term);
    info!(holder, term, "an operator is listening");

    let mut decisions = gate.decisions();
    let mut listening = gate.listening();
    let mut upstream = gate.upstream();
    let mut orders = gate.orders();
    let mut sessions = gate.sessions();
    let mut certificate = gate.certificate.subscribe();
    let mut last = gate.report();
    send(&mut lines, &last).await?;
    let mut counters_due = Instant::now() + COUNTERS_EVERY;
    loop {
        let report = gate.report();
        let (is_other, is_other_count) = compare(&last, &report);
        if is_other || is_other_count && Instant::now() >= counters_due {
            send(&mut lines, &report).await?;
            last = report;
            counters_due = Instant::now() + COUNTERS_EVERY;
            continue;
        }
        tokio::select! {
            line = lines.next() => {
                let Some(line) = line else { return Ok(()) };
                if let Some(answer) = answer(gate, &holder, term, &line?) {
                    send(&mut lines, &answer).await?;
                }
            }
            Ok(()) = decisions.changed() => {}
            Ok(()) = listening.changed() => {}
            Ok(()) = upstream.changed() => {}
            Ok(()) = orders.changed() => {}
            Ok(()) = certificate.changed() => {}
            Ok(()) = sessions.changed(), if !is_other_count => {}
            () = sleep_until(counters_due), if is_other_count => {}
            () = gate.shutdown.cancelled() => {
                send(&mut lines, &gate.report()).await?;
                lines.get_mut().shutdown().await?;
                return Ok(());
            }
        }
    }
}

/// Whether two reports differ in anything but the counters, and whether they differ in the counters.
fn compare(before: &Report, now: &Report) -> (bool, bool) {
    let same_counters = Report {
        sessions: before.sessions,
        ..now.clone()
    };
    (same_counters != *before, now.sessions != before.sessions)
}

/// What a line is answered with, besides the changes that it makes.
fn answer(gate: &Gate, holder: &str, term: u64, line: &str) -> Option<Report> {
    let refused = match serde_json::from_str(line) {
        Ok(Request::Ping { nonce }) => {
            return Some(Report {
                answers: Some(nonce),
                ..gate.report()
            });
        }
        Ok(request) => gate.follow(holder, term, &request).err()?,
        Err(error) => Refused::Unreadable(error.to_string()),
    };
    warn!(holder, term, line, %refused, "an order is refused");
    Some(Report {
        rejected_command: Some(refused.to_string()),
        ..gate.report()
    })
}

async fn send<S>(lines: &mut Framed<S, LinesCodec>, report: &Report) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let line = serde_json::to_string(report)?;
    timeout(SLOWEST_READER, lines.send(line))
        .await
        .map_err(|_| Broken::SlowReader)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::args::GateArgs;
    use crate::gate::metrics::Metrics;
    use clap::Parser;
    use tokio::io::duplex;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        gate: GateArgs,
    }

    fn gate() -> Gate {
        let required = [
            "gate",
            "--name",
            "P",
            "--object-server-name",
            "A",
            "--object-server",
            "127.0.0.1:4100",
            "--tls-dir",
            "/",
        ];
        Gate::new(&Cli::parse_from(required).gate, Metrics::default())
    }

    const HELLO_LINE: &[u8] = b"{\"type\":\"Hello\",\"holder\":\"a\",\"term\":1}\n";

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_hello_is_dropped() {
        let (_client, stream) = duplex(1024);
        let start = Instant::now();
        assert!(matches!(converse(&gate(), stream).await, Err(Broken::NoHello)));
        assert_eq!(start.elapsed(), HELLO);
        let (mut client, stream) = duplex(1024);
        client.write_all(b"{\"type\":\"Admit\"}\n").await.unwrap();
        assert!(matches!(converse(&gate(), stream).await, Err(Broken::NotHello(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_dropped() {
        let (mut client, stream) = duplex(128);
        client.write_all(HELLO_LINE).await.unwrap();
        let start = Instant::now();
        assert!(matches!(converse(&gate(), stream).await, Err(Broken::SlowReader)));
        assert_eq!(start.elapsed(), SLOWEST_READER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_behind_an_order_is_answered_with_the_order_in_force() {
        let gate = gate();
        let (mut client, stream) = duplex(4096);
        client.write_all(HELLO_LINE).await.unwrap();
        gate.found_object_server(crate::protocol::Upstream::Reachable);
        gate.sessions.send_replace(3);
        client
            .write_all(b"{\"type\":\"Drain\",\"gracePeriodMs\":9000,\"connectionsPerSecond\":1}\n")
            .await
            .unwrap();
        client.write_all(b"{\"type\":\"Ping\",\"nonce\":9}\n").await.unwrap();
        let mut lines = Framed::new(client, LinesCodec::new());
        let answer = async {
            loop {
                let line = lines.next().await.unwrap().unwrap();
                let report: Report = serde_json::from_str(&line).unwrap();
                if report.answers.is_some() {
                    return report;
                }
            }
        };
        let report = tokio::select! {
            report = answer => report,
            ended = converse(&gate, stream) => panic!("{ended:?}"),
        };
        assert_eq!((report.answers, report.sessions), (Some(9), 3));
        assert_eq!(report.state, crate::protocol::GateState::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn counters_wait_and_everything_else_does_not() {
        let gate = gate();
        let (mut client, stream) = duplex(65536);
        client.write_all(HELLO_LINE).await.unwrap();
        let start = Instant::now();
        let script = async {
            let mut lines = Framed::new(client, LinesCodec::new());
            lines.next().await.unwrap().unwrap();
            gate.sessions.send_replace(1);
            lines.next().await.unwrap().unwrap();
            assert_eq!(start.elapsed(), COUNTERS_EVERY);
            gate.sessions.send_replace(2);
            gate.found_object_server(crate::protocol::Upstream::Reachable);
            let line = lines.next().await.unwrap().unwrap();
            assert!(line.contains("Reachable") && line.contains("\"sessions\":2"), "{line}");
            assert_eq!(start.elapsed(), COUNTERS_EVERY);
        };
        tokio::select! {
            () = script => {}
            ended = converse(&gate, stream) => panic!("{ended:?}"),
        }
    }
}
