//! The watch over real sockets on loopback. Each wait has a deadline.

use std::sync::{Arc, Mutex};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{dial::Address, protocol::Upstream};

const SECOND: Duration = Duration::from_secs(1);
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn names_the_cause_of_each_failure() {
    for (kind, cause) in [
        (ErrorKind::ConnectionRefused, UnreachableCause::Refused),
        (ErrorKind::ConnectionReset, UnreachableCause::Closed),
        (ErrorKind::TimedOut, UnreachableCause::TimedOut),
        (ErrorKind::HostUnreachable, UnreachableCause::Unroutable),
        (ErrorKind::PermissionDenied, UnreachableCause::Other),
    ] {
        assert_eq!(cause_of(&io::Error::from(kind)), cause);
    }
}

/// A watch that runs, and what it has published.
struct Stage {
    address: std::net::SocketAddr,
    found: Arc<Mutex<Vec<(Duration, Found)>>>,
    results: Arc<SessionResults>,
    local_failure: Arc<Mutex<bool>>,
    metrics: GateMetrics,
    task: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    fn watch(address: std::net::SocketAddr) -> Self {
        Self::watch_where(address, false)
    }

    /// One whose dials fail on this machine, for as long as that is wanted.
    fn watch_where(address: std::net::SocketAddr, fails: bool) -> Self {
        let (found, results) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<SessionResults>::default());
        let (local_failure, metrics) = (Arc::new(Mutex::new(fails)), GateMetrics::default());
        let start = Instant::now();
        let task = tokio::spawn({
            let (found, results, fails) = (Arc::clone(&found), Arc::clone(&results), Arc::clone(&local_failure));
            let metrics = metrics.clone();
            async move {
                let recheck = Notify::new();
                let target = WatchTarget {
                    server: "ObjectServer",
                    unresponsive_after: UNRESPONSIVE_AFTER,
                    recheck: &recheck,
                    sessions: &results,
                    metrics: &metrics,
                };
                let at = Address::new(address.ip().to_string(), address.port());
                let dialer = || {
                    if *fails.lock().unwrap() {
                        return Err(DialError::Local {
                            address: at.clone(),
                            source: io::Error::from_raw_os_error(24),
                        });
                    }
                    Ok(Dialer::new(at.clone(), UNRESPONSIVE_AFTER))
                };
                watch_over(target, dialer, |new| found.lock().unwrap().push((start.elapsed(), new))).await;
            }
        });
        Self {
            address,
            found,
            results,
            local_failure,
            metrics,
            task,
        }
    }

    fn last(&self) -> Option<Found> {
        self.found.lock().unwrap().last().map(|(_, found)| found.clone())
    }

    /// Waits until the last result is as it should be.
    async fn until(&self, what: &str, is_right: impl Fn(&Found) -> bool) {
        let start = Instant::now();
        while !self.last().as_ref().is_some_and(&is_right) {
            assert!(start.elapsed() < DEADLINE, "{what}: {:?}", self.found.lock().unwrap());
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_reachable(&self) {
        self.until("reachable", |found| *found == Found::REACHABLE).await;
    }

    async fn until_away(&self, expected: UnreachableCause, keeps_sessions: bool) {
        let what = format!("{expected:?}, keeps_sessions: {keeps_sessions}");
        self.until(&what, |found| {
            found.keeps_sessions == keeps_sessions
                && matches!(found.upstream, Upstream::Unreachable { cause, .. } if cause == expected)
        })
        .await;
    }
}

/// A port of this machine that nobody listens on.
fn closed_port() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn listen_at(address: std::net::SocketAddr, backlog: u32) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(backlog).unwrap()
}

/// Accepts connections, keeps each open for `held`, and then closes it.
fn accept_and_close(listener: TcpListener, held: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                sleep(held).await;
                drop(stream);
            });
        }
    })
}

#[tokio::test]
async fn a_refusal_followed_by_silence_is_silence_only_after_the_whole_time() {
    let address = closed_port();
    let stage = Stage::watch(address);
    stage.until_away(UnreachableCause::Refused, false).await;
    // A full backlog swallows connections without an answer.
    let _listener = listen_at(address, 1);
    let mut fill: Vec<_> = (0..8).map(|_| Box::pin(TcpStream::connect(address))).collect();
    for connect in &mut fill {
        let _sent = futures::poll!(connect);
    }
    let silent_since = Instant::now();
    stage.until_away(UnreachableCause::TimedOut, false).await;
    // A dial that got into the backlog before it was full may have been held for a while.
    let taken = silent_since.elapsed();
    assert!(taken >= UNRESPONSIVE_AFTER - SECOND / 10, "known after {taken:?}");
}

#[tokio::test]
async fn an_error_of_this_machine_changes_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::watch(listener.local_addr().unwrap());
    let (held, _) = listener.accept().await.unwrap();
    stage.until_reachable().await;
    *stage.local_failure.lock().unwrap() = true;
    drop(held);
    let start = Instant::now();
    while stage.metrics.local_errors.get() < 8 {
        assert!(start.elapsed() < DEADLINE, "no attempt fails");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.last(), Some(Found::REACHABLE));
    // The peer's word counts again as soon as it can be heard.
    drop(listener);
    *stage.local_failure.lock().unwrap() = false;
    stage.until_away(UnreachableCause::Refused, false).await;
}

#[tokio::test]
async fn an_error_of_this_machine_at_the_start_is_told() {
    let stage = Stage::watch_where(closed_port(), true);
    stage.until_away(UnreachableCause::Untried, false).await;
    let Some(Found {
        upstream: Upstream::Unreachable { message, .. },
        ..
    }) = stage.last()
    else {
        panic!("{:?}", stage.last())
    };
    assert!(
        message.contains("cannot dial") && message.contains("Too many open files"),
        "{message}"
    );
}

#[tokio::test]
async fn sessions_stay_while_new_connections_are_refused_and_end_with_the_old_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::watch(listener.local_addr().unwrap());
    let (held, _) = listener.accept().await.unwrap();
    stage.until_reachable().await;
    drop(listener);
    stage.results.failed();
    stage.until_away(UnreachableCause::Refused, true).await;
    // New connections work again.
    let listener = listen_at(stage.address, 16);
    let (second, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    stage.until_reachable().await;
    drop(held);
    drop(listener);
    stage.results.failed();
    stage.until_away(UnreachableCause::Refused, true).await;
    drop(second);
    stage.until_away(UnreachableCause::Refused, false).await;
}

#[tokio::test]
async fn a_server_that_closes_each_connection_at_once_is_not_reachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closing = accept_and_close(listener, Duration::ZERO);
    let stage = Stage::watch(address);
    stage.until_away(UnreachableCause::Closed, false).await;
    assert!(
        !stage
            .found
            .lock()
            .unwrap()
            .iter()
            .any(|(_, found)| *found == Found::REACHABLE)
    );
    closing.abort();
    let _ended = closing.await;
    let listener = listen_at(address, 16);
    let accepting = accept_and_close(listener, DEADLINE);
    stage.until_reachable().await;
    accepting.abort();
}

#[tokio::test]
async fn connections_that_are_accepted_and_closed_later_add_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closing = accept_and_close(listener, SECOND / 2);
    let start = Instant::now();
    let stage = Stage::watch(address);
    stage.until_away(UnreachableCause::Closed, false).await;
    assert!(
        start.elapsed() >= UNRESPONSIVE_AFTER - SECOND / 10,
        "{:?}",
        start.elapsed()
    );
    // Being accepted is no proof any more, an answer is.
    let before = stage.found.lock().unwrap().len();
    sleep(SECOND * 2).await;
    assert!(
        !stage.found.lock().unwrap()[before..]
            .iter()
            .any(|(_, found)| *found == Found::REACHABLE)
    );
    closing.abort();
    let _ended = closing.await;
    let accepting = accept_and_close(listen_at(address, 16), DEADLINE);
    stage.until_reachable().await;
    accepting.abort();
}

#[tokio::test]
async fn answers_on_sessions_prove_a_server_that_closes_connections_without_a_login() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _closing = accept_and_close(listener, SECOND / 2);
    let stage = Stage::watch(address);
    let results = Arc::clone(&stage.results);
    let answering = tokio::spawn(async move {
        loop {
            results.answered();
            sleep(SECOND / 20).await;
        }
    });
    stage.until_reachable().await;
    sleep(UNRESPONSIVE_AFTER * 3).await;
    answering.abort();
    assert!(
        stage
            .found
            .lock()
            .unwrap()
            .iter()
            .all(|(_, found)| *found == Found::REACHABLE)
    );
}
