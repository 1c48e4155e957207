//! The control port: receives the operator's requests and sends reports, as described in [`protocol`](crate::protocol).

use std::{sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{
    codec::{Framed, LinesCodec, LinesCodecError},
    sync::CancellationToken,
};
use tracing::{debug, info, warn};

use super::{commands::CommandError, shared::GateProcess};
use crate::protocol::{MAX_LINE, Report, Request};

/// Time from the end of the handshake to the first line.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for sending a report to an operator that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum time between two reports that differ only in the session count.
const COUNTERS_EVERY: Duration = Duration::from_millis(100);

/// Why a control connection was closed.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("no Hello was received")]
    NoHello,
    #[error("the first line is not a Hello: {0}")]
    NotHello(String),
    #[error("the operator does not read its reports")]
    SendTimeout,
    #[error("the connection failed: {0}")]
    Line(#[from] LinesCodecError),
    #[error("the connection failed: {0}")]
    Close(#[from] std::io::Error),
    #[error("failed to write a report: {0}")]
    Report(#[from] serde_json::Error),
}

/// Serves one operator until it closes the connection or breaks the protocol, or until `shutdown`, when it sends a last report.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(gate: Arc<GateProcess>, shutdown: CancellationToken, stream: S) {
    match converse(&gate, shutdown, stream).await {
        Ok(()) => debug!("control connection ended"),
        Err(error) => warn!(%error, "control connection closed"),
    }
}

async fn converse<S>(gate: &GateProcess, shutdown: CancellationToken, stream: S) -> Result<(), ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
    let (holder, term) = receive_hello(&mut lines).await?;
    let _attendance = gate.attend(&holder, term);
    info!(holder, term, "operator connected");

    let mut status = gate.state.status();
    let mut mode = gate.state.mode();
    let mut sessions = gate.state.sessions();
    let mut sights = gate.lookouts.changes();
    let mut certificate = gate.probe_port.certificate.subscribe();
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
            Ok(()) = status.changed() => {}
            Ok(()) = mode.changed() => {}
            Ok(()) = certificate.changed() => {}
            Ok(()) = sights.changed() => {}
            Ok(()) = sessions.changed(), if !is_other_count => {}
            () = sleep_until(counters_due), if is_other_count => {}
            () = shutdown.cancelled() => {
                send(&mut lines, &gate.report()).await?;
                lines.get_mut().shutdown().await?;
                return Ok(());
            }
        }
    }
}

async fn receive_hello<S>(lines: &mut Framed<S, LinesCodec>) -> Result<(String, u64), ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let first = timeout(HELLO_TIMEOUT, lines.next())
        .await
        .ok()
        .flatten()
        .ok_or(ControlError::NoHello)??;
    match serde_json::from_str(&first) {
        Ok(Request::Hello { holder, term }) => Ok((holder, term)),
        Ok(other) => Err(ControlError::NotHello(format!("{other:?}"))),
        Err(error) => Err(ControlError::NotHello(error.to_string())),
    }
}

/// Whether two reports differ in anything but the session count, and whether they differ in that.
fn compare(before: &Report, now: &Report) -> (bool, bool) {
    let same_count = Report {
        sessions: before.sessions,
        ..now.clone()
    };
    (same_count != *before, now.sessions != before.sessions)
}

/// Carries out a request. Returns the answer, if the request has one besides the change that it makes.
fn answer(gate: &GateProcess, holder: &str, term: u64, line: &str) -> Option<Report> {
    let error = match serde_json::from_str(line) {
        Ok(Request::Ping { nonce, look_at }) => {
            gate.look_at(holder, term, &look_at);
            return Some(Report {
                answers: Some(nonce),
                ..gate.report()
            });
        }
        Ok(request) => gate.accept(holder, term, &request).err()?,
        Err(error) => CommandError::Unreadable(error.to_string()),
    };
    warn!(holder, term, line, %error, "command rejected");
    Some(Report {
        rejected_command: Some(error.to_string()),
        ..gate.report()
    })
}

async fn send<S>(lines: &mut Framed<S, LinesCodec>, report: &Report) -> Result<(), ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let line = serde_json::to_string(report)?;
    timeout(SEND_TIMEOUT, lines.send(line))
        .await
        .map_err(|_| ControlError::SendTimeout)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::io::duplex;

    use super::*;
    use crate::{
        gate::{args::GateArgs, metrics::GateMetrics, upstream::Found},
        protocol::GateState,
    };

    #[derive(Parser)]
    struct GateCli {
        #[command(flatten)]
        gate: GateArgs,
    }

    fn gate() -> GateProcess {
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
        GateProcess::new(&GateCli::parse_from(required).gate, GateMetrics::default())
    }

    const HELLO_LINE: &[u8] = b"{\"type\":\"Hello\",\"holder\":\"a\",\"term\":1}\n";

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_hello_is_disconnected() {
        let (_client, stream) = duplex(1024);
        let start = Instant::now();
        assert!(matches!(
            converse(&gate(), CancellationToken::new(), stream).await,
            Err(ControlError::NoHello)
        ));
        assert_eq!(start.elapsed(), HELLO_TIMEOUT);
        let (mut client, stream) = duplex(1024);
        client.write_all(b"{\"type\":\"Admit\"}\n").await.unwrap();
        assert!(matches!(
            converse(&gate(), CancellationToken::new(), stream).await,
            Err(ControlError::NotHello(_))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_disconnected() {
        let (mut client, stream) = duplex(128);
        client.write_all(HELLO_LINE).await.unwrap();
        let start = Instant::now();
        assert!(matches!(
            converse(&gate(), CancellationToken::new(), stream).await,
            Err(ControlError::SendTimeout)
        ));
        assert_eq!(start.elapsed(), SEND_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_ping_after_a_command_shows_the_command_in_force() {
        let gate = gate();
        let (mut client, stream) = duplex(4096);
        client.write_all(HELLO_LINE).await.unwrap();
        gate.state.set_object_server(Found::REACHABLE);
        for _ in 0..3 {
            gate.state.begin_session();
        }
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
            ended = converse(&gate, CancellationToken::new(), stream) => panic!("{ended:?}"),
        };
        assert_eq!((report.answers, report.sessions), (Some(9), 3));
        assert_eq!(report.state, GateState::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_session_count_waits_and_every_other_change_does_not() {
        let gate = gate();
        let (mut client, stream) = duplex(65536);
        client.write_all(HELLO_LINE).await.unwrap();
        let start = Instant::now();
        let script = async {
            let mut lines = Framed::new(client, LinesCodec::new());
            lines.next().await.unwrap().unwrap();
            gate.state.begin_session();
            lines.next().await.unwrap().unwrap();
            assert_eq!(start.elapsed(), COUNTERS_EVERY);
            gate.state.begin_session();
            gate.state.set_object_server(Found::REACHABLE);
            let line = lines.next().await.unwrap().unwrap();
            assert!(line.contains("Reachable") && line.contains("\"sessions\":2"), "{line}");
            assert_eq!(start.elapsed(), COUNTERS_EVERY);
        };
        tokio::select! {
            () = script => {}
            ended = converse(&gate, CancellationToken::new(), stream) => panic!("{ended:?}"),
        }
    }
}
