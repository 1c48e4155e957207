//! A hop of the network that forwards TCP as some do: late, or with an open port although there is nothing behind it.
//!
//! It accepts at once. It dials behind at once too, or with `--dial-on-data` only when the client has sent something, as proxies do that
//! must read a protocol's first bytes. What the client sends is passed on `--delay` later, in order, but for its
//! first `--undelayed` bytes; what comes back is passed on at once.
//! If it cannot dial, it closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use stand_ins::process::{asked_to_stop, parse_duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Chunks that may be under way in a connection.
const UNDER_WAY: usize = 4096;
const CHUNK: usize = 16 * 1024;

/// A hop of the network.
#[derive(Debug, Parser)]
#[command(name = "hop")]
struct Options {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// What it forwards to, as HOST:PORT.
    #[arg(long)]
    to: String,
    /// How much later it passes on what clients send, such as `1500ms`.
    #[arg(long, default_value = "0", value_parser = parse_duration)]
    delay: Duration,
    /// How many bytes of each connection are passed on at once, before those that are late: enough for a TLS handshake.
    #[arg(long, default_value_t = 0)]
    undelayed: usize,
    /// Dial only when the client has sent something.
    #[arg(long)]
    dial_on_data: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let options = Arc::new(Options::parse());
    let listener = TcpListener::bind(options.listen).await?;
    tokio::select! {
        failed = accept_all(&listener, &options) => failed,
        () = asked_to_stop() => Ok(()),
    }
}

async fn accept_all(listener: &TcpListener, options: &Arc<Options>) -> anyhow::Result<()> {
    loop {
        let (client, peer) = listener.accept().await?;
        let options = Arc::clone(options);
        tokio::spawn(async move {
            if let Err(error) = forward(client, &options).await {
                tracing::info!(%peer, %error, "a connection ended");
            }
        });
    }
}

async fn forward(client: TcpStream, options: &Options) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    if options.dial_on_data {
        client.readable().await?;
    }
    let server = TcpStream::connect(&options.to).await?;
    server.set_nodelay(true)?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    tokio::select! {
        forth = pass_late(from_client, to_server, options) => forth,
        back = copy(&mut from_server, &mut to_client) => back.map(drop),
    }
}

/// Passes on each chunk when it is old enough.
async fn pass_late(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    options: &Options,
) -> std::io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut undelayed = options.undelayed;
        loop {
            let mut chunk = vec![0; CHUNK];
            let length = from.read(&mut chunk).await?;
            if length == 0 {
                return std::io::Result::Ok(());
            }
            chunk.truncate(length);
            let delay = if undelayed > 0 { Duration::ZERO } else { options.delay };
            undelayed = undelayed.saturating_sub(length);
            if sender.send((Instant::now() + delay, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            to.write_all(&chunk).await?;
        }
        std::io::Result::Ok(())
    };
    tokio::try_join!(read, write).map(drop)
}
