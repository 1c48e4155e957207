//! The session with an ObjectServer that is played by the test, on paused time.

mod failures;

use std::sync::Arc;

use tokio::{
    io::{DuplexStream, duplex},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::*;
use crate::{
    check::Credentials,
    domain::evidence::Link,
    tds::{
        channel::Channel,
        format::Column,
        packet,
        request::RequestToken,
        response::{AnswerWriter, Done, LoginAck, ServerMessage, Token},
        value::DataType,
        wire::ByteOrder,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// Time that passes on the paused clock before a test fails that waits in vain.
const DEADLINE: Duration = Duration::from_secs(3600);

const TIMING: Timing = Timing {
    interval: SECOND,
    unreachable_after: SECOND,
    unresponsive_after: Duration::from_secs(3),
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::ZERO,
};

const NAME: &str = "AGG_P";

/// The server's half of a session, step by step.
struct Server {
    channel: Channel<DuplexStream>,
    name: &'static str,
    order: ByteOrder,
}

impl Server {
    fn on(stream: DuplexStream) -> Self {
        Self {
            channel: Channel::new(stream, 1 << 20),
            name: NAME,
            order: ByteOrder::Little,
        }
    }

    /// The next message; `None` at the end of the stream.
    async fn message(&mut self) -> Option<packet::Message> {
        let message = timeout(DEADLINE, self.channel.receive()).await;
        message.expect("no message").unwrap()
    }

    /// Reads the login.
    async fn login(&mut self) -> LoginRecord {
        let message = self.message().await.expect("no login");
        assert_eq!(message.kind, PacketType::LOGIN);
        let login = LoginRecord::decode(&message.payload).unwrap();
        self.order = login.order;
        login
    }

    /// Reads the login and accepts it.
    async fn accept(&mut self) -> LoginRecord {
        let login = self.login().await;
        self.answer_login(LoginAck::SUCCEED, &[]).await;
        login
    }

    /// Reads the login and rejects it.
    async fn reject(&mut self) {
        self.login().await;
        let reason = ServerMessage::new(4002, 14, self.name, "Login failed.");
        self.answer_login(LoginAck::FAIL, &[Token::Message(reason)]).await;
    }

    async fn answer_login(&mut self, status: u8, more: &[Token]) {
        let ack = Token::LoginAck(LoginAck {
            status,
            tds_version: [5, 0, 0, 0],
            program: "ObjectServer".to_owned(),
            program_version: [8, 1, 0, 0],
        });
        let done = Token::Done(Done::statement(0, None));
        self.send([&[ack], more, &[done]].concat()).await;
    }

    /// Reads a query and asserts which it is.
    async fn expect(&mut self, sql: &str) {
        let message = self.message().await.expect("no query");
        match RequestToken::decode_all(&message.payload, self.order)
            .unwrap()
            .as_slice()
        {
            [RequestToken::Language { sql: asked, .. }] => assert_eq!(asked, sql),
            other => panic!("no query: {other:?}"),
        }
    }

    /// Reads the query for properties and answers it. Returns when it came.
    async fn answer_properties(&mut self) -> Instant {
        self.expect(PROPERTIES).await;
        let asked = now();
        let rows = [("Name", self.name), ("ActingPrimary", "TRUE")];
        self.answer_rows(["PropName", "Value"], &rows).await;
        asked
    }

    async fn answer_rows(&mut self, columns: [&str; 2], rows: &[(&str, &str)]) {
        let columns = columns.map(|name| Column::nullable(name, DataType::VarChar(u8::MAX)));
        let mut answer = vec![Token::RowFormat {
            wide: false,
            columns: columns.to_vec(),
        }];
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        answer.extend(rows.iter().map(|(a, b)| Token::Row(vec![text(a), text(b)])));
        let count = u32::try_from(rows.len()).unwrap();
        answer.push(Token::Done(Done::statement(0, Some(count))));
        self.send(answer).await;
    }

    async fn answer_error(&mut self, text: &str) {
        let error = Token::Message(ServerMessage::new(229, 14, self.name, text));
        self.send(vec![error, Token::Done(Done::statement(Done::ERROR, None))])
            .await;
    }

    async fn send(&mut self, tokens: Vec<Token>) {
        let mut answer = AnswerWriter::new(self.order);
        for token in &tokens {
            answer.push(token).unwrap();
        }
        let payload = answer.into_payload();
        self.channel.send(PacketType::RESPONSE, &payload).await.unwrap();
    }
}

/// A session under test, with its server and its consumer.
struct Stage {
    server: Server,
    seen: mpsc::Receiver<Observation>,
    gateways: watch::Sender<bool>,
    login: Login,
    reporter: Option<LinkReporter>,
    sessions_ended: u32,
}

type Running = JoinHandle<(Result<(), Failure>, LinkReporter)>;

impl Stage {
    fn set(check: Check) -> Self {
        let (out, seen) = mpsc::channel(64);
        let gateways = watch::Sender::new(false);
        let credentials = Credentials {
            user: "operator".to_owned(),
            password: "secret".to_owned(),
        };
        let login = Login {
            credentials: Arc::new(credentials),
            allow_plaintext: true,
            object_server: NAME.to_owned(),
            proxy: None,
            gateways: gateways.subscribe(),
            refusals: Arc::default(),
            undecodable: Arc::default(),
        };
        Self {
            server: Server::on(duplex(4096).1),
            seen,
            gateways,
            login,
            reporter: Some(LinkReporter::new(check, &TIMING, out)),
            sessions_ended: 0,
        }
    }

    /// Starts a session on a new connection, with a new server at its other end.
    fn start(&mut self) -> Running {
        let (near, far) = duplex(4096);
        self.server = Server::on(far);
        let (login, mut reporter) = (self.login.clone(), self.reporter.take().unwrap());
        tokio::spawn(async move {
            let ended = run(near, &login, &TIMING, &mut reporter).await;
            (ended, reporter)
        })
    }

    /// Waits until the session has ended.
    async fn ended(&mut self, running: Running) -> Result<(), Failure> {
        let (ended, reporter) = timeout(DEADLINE, running).await.expect("the session goes on").unwrap();
        self.reporter = Some(reporter);
        ended
    }

    /// The next observation, but for those that nothing has changed and that a session has ended.
    async fn next(&mut self) -> Option<Observation> {
        let next = async {
            loop {
                match self.seen.recv().await {
                    Some(Observation::Unchanged(_)) => {}
                    Some(Observation::SessionEnded(_)) => self.sessions_ended += 1,
                    observation => return observation,
                }
            }
        };
        timeout(DEADLINE, next).await.expect("no observation")
    }

    /// The next observation, which must be a link.
    async fn link(&mut self) -> Link {
        match self.next().await {
            Some(Observation::Link(_, link)) => link,
            other => panic!("no link: {other:?}"),
        }
    }

    /// The next observations, which must be those of an answer by the declared server.
    async fn answered(&mut self) -> ServerInfo {
        assert_eq!(self.link().await, Link::Answering);
        self.info().await
    }

    /// The next observation, which must be what the server states about itself.
    async fn info(&mut self) -> ServerInfo {
        match self.next().await {
            Some(Observation::Server(info)) => info,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The next observations, which must be those of an answer by another server. Returns since when it has been seen.
    async fn mismatched(&mut self) -> Instant {
        let link = self.link().await;
        let Link::Failed { since, fault, message } = link else {
            panic!("{link:?}")
        };
        assert_eq!(fault, Fault::WrongServer, "{message}");
        assert_eq!(message, "server identifies itself as AGG_X, expected AGG_P");
        self.info().await;
        since
    }
}

fn login_failure(ended: Result<(), Failure>) -> String {
    match ended {
        Err(Failure::Fault {
            fault: Fault::Login,
            message,
        }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_login_serves_one_query_each_interval() {
    let mut stage = Stage::set(Check::Direct);
    let _running = stage.start();
    let login = stage.server.accept().await;
    assert_eq!(
        (login.user.as_str(), login.application.as_str()),
        ("operator", APPLICATION)
    );
    let began = now();
    for n in 0..5 {
        let asked = stage.server.answer_properties().await;
        assert_eq!(asked - began, TIMING.interval * n);
        let expected = ServerInfo {
            check: Check::Direct,
            asked,
            answered: asked,
            name: Some(NAME.to_owned()),
            acting_primary: Some(true),
            gateways: None,
        };
        assert_eq!(stage.answered().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_login_is_reported_with_the_servers_message_and_not_repeated_for_a_minute() {
    let mut stage = Stage::set(Check::Direct);
    let running = stage.start();
    stage.server.reject().await;
    let message = login_failure(stage.ended(running).await);
    assert!(message.contains("Login failed."), "{message}");
    let refusal = stage.login.refusals.current(now()).unwrap();
    assert_eq!((refusal.until - now(), &refusal.message), (60 * SECOND, &message));

    // The other check, or the next attempt of this one: the server never sees a login.
    let running = stage.start();
    assert_eq!(login_failure(stage.ended(running).await), message);
    assert!(stage.server.message().await.is_none());

    tokio::time::advance(60 * SECOND).await;
    let _running = stage.start();
    stage.server.accept().await;
    stage.server.answer_properties().await;
    stage.answered().await;
    assert!(stage.login.refusals.current(now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn another_server_fails_since_it_was_first_seen_until_the_declared_one_answers() {
    let mut stage = Stage::set(Check::Direct);
    let running = stage.start();
    stage.server.accept().await;
    stage.server.name = "AGG_X";
    let first = stage.server.answer_properties().await;
    assert_eq!(stage.mismatched().await, first);
    for _ in 0..3 {
        let asked = stage.server.answer_properties().await;
        assert!(asked > first);
        assert_eq!(stage.mismatched().await, first);
    }
    // A session that ends does not make it younger.
    stage.server = Server::on(duplex(1).1);
    assert_eq!(stage.link().await, Link::Silent { since: first });
    stage.ended(running).await.unwrap();
    let _running = stage.start();
    stage.server.accept().await;
    stage.server.name = "AGG_X";
    stage.server.answer_properties().await;
    assert_eq!(stage.mismatched().await, first);

    stage.server.name = NAME;
    stage.server.answer_properties().await;
    stage.answered().await;
    stage.server.name = "AGG_X";
    let again = stage.server.answer_properties().await;
    assert_eq!(stage.mismatched().await, again);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_read_is_an_answer() {
    let mut stage = Stage::set(Check::Path);
    let _running = stage.start();
    stage.server.accept().await;
    for _ in 0..2 {
        stage.server.expect(PROPERTIES).await;
        stage.server.answer_error("permission denied").await;
        let info = stage.answered().await;
        assert_eq!((info.name, info.acting_primary), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn the_name_in_a_servers_message_counts_where_its_properties_cannot_be_read() {
    for (check, proxy, is_believed) in [
        (Check::Direct, None, true),
        (Check::Path, None, true),
        (Check::Direct, Some("PROXY_P"), true),
        // A proxy server on the way may put its own name there.
        (Check::Path, Some("PROXY_P"), false),
    ] {
        let mut stage = Stage::set(check);
        stage.login.proxy = proxy.map(str::to_owned);
        let _running = stage.start();
        stage.server.accept().await;
        stage.server.name = "AGG_X";
        stage.server.expect(PROPERTIES).await;
        stage.server.answer_error("permission denied").await;
        if is_believed {
            stage.mismatched().await;
        } else {
            stage.answered().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_reported_after_an_interval_with_the_moment_of_the_query_and_ends_with_its_answer() {
    let mut stage = Stage::set(Check::Direct);
    let _running = stage.start();
    stage.server.accept().await;
    stage.server.answer_properties().await;
    stage.answered().await;
    stage.server.expect(PROPERTIES).await;
    let asked = now();
    assert_eq!(stage.link().await, Link::Silent { since: asked });
    assert_eq!(now() - asked, TIMING.interval);
    sleep(60 * SECOND).await;
    let rows = [("Name", NAME), ("ActingPrimary", "FALSE")];
    stage.server.answer_rows(["PropName", "Value"], &rows).await;
    let info = stage.answered().await;
    assert_eq!((info.asked, info.answered), (asked, now()));
    assert_eq!(info.acting_primary, Some(false));
    // Late as it is, the next query follows at once, on the same session.
    assert_eq!(stage.server.answer_properties().await, info.answered);
    stage.answered().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_stays_silent_is_given_up_with_the_moment_its_silence_began() {
    let mut stage = Stage::set(Check::Direct);
    let running = stage.start();
    stage.server.accept().await;
    stage.server.expect(PROPERTIES).await;
    let asked = now();
    for _ in ["late", "given up"] {
        assert_eq!(stage.link().await, Link::Silent { since: asked });
    }
    assert_eq!(now() - asked, TIMING.interval + TIMING.unresponsive_after + GIVE_UP);
    stage.ended(running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_login_without_an_answer_is_silence_and_no_rejection() {
    let mut stage = Stage::set(Check::Direct);
    let began = now();
    let running = stage.start();
    stage.server.login().await;
    assert_eq!(stage.link().await, Link::Silent { since: began });
    assert!(matches!(stage.ended(running).await, Err(Failure::NoAnswer)));
    assert!(stage.login.refusals.current(now()).is_none());
    while let Ok(more) = stage.seen.try_recv() {
        assert!(matches!(more, Observation::Unchanged(_)), "{more:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_between_queries_is_reported_at_once() {
    let mut stage = Stage::set(Check::Direct);
    let _running = stage.start();
    stage.server.accept().await;
    let asked = stage.server.answer_properties().await;
    stage.answered().await;
    sleep(TIMING.interval / 4).await;
    stage.server = Server::on(duplex(1).1);
    let since = asked + TIMING.interval / 4;
    assert_eq!(stage.link().await, Link::Silent { since });
    assert_eq!(now(), since);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_instead_of_an_answer_is_reported_at_once() {
    let mut stage = Stage::set(Check::Direct);
    let _running = stage.start();
    stage.server.accept().await;
    stage.server.expect(PROPERTIES).await;
    let asked = now();
    sleep(TIMING.interval / 4).await;
    stage.server = Server::on(duplex(1).1);
    let since = asked + TIMING.interval / 4;
    assert_eq!(stage.link().await, Link::Silent { since });
    assert_eq!(now(), since);
}

#[tokio::test(start_paused = true)]
async fn gateways_are_asked_for_while_they_are_wanted_and_then_at_once() {
    let mut stage = Stage::set(Check::Direct);
    let _running = stage.start();
    stage.server.accept().await;
    let first = stage.server.answer_properties().await;
    assert_eq!(stage.answered().await.gateways, None);

    stage.gateways.send_replace(true);
    assert_eq!(stage.server.answer_properties().await, first);
    stage.server.expect(GATEWAYS).await;
    let rows = [("7", "failover_gate ")];
    stage
        .server
        .answer_rows(["ConnectionID", "AppDescription"], &rows)
        .await;
    let session = GatewaySession {
        id: "7".to_owned(),
        description: "failover_gate".to_owned(),
    };
    assert_eq!(stage.answered().await.gateways, Some(Ok(vec![session])));

    stage.server.answer_properties().await;
    stage.server.expect(GATEWAYS).await;
    stage.server.answer_error("permission denied").await;
    let error = stage.answered().await.gateways.unwrap().unwrap_err();
    assert!(error.contains("permission denied"), "{error}");

    stage.gateways.send_replace(false);
    stage.server.answer_properties().await;
    assert_eq!(stage.answered().await.gateways, None);
    stage.server.answer_properties().await;
}

#[tokio::test(start_paused = true)]
async fn the_path_check_never_asks_for_gateways() {
    let mut stage = Stage::set(Check::Path);
    stage.gateways.send_replace(true);
    let _running = stage.start();
    stage.server.accept().await;
    for _ in 0..2 {
        stage.server.answer_properties().await;
        assert_eq!(stage.answered().await.gateways, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_short_is_followed_by_the_next_login_only_after_a_while() {
    for (lasts, pause) in [(SHORT / 2, LOGIN_RETRY), (SHORT * 2, Duration::ZERO)] {
        let mut stage = Stage::set(Check::Direct);
        let running = stage.start();
        stage.server.accept().await;
        let began = now();
        while now() - began < lasts {
            stage.server.answer_properties().await;
            stage.answered().await;
        }
        stage.server = Server::on(duplex(1).1);
        let ended = now();
        stage.ended(running).await.unwrap();
        assert_eq!(now() - ended, pause);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_without_a_rejection_is_tried_again_only_after_a_while() {
    let mut stage = Stage::set(Check::Direct);
    let running = stage.start();
    stage.server.login().await;
    stage.server = Server::on(duplex(1).1);
    let closed = now();
    let link = stage.link().await;
    assert!(
        matches!(link, Link::Failed { since, fault: Fault::Connection, .. } if since == closed),
        "{link:?}"
    );
    assert!(matches!(stage.ended(running).await, Err(Failure::NoAnswer)));
    assert_eq!(now() - closed, LOGIN_RETRY);
    assert!(stage.login.refusals.current(now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_observations_are_no_longer_received() {
    let mut stage = Stage::set(Check::Direct);
    let running = stage.start();
    stage.server.accept().await;
    stage.server.answer_properties().await;
    stage.answered().await;
    stage.seen.close();
    stage.server.answer_properties().await;
    assert!(matches!(stage.ended(running).await, Err(Failure::ConsumerGone)));
}
