//! The question which gate an address leads to, on the port for probes.
// Clippy's allowance for tests does not reach helpers outside test functions.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use proxypair::address::Address;
use proxypair::check::ask_route;
use proxypair::protocol::Request;
use testkit::certificates::Issuer;
use testkit::directory::Directory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use testkit::gate::{Gate, Manners, ObjectServer, PATIENCE, Probe, next_id};

fn named(address: SocketAddr) -> Address {
    Address::new(address.ip().to_string(), address.port())
}

async fn names_itself(gate: &Gate) {
    let mut operator = gate.admitting().await;
    let report = operator.ping(1).await;
    for _ in 0..20 {
        let name = ask_route(&named(gate.probes()), PATIENCE).await.unwrap();
        assert_eq!(name, report.gate);
    }
    assert_eq!(operator.ping(2).await.sessions, 0);
    assert_eq!(gate.metric("proxypair_gate_sessions_accepted_total").await, 0.0);
}

#[tokio::test]
async fn is_answered_on_a_plain_port_as_long_as_it_is_open() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    names_itself(&gate).await;
    // In pieces.
    let mut asking = TcpStream::connect(gate.probes()).await.unwrap();
    asking.set_nodelay(true).unwrap();
    for byte in b"PPRT" {
        asking.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    asking.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "PROXY_P\n");
    Probe::log_in(gate.probes())
        .await
        .unwrap()
        .ask(next_id())
        .await
        .unwrap();
    assert_eq!(server.deeds(|deeds| deeds.accepted), 2, "the watch and one session");

    let mut operator = gate.operator("a", 1).await;
    operator.send(&Request::Drop).await;
    gate.until_closed().await;
    assert!(ask_route(&named(gate.probes()), PATIENCE).await.is_err());
}

#[tokio::test]
async fn is_answered_before_the_tls_that_the_gate_ends() {
    let server = ObjectServer::start(Manners::default()).await;
    let issuer = Issuer::new("Netcool CA");
    let directory = Directory::new();
    issuer.issue("PROXY_P").install(directory.path());
    let gate = Gate::start(
        server.address,
        &["--listener-tls-dir", directory.path().to_str().unwrap()],
    );
    names_itself(&gate).await;
}

#[tokio::test]
async fn is_answered_where_tls_passes_through() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &["--pass-through"]);
    names_itself(&gate).await;
}
