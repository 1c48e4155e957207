//! The accept loop with scripted connections, on paused time.

use std::collections::VecDeque;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::Instant,
};

use super::*;

/// The results of the loop's accepts, in order. Then none comes any more.
struct Script(VecDeque<io::Result<DuplexStream>>);

impl Accept for Script {
    type Connection = DuplexStream;

    async fn next(&mut self) -> io::Result<DuplexStream> {
        match self.0.pop_front() {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
}

/// Starts the loop over these connections.
fn start(accepts: impl IntoIterator<Item = io::Result<DuplexStream>>) {
    let router = router(Arc::new(Registry::default()), || Err("not yet".to_owned()));
    tokio::spawn(serve_all(Script(accepts.into_iter().collect()), router));
}

const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: gate\r\n\r\n";

/// Everything that comes until the other end closes.
async fn read_all(client: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    client.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

/// Sends a request and reads up to the end of its answer.
async fn ask(client: &mut DuplexStream) -> String {
    client.write_all(REQUEST).await.unwrap();
    let mut text = String::new();
    while !text.ends_with("not yet\n") {
        let byte = client.read_u8().await.unwrap();
        text.push(char::from(byte));
    }
    text
}

#[tokio::test(start_paused = true)]
async fn half_a_header_is_closed_after_the_header_timeout() {
    let (mut client, server) = duplex(1024);
    start([Ok(server)]);
    let begun = Instant::now();
    client.write_all(&REQUEST[..20]).await.unwrap();
    assert_eq!(read_all(&mut client).await, "");
    assert_eq!(begun.elapsed(), HEADER_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_header_that_trickles_in_has_no_longer() {
    let (mut client, server) = duplex(1024);
    start([Ok(server)]);
    let begun = Instant::now();
    for byte in REQUEST {
        sleep(HEADER_TIMEOUT / 10).await;
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    assert!(begun.elapsed() <= HEADER_TIMEOUT * 11 / 10, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_the_same_time() {
    let (mut client, server) = duplex(1024);
    start([Ok(server)]);
    for _ in 0..3 {
        assert!(ask(&mut client).await.starts_with("HTTP/1.1 503 "));
        sleep(HEADER_TIMEOUT / 2).await;
    }
    ask(&mut client).await;
    let idle = Instant::now();
    assert_eq!(read_all(&mut client).await, "");
    assert_eq!(idle.elapsed(), HEADER_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_up_to_the_limit_are_left_alone() {
    let (clients, servers): (Vec<_>, Vec<_>) = (0..CONNECTION_LIMIT).map(|_| duplex(1024)).unzip();
    start(servers.into_iter().map(Ok));
    sleep(HEADER_TIMEOUT / 2).await;
    for mut client in clients {
        ask(&mut client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn forty_idle_connections_do_not_keep_a_scrape_waiting() {
    let (idle, servers): (Vec<_>, Vec<_>) = (0..40).map(|_| duplex(1024)).unzip();
    let (mut client, server) = duplex(1024);
    start(servers.into_iter().chain([server]).map(Ok));
    let begun = Instant::now();
    ask(&mut client).await;
    assert!(begun.elapsed() < HEADER_TIMEOUT / 10, "{:?}", begun.elapsed());
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn a_connection_beyond_the_limit_waits_for_the_answers_of_the_others() {
    let (clients, servers): (Vec<_>, Vec<_>) = (0..=CONNECTION_LIMIT).map(|_| duplex(1024)).unzip();
    // Each has sent its request before it is accepted.
    let mut asked = Vec::new();
    for mut client in clients {
        client.write_all(REQUEST).await.unwrap();
        asked.push(client);
    }
    let begun = Instant::now();
    start(servers.into_iter().map(Ok));
    for mut client in asked {
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
    }
    assert!(begun.elapsed() <= 2 * ACTIVE_TIME, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_kept_busy_is_closed_at_the_end_of_its_lifetime() {
    let (mut client, server) = duplex(1024);
    start([Ok(server)]);
    let begun = Instant::now();
    while client.write_all(REQUEST).await.is_ok() {
        let mut answer = [0; 1024];
        if matches!(client.read(&mut answer).await, Ok(0) | Err(_)) {
            break;
        }
        sleep(HEADER_TIMEOUT / 2).await;
    }
    assert!(begun.elapsed() <= LIFETIME + HEADER_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_given_up() {
    let (mut client, server) = duplex(16);
    start([Ok(server)]);
    let begun = Instant::now();
    client.write_all(REQUEST).await.unwrap();
    sleep(LIFETIME + LAST_REQUEST_TIMEOUT * 2).await;
    let cut = read_all(&mut client).await;
    assert!(cut.len() <= 16, "{cut}");
    assert!(begun.elapsed() <= LIFETIME + LAST_REQUEST_TIMEOUT * 2);
}

#[tokio::test(start_paused = true)]
async fn the_loop_survives_a_lack_of_file_descriptors() {
    let out_of_descriptors = || Err(io::Error::from_raw_os_error(24));
    let (mut client, server) = duplex(1024);
    start([out_of_descriptors(), out_of_descriptors(), Ok(server)]);
    let begun = Instant::now();
    ask(&mut client).await;
    assert_eq!(begun.elapsed(), 2 * RETRY);
}
