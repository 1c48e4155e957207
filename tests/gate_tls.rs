//! TLS through the gate, and the gate before a proxy server: real processes, sockets and certificates, on loopback.
// Clippy's allowance for tests does not reach helpers outside test functions.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use jiff::{Timestamp, ToSpan};
use proxypair::protocol::{GateState, Report, Request, UnreachableCause, Upstream};
use rustls::version::TLS12;
use testkit::certificates::{Issuer, replace};
use testkit::directory::Directory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use testkit::gate::{
    Gate, Manners, ObjectServer, Probe, SECOND, connect_tls, drain, login, next_id, request, until, why, within,
};

/// A file with authorities, and the directory that it is in.
fn bundle(text: &str) -> (Directory, String) {
    let directory = Directory::new();
    let file = directory.path().join("ca.crt");
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (directory, file)
}

/// A gate that trusts an authority for its ObjectServer.
fn trusting(issuer: &Issuer, address: SocketAddr, arguments: &[&str]) -> (Gate, Directory) {
    let (directory, file) = bundle(&issuer.pem());
    let gate = Gate::start(address, &[&["--object-server-ca", &file], arguments].concat());
    (gate, directory)
}

#[tokio::test]
async fn an_objectserver_with_the_right_common_name_is_served_over_tls() {
    let issuer = Issuer::new("Netcool CA");
    for versions in [&[&TLS12][..], rustls::ALL_VERSIONS] {
        let tls = issuer.issue("AGG_P").server_with(versions);
        let server = ObjectServer::start_secured(ObjectServer::free_address(), tls).await;
        let (gate, _directory) = trusting(&issuer, server.address, &[]);
        let mut operator = gate.operator("a", 1).await;
        operator.open().await;
        let mut probe = Probe::log_in(gate.probes()).await.unwrap();
        for length in [8, 20_000, 500_000] {
            let id = next_id();
            let sent = request(id, length);
            let (mut read, mut write) = probe.stream.split();
            let mut received = vec![0; sent.len()];
            let (written, read) = tokio::join!(
                write.write_all(&sent),
                within("an answer", read.read_exact(&mut received))
            );
            written.unwrap();
            read.unwrap();
            received.chunks_mut(512).for_each(|packet| packet[0] = sent[0]);
            assert!(received == sent, "{length} bytes came back changed");
        }
        let _check = gate.check().await;

        let killed = Instant::now();
        server.kill().await;
        probe.closed().await;
        println!("session closed {:?} after its ObjectServer", killed.elapsed());
        operator.away(UnreachableCause::Refused).await;
        println!("reported {:?} after it", killed.elapsed());
    }
}

#[tokio::test]
async fn a_certificate_against_the_rule_keeps_the_listener_closed_and_says_which_half_is_broken() {
    let (ours, theirs) = (Issuer::new("Netcool CA"), Issuer::new("Other CA"));
    let server = ObjectServer::start_secured(ObjectServer::free_address(), ours.issue("AGG_B").server()).await;
    let (gate, _directory) = trusting(&ours, server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    let cases = [
        (
            ours.issue("AGG_B"),
            [
                "Common Name rejected",
                "it is \"AGG_B\"",
                "expected: Common Name \"AGG_P\"",
            ],
        ),
        (
            theirs.issue("AGG_P"),
            ["chain rejected", "issuer \"CN=Other CA\"", "\"CN=Netcool CA\""],
        ),
        (
            ours.issue_for("AGG_P", -1, &[]),
            ["chain rejected", "it expired at", "subject \"CN=AGG_P\""],
        ),
        (
            ours.issue_for("AGG_B", 90, &["AGG_P"]),
            ["Common Name rejected", "it is \"AGG_B\"", "\"AGG_P\""],
        ),
    ];
    for (identity, words) in cases {
        server.secure(identity.server());
        let report = operator
            .report(words[1], |report| {
                why(report).is_some_and(|(_, message)| words.iter().all(|word| message.contains(word)))
            })
            .await;
        assert_eq!(why(&report).unwrap().0, UnreachableCause::TlsRejected);
        assert_eq!(report.state, GateState::Closed);
        gate.until_closed().await;
    }
    // Renewed.
    server.secure(ours.issue("AGG_P").server());
    operator.open().await;
    Probe::log_in(gate.probes()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_goes_bad_closes_the_listener_at_the_first_session_it_refuses() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start_secured(ObjectServer::free_address(), issuer.issue("AGG_P").server()).await;
    let (gate, _directory) = trusting(&issuer, server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    operator.open().await;
    server.secure(issuer.issue("AGG_B").server());
    let mut probe = Probe::connect(gate.probes()).await.unwrap();
    probe.stream.write_all(&login()).await.unwrap();
    probe.closed().await;
    operator.away(UnreachableCause::TlsRejected).await;
    gate.until_closed().await;
}

#[tokio::test]
async fn a_certificate_that_expires_closes_the_listener_although_nothing_else_happens() {
    let issuer = Issuer::new("Netcool CA");
    let expiring = issuer.issue_until("AGG_P", SystemTime::now() + 8 * SECOND, &[]);
    let server = ObjectServer::start_secured(ObjectServer::free_address(), expiring.server()).await;
    let (gate, _directory) = trusting(&issuer, server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    operator.open().await;
    let message = operator.away(UnreachableCause::TlsRejected).await;
    assert!(message.contains("it expired at"), "{message}");
    gate.until_closed().await;
}

#[tokio::test]
async fn an_objectserver_that_wants_tls_of_a_gate_that_knows_of_none_is_named_in_the_log() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start_secured(ObjectServer::free_address(), issuer.issue("AGG_P").server()).await;
    let gate = Gate::start(server.address, &[]);
    gate.admitting().await;
    let mut probe = Probe::connect(gate.probes()).await.unwrap();
    probe.stream.write_all(&login()).await.unwrap();
    assert_eq!(probe.closed().await, 0, "the probe was given bytes of TLS");
    gate.until_ended("UpstreamTls", 1.0).await;
    until(
        "the log says so",
        async || gate.has_logged("the ObjectServer speaks TLS"),
        |said| *said,
    )
    .await;
}

#[tokio::test]
async fn other_authorities_are_taken_up_and_bad_ones_change_nothing() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = ObjectServer::start_secured(ObjectServer::free_address(), new.issue("AGG_P").server()).await;
    let (gate, directory) = trusting(&old, server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    operator.away(UnreachableCause::TlsRejected).await;
    let file = directory.path().join("ca.crt");

    replace(&file, &format!("{}{}", old.pem(), new.pem()));
    operator.open().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();

    replace(&file, "half a c");
    let warning = "certificates cannot be used, keeping the previous ones";
    until("a warning", async || gate.has_logged(warning), |warned| *warned).await;
    Probe::log_in(gate.probes())
        .await
        .unwrap()
        .ask(next_id())
        .await
        .unwrap();
    assert_eq!(gate.times_logged(warning), 1);

    // The server's certificate is not trusted any more: its listener closes, although nothing has happened to the server.
    replace(&file, &old.pem());
    let message = operator.away(UnreachableCause::TlsRejected).await;
    assert!(message.contains("no CA in the CA bundle"), "{message}");
    probe.closed().await;
}

#[tokio::test]
async fn a_missing_bundle_is_said_and_taken_up_when_it_comes() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start_secured(ObjectServer::free_address(), issuer.issue("AGG_P").server()).await;
    let directory = Directory::new();
    let file = directory.path().join("ca.crt");
    let gate = Gate::start(server.address, &["--object-server-ca", file.to_str().unwrap()]);
    let mut operator = gate.operator("a", 1).await;
    operator
        .report("names the file", |report| {
            why(report).is_some_and(|(_, message)| message.contains("failed to read") && message.contains("ca.crt"))
        })
        .await;
    gate.until_closed().await;
    replace(&file, &issuer.pem());
    operator.open().await;
}

#[tokio::test]
async fn an_objectserver_that_speaks_no_tls_is_told_from_one_that_is_away() {
    let issuer = Issuer::new("Netcool CA");
    // One that closes on what it does not understand, one that answers in TDS, and one that goes on waiting.
    let closing = TcpListener::bind(ObjectServer::free_address()).await.unwrap();
    let (gate, _directory) = trusting(&issuer, closing.local_addr().unwrap(), &[]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = closing.accept().await {
            let _header = stream.read_exact(&mut [0; 8]).await;
        }
    });
    let message = gate.operator("a", 1).await.away(UnreachableCause::Closed).await;
    assert!(message.contains("this port speaks plain TDS"), "{message}");

    let talking = TcpListener::bind(ObjectServer::free_address()).await.unwrap();
    let (gate, _directory) = trusting(&issuer, talking.local_addr().unwrap(), &[]);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = talking.accept().await {
            stream.write_all(&[4, 1, 0, 8, 0, 0, 0, 0]).await.unwrap();
            held.push(stream);
        }
    });
    let message = gate.operator("a", 1).await.away(UnreachableCause::TlsRejected).await;
    assert!(message.contains("is not TLS"), "{message}");

    let waiting = TcpListener::bind(ObjectServer::free_address()).await.unwrap();
    let arguments = ["--unresponsive-after", "2s"];
    let (gate, _directory) = trusting(&issuer, waiting.local_addr().unwrap(), &arguments);
    let message = gate.operator("a", 1).await.away(UnreachableCause::TimedOut).await;
    assert!(message.contains("no answer to the TLS handshake"), "{message}");
}

#[tokio::test]
async fn a_slow_handshake_is_waited_for_also_after_a_refused_dial() {
    let issuer = Issuer::new("Netcool CA");
    let address = ObjectServer::free_address();
    let (gate, _directory) = trusting(&issuer, address, &["--unresponsive-after", "20s"]);
    let mut operator = gate.operator("a", 1).await;
    operator.away(UnreachableCause::Refused).await;
    // It takes three seconds until it begins with the handshake.
    let listener = TcpListener::bind(address).await.unwrap();
    let acceptor = TlsAcceptor::from(issuer.issue("AGG_P").server());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                tokio::time::sleep(3 * SECOND).await;
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _closed = stream.read(&mut [0; 16]).await;
                }
            });
        }
    });
    operator.open().await;
}

/// A gate that ends probes' TLS with the certificate of a directory.
fn ending_tls(address: SocketAddr, arguments: &[&str]) -> (Gate, Directory) {
    let directory = Directory::new();
    let path = directory.path().to_str().unwrap().to_owned();
    let gate = Gate::start(address, &[&["--listener-tls-dir", &path], arguments].concat());
    (gate, directory)
}

#[tokio::test]
async fn the_listener_stays_closed_until_there_is_a_certificate_to_show() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start(Manners::default()).await;
    let (gate, directory) = ending_tls(server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    let lacks = |report: &Report, words: &str| {
        let error = report.listen_error.as_deref();
        report.state == GateState::Closed && error.is_some_and(|error| error.contains(words))
    };
    operator
        .report("names the file", |report| {
            lacks(report, "tls.crt") && report.upstream == Upstream::Reachable
        })
        .await;
    gate.until_closed().await;
    assert_eq!(gate.page("/readyz").await.0, 503);

    // A key that belongs to another certificate.
    let (identity, other) = (issuer.issue("PROXY_P"), issuer.issue("PROXY_P"));
    other.install(directory.path());
    replace(&directory.path().join("tls.crt"), &identity.certificate);
    operator
        .report("does not take it", |report| lacks(report, "cannot be used"))
        .await;

    identity.install(directory.path());
    let report = operator.open().await;
    let expires = report.listener_certificate_expires.unwrap();
    let expected = Timestamp::now() + (90 * 24).hours();
    assert!(expires.duration_since(expected).abs().as_secs() < 60, "{expires}");
    assert_eq!(report.listen_error, None);
    Probe::log_in_secured(gate.probes(), issuer.probe("PROXY_P"))
        .await
        .unwrap();
}

#[tokio::test]
async fn probes_over_tls_are_served_drained_and_cut_off_like_others() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start_secured(ObjectServer::free_address(), issuer.issue("AGG_P").server()).await;
    let (_authorities, ca) = bundle(&issuer.pem());
    let (gate, directory) = ending_tls(server.address, &["--object-server-ca", &ca]);
    issuer
        .issue_for("PROXY_P", 90, &["gate.test"])
        .install(directory.path());
    let mut operator = gate.operator("a", 1).await;
    operator.open().await;

    let mut old = Probe::log_in_secured(gate.probes(), issuer.old_probe()).await.unwrap();
    let mut busy = Probe::log_in_secured(gate.probes(), issuer.probe("PROXY_P"))
        .await
        .unwrap();
    for probe in [&mut old, &mut busy] {
        let id = next_id();
        probe.send(&request(id, 300_000)).await.unwrap();
        let answer = within("an answer", probe.answer()).await.unwrap();
        assert_eq!((answer.len(), answer.first_chunk()), (300_000, Some(&id.to_be_bytes())));
    }
    server.hold_answers();
    let id = next_id();
    busy.send(&request(id, 100)).await.unwrap();
    server.until_received(id).await;
    operator.send(&drain(60 * SECOND, 1000)).await;
    // At its message boundary, and with a close notification: no error at the probe.
    assert_eq!(within("a close", old.stream.read(&mut [0])).await.unwrap(), 0);
    gate.until_closed().await;
    operator.report("one left", |report| report.sessions == 1).await;
    server.give_answers();
    assert_eq!(
        within("the answer", busy.answer()).await.unwrap().first_chunk(),
        Some(&id.to_be_bytes())
    );
    assert_eq!(within("a close", busy.stream.read(&mut [0])).await.unwrap(), 0);
    gate.until_ended("DrainedIdle", 2.0).await;

    operator.send(&Request::Admit).await;
    operator.open().await;
    let mut probe = Probe::log_in_secured(gate.probes(), issuer.probe("PROXY_P"))
        .await
        .unwrap();
    operator.send(&Request::Drop).await;
    probe.closed().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_sessions_and_leaves_the_others_alone() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start(Manners::default()).await;
    let (gate, directory) = ending_tls(server.address, &[]);
    issuer.issue_for("PROXY_P", 10, &[]).install(directory.path());
    let mut operator = gate.operator("a", 1).await;
    let before = operator.open().await.listener_certificate_expires.unwrap();
    let mut probe = Probe::log_in_secured(gate.probes(), issuer.probe("PROXY_P"))
        .await
        .unwrap();

    issuer.issue_for("PROXY_V", 90, &[]).install(directory.path());
    let report = operator
        .report("shows another one", |report| {
            report
                .listener_certificate_expires
                .is_some_and(|expires| expires > before)
        })
        .await;
    assert_eq!((report.state, report.sessions), (GateState::Open, 1));
    probe.ask(next_id()).await.unwrap();
    assert!(
        connect_tls(gate.probes(), issuer.probe("PROXY_P")).await.is_err(),
        "the old certificate is still shown"
    );
    Probe::log_in_secured(gate.probes(), issuer.probe("PROXY_V"))
        .await
        .unwrap();
    probe.ask(next_id()).await.unwrap();
}

#[tokio::test]
async fn who_speaks_the_wrong_language_is_refused_and_the_log_says_so_sparingly() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start(Manners::default()).await;
    let (gate, directory) = ending_tls(server.address, &["--login-timeout", "5s"]);
    issuer.issue("PROXY_P").install(directory.path());
    gate.operator("a", 1).await.open().await;
    let dials = server.deeds(|deeds| deeds.accepted);
    let start = Instant::now();
    for _ in 0..50 {
        let mut probe = Probe::connect(gate.probes()).await.unwrap();
        probe.stream.write_all(&login()).await.unwrap();
        probe.closed().await;
    }
    gate.until_refused("Plain", 50.0).await;
    let said = gate.times_logged("it speaks plain TDS, and this port speaks TLS");
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    assert!((1..=seconds).contains(&said), "said {said} times in {seconds} s");

    // One that does not trust the certificate, one that is neither, and one that says nothing.
    connect_tls(gate.probes(), Issuer::new("other").probe("PROXY_P"))
        .await
        .unwrap_err();
    let mut neither = Probe::connect(gate.probes()).await.unwrap();
    neither.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    neither.closed().await;
    gate.until_refused("Handshake", 2.0).await;
    Probe::connect(gate.probes()).await.unwrap().closed().await;
    gate.until_refused("LoginTimeout", 1.0).await;
    // A handshake without a login.
    let mut silent = connect_tls(gate.probes(), issuer.probe("PROXY_P")).await.unwrap();
    let _reset = within("it is closed", silent.read(&mut [0])).await;
    gate.until_refused("LoginTimeout", 2.0).await;
    assert_eq!(
        server.deeds(|deeds| deeds.accepted),
        dials,
        "the ObjectServer was troubled"
    );

    let plain = Gate::start(server.address, &[]);
    plain.admitting().await;
    connect_tls(plain.probes(), issuer.probe("PROXY_P")).await.unwrap_err();
    until(
        "the log says so",
        async || plain.has_logged("it speaks TLS, and this port speaks plain TDS"),
        |said| *said,
    )
    .await;
}

#[tokio::test]
async fn tls_that_passes_through_ends_at_the_objectserver_and_is_drained_at_a_quiet_moment() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start_secured(ObjectServer::free_address(), issuer.issue("AGG_P").server()).await;
    let (gate, _directory) = trusting(&issuer, server.address, &["--pass-through"]);
    let mut operator = gate.operator("a", 1).await;
    operator.open().await;
    // The probe sees the ObjectServer's own certificate.
    let mut probe = Probe::log_in_secured(gate.probes(), issuer.probe("AGG_P"))
        .await
        .unwrap();
    probe.ask(next_id()).await.unwrap();
    let _check = gate.check().await;
    let mut plain = Probe::connect(gate.probes()).await.unwrap();
    plain.stream.write_all(&login()).await.unwrap();
    plain.closed().await;
    gate.until_refused("Plain", 1.0).await;

    server.hold_answers();
    let id = next_id();
    probe.send(&request(id, 100)).await.unwrap();
    server.until_received(id).await;
    let commanded = Instant::now();
    operator.send(&drain(60 * SECOND, 1000)).await;
    operator
        .report("drains", |report| report.state == GateState::Draining)
        .await;
    // Longer than a quiet moment: the request is known to be unanswered all the same.
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(operator.ping(1).await.sessions, 1);
    let answered = Instant::now();
    server.give_answers();
    assert_eq!(
        within("the answer", probe.answer()).await.unwrap().first_chunk(),
        Some(&id.to_be_bytes())
    );
    probe.closed().await;
    assert!(
        answered.elapsed() >= SECOND * 9 / 10,
        "closed {:?} after its answer",
        answered.elapsed()
    );
    println!(
        "drained {:?} after the command, {:?} after the answer",
        commanded.elapsed(),
        answered.elapsed()
    );
    gate.until_ended("DrainedIdle", 1.0).await;
}

#[tokio::test]
async fn without_authorities_pass_through_takes_what_the_objectserver_takes() {
    let issuer = Issuer::new("Netcool CA");
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &["--pass-through"]);
    gate.operator("a", 1).await.open().await;
    Probe::log_in(gate.probes())
        .await
        .unwrap()
        .ask(next_id())
        .await
        .unwrap();
    server.secure(issuer.issue("AGG_P").server());
    let mut probe = Probe::log_in_secured(gate.probes(), issuer.probe("AGG_P"))
        .await
        .unwrap();
    probe.ask(next_id()).await.unwrap();
}

#[tokio::test]
async fn probes_are_admitted_only_while_both_proxy_server_and_objectserver_can_be_reached() {
    let (proxy, server) = (ObjectServer::free_address(), ObjectServer::free_address());
    let gate = Gate::start(server, &["--proxy", &proxy.to_string()]);
    let mut operator = gate.operator("a", 1).await;
    // Both away: the ObjectServer is spoken of.
    let message = operator.away(UnreachableCause::Refused).await;
    assert!(message.contains(&server.to_string()), "{message}");
    gate.until_closed().await;

    // Only the proxy server: nothing else to say.
    let running = ObjectServer::start_at(proxy, Manners::default()).await;
    until(
        "it is watched",
        async || running.deeds(|deeds| deeds.accepted),
        |count| *count > 0,
    )
    .await;
    let report = operator.ping(1).await;
    assert_eq!(why(&report).unwrap().0, UnreachableCause::Refused);
    gate.until_closed().await;

    // Both.
    let behind = ObjectServer::start_at(server, Manners::default()).await;
    operator.open().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    let id = next_id();
    probe.ask(id).await.unwrap();
    assert!(
        running.deeds(|deeds| deeds.received.contains_key(&id)),
        "the session went past the proxy server"
    );
    assert!(behind.deeds(|deeds| deeds.received.is_empty()));

    // Only the ObjectServer.
    let killed = Instant::now();
    running.kill().await;
    probe.closed().await;
    println!("session closed {:?} after its proxy server", killed.elapsed());
    let message = operator.away(UnreachableCause::ProxyUnreachable).await;
    assert!(message.contains(&proxy.to_string()), "{message}");
    gate.until_closed().await;
    let (status, reason) = gate.page("/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("the proxy server"), "{reason}");

    let _running = ObjectServer::start_at(proxy, Manners::default()).await;
    operator.open().await;
    Probe::log_in(gate.probes()).await.unwrap();
}

#[tokio::test]
async fn a_proxy_server_that_stays_while_its_objectserver_dies_keeps_no_probe() {
    let issuer = Issuer::new("Netcool CA");
    let proxy = ObjectServer::start(Manners::default()).await;
    let tls = issuer.issue("AGG_P").server();
    let server = ObjectServer::start_secured(ObjectServer::free_address(), tls.clone()).await;
    let (gate, _directory) = trusting(&issuer, server.address, &["--proxy", &proxy.address.to_string()]);
    let mut operator = gate.operator("a", 1).await;
    operator.open().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    proxy.hold_answers();
    let id = next_id();
    probe.send(&request(id, 100)).await.unwrap();
    proxy.until_received(id).await;

    let killed = Instant::now();
    let address = server.kill().await;
    assert_eq!(probe.closed().await, 0);
    println!("session closed {:?} after the ObjectServer", killed.elapsed());
    operator.away(UnreachableCause::Refused).await;
    gate.until_closed().await;
    // Checks go the way of probes, to the proxy server, and prove nothing of the ObjectServer.
    proxy.give_answers();
    let _check = gate.check().await;

    let _server = ObjectServer::start_secured(address, tls).await;
    operator.open().await;
}

#[tokio::test]
async fn probes_over_tls_reach_a_plain_proxy_server() {
    let issuer = Issuer::new("Netcool CA");
    let (proxy, server) = (
        ObjectServer::start(Manners::default()).await,
        ObjectServer::start(Manners::default()).await,
    );
    let (gate, directory) = ending_tls(server.address, &["--proxy", &proxy.address.to_string()]);
    issuer.issue("PROXY_P").install(directory.path());
    gate.operator("a", 1).await.open().await;
    let mut probe = Probe::log_in_secured(gate.probes(), issuer.probe("PROXY_P"))
        .await
        .unwrap();
    let id = next_id();
    probe.ask(id).await.unwrap();
    assert!(proxy.deeds(|deeds| deeds.received.contains_key(&id)));
}

#[tokio::test]
async fn ending_tls_and_passing_it_through_exclude_each_other() {
    let mut gate = Gate::start(
        ObjectServer::free_address(),
        &["--pass-through", "--listener-tls-dir", "/nowhere"],
    );
    assert_eq!(gate.exit().await.code(), Some(2));
}
