//! The operator's eyes with a login, against the stand-in ObjectServer: one session for many reads, and what each fault looks like.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use proxypair::check::{APPLICATION, Credentials, Login, Observation, Refusals, ServerInfo, check_objectserver};
use proxypair::dial::{Address, Dialer};
use proxypair::domain::evidence::{Fault, Link, Timing};
use serde_json::Value;
use testkit::programs::{DEADLINE, ObjectServer, eventually};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const TIMING: Timing = Timing {
    interval: Duration::from_millis(100),
    unreachable_after: Duration::ZERO,
    unresponsive_after: Duration::from_secs(3),
    healthy_after: Duration::ZERO,
};

/// An eye on one ObjectServer.
struct Watch {
    seen: mpsc::Receiver<Observation>,
    gateways: watch::Sender<bool>,
    refusals: Arc<Refusals>,
}

impl Watch {
    fn on(server: &ObjectServer, password: &str) -> Self {
        Self::expecting(server.name, server, password)
    }

    fn expecting(name: &str, server: &ObjectServer, password: &str) -> Self {
        let (out, seen) = mpsc::channel(64);
        let gateways = watch::Sender::new(false);
        let refusals = Arc::new(Refusals::default());
        let login = Login {
            credentials: Arc::new(Credentials {
                user: "root".to_owned(),
                password: password.to_owned(),
            }),
            allow_plaintext: true,
            object_server: name.to_owned(),
            proxy: None,
            gateways: gateways.subscribe(),
            refusals: Arc::clone(&refusals),
        };
        let address = Address::new(server.address.ip().to_string(), server.address.port());
        let dialer = Dialer::new(address, TIMING.unresponsive_after);
        tokio::spawn(check_objectserver(dialer, TIMING, Some(login), out));
        Self {
            seen,
            gateways,
            refusals,
        }
    }

    /// The first link that fits; fails with all that was seen before.
    async fn link(&mut self, what: &str, fits: impl Fn(&Link) -> bool) -> Link {
        let mut before = Vec::new();
        let next = async {
            loop {
                match self.seen.recv().await.expect("the eye is shut") {
                    Observation::Link(_, link) if fits(&link) => return link,
                    sighting => before.push(sighting),
                }
            }
        };
        match timeout(DEADLINE, next).await {
            Ok(link) => link,
            Err(_) => panic!("not within {DEADLINE:?}: {what}; seen: {before:?}"),
        }
    }

    async fn answering(&mut self) {
        self.link("an answer", |link| *link == Link::Answering).await;
    }

    async fn saying(&mut self, fits: impl Fn(&ServerInfo) -> bool) -> ServerInfo {
        let next = async {
            loop {
                match self.seen.recv().await.expect("the eye is shut") {
                    Observation::Server(said) if fits(&said) => return said,
                    _ => {}
                }
            }
        };
        timeout(DEADLINE, next).await.expect("nothing that fits was said")
    }
}

fn sessions(server: &ObjectServer) -> Vec<Value> {
    match server.ask_agent("GET", "/sessions") {
        Value::Array(sessions) => sessions,
        other => panic!("no sessions: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_are_made_on_one_session_with_a_fixed_name() {
    let server = ObjectServer::start_with_agent("AGG_B", &["--backup"]);
    let mut watch = Watch::on(&server, "");
    let first = watch.saying(|_| true).await;
    assert_eq!(first.name.as_deref(), Some("AGG_B"));
    assert_eq!(first.acting_primary, Some(false));
    assert_eq!(first.gateways, None);
    let before = sessions(&server);
    for _ in 0..20 {
        watch.saying(|_| true).await;
    }
    let after = sessions(&server);
    assert_eq!(before, after, "the session is another one");
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0]["AppName"], APPLICATION, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_asked_for_only_when_wanted_and_then_at_once() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut watch = Watch::on(&server, "");
    watch.saying(|said| said.gateways.is_none()).await;
    watch.gateways.send_replace(true);
    let said = watch.saying(|said| said.gateways.is_some()).await;
    assert_eq!(said.gateways, Some(Ok(Vec::new())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_told_with_the_moment_of_the_question_and_ends_with_its_answer_on_the_same_session() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut watch = Watch::on(&server, "");
    watch.answering().await;
    let before = sessions(&server);
    let stalled = Instant::now();
    server.ask_agent("POST", "/stall");
    let silent = watch.link("silence", |link| matches!(link, Link::Silent { .. })).await;
    let Link::Silent { since } = silent else { panic!() };
    assert!(since + TIMING.interval * 2 >= stalled, "silent since before the stall");
    server.ask_agent("POST", "/resume");
    watch.answering().await;
    assert_eq!(before, sessions(&server), "the session is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_seen_at_once_and_logged_in_to_again_when_it_is_back() {
    let mut server = ObjectServer::start("AGG_P", &[]);
    let mut watch = Watch::on(&server, "");
    watch.answering().await;
    server.kill();
    let failed = watch
        .link("a failure", |link| matches!(link, Link::Failed { .. }))
        .await;
    let Link::Failed { fault, message, .. } = failed else {
        panic!()
    };
    assert_eq!(fault, Fault::Connection, "{message}");
    server.start_again();
    watch.answering().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told_in_the_servers_words_and_not_tried_again_for_a_minute() {
    let server = ObjectServer::start_with_agent("AGG_P", &["--password=right"]);
    let mut watch = Watch::on(&server, "wrong");
    let refused = watch
        .link("a refusal", |link| matches!(link, Link::Failed { .. }))
        .await;
    let Link::Failed { fault, message, .. } = refused else {
        panic!()
    };
    assert_eq!(fault, Fault::Login, "{message}");
    assert!(message.contains("Login failed"), "{message}");
    let standing = eventually("a refusal that stands", || {
        watch.refusals.standing(Instant::now()).ok_or("")
    });
    let wait = standing.until - Instant::now();
    assert!(
        wait > Duration::from_secs(50) && wait <= Duration::from_secs(60),
        "{wait:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_behind_the_address_is_named() {
    let server = ObjectServer::start_with_agent("AGG_B", &[]);
    let mut watch = Watch::expecting("AGG_P", &server, "");
    let stranger = watch
        .link("a stranger", |link| matches!(link, Link::Failed { .. }))
        .await;
    let Link::Failed { fault, message, .. } = stranger else {
        panic!()
    };
    assert_eq!(fault, Fault::WrongServer, "{message}");
    assert_eq!(message, "the server there says that it is AGG_B, not AGG_P");
    assert_eq!(sessions(&server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_eyes_of_a_side_share_one_refusal() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    server.ask_agent("POST", "/refuse-logins");
    let mut watch = Watch::on(&server, "");
    watch
        .link("a refusal", |link| {
            matches!(
                link,
                Link::Failed {
                    fault: Fault::Login,
                    ..
                }
            )
        })
        .await;
    server.ask_agent("POST", "/accept-logins");
    assert!(watch.refusals.standing(Instant::now()).is_some());
    // Nobody logs in before the refusal is over, although it would be accepted.
    let quiet = timeout(Duration::from_secs(2), watch.saying(|_| true)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(sessions(&server).len(), 0);
}
