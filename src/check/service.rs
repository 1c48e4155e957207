//! Asks, through the virtual Service, which gate new connections reach. What the nodes do may differ for a while from what the
//! EndpointSlices say, and a load balancer may take minutes.

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{Observation, route::ask_route};
use crate::dial::Address;

/// Time between two questions.
const EVERY: Duration = Duration::from_millis(250);
/// How long connection and answer may take together.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks until the receiver of `out` is dropped.
pub async fn check_service(address: SocketAddr, out: mpsc::Sender<Observation>) {
    let address = Address::new(address.ip().to_string(), address.port());
    loop {
        let gate = ask_route(&address, PATIENCE).await.ok();
        if out.send(Observation::Route(gate)).await.is_err() {
            return;
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::protocol::ROUTE_QUESTION;

    /// What is observed of somebody who answers with `answer`, if the question is right.
    async fn observed(answer: &'static [u8]) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = [0; 4];
                stream.read_exact(&mut question).await.unwrap();
                assert_eq!(question, ROUTE_QUESTION);
                stream.write_all(answer).await.unwrap();
            }
        });
        let (out, mut seen) = mpsc::channel(1);
        let check = tokio::spawn(check_service(address, out));
        let observed = seen.recv().await;
        check.abort();
        server.abort();
        match observed {
            Some(Observation::Route(gate)) => gate,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_gate_that_answers_is_named() {
        assert_eq!(observed(b"PROXY_B\n").await.as_deref(), Some("PROXY_B"));
    }

    #[tokio::test]
    async fn whoever_gives_no_name_is_nobody() {
        assert_eq!(observed(b"").await, None);
        assert_eq!(observed(b"\x04\x01\xff\xff").await, None);
        assert_eq!(observed(&[b'A'; 100]).await, None);
    }

    #[tokio::test]
    async fn a_refused_connection_is_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (out, mut seen) = mpsc::channel(1);
        let check = tokio::spawn(check_service(address, out));
        assert!(matches!(seen.recv().await, Some(Observation::Route(None))));
        check.abort();
    }
}
