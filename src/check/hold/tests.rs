//! Checks without a login: against real sockets, and on paused time where only the deadlines count.

use std::{future, io, time::Instant};

use tokio::{
    io::{DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time,
};

use super::*;
use crate::{dial::Address, domain::evidence::Link};

const TIMING: Timing = Timing {
    interval: Duration::from_millis(200),
    unreachable_after: Duration::ZERO,
    unresponsive_after: Duration::from_secs(3),
    healthy_after: Duration::ZERO,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// The next links up to and including the first that fits.
async fn until(seen: &mut mpsc::Receiver<Observation>, what: &str, fits: impl Fn(&Link) -> bool) -> Vec<Link> {
    let mut links = Vec::new();
    let deadline = time::Instant::now() + DEADLINE;
    loop {
        match time::timeout_at(deadline, seen.recv()).await {
            Ok(Some(Observation::Link(_, link))) => {
                links.push(link);
                if fits(&links[links.len() - 1]) {
                    return links;
                }
            }
            other => panic!("no {what}: {other:?} after {links:?}"),
        }
    }
}

fn check(address: SocketAddr) -> mpsc::Receiver<Observation> {
    let (out, seen) = mpsc::channel(64);
    let address = Address::new(address.ip().to_string(), address.port());
    let dialer = Dialer::new(address, TIMING.unresponsive_after);
    tokio::spawn(check_objectserver(dialer, TIMING, None, out));
    seen
}

/// A check whose connections are the ends of `dialled`, one for each attempt; further attempts get no answer.
fn check_on(dialled: Vec<io::Result<DuplexStream>>) -> mpsc::Receiver<Observation> {
    let (out, seen) = mpsc::channel(64);
    let dialled = std::sync::Mutex::new(dialled.into_iter());
    tokio::spawn(async move {
        let dial = || {
            let next = dialled.lock().unwrap().next();
            async {
                match next {
                    Some(end) => end.map_err(Failure::connection),
                    None => future::pending().await,
                }
            }
        };
        hold(Check::Direct, &TIMING, dial, None, out).await;
    });
    seen
}

fn refused() -> io::Result<DuplexStream> {
    Err(io::ErrorKind::ConnectionRefused.into())
}

#[tokio::test]
async fn a_server_that_dies_is_seen_at_once_and_called_failed_only_after_a_second_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut seen = check(address);
    let (held, _) = listener.accept().await.unwrap();
    until(&mut seen, "answer", |link| *link == Link::Answering).await;
    let died = Instant::now();
    drop((listener, held));
    let links = until(&mut seen, "failure", |link| matches!(link, Link::Failed { .. })).await;
    assert!(matches!(links[0], Link::Silent { .. }), "{links:?}");
    let Link::Failed {
        since,
        fault: Fault::Connection,
        message,
    } = &links[links.len() - 1]
    else {
        panic!("{links:?}")
    };
    assert!(*since >= died && message.contains("refused"), "{links:?}");

    let _back = TcpListener::bind(address).await.unwrap();
    until(&mut seen, "return", |link| *link == Link::Answering).await;
}

#[tokio::test]
async fn a_connection_that_is_closed_and_comes_back_at_once_never_counts_as_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut seen = check(listener.local_addr().unwrap());
    for _ in 0..3 {
        let (held, _) = listener.accept().await.unwrap();
        let links = until(&mut seen, "answer", |link| *link == Link::Answering).await;
        assert!(
            !links.iter().any(|link| matches!(link, Link::Failed { .. })),
            "{links:?}"
        );
        drop(held);
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_closes_leads_nowhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut seen = check(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((accepted, _)) = listener.accept().await {
            drop::<TcpStream>(accepted);
        }
    });
    for _ in 0..3 {
        let links = until(&mut seen, "failure", |link| matches!(link, Link::Failed { .. })).await;
        assert!(!links.contains(&Link::Answering), "{links:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_is_reported_after_an_interval_with_the_moment_it_began() {
    let began = now();
    let mut seen = check_on(Vec::new());
    let links = until(&mut seen, "silence", |link| matches!(link, Link::Silent { .. })).await;
    assert_eq!(links, [Link::Silent { since: began }]);
    assert_eq!(now() - began, TIMING.interval);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_keep_the_moment_of_the_first_until_the_connection_works() {
    let began = now();
    let (near, far) = duplex(64);
    let mut seen = check_on(vec![refused(), refused(), Ok(near), refused()]);
    let is_failure = |link: &Link| matches!(link, Link::Failed { since, .. } if *since == began);
    for _ in 0..2 {
        until(&mut seen, "failure since the start", is_failure).await;
    }
    until(&mut seen, "answer", |link| *link == Link::Answering).await;
    time::sleep(Duration::from_secs(10)).await;
    let closed = now();
    drop(far);
    let links = until(&mut seen, "second failure", |link| matches!(link, Link::Failed { .. })).await;
    let [Link::Silent { since: silent }, Link::Failed { since: failed, .. }] = links[..] else {
        panic!("{links:?}")
    };
    assert_eq!([silent, failed], [closed; 2]);
}
