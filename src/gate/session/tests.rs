//! Sessions between two pipes, on paused time.

use std::sync::Arc;

use tokio::{
    io::{BufStream, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{
    gate::{framing::Accepts, login},
    tds::packet::{PacketType, write_message},
};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: SessionTimeouts = SessionTimeouts {
    login: Duration::from_secs(10),
    message: Duration::from_secs(60),
};
/// What a pipe holds: little, so that back pressure is felt.
const PIPE: usize = 256;

/// A session between two pipes, on paused time.
struct Stage {
    client: DuplexStream,
    upstream: Option<DuplexStream>,
    mode: watch::Sender<Mode>,
    session: JoinHandle<Outcome>,
    start: Instant,
}

impl Stage {
    fn set() -> Self {
        Self::set_for(Accepts::Tds)
    }

    fn set_for(accepts: Accepts) -> Self {
        let (client, mut inner_client) = duplex(PIPE);
        let (upstream, inner_upstream) = duplex(PIPE);
        let mode = watch::Sender::new(Mode::Open);
        let pacer = Arc::new(Pacer::default());
        let (running, followed) = (Arc::clone(&pacer), mode.subscribe());
        let (_sessions, counted) = watch::channel(1);
        tokio::spawn(async move { running.run(followed, counted).await });
        let followed = mode.subscribe();
        let session = tokio::spawn(async move {
            let (metrics, results) = (GateMetrics::default(), SessionResults::default());
            let login_by = Instant::now() + TIMEOUTS.login;
            let login = match login::receive(&mut inner_client, accepts).await {
                Ok(login) => login,
                Err(reason) => return Outcome::Refused(reason),
            };
            let context = SessionContext {
                mode: followed,
                pacer: &pacer,
                metrics: &metrics,
                timeouts: TIMEOUTS,
                login_by,
                results: &results,
            };
            serve(&mut inner_client, login, || async { Ok(inner_upstream) }, context).await
        });
        Self {
            client,
            upstream: Some(upstream),
            mode,
            session,
            start: Instant::now(),
        }
    }

    /// One whose login has been answered.
    async fn logged_in() -> Self {
        let mut stage = Self::set();
        stage.send(&message(PacketType::LOGIN, 100)).await;
        stage.read_upstream(108).await;
        stage.answer(&message(PacketType::RESPONSE, 0)).await;
        stage.read_client(8).await;
        stage
    }

    fn drain(&self, grace: Duration) {
        self.mode.send_replace(Mode::Draining {
            deadline: Instant::now() + grace,
            per_second: 1000,
        });
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    async fn answer(&mut self, bytes: &[u8]) {
        self.upstream.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    async fn read_upstream(&mut self, length: usize) {
        self.upstream
            .as_mut()
            .unwrap()
            .read_exact(&mut vec![0; length])
            .await
            .unwrap();
    }

    async fn read_client(&mut self, length: usize) {
        self.client.read_exact(&mut vec![0; length]).await.unwrap();
    }

    /// How it ended and after how many seconds.
    async fn ending(self) -> (Outcome, u64) {
        let Self {
            client: _client,
            upstream: _upstream,
            mode: _mode,
            session,
            start,
        } = self;
        let outcome = session.await.unwrap();
        (outcome, start.elapsed().as_secs())
    }
}

fn message(kind: PacketType, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(kind, &vec![0; length], 512, &mut out);
    out
}

#[tokio::test(start_paused = true)]
async fn an_objectserver_has_the_message_timeout_for_its_first_answer() {
    let mut stage = Stage::set();
    stage.send(&message(PacketType::LOGIN, 100)).await;
    stage.read_upstream(108).await;
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::NoAnswer), 60));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_sending_may_take_any_time_for_a_message() {
    let mut stage = Stage::logged_in().await;
    let request = message(PacketType::BULK, 100);
    for byte in &request {
        tokio::time::sleep(50 * SECOND).await;
        stage.send(&[*byte]).await;
        stage.read_upstream(1).await;
    }
    stage.answer(&message(PacketType::RESPONSE, 0)).await;
    stage.read_client(8).await;
    assert!(!stage.session.is_finished());
    let begun = stage.start.elapsed().as_secs();
    stage.send(&request[..20]).await;
    assert_eq!(
        stage.ending().await,
        (Outcome::Ended(Ending::MessageTimeout), begun + 60)
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_goes_on_may_take_any_time_after_the_client_has_closed_its_direction() {
    let mut stage = Stage::logged_in().await;
    stage.send(&message(PacketType::NORMAL, 10)).await;
    stage.client.shutdown().await.unwrap();
    stage.read_upstream(18).await;
    for byte in message(PacketType::RESPONSE, 20) {
        tokio::time::sleep(50 * SECOND).await;
        stage.answer(&[byte]).await;
        stage.read_client(1).await;
    }
    let begun = stage.start.elapsed().as_secs();
    assert_eq!(
        stage.ending().await,
        (Outcome::Ended(Ending::MessageTimeout), begun + 60)
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_that_had_no_permit_in_time_is_closed_between_requests() {
    let stage = Stage::logged_in().await;
    stage.mode.send_replace(Mode::Draining {
        deadline: Instant::now(),
        per_second: 1,
    });
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_while_only_new_connections_fail() {
    let mut stage = Stage::logged_in().await;
    stage.mode.send_replace(Mode::Refusing);
    tokio::time::sleep(300 * SECOND).await;
    stage.send(&message(PacketType::NORMAL, 10)).await;
    stage.read_upstream(18).await;
    stage.answer(&message(PacketType::RESPONSE, 0)).await;
    stage.read_client(8).await;
    stage.mode.send_replace(Mode::Closed(ClosedBy::Command));
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::Dropped), 300));
}

#[tokio::test(start_paused = true)]
async fn a_message_once_begun_has_the_message_timeout_to_end() {
    let mut stage = Stage::logged_in().await;
    tokio::time::sleep(300 * SECOND).await;
    stage.send(&[15]).await;
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::MessageTimeout), 360));
}

#[tokio::test(start_paused = true)]
async fn time_that_the_objectserver_takes_to_accept_a_message_is_not_the_clients() {
    let mut stage = Stage::logged_in().await;
    let request = message(PacketType::NORMAL, 20_000);
    let (sent, received) = (request.len(), &request[..]);
    let upstream = stage.upstream.take().unwrap();
    let sending = stage.client.write_all(received);
    let receiving = async {
        let mut upstream = upstream;
        tokio::time::sleep(300 * SECOND).await;
        upstream.read_exact(&mut vec![0; sent]).await.unwrap();
        upstream
    };
    let (sending, upstream) = tokio::join!(sending, receiving);
    sending.unwrap();
    stage.upstream = Some(upstream);
    stage.answer(&message(PacketType::RESPONSE, 0)).await;
    stage.read_client(8).await;
    assert!(!stage.session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_when_the_client_has_closed_its_direction_is_bounded() {
    let mut stage = Stage::logged_in().await;
    stage.send(&message(PacketType::NORMAL, 10)).await;
    stage.client.shutdown().await.unwrap();
    stage.read_upstream(18).await;
    assert_eq!(stage.upstream.as_mut().unwrap().read(&mut [0]).await.unwrap(), 0);
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::MessageTimeout), 60));
}

#[tokio::test(start_paused = true)]
async fn the_client_is_closed_when_the_objectserver_closes() {
    let mut stage = Stage::logged_in().await;
    stage.answer(&message(PacketType::RESPONSE, 5)).await;
    stage.upstream = None;
    stage.read_client(13).await;
    assert_eq!(stage.client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::Upstream), 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_client_does_not_read_keeps_a_drain_waiting() {
    let mut stage = Stage::logged_in().await;
    stage.send(&message(PacketType::NORMAL, 10)).await;
    stage.read_upstream(18).await;
    stage.drain(100 * SECOND);
    stage.answer(&message(PacketType::RESPONSE, 500)).await;
    tokio::time::sleep(50 * SECOND).await;
    assert!(!stage.session.is_finished());
    stage.read_client(508).await;
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 50));
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_busy_session_at_its_deadline() {
    let mut stage = Stage::logged_in().await;
    stage.send(&[15]).await;
    stage.drain(20 * SECOND);
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedDeadline), 20));
}

#[tokio::test(start_paused = true)]
async fn after_a_cancel_each_answer_restarts_the_quiet_timer() {
    let mut stage = Stage::logged_in().await;
    stage.send(&message(PacketType::NORMAL, 10)).await;
    stage.send(&message(PacketType::ATTENTION, 0)).await;
    stage.read_upstream(26).await;
    stage.drain(20 * SECOND);
    tokio::time::sleep(5 * SECOND).await;
    for _ in 0..5 {
        stage.answer(&message(PacketType::RESPONSE, 0)).await;
        stage.read_client(8).await;
        tokio::time::sleep(QUIET * 9 / 10).await;
        assert!(!stage.session.is_finished());
    }
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 9));
}

#[tokio::test(start_paused = true)]
async fn bytes_buffered_by_a_writer_are_flushed() {
    let (mut client, inner_client) = duplex(PIPE);
    let (mut upstream, inner_upstream) = duplex(PIPE);
    // As in TLS, what is written stays inside until it is flushed or too much.
    let (mut inner_client, inner_upstream) = (BufStream::new(inner_client), BufStream::new(inner_upstream));
    let (pacer, metrics) = (Pacer::default(), GateMetrics::default());
    let mode = watch::Sender::new(Mode::Open);
    let context = SessionContext {
        mode: mode.subscribe(),
        pacer: &pacer,
        metrics: &metrics,
        timeouts: TIMEOUTS,
        login_by: Instant::now() + TIMEOUTS.login,
        results: &SessionResults::default(),
    };
    let served = async {
        let login = login::receive(&mut inner_client, Accepts::Tds).await.unwrap();
        serve(&mut inner_client, login, || async { Ok(inner_upstream) }, context).await
    };
    let exchange = async {
        for kind in [PacketType::LOGIN, PacketType::NORMAL] {
            client.write_all(&message(kind, 100)).await.unwrap();
            upstream.read_exact(&mut [0; 108]).await.unwrap();
            upstream.write_all(&message(PacketType::RESPONSE, 50)).await.unwrap();
            client.read_exact(&mut [0; 58]).await.unwrap();
        }
    };
    tokio::select! {
        outcome = served => panic!("{outcome:?}"),
        done = timeout(30 * SECOND, exchange) => done.unwrap(),
    }
}

/// A TLS record.
fn record(kind: u8, length: u8) -> Vec<u8> {
    let mut out = vec![kind, 3, 3, 0, length];
    out.resize(5 + usize::from(length), 0xab);
    out
}

#[tokio::test(start_paused = true)]
async fn tls_that_passes_through_is_drained_when_the_server_has_been_quiet_for_a_while() {
    let mut stage = Stage::set_for(Accepts::Tls);
    for (kind, length) in [(22, 100), (23, 30)] {
        stage.send(&record(kind, length)).await;
        stage.read_upstream(5 + usize::from(length)).await;
        stage.answer(&record(kind, 50)).await;
        stage.read_client(55).await;
    }
    stage.send(&record(23, 10)).await;
    stage.read_upstream(15).await;
    stage.drain(100 * SECOND);
    tokio::time::sleep(30 * SECOND).await;
    assert!(!stage.session.is_finished());
    // An answer in pieces.
    for _ in 0..3 {
        stage.answer(&record(23, 50)).await;
        stage.read_client(55).await;
        tokio::time::sleep(QUIET * 9 / 10).await;
        assert!(!stage.session.is_finished());
    }
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 32));
}

#[tokio::test(start_paused = true)]
async fn tls_that_passes_through_has_the_login_timeout_for_its_handshake() {
    let mut stage = Stage::set_for(Accepts::Either);
    stage.send(&record(22, 100)).await;
    stage.read_upstream(105).await;
    stage.answer(&record(22, 100)).await;
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::LoginTimeout), 10));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_being_set_up_is_refused_when_the_gate_stops_accepting() {
    let mut stage = Stage::set();
    stage.drain(20 * SECOND);
    stage.send(&message(PacketType::LOGIN, 100)).await;
    assert_eq!(stage.ending().await, (Outcome::Refused(RefusalReason::NotAdmitting), 0));
}

#[tokio::test(start_paused = true)]
async fn all_sessions_end_at_once_when_the_objectserver_is_lost() {
    let mut stage = Stage::logged_in().await;
    stage.send(&message(PacketType::NORMAL, 10)).await;
    stage.mode.send_replace(Mode::Closed(ClosedBy::Upstream));
    assert_eq!(stage.ending().await, (Outcome::Ended(Ending::UpstreamLost), 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_after_the_close_is_never_forwarded() {
    let mut stage = Stage::logged_in().await;
    stage.drain(20 * SECOND);
    while !stage.session.is_finished() {
        tokio::time::sleep(SECOND / 100).await;
    }
    // The session holds its end of the pipe no more, so the client's request goes nowhere.
    assert!(stage.client.write_all(&message(PacketType::NORMAL, 10)).await.is_err());
    let mut rest = Vec::new();
    stage.upstream.as_mut().unwrap().read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_closed_session_waits_for_its_probe_to_close_but_not_for_long() {
    let (client, inner) = duplex(PIPE);
    let start = Instant::now();
    let closing = tokio::spawn(close(inner));
    tokio::time::sleep(LINGER / 4).await;
    assert!(!closing.is_finished());
    drop(client);
    closing.await.unwrap();
    assert_eq!(start.elapsed(), LINGER / 4);
    let (_client, inner) = duplex(PIPE);
    close(inner).await;
    assert_eq!(start.elapsed(), LINGER / 4 + LINGER);
}
