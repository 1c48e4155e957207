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
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::ZERO,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// The next links up to and including the first that fits.
async fn until(seen: &mut mpsc::Receiver<Observation>, what: &str, fits: impl Fn(&Link) -> bool) -> Vec<Link> {
    let mut links = Vec::new();
    let deadline = time::Instant::now() + DEADLINE;
    loop {
        match time::timeout_at(deadline, seen.recv()).await {
            Ok(Some(Observation::Unchanged(_))) => {}
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
    let address = Address::new(address.ip().to_string(), address.port());
    check_with(Dialer::new(address, TIMING.unresponsive_after))
}

fn check_with(dialer: Dialer) -> mpsc::Receiver<Observation> {
    let (out, seen) = mpsc::channel(64);
    tokio::spawn(check_objectserver(dialer, TIMING, None, out));
    seen
}

/// A check whose connections are the ends of `dialled`, one for each attempt; further attempts get no answer.
fn check_on(dialled: Vec<Result<DuplexStream, Failure>>) -> mpsc::Receiver<Observation> {
    let (out, seen) = mpsc::channel(64);
    let dialled = std::sync::Mutex::new(dialled.into_iter());
    tokio::spawn(async move {
        let dial = |()| {
            let next = dialled.lock().unwrap().next();
            async {
                match next {
                    Some(end) => end,
                    None => future::pending().await,
                }
            }
        };
        let resolve = || future::ready(Ok(()));
        hold(Check::Direct, &TIMING, "", resolve, dial, None, out).await;
    });
    seen
}

/// A check that gets `number` connections, and their other ends.
fn connections(number: usize) -> (mpsc::Receiver<Observation>, impl Iterator<Item = DuplexStream>) {
    let (near, far): (Vec<_>, Vec<_>) = (0..number)
        .map(|_| duplex(64))
        .map(|(near, far)| (Ok(near), far))
        .unzip();
    (check_on(near), far.into_iter())
}

fn refused() -> Result<DuplexStream, Failure> {
    Err(Failure::connection("Connection refused"))
}

fn unseen() -> Result<DuplexStream, Failure> {
    Err(Failure::unseen("Too many open files"))
}

fn is_failed(link: &Link) -> bool {
    matches!(link, Link::Failed { .. })
}

fn is_unseen(link: &Link) -> bool {
    matches!(link, Link::Unseen { .. })
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

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_and_comes_back_at_once_a_few_times_never_counts_as_failed() {
    let (mut seen, ends) = connections(4);
    for end in ends {
        let links = until(&mut seen, "answer", |link| *link == Link::Answering).await;
        assert!(!links.iter().any(is_failed), "{links:?}");
        drop(end);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_idle_connections_after_a_long_time_never_counts_as_failed() {
    let (mut seen, ends) = connections(20);
    for end in ends {
        let links = until(&mut seen, "answer", |link| *link == Link::Answering).await;
        assert!(!links.iter().any(is_failed), "{links:?}");
        time::sleep(TIMING.unresponsive_after).await;
        drop(end);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_accepts_for_a_dead_server_and_closes_later_counts_as_failed_in_the_end() {
    let held = TIMING.unresponsive_after * 2 / 3;
    let (mut seen, mut ends) = connections(6);
    let began = now();
    let is_answering = |link: &Link| *link == Link::Answering;
    for _ in 0..2 {
        until(&mut seen, "answer", is_answering).await;
        let end = ends.next().unwrap();
        time::sleep(held - SETTLED_AFTER).await;
        drop(end);
    }
    let links = until(&mut seen, "failure", is_failed).await;
    let Some(Link::Failed { since, fault, message }) = links.last() else {
        panic!("{links:?}")
    };
    assert_eq!((*since, *fault), (began, Fault::Connection), "{message}");
    assert!(now() - began <= TIMING.unresponsive_after * 2, "{:?}", now() - began);
    // Another one that is accepted changes nothing.
    let end = ends.next().unwrap();
    time::sleep(held).await;
    drop(end);
    let links = until(&mut seen, "another failure", is_failed).await;
    assert_eq!(links.len(), 1, "{links:?}");
    assert!(
        matches!(links[0], Link::Failed { since, .. } if since == began),
        "{links:?}"
    );
    // One that lasts does.
    let made = now();
    let end = ends.next().unwrap();
    until(&mut seen, "return", is_answering).await;
    assert!(now() - made >= TIMING.unresponsive_after);
    drop(end);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_this_machine_is_no_failure_and_joins_none() {
    let mut seen = check_on(vec![refused(), unseen(), refused()]);
    let began = now();
    let links = until(&mut seen, "failure", is_failed).await;
    assert!(
        matches!(links[..], [Link::Failed { since, .. }] if since == began),
        "{links:?}"
    );
    let links = until(&mut seen, "error of this machine", is_unseen).await;
    assert!(
        matches!(&links[..], [Link::Unseen { message }] if message == "Too many open files"),
        "{links:?}"
    );
    let links = until(&mut seen, "second failure", is_failed).await;
    assert!(
        matches!(links[..], [Link::Failed { since, .. }] if since > began),
        "{links:?}"
    );
}

#[tokio::test]
async fn a_resolver_that_cannot_be_asked_is_no_failure_and_a_name_without_an_address_is_one() {
    let lookup = |error: fn() -> io::Error| {
        let dialer = Dialer::new(Address::new("agg-p".to_owned(), 1), TIMING.unresponsive_after);
        check_with(dialer.with_resolver(move |_| Err(error())))
    };
    for error in [
        || io::Error::from_raw_os_error(24),
        || io::Error::other("failed to lookup address information: Temporary failure in name resolution"),
    ] {
        let mut seen = lookup(error);
        let links = until(&mut seen, "first link", |_| true).await;
        assert!(is_unseen(&links[0]), "{links:?}");
    }
    let unknown = || io::Error::other("failed to lookup address information: Name or service not known");
    let links = until(&mut lookup(unknown), "first link", |_| true).await;
    assert!(
        matches!(&links[0], Link::Failed { fault: Fault::Connection, message, .. } if message.contains("not known")),
        "{links:?}"
    );
}

#[tokio::test]
async fn a_slow_lookup_is_waited_for_and_is_not_taken_for_a_silent_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (answer, answers) = std::sync::mpsc::channel();
    let answers = std::sync::Mutex::new(answers);
    let dialer = Dialer::new(Address::new("agg-p".to_owned(), port), DEADLINE);
    let mut seen = check_with(dialer.with_resolver(move |_| answers.lock().unwrap().recv().unwrap()));
    let links = until(&mut seen, "late lookup", |_| true).await;
    let [Link::Unseen { message }] = &links[..] else {
        panic!("{links:?}")
    };
    assert_eq!(
        message,
        "the resolver has not answered yet what the address of agg-p is"
    );
    answer.send(Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()])).unwrap();
    let links = until(&mut seen, "answer", |link| *link == Link::Answering).await;
    assert_eq!(links, [Link::Answering]);
}

#[tokio::test(start_paused = true)]
async fn a_check_says_each_interval_that_nothing_has_changed() {
    let (mut seen, mut ends) = connections(1);
    until(&mut seen, "answer", |link| *link == Link::Answering).await;
    for _ in 0..5 {
        let began = now();
        let next = time::timeout(DEADLINE, seen.recv()).await.unwrap();
        assert!(matches!(next, Some(Observation::Unchanged(Check::Direct))), "{next:?}");
        assert!(now() - began <= TIMING.interval);
    }
    drop(ends.next());
    // Also while an attempt to connect gets no answer.
    until(&mut seen, "silence", |link| matches!(link, Link::Silent { .. })).await;
    until(&mut seen, "a late attempt", |link| matches!(link, Link::Silent { .. })).await;
    for _ in 0..5 {
        let next = time::timeout(TIMING.interval * 2, seen.recv()).await.unwrap();
        assert!(matches!(next, Some(Observation::Unchanged(Check::Direct))), "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_without_being_asked_is_left_for_a_while_and_that_is_said() {
    use tokio::io::AsyncWriteExt;
    let (mut seen, mut ends) = connections(2);
    let (mut first, second) = (ends.next().unwrap(), ends.next().unwrap());
    let sent = tokio::spawn(async move {
        let mut sent = 0;
        while first.write_all(&[0; 64]).await.is_ok() {
            sent += 64;
        }
        sent
    });
    let links = until(&mut seen, "failure", is_failed).await;
    let left = now();
    let Some(Link::Failed { fault, message, .. }) = links.last() else {
        panic!("{links:?}")
    };
    assert_eq!(*fault, Fault::Protocol, "{message}");
    assert!(sent.await.unwrap() <= UNASKED_MAX + 1024);
    time::sleep(RETRY_CHATTER - RETRY).await;
    until(&mut seen, "return", |link| *link == Link::Answering).await;
    assert!(now() - left >= RETRY_CHATTER);
    drop(second);
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
