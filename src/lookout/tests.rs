//! Looks at machines on loopback.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};

use super::*;

/// A port whose queue of connections is full: it swallows attempts, as a machine that is gone does. Open while this is held.
struct Swallower {
    address: SocketAddr,
    listener: TcpListener,
    _waiting: Vec<std::pin::Pin<Box<dyn Future<Output = std::io::Result<TcpStream>>>>>,
}

async fn swallower() -> Swallower {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut connect: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(TcpStream::connect(address));
        // Each is sent when it is first polled.
        let _sent = futures::poll!(&mut connect);
        waiting.push(connect);
    }
    Swallower {
        address,
        listener,
        _waiting: waiting,
    }
}

/// A server that answers each request with `answer`.
async fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _read = stream.read(&mut request).await;
                let _written = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_gate_that_says_so_is_ready_and_whatever_else_answers_is_a_machine() {
    let ready = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(round(ready, Depth::Gate).await, Seen::Ready);
    assert_eq!(round(ready, Depth::Host).await, Seen::Host);
    let unready = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(round(unready, Depth::Gate).await, Seen::Host);
    let stranger = server("what?").await;
    assert_eq!(round(stranger, Depth::Gate).await, Seen::Host);
}

#[tokio::test]
async fn a_process_that_is_stopped_is_a_machine() {
    // Nobody accepts, and the kernel acknowledges.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(round(address, Depth::Gate).await, Seen::Host);
}

#[tokio::test]
async fn a_port_that_is_closed_is_a_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(round(address, Depth::Gate).await, Seen::Host);
}

#[tokio::test]
async fn where_nothing_comes_back_there_is_nothing() {
    let swallower = swallower().await;
    assert_eq!(round(swallower.address, Depth::Host).await, Seen::Nothing);
}

#[tokio::test]
async fn what_this_machine_cannot_send_says_nothing() {
    let nowhere = "255.255.255.255:4403".parse().unwrap();
    assert_eq!(round(nowhere, Depth::Host).await, Seen::Untried);
}

#[tokio::test]
async fn nothing_is_said_of_a_machine_that_was_never_seen() {
    let swallower = swallower().await;
    let (question, asked) = watch::channel(7);
    let (out, mut shown) = mpsc::unbounded_channel();
    let looking = tokio::spawn(look_at(swallower.address, asked, move |look| out.send(look).unwrap()));
    let look = |question, seen| Look { question, seen };
    assert_eq!(shown.recv().await, Some(look(7, Seen::Untried)));
    // It is seen once.
    let mut accepted = Vec::new();
    loop {
        tokio::select! {
            connection = swallower.listener.accept() => accepted.push(connection.unwrap()),
            Some(shown) = shown.recv() => if shown == look(7, Seen::Host) { break },
        }
    }
    // Its queue fills again, with a new question.
    question.send_replace(8);
    loop {
        let connect = TcpStream::connect(swallower.address);
        tokio::select! {
            _ = connect => {}
            Some(shown) = shown.recv() => if shown == look(8, Seen::Nothing) { break },
        }
    }
    looking.abort();
}
