//! What strangers and a low limit of open files can do to a gate: real processes and sockets, on loopback.
// Clippy's allowance for tests does not reach helpers outside test functions.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};

use proxypair::protocol::{Request, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use testkit::gate::{Gate, Manners, ObjectServer, Probe, connect_tls, login, next_id, until, within};

/// Connects so many probes at the same time. Each must be served or closed; returns those that are served.
async fn connect_all(gate: &Gate, count: usize) -> Vec<Probe> {
    let mut probes = JoinSet::new();
    for _ in 0..count {
        let address = gate.probes();
        probes.spawn(async move { Probe::log_in(address).await });
    }
    let outcomes = within("each probe is served or refused", probes.join_all()).await;
    outcomes.into_iter().filter_map(Result::ok).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_limit_of_open_files_lets_no_probe_hang() {
    for (files, at_least) in [(128, 20), (1024, 300)] {
        let server = ObjectServer::start(Manners::default()).await;
        let gate = Gate::start_after(&format!("ulimit -n {files}"), server.address, &[]);
        let mut operator = gate.admitting().await;
        until(
            "the log says what the limit allows",
            async || gate.has_logged("--max-sessions"),
            |said| *said,
        )
        .await;
        let mut served = connect_all(&gate, 600).await;
        println!("{} of 600 probes served with {files} files", served.len());
        assert!(served.len() <= files / 2, "{}", served.len());
        // All places can be used; those that were refused in the crowd may come again.
        until(
            "every place is taken",
            async || {
                if let Ok(probe) = Probe::log_in(gate.probes()).await {
                    served.push(probe);
                }
                served.len()
            },
            |count| *count >= at_least,
        )
        .await;
        for probe in &mut served {
            probe.ask(next_id()).await.unwrap();
        }
        // Everything else goes on.
        operator.ping(1).await;
        let _check = gate.check().await;
        assert_eq!(gate.page("/livez").await.0, 200);
        assert_eq!(gate.page("/readyz").await.0, 200);
        drop(served);
        until(
            "places are free again",
            async || Probe::log_in(gate.probes()).await.is_ok(),
            |served| *served,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_a_moment_without_files_and_new_probes_do_not_hang() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start_after("ulimit -n 48", server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    // More connections than there are files: to the administration port, which allows 32, and to the ports of the operator.
    let mut idlers = Vec::new();
    for port in [4403, 4402, 4401] {
        idlers.extend(idle((gate.address, port).into(), 40).await);
    }
    for _ in 0..20 {
        let outcome = within("an end or an answer", Probe::log_in(gate.probes())).await;
        drop(outcome);
        probe.ask(next_id()).await.unwrap();
    }
    drop(idlers);
    until(
        "probes are served again",
        async || Probe::log_in(gate.probes()).await.is_ok(),
        |served| *served,
    )
    .await;
    probe.ask(next_id()).await.unwrap();
    let report = operator.ping(1).await;
    assert_eq!(report.upstream, Upstream::Reachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_of_open_files_is_raised_at_the_start() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start_after("ulimit -S -n 64", server.address, &[]);
    gate.admitting().await;
    let served = connect_all(&gate, 200).await;
    assert_eq!(served.len(), 200);
}

/// Connects without ever sending anything.
async fn idle(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut idlers = Vec::new();
    for _ in 0..count {
        idlers.push(within("a connection", TcpStream::connect(address)).await.unwrap());
    }
    idlers
}

/// The same, from so many addresses of this machine.
async fn idle_from(sources: u8, address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut idlers = Vec::new();
    for source in (1..=sources).cycle().take(count) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 9, 9, source), 0).into()).unwrap();
        idlers.push(within("a connection", socket.connect(address)).await.unwrap());
    }
    idlers
}

#[tokio::test(flavor = "multi_thread")]
async fn idlers_do_not_keep_the_operator_out() {
    let server = ObjectServer::start(Manners::default()).await;
    for (sources, count) in [(1, 40), (1, 200), (50, 40), (50, 200)] {
        let gate = Gate::start(server.address, &[]);
        gate.admitting().await;
        for port in [gate.control(), gate.checks()] {
            let idlers = idle_from(sources, port, count).await;
            // The first attempt, not one of many.
            let connected = within("a handshake", connect_tls(port, gate.authority.client())).await;
            let mut operator = connected.unwrap();
            let hello = b"{\"type\":\"Hello\",\"holder\":\"a\",\"term\":1}\n";
            let request = if port == gate.control() {
                hello.to_vec()
            } else {
                login()
            };
            operator.write_all(&request).await.unwrap();
            let answer = within("an answer", operator.read_u8()).await;
            assert!(
                answer.is_ok(),
                "{count} idlers from {sources} addresses on {port}: {answer:?}"
            );
            drop(idlers);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_begin_a_handshake_again_and_again_do_not_keep_the_operator_out() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    gate.admitting().await;
    let address = gate.control();
    let mut storm = JoinSet::new();
    for _ in 0..64 {
        storm.spawn(async move {
            loop {
                if let Ok(stream) = TcpStream::connect(address).await {
                    // Until the gate closes it.
                    let _closed = stream.readable().await;
                }
            }
        });
    }
    for term in 1..4 {
        let holder = "a".to_owned();
        let hello = serde_json::to_string(&Request::Hello { holder, term }).unwrap();
        let reported = async || {
            let mut operator = connect_tls(address, gate.authority.client()).await?;
            operator.write_all(format!("{hello}\n").as_bytes()).await?;
            operator.read_u8().await
        };
        let first = until("the operator gets in", reported, Result::is_ok).await;
        assert_eq!(first.unwrap(), b'{');
    }
    storm.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_login_do_not_keep_probes_out() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start_after("ulimit -n 512", server.address, &["--login-timeout", "10m"]);
    let mut operator = gate.admitting().await;
    let mut idlers = idle(gate.probes(), 400).await;
    assert_eq!(operator.ping(1).await.sessions, 0);
    // One byte of a login does not help.
    for idler in &mut idlers {
        let _sent = idler.try_write(&login()[..1]);
    }
    until(
        "a probe is served",
        async || Probe::log_in(gate.probes()).await.is_ok(),
        |served| *served,
    )
    .await;
    assert!(gate.refused("Crowded").await > 100.0);
    assert!(
        server.deeds(|deeds| deeds.accepted) <= 3,
        "idlers reached the ObjectServer"
    );
    drop(idlers);
}
