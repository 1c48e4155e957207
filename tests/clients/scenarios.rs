//! What is asked of every client, and what must hold afterwards in the ObjectServer's table.

use std::collections::BTreeSet;
use std::time::Duration;

use proxypair::protocol::GateState;
use testkit::gate::{until, within};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::stage::{PASSWORD, Stage, Transport};

/// Events of the large result, and the longest summary among them in bytes.
const MANY: usize = 3000;
const LONGEST: usize = 4000;

/// Bytes before the content of a packet.
const PACKET_HEADER: usize = 8;
/// Bytes before the SQL text of a request: token, length and status.
const LANGUAGE_HEADER: usize = 6;

pub async fn logs_in_and_finds_its_server_and_itself(client: Client, transport: Transport) {
    let stage = Stage::set(transport).await;
    let mut running = client.start(stage.address(), PASSWORD);
    running
        .request("select Value from catalog.properties where PropName = 'ServerName'")
        .await;
    running
        .request("select AppName, LogName from catalog.connections")
        .await;
    let transcript = running.finish().await;
    assert_eq!(transcript.rows(0), [["AGG_P"]], "{transcript:#?}");
    assert_eq!(
        transcript.rows(1),
        [[client.application(), "netcool"]],
        "{transcript:#?}"
    );
    assert_eq!(stage.gate.metric("proxypair_gate_sessions_accepted_total").await, 1.0);
}

pub async fn a_wrong_password_is_refused(client: Client, transport: Transport) {
    let stage = Stage::set(transport).await;
    let mut running = client.start(stage.address(), "wrong");
    running
        .request("insert into alerts.status (Identifier) values ('never')")
        .await;
    let transcript = running.finish().await;
    assert!(transcript.refused, "{transcript:#?}");
    assert_eq!(stage.events(), []);
}

pub async fn a_repeated_event_is_counted_and_not_stored_twice(client: Client, transport: Transport) {
    let stage = Stage::set(transport).await;
    let mut running = client.start(stage.address(), PASSWORD);
    running
        .request("insert into alerts.status (Identifier, Summary, Severity) values ('e', 'it''s down', 3)")
        .await;
    running
        .request("insert into alerts.status (Identifier, Summary, Severity) values ('e', 'still; dówn', 5);")
        .await;
    running
        .request("select Identifier, Tally, Summary, Severity, ServerName from alerts.status")
        .await;
    let transcript = running.finish().await;
    assert_eq!(
        transcript.rows(2),
        [["e", "2", "still; dówn", "5", "AGG_P"]],
        "{transcript:#?}"
    );
    assert_eq!(stage.events(), [("e".to_owned(), 2)]);
}

pub async fn an_error_leaves_the_session_usable(client: Client, transport: Transport) {
    let stage = Stage::set(transport).await;
    let mut running = client.start(stage.address(), PASSWORD);
    running
        .request("insert into alerts.status (Identifier) values ('before')")
        .await;
    running.request("select nothing from nowhere.at_all").await;
    running
        .request("insert into alerts.status (Identifier) values ('after')")
        .await;
    running
        .request("select Identifier from alerts.status order by Serial")
        .await;
    let transcript = running.finish().await;
    assert_eq!(transcript.errors(), 1, "{transcript:#?}");
    assert_eq!(transcript.rows(3), [["before"], ["after"]], "{transcript:#?}");
}

pub async fn thousands_of_rows_with_long_texts_arrive_whole_and_in_order(client: Client, transport: Transport) {
    let stage = Stage::set(transport).await;
    let event = |n: usize| {
        let text: String = format!("{n:04}|").repeat(LONGEST / 5);
        (format!("event-{n}"), text[..1 + n * 37 % LONGEST].to_owned())
    };
    let events: Vec<_> = (0..MANY).map(event).collect();
    let mut running = client.start(stage.address(), PASSWORD);
    let mut requests = 0;
    for part in events.chunks(150) {
        let values: Vec<_> = part.iter().map(|(id, text)| format!("('{id}', '{text}')")).collect();
        running
            .request(&format!(
                "insert into alerts.status (Identifier, Summary) values {}",
                values.join(", ")
            ))
            .await;
        requests += 1;
    }
    running
        .request("select Identifier, Summary from alerts.status order by Serial")
        .await;
    let transcript = running.finish().await;
    let rows = transcript.rows(requests);
    assert_eq!(rows.len(), MANY);
    for (row, (identifier, text)) in rows.iter().zip(&events) {
        assert_eq!(row, &[identifier.as_str(), text]);
    }
}

/// The client's cancel is on the wire together with the request that it cancels.
pub async fn a_cancelled_request_leaves_the_session_usable_and_drainable(client: Client, transport: Transport) {
    let mut stage = Stage::set(transport).await;
    let mut running = client.start(stage.address(), PASSWORD);
    running
        .request("insert into alerts.status (Identifier) values ('before')")
        .await;
    stage.has_events(1).await;
    stage.stall();
    let before = stage.bytes_to_upstream().await;
    let sql = "select count(*) from alerts.status";
    running.request(&format!("@timeout 1 {sql}")).await;
    // The client cancels after one second and waits for an answer to that: the stall lasts until both are on their way, however long that takes.
    let request = PACKET_HEADER + LANGUAGE_HEADER + sql.len() + transport.overhead();
    let cancel = PACKET_HEADER + transport.overhead();
    until(
        "request and cancel are forwarded",
        async || stage.bytes_to_upstream().await - before,
        |forwarded| *forwarded >= (request + cancel) as f64,
    )
    .await;
    stage.resume();
    running
        .request("insert into alerts.status (Identifier) values ('after')")
        .await;
    running
        .request("select Identifier from alerts.status order by Serial")
        .await;
    stage.has_events(2).await;
    stage.drain().await;
    stage.is_left().await;
    let transcript = running.finish().await;
    assert!(transcript.answers[1].cancelled, "{transcript:#?}");
    assert_eq!(transcript.rows(3), [["before"], ["after"]], "{transcript:#?}");
}

/// The drain begins while the ObjectServer executes the statements of one request.
pub async fn a_batch_under_way_is_completed_by_a_drain(client: Client, transport: Transport) {
    const PINGS: u64 = 20;
    const PAUSE: Duration = Duration::from_millis(25);
    let mut stage = Stage::set(transport).await;
    let mut running = client.start(stage.address(), PASSWORD);
    // The ObjectServer is stalled in the middle of a batch, and answers it only when it may go on. A batch that was over before the stall is
    // followed by a longer one.
    let mut statements = 200;
    let mut earlier = 0;
    let mut batches = 0;
    loop {
        let mut batch: Vec<_> = (0..statements)
            .map(|n| format!("insert into alerts.status (Identifier) values ('batch-{batches}-{n}')"))
            .collect();
        batch.push("select Identifier from alerts.status order by Serial".to_owned());
        running.request(&batch.join("; ")).await;
        stage.has_events(earlier + 1).await;
        stage.stall();
        if stage.events().len() < earlier + statements {
            break;
        }
        stage.resume();
        (earlier, statements, batches) = (earlier + statements, statements * 4, batches + 1);
        assert!(batches < 4, "each batch was over before the stall");
    }
    assert_eq!(
        stage.drain().await,
        GateState::Draining,
        "the batch was over before the drain"
    );
    // A gate that would break the request has the time to do it.
    for nonce in 1..=PINGS {
        let report = stage.operator.ping(nonce).await;
        let seen = (report.sessions, report.state);
        assert_eq!(seen, (1, GateState::Draining), "sessions and state at ping {nonce}");
        tokio::time::sleep(PAUSE).await;
    }
    stage.resume();
    stage.is_left().await;
    running
        .request("insert into alerts.status (Identifier) values ('too late')")
        .await;
    let transcript = running.finish().await;

    let of_batch = |number: usize| (0..200 * 4_usize.pow(number as u32)).map(move |n| format!("batch-{number}-{n}"));
    let all: Vec<_> = (0..=batches).flat_map(of_batch).collect();
    let answer = &transcript.answers[batches];
    let rows: Vec<_> = answer.rows.iter().map(|row| row.join("\t")).collect();
    assert_eq!(rows, all, "the batch was not answered whole: {transcript:#?}");
    let stored: Vec<_> = all.into_iter().map(|identifier| (identifier, 1)).collect();
    assert_eq!(stage.events(), stored);
    assert_eq!(stage.ended("DrainedIdle").await, 1.0);
}

/// The drain begins while several clients send one request after the other.
pub async fn a_drain_between_requests_loses_and_halves_none(client: Client, transport: Transport) {
    const CLIENTS: usize = 4;
    let mut stage = Stage::set(transport).await;
    let drained = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut running = client.start(stage.address(), PASSWORD);
        let drained = drained.clone();
        clients.spawn(async move {
            let mut sent = 0;
            let mut is_there = true;
            while is_there && !drained.is_cancelled() {
                let event = format!("event-{number}-{sent}");
                let insert = format!("insert into alerts.status (Identifier) values ('{event}')");
                is_there = running.request(&format!("{insert}; select '{event}'")).await;
                sent += 1;
            }
            (sent, running.finish().await)
        });
    }
    let all_at_work = |events: &[(String, i64)]| {
        (0..CLIENTS).all(|number| {
            let of_this = format!("event-{number}-");
            events.iter().filter(|(event, _)| event.starts_with(&of_this)).count() >= 5
        })
    };
    until("all are at work", async || stage.events(), |events| all_at_work(events)).await;
    stage.drain().await;
    stage.is_left().await;
    drained.cancel();

    let mut acknowledged = BTreeSet::new();
    for (sent, transcript) in within("all clients end", clients.join_all()).await {
        let events: Vec<_> = transcript
            .answers
            .iter()
            .flat_map(|answer| answer.rows.concat())
            .collect();
        println!("{client:?}: {sent} requests sent, {} acknowledged", events.len());
        assert!(events.len() < sent, "the drain did not end this session");
        acknowledged.extend(events);
    }
    let stored = stage.events();
    assert!(stored.iter().all(|(_, tally)| *tally == 1), "stored twice: {stored:?}");
    let stored: BTreeSet<_> = stored.into_iter().map(|(identifier, _)| identifier).collect();
    assert_eq!(acknowledged, stored, "acknowledged on the left, stored on the right");
    assert_eq!(stage.ended("DrainedDeadline").await, 0.0);
}
