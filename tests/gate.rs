//! The gate as its neighbours see it: real processes and sockets, on loopback.
// Clippy's allowance for tests does not reach helpers outside test functions.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxypair::protocol::{GateState, Request, UnreachableCause, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use testkit::gate::{
    Authority, Gate, Manners, ObjectServer, Operator, Probe, SECOND, connect_tls, drain, is_refused, login, next_id,
    request, until, why, within,
};

#[tokio::test]
async fn refuses_probes_while_its_objectserver_is_away() {
    let address = ObjectServer::free_address();
    let gate = Gate::start(address, &[]);
    let mut operator = gate.operator("a", 1).await;
    operator.away(UnreachableCause::Refused).await;
    assert!(is_refused(gate.probes()).await);
    let (status, reason) = gate.page("/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("refused"), "{reason}");
    assert_eq!(gate.page("/livez").await.0, 200);

    let server = ObjectServer::start_at(address, Manners::default()).await;
    operator.open().await;
    assert_eq!(gate.page("/readyz").await.0, 200);
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    probe.ask(next_id()).await.unwrap();
    operator.report("counts", |report| report.sessions == 1).await;

    let killed = Instant::now();
    server.kill().await;
    probe.closed().await;
    println!("session closed {:?} after its ObjectServer", killed.elapsed());
    operator
        .report("closes", |report| {
            why(report).is_some_and(|(cause, _)| cause == UnreachableCause::Refused) && report.sessions == 0
        })
        .await;
    println!("reported {:?} after it", killed.elapsed());
    gate.until_closed().await;

    let _server = ObjectServer::start_at(address, Manners::default()).await;
    operator.open().await;
    Probe::log_in(gate.probes()).await.unwrap();
}

#[tokio::test]
async fn a_silent_objectserver_is_known_within_unresponsive_after() {
    let address = ObjectServer::free_address();
    // A full backlog swallows connections without an answer, as a machine that is gone does.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    // Each of these is sent when it is first polled; the backlog takes two.
    let mut fill: Vec<_> = (0..8).map(|_| Box::pin(TcpStream::connect(address))).collect();
    for connect in &mut fill {
        let _sent = futures::poll!(connect);
    }
    let start = Instant::now();
    let gate = Gate::start(address, &["--unresponsive-after", "2s"]);
    let mut operator = gate.operator("a", 1).await;
    operator.away(UnreachableCause::TimedOut).await;
    println!("known {:?} after the start", start.elapsed());
    assert!(is_refused(gate.probes()).await);
    // Room in the backlog again: the next dial is answered.
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    operator.open().await;
    println!("admitting {:?} after the start", start.elapsed());
}

#[tokio::test]
async fn a_server_that_closes_each_connection_at_once_is_neither_hammered_nor_taken_for_reachable() {
    let server = ObjectServer::start(Manners {
        closes_silent_after: Some(Duration::ZERO),
        ..Manners::default()
    })
    .await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    operator.away(UnreachableCause::Closed).await;
    assert!(is_refused(gate.probes()).await);
    let start = Instant::now();
    let before = server.deeds(|deeds| deeds.accepted);
    until(
        "a few more dials",
        async || server.deeds(|deeds| deeds.accepted),
        |accepted| *accepted >= before + 7,
    )
    .await;
    assert!(start.elapsed() >= 2 * SECOND, "7 dials within {:?}", start.elapsed());
    operator.ping(1).await;
    let reports = operator.reports;
    assert!(reports <= 5, "{reports} reports although nothing changed");
}

#[tokio::test]
async fn a_hop_that_accepts_and_closes_later_is_no_objectserver() {
    let server = ObjectServer::start(Manners {
        closes_silent_after: Some(SECOND),
        ..Manners::default()
    })
    .await;
    let gate = Gate::start(server.address, &["--unresponsive-after", "3s"]);
    let mut operator = gate.admitting().await;
    operator.away(UnreachableCause::Closed).await;
    gate.until_closed().await;
    // The operator's check has logged in and has an answer: the ObjectServer is there.
    let _check = gate.check().await;
    operator.open().await;
}

#[tokio::test]
async fn a_port_that_leads_nowhere_closes_while_its_sessions_go_on() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut old = Probe::log_in(gate.probes()).await.unwrap();
    server.stop_listening().await;
    let mut new = Probe::connect(gate.probes()).await.unwrap();
    new.send(&login()).await.unwrap();
    assert_eq!(new.closed().await, 0);
    operator.away(UnreachableCause::Refused).await;
    gate.until_closed().await;
    assert_eq!(gate.page("/readyz").await.0, 503);
    old.ask(next_id()).await.unwrap();
    assert_eq!(operator.ping(1).await.sessions, 1);

    // New connections work again.
    let second = ObjectServer::start_at(server.address, Manners::default()).await;
    operator.open().await;
    Probe::log_in(gate.probes()).await.unwrap();
    old.ask(next_id()).await.unwrap();

    // The operator closes what is left when the Service leads elsewhere.
    second.stop_listening().await;
    let mut new = Probe::connect(gate.probes()).await.unwrap();
    new.send(&login()).await.unwrap();
    new.closed().await;
    operator.away(UnreachableCause::Refused).await;
    operator.send(&Request::Drop).await;
    old.closed().await;
}

#[tokio::test]
async fn a_drain_of_more_sessions_than_the_pace_allows_breaks_no_request() {
    let server = ObjectServer::start(Manners {
        delay: Duration::from_millis(2),
        ..Manners::default()
    })
    .await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut probes = JoinSet::new();
    for _ in 0..60 {
        let mut probe = Probe::log_in(gate.probes()).await.unwrap();
        probes.spawn(async move {
            loop {
                let id = next_id();
                if probe.ask(id).await.is_err() {
                    return id;
                }
            }
        });
    }
    operator.send(&drain(8 * SECOND, 1)).await;
    let unanswered = within("all probes are gone", probes.join_all()).await;
    for id in unanswered {
        let received = server.deeds(|deeds| deeds.received.contains_key(&id));
        assert!(!received, "request {id} was forwarded and not answered");
    }
    assert_eq!(gate.ended("DrainedDeadline").await, 0.0);
    assert_eq!(gate.ended("DrainedIdle").await, 60.0);
}

#[tokio::test]
async fn an_empty_gate_that_its_operator_has_left_admits_again() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &["--unresponsive-after", "2s"]);
    let mut operator = gate.admitting().await;
    operator.send(&Request::Drop).await;
    operator
        .report("closes", |report| report.state == GateState::Closed)
        .await;
    let left = Instant::now();
    drop(operator);
    // One that only observes, and one of a former leader, command nothing.
    let mut observer = gate.operator("observer", 0).await;
    observer.open().await;
    assert!(left.elapsed() >= 4 * SECOND - SECOND / 10, "after {:?}", left.elapsed());
    until(
        "the log says so",
        async || gate.has_logged("admitting probes again"),
        |said| *said,
    )
    .await;
    Probe::log_in(gate.probes()).await.unwrap();
}

#[tokio::test]
async fn forwards_bytes_unchanged_both_ways() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    gate.admitting().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    for length in [8, 504, 505, 20_000, 500_000] {
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
        // The answer is the request in packets of another type.
        received.chunks_mut(512).for_each(|packet| packet[0] = sent[0]);
        assert!(received == sent, "{length} bytes came back changed");
        assert_eq!(server.deeds(|deeds| deeds.received[&id]), 1);
    }
    assert!(gate.metric("proxypair_gate_to_upstream_bytes_total").await > 520_000.0);
    assert!(gate.metric("proxypair_gate_to_client_bytes_total").await > 520_000.0);
}

#[tokio::test]
async fn a_probe_that_closes_its_direction_still_gets_its_answer() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    gate.admitting().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    probe.stream.write_all(&request(next_id(), 100)).await.unwrap();
    probe.stream.shutdown().await.unwrap();
    server.give_answers();
    within("an answer", probe.answer()).await.unwrap();
    assert_eq!(probe.closed().await, 0);
    until(
        "the close arrives",
        async || server.deeds(|deeds| deeds.half_closed),
        |closed| *closed == 1,
    )
    .await;
    gate.until_ended("Upstream", 1.0).await;
}

#[tokio::test]
async fn closes_idle_sessions_first_and_busy_ones_at_their_answer() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut idle = Probe::log_in(gate.probes()).await.unwrap();
    let mut busy = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    let id = next_id();
    busy.stream.write_all(&request(id, 100)).await.unwrap();
    server.until_received(id).await;

    operator.send(&drain(60 * SECOND, 1000)).await;
    assert_eq!(idle.closed().await, 0);
    assert!(is_refused(gate.probes()).await);
    let report = operator.report("one left", |report| report.sessions == 1).await;
    assert_eq!(report.state, GateState::Draining);
    assert_eq!(gate.page("/readyz").await.0, 503);
    assert!(busy.is_open());

    server.give_answers();
    let answer = within("the answer", busy.answer()).await.unwrap();
    assert_eq!(answer.first_chunk(), Some(&id.to_be_bytes()));
    assert_eq!(busy.closed().await, 0);
    operator
        .report("no sessions left", |report| {
            report.sessions == 0 && report.state == GateState::Closed
        })
        .await;
    assert_eq!(gate.ended("DrainedIdle").await, 2.0);
}

#[tokio::test]
async fn closes_the_rest_at_the_deadline_and_a_repeated_command_does_not_move_it() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut busy = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    let id = next_id();
    busy.stream.write_all(&request(id, 100)).await.unwrap();
    until(
        "the request arrives",
        async || server.deeds(|deeds| deeds.received.contains_key(&id)),
        |arrived| *arrived,
    )
    .await;
    let order = drain(2 * SECOND, 1000);
    operator.send(&order).await;
    let start = Instant::now();
    operator
        .report("drains", |report| report.state == GateState::Draining)
        .await;
    let again = async {
        loop {
            tokio::time::sleep(SECOND / 4).await;
            operator.send(&order).await;
        }
    };
    tokio::select! {
        _ = busy.closed() => {}
        () = again => {}
    }
    let taken = start.elapsed();
    assert!(taken >= 2 * SECOND - SECOND / 10, "closed after {taken:?}");
    gate.until_ended("DrainedDeadline", 1.0).await;
}

#[tokio::test]
async fn closes_no_more_sessions_per_second_than_commanded() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut probes = JoinSet::new();
    for _ in 0..30 {
        let mut probe = Probe::log_in(gate.probes()).await.unwrap();
        probes.spawn(async move {
            probe.closed().await;
            Instant::now()
        });
    }
    let start = Instant::now();
    operator.send(&drain(60 * SECOND, 20)).await;
    let mut closed = probes.join_all().await;
    closed.sort();
    for (index, at) in closed.iter().enumerate() {
        // Whatever the scheduler does, a close can only be late.
        let earliest = start + SECOND / 20 * u32::try_from(index).unwrap();
        assert!(
            *at + SECOND / 100 >= earliest,
            "close {index} came {:?} after the command",
            *at - start
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_that_reaches_the_server_is_answered_to_its_probe_through_a_drain() {
    let server = ObjectServer::start(Manners {
        delay: Duration::from_millis(2),
        ..Manners::default()
    })
    .await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    for round in 0_u32..4 {
        let acknowledged = Arc::new(Mutex::new(HashMap::<u64, u32>::new()));
        let mut probes = JoinSet::new();
        for _ in 0..100 {
            let mut probe = Probe::log_in(gate.probes()).await.unwrap();
            let acknowledged = Arc::clone(&acknowledged);
            probes.spawn(async move {
                loop {
                    let id = next_id();
                    if let Err(error) = probe.ask(id).await {
                        return (id, error);
                    }
                    *acknowledged.lock().unwrap().entry(id).or_default() += 1;
                }
            });
        }
        until(
            "traffic",
            async || acknowledged.lock().unwrap().len(),
            |count| *count > 500,
        )
        .await;
        operator.send(&drain(60 * SECOND, 100 + 200 * round)).await;
        let unanswered = within("all probes are gone", probes.join_all()).await;
        operator
            .report("no sessions left", |report| report.state == GateState::Closed)
            .await;

        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        server.deeds(|deeds| {
            for id in acknowledged.keys() {
                assert_eq!(deeds.received.get(id), Some(&1), "request {id} was acknowledged");
            }
            for (id, error) in &unanswered {
                assert_eq!(
                    deeds.received.get(id),
                    None,
                    "request {id} was not acknowledged ({error}) and yet forwarded"
                );
            }
        });
        println!(
            "{} requests acknowledged, {} never forwarded",
            acknowledged.len(),
            unanswered.len()
        );
        operator.send(&Request::Admit).await;
        operator.open().await;
    }
    assert_eq!(gate.ended("DrainedDeadline").await, 0.0);
}

#[tokio::test]
async fn a_drain_stopped_by_admit_leaves_the_others_alone() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut probes = Vec::new();
    for _ in 0..10 {
        probes.push(Probe::log_in(gate.probes()).await.unwrap());
    }
    operator.send(&drain(60 * SECOND, 2)).await;
    operator.report("drains", |report| report.sessions == 9).await;
    operator.send(&Request::Admit).await;
    operator.open().await;
    Probe::log_in(gate.probes()).await.unwrap();
    let mut served = 0;
    for probe in &mut probes {
        served += u32::from(probe.ask(next_id()).await.is_ok());
    }
    assert!(served >= 8, "{served} of 10 are left");
}

#[tokio::test]
async fn after_a_cancel_a_drain_waits_for_a_quiet_moment() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    probe.stream.write_all(&request(next_id(), 100)).await.unwrap();
    probe.stream.write_all(&[6, 1, 0, 8, 0, 0, 0, 0]).await.unwrap();
    until(
        "the request arrives",
        async || server.deeds(|deeds| deeds.received.len()),
        |count| *count == 1,
    )
    .await;
    operator.send(&drain(60 * SECOND, 1000)).await;
    operator
        .report("drains", |report| report.state == GateState::Draining)
        .await;
    server.give_answers();
    // Two answers: the ordinary one, and that to the cancel which came too late.
    let mut bytes = vec![0; 108 + 8];
    within("both answers", probe.stream.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(probe.closed().await, 0);
    gate.until_ended("DrainedIdle", 1.0).await;
}

#[tokio::test]
async fn drops_all_sessions_at_once_and_refuses_until_the_next_admit() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut busy = Probe::log_in(gate.probes()).await.unwrap();
    let mut idle = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    busy.stream.write_all(&request(next_id(), 100)).await.unwrap();
    operator.send(&Request::Drop).await;
    let mut report = operator.ping(1).await;
    assert_eq!(report.state, GateState::Closed);
    busy.closed().await;
    idle.closed().await;
    // The answer may have been the last report: nothing has changed since when both were gone by then.
    if report.sessions > 0 {
        report = operator.report("no sessions left", |report| report.sessions == 0).await;
    }
    assert_eq!(report.state, GateState::Closed);
    gate.until_closed().await;
    assert_eq!(gate.page("/readyz").await, (503, "closed by command\n".to_owned()));
    server.give_answers();
    operator.send(&Request::Admit).await;
    operator.open().await;
    Probe::log_in(gate.probes()).await.unwrap();
    assert_eq!(gate.ended("Dropped").await, 2.0);
}

#[tokio::test]
async fn a_silent_client_is_no_session_and_costs_the_objectserver_nothing() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &["--max-sessions", "1", "--login-timeout", "10s"]);
    let mut operator = gate.admitting().await;
    let mut silent = Probe::connect(gate.probes()).await.unwrap();
    // A load balancer's check.
    drop(Probe::connect(gate.probes()).await.unwrap());
    gate.until_refused("Gone", 1.0).await;
    let mut other = Probe::log_in(gate.probes()).await.unwrap();
    other.ask(next_id()).await.unwrap();
    assert_eq!(operator.ping(1).await.sessions, 1);
    // At the limit a further one is closed at once.
    let mut third = Probe::connect(gate.probes()).await.unwrap();
    assert_eq!(third.closed().await, 0);
    assert_eq!(gate.refused("Full").await, 1.0);
    silent.closed().await;
    gate.until_refused("LoginTimeout", 1.0).await;
    other.ask(next_id()).await.unwrap();
    // The watch and one session.
    assert_eq!(server.deeds(|deeds| deeds.accepted), 2);
}

#[tokio::test]
async fn a_login_that_is_not_complete_in_time_never_reaches_the_objectserver() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &["--login-timeout", "2s"]);
    gate.admitting().await;
    let mut probe = Probe::connect(gate.probes()).await.unwrap();
    probe.stream.write_all(&login()[..600]).await.unwrap();
    probe.closed().await;
    gate.until_refused("LoginTimeout", 1.0).await;
    assert_eq!(server.deeds(|deeds| deeds.accepted), 1);
}

#[tokio::test]
async fn a_client_that_never_ends_a_message_is_closed_at_the_message_timeout() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &["--message-timeout", "1s"]);
    gate.admitting().await;
    let mut idle = Probe::log_in(gate.probes()).await.unwrap();
    let mut slow = Probe::log_in(gate.probes()).await.unwrap();
    let bytes = request(next_id(), 100);
    let (mut read, mut write) = slow.stream.split();
    let trickle = async {
        // One byte after the other, for longer than the timeout; the last is never sent.
        for byte in &bytes[..bytes.len() - 1] {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(SECOND / 20).await;
        }
        std::future::pending::<()>().await;
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = trickle => {}
        _ = within("the gate closes the session", read.read_to_end(&mut rest)) => {}
    }
    gate.until_ended("MessageTimeout", 1.0).await;
    // One that says nothing between messages is left alone.
    idle.ask(next_id()).await.unwrap();
}

#[tokio::test]
async fn garbage_is_closed_before_the_objectserver_is_dialled() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    gate.admitting().await;
    let tls_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let too_short = [2, 0, 0, 7, 0, 0, 0, 0];
    let prelogin = [0x12, 1, 0, 0x3a, 0, 0, 0, 0];
    let first_packets: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\n\r\n", "NotLogin"),
        (&too_short, "NotLogin"),
        (&prelogin, "NotLogin"),
        (&tls_hello, "Tls"),
    ];
    for (bytes, _) in first_packets {
        let mut probe = Probe::connect(gate.probes()).await.unwrap();
        probe.stream.write_all(bytes).await.unwrap();
        assert_eq!(probe.closed().await, 0);
    }
    assert_eq!(gate.refused("NotLogin").await, 3.0);
    assert_eq!(gate.refused("Tls").await, 1.0);
    assert_eq!(server.deeds(|deeds| deeds.accepted), 1);

    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    probe.stream.write_all(&too_short).await.unwrap();
    probe.closed().await;
    gate.until_ended("Malformed", 1.0).await;
}

#[tokio::test]
async fn a_lower_term_cannot_drain() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut old = gate.operator("old", 3).await;
    old.open().await;
    let mut new = gate.operator("new", 4).await;
    new.ping(1).await;
    for command in [drain(SECOND, 1), Request::Drop, Request::Admit] {
        old.send(&command).await;
        let report = old.report("refuses", |report| report.rejected_command.is_some()).await;
        let why = report.rejected_command.unwrap();
        assert!(why.contains("term 3 of old is over") && why.contains("term 4"), "{why}");
    }
    assert_eq!(new.ping(2).await.state, GateState::Open);
    assert_eq!(old.ping(5).await.rejected_command, None);
    new.send(&Request::Drop).await;
    old.report("sees the command of the other", |report| {
        report.state == GateState::Closed
    })
    .await;
}

#[tokio::test]
async fn reports_why_it_rejects_an_invalid_command() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let hello = serde_json::to_string(&Request::Hello {
        holder: "x".to_owned(),
        term: 99,
    })
    .unwrap();
    let no_pace = serde_json::to_string(&drain(SECOND, 0)).unwrap();
    for (line, why) in [
        (r#"{"type":"Levitate"}"#, "cannot read"),
        ("not JSON", "cannot read"),
        (&hello, "first line"),
        (&no_pace, "at least 1"),
    ] {
        operator.send_text(line).await;
        let report = operator
            .report("refuses", |report| report.rejected_command.is_some())
            .await;
        let text = report.rejected_command.unwrap();
        assert!(text.contains(why), "{line}: {text}");
    }
    assert_eq!(operator.ping(1).await.state, GateState::Open);
    operator.send_text(&"x".repeat(70_000)).await;
    while operator.next().await.is_some() {}
}

#[tokio::test]
async fn a_client_with_a_certificate_of_another_ca_is_disconnected() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    gate.admitting().await;
    let foreign = gate.authority.client_known_to(&Authority::create());
    for port in [gate.control(), gate.checks()] {
        // In TLS 1.3 the client learns of its refusal with the first read.
        let read = async {
            let mut stream = connect_tls(port, foreign.clone()).await?;
            stream
                .write_all(b"{\"type\":\"Hello\",\"holder\":\"x\",\"term\":9}\n")
                .await?;
            stream.read_u8().await
        };
        assert!(within("an end", read).await.is_err());
    }
    // Handshakes that are never finished do not keep the operator out.
    let mut idlers = Vec::new();
    for _ in 0..16 {
        idlers.push(Probe::connect(gate.control()).await.unwrap());
    }
    gate.operator("a", 1).await.ping(1).await;
}

#[tokio::test]
async fn a_ninth_operator_is_turned_away() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut eight = Vec::new();
    for term in 1..=8 {
        let mut operator = gate.operator("a", term).await;
        operator.ping(1).await;
        eight.push(operator);
    }
    let ninth = async {
        let mut stream = connect_tls(gate.control(), gate.authority.client()).await?;
        stream
            .write_all(b"{\"type\":\"Hello\",\"holder\":\"x\",\"term\":9}\n")
            .await?;
        stream.read_u8().await
    };
    assert!(within("an end", ninth).await.is_err());
    eight.pop();
    until(
        "a place is free again",
        async || {
            let mut stream = connect_tls(gate.control(), gate.authority.client()).await?;
            stream
                .write_all(b"{\"type\":\"Hello\",\"holder\":\"x\",\"term\":9}\n")
                .await?;
            stream.read_u8().await
        },
        Result::is_ok,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn reloads_certificates_without_dropping_sessions() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();

    // A set that does not fit together changes nothing.
    let key = gate.tls_directory().join("tls.key");
    let target = gate.tls_directory().join("..data").join("tls.key");
    std::fs::write(&target, "half a k").unwrap();
    assert!(key.exists());
    until(
        "a warning",
        async || gate.has_logged("certificates cannot be used"),
        |warned| *warned,
    )
    .await;
    gate.operator("a", 1).await.ping(1).await;

    let fresh = Authority::create();
    fresh.install(gate.tls_directory());
    let mut renewed = until(
        "the new certificates are in force",
        async || connect_tls(gate.control(), fresh.client()).await,
        Result::is_ok,
    )
    .await
    .map(Operator::on)
    .unwrap();
    renewed
        .send(&Request::Hello {
            holder: "a".to_owned(),
            term: 1,
        })
        .await;
    renewed.ping(1).await;
    assert!(
        connect_tls(gate.control(), gate.authority.client()).await.is_err(),
        "the old authority is still shown"
    );
    operator.ping(2).await;
    probe.ask(next_id()).await.unwrap();
}

#[tokio::test]
async fn checks_pass_through_a_closed_gate_and_are_not_counted() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let mut check = gate.check().await;
    assert_eq!(operator.ping(1).await.sessions, 0);
    operator.send(&Request::Drop).await;
    operator
        .report("closes", |report| report.state == GateState::Closed)
        .await;

    let id = next_id();
    let question = request(id, 100);
    check.write_all(&question).await.unwrap();
    let mut answer = vec![0; question.len()];
    within("an answer", check.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[8..], question[8..]);
    let _second = gate.check().await;

    server.kill().await;
    let mut rest = Vec::new();
    within("the check is closed", check.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn reports_why_it_cannot_listen_and_tries_again() {
    let server = ObjectServer::start(Manners::default()).await;
    let address = Gate::free_address();
    let squatter = TcpListener::bind((address, 4400)).await.unwrap();
    let gate = Gate::start_at(address, server.address, &[]);
    let mut operator = gate.operator("a", 1).await;
    let report = operator
        .report("says why", |report| report.listen_error.is_some())
        .await;
    assert_eq!(
        (report.state, report.upstream),
        (GateState::Closed, Upstream::Reachable)
    );
    let (status, reason) = gate.page("/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("in use"), "{reason}");
    drop(squatter);
    let report = operator.open().await;
    assert_eq!(report.listen_error, None);
}

#[tokio::test]
async fn counters_are_reported_at_most_ten_times_a_second() {
    let server = ObjectServer::start(Manners::default()).await;
    let gate = Gate::start(server.address, &[]);
    let mut operator = gate.admitting().await;
    let start = Instant::now();
    operator.ping(1).await;
    let before = operator.reports;
    for _ in 0..200 {
        Probe::log_in(gate.probes()).await.unwrap();
    }
    operator.report("all gone", |report| report.sessions == 0).await;
    operator.ping(2).await;
    let reports = operator.reports - before;
    let allowed = u64::try_from(start.elapsed().as_millis()).unwrap() / 100 + 3;
    assert!(reports <= allowed, "{reports} reports in {:?}", start.elapsed());
}

#[tokio::test]
async fn a_terminating_gate_serves_until_the_drain_command_and_then_exits() {
    let server = ObjectServer::start(Manners::default()).await;
    let mut gate = Gate::start(server.address, &["--grace-period", "60s"]);
    let mut operator = gate.admitting().await;
    let mut probe = Probe::log_in(gate.probes()).await.unwrap();
    gate.terminate();
    let report = operator
        .report("says that it terminates", |report| report.terminating)
        .await;
    assert_eq!(report.state, GateState::Open);
    assert_eq!(gate.page("/readyz").await.0, 200);
    Probe::log_in(gate.probes())
        .await
        .unwrap()
        .ask(next_id())
        .await
        .unwrap();
    probe.ask(next_id()).await.unwrap();

    server.hold_answers();
    let id = next_id();
    probe.stream.write_all(&request(id, 100)).await.unwrap();
    server.until_received(id).await;
    operator.send(&drain(30 * SECOND, 100)).await;
    operator
        .report("drains", |report| report.state == GateState::Draining)
        .await;
    gate.until_closed().await;
    server.give_answers();
    within("the answer", probe.answer()).await.unwrap();
    assert_eq!(probe.closed().await, 0);
    let last = operator.report("its last word", |report| report.sessions == 0).await;
    assert_eq!((last.terminating, last.state), (true, GateState::Closed));
    assert!(gate.exit().await.success());
}

#[tokio::test]
async fn a_terminating_gate_without_an_operator_drains_at_half_time() {
    let server = ObjectServer::start(Manners::default()).await;
    let mut gate = Gate::start(server.address, &["--grace-period", "4s"]);
    gate.admitting().await;
    let mut idle = Probe::log_in(gate.probes()).await.unwrap();
    let mut busy = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    let id = next_id();
    busy.stream.write_all(&request(id, 100)).await.unwrap();
    until(
        "the request arrives",
        async || server.deeds(|deeds| deeds.received.contains_key(&id)),
        |arrived| *arrived,
    )
    .await;
    let start = Instant::now();
    gate.terminate();
    assert_eq!(idle.closed().await, 0);
    let half = start.elapsed();
    assert!(
        half >= 2 * SECOND - SECOND / 10,
        "the idle session was closed after {half:?}"
    );
    busy.closed().await;
    let end = start.elapsed();
    assert!(
        end >= 3 * SECOND - SECOND / 10,
        "the busy session was closed after {end:?}"
    );
    assert!(gate.exit().await.success());
    println!(
        "idle closed after {half:?}, busy after {end:?}, exit after {:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_terminating_gate_without_sessions_exits_as_soon_as_it_is_commanded_to_drain() {
    let server = ObjectServer::start(Manners::default()).await;
    let mut gate = Gate::start(server.address, &["--grace-period", "10m"]);
    let mut operator = gate.admitting().await;
    gate.terminate();
    operator
        .report("says that it terminates", |report| report.terminating)
        .await;
    operator.send(&drain(300 * SECOND, 100)).await;
    assert!(gate.exit().await.success());
}

#[tokio::test]
async fn a_terminating_gate_takes_a_shorter_deadline() {
    let server = ObjectServer::start(Manners::default()).await;
    let mut gate = Gate::start(server.address, &["--grace-period", "10m"]);
    let mut operator = gate.admitting().await;
    let mut busy = Probe::log_in(gate.probes()).await.unwrap();
    server.hold_answers();
    let id = next_id();
    busy.send(&request(id, 100)).await.unwrap();
    server.until_received(id).await;
    gate.terminate();
    operator.send(&drain(300 * SECOND, 100)).await;
    operator
        .report("drains", |report| report.state == GateState::Draining)
        .await;
    operator.send(&drain(2 * SECOND, 100)).await;
    busy.closed().await;
    assert!(gate.exit().await.success());
}

#[tokio::test]
async fn a_drained_gate_exits_at_once_when_it_is_terminated() {
    let server = ObjectServer::start(Manners::default()).await;
    let mut gate = Gate::start(server.address, &["--grace-period", "60s"]);
    let mut operator = gate.admitting().await;
    operator.send(&drain(30 * SECOND, 100)).await;
    operator
        .report("closes", |report| report.state == GateState::Closed)
        .await;
    gate.terminate();
    assert!(gate.exit().await.success());
}
