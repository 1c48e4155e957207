//! The operator's direct check with a login, against the stand-in ObjectServer: one session for many reads, and what each fault looks like.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use proxypair::check::{APPLICATION, Credentials, Login, Observation, Refusals, ServerInfo, check_objectserver};
use proxypair::dial::{Address, Dialer};
use proxypair::domain::evidence::{Fault, Link, Timing};
use serde_json::Value;
use testkit::programs::{DEADLINE, ObjectServer};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const TIMING: Timing = Timing {
    interval: Duration::from_millis(100),
    unreachable_after: Duration::ZERO,
    unresponsive_after: Duration::from_secs(3),
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::ZERO,
};

/// A check of one ObjectServer.
struct Running {
    seen: mpsc::Receiver<Observation>,
    gateways: watch::Sender<bool>,
    refusals: Arc<Refusals>,
}

impl Running {
    fn on(server: &ObjectServer, password: &str) -> Self {
        Self::expecting(server.name, server, password)
    }

    fn expecting(name: &str, server: &ObjectServer, password: &str) -> Self {
        Self::with(Arc::default(), name, server, password)
    }

    fn with(refusals: Arc<Refusals>, name: &str, server: &ObjectServer, password: &str) -> Self {
        Self::timed(TIMING, refusals, name, server, password)
    }

    fn timed(timing: Timing, refusals: Arc<Refusals>, name: &str, server: &ObjectServer, password: &str) -> Self {
        let (out, seen) = mpsc::channel(64);
        let gateways = watch::Sender::new(false);
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
            undecodable: Arc::default(),
        };
        let address = Address::new(server.address.ip().to_string(), server.address.port());
        let dialer = Dialer::new(address, timing.unresponsive_after);
        tokio::spawn(check_objectserver(dialer, timing, Some(login), out));
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
                match self.seen.recv().await.expect("the check has ended") {
                    Observation::Link(_, link) if fits(&link) => return link,
                    other => before.push(other),
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

    async fn info(&mut self, fits: impl Fn(&ServerInfo) -> bool) -> ServerInfo {
        let next = async {
            loop {
                match self.seen.recv().await.expect("the check has ended") {
                    Observation::Server(info) if fits(&info) => return info,
                    _ => {}
                }
            }
        };
        timeout(DEADLINE, next).await.expect("no answer that fits")
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
    let mut check = Running::on(&server, "");
    let first = check.info(|_| true).await;
    assert_eq!(first.name.as_deref(), Some("AGG_B"));
    assert_eq!(first.acting_primary, Some(false));
    assert_eq!(first.gateways, None);
    let before = sessions(&server);
    for _ in 0..20 {
        check.info(|_| true).await;
    }
    let after = sessions(&server);
    assert_eq!(before, after, "the session is another one");
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0]["AppName"], APPLICATION, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_asked_for_only_when_wanted_and_then_at_once() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut check = Running::on(&server, "");
    check.info(|info| info.gateways.is_none()).await;
    check.gateways.send_replace(true);
    let info = check.info(|info| info.gateways.is_some()).await;
    assert_eq!(info.gateways, Some(Ok(Vec::new())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_silence_and_ends_with_an_answer_on_the_same_session() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut check = Running::on(&server, "");
    check.answering().await;
    let before = sessions(&server);
    server.ask_agent("POST", "/stall");
    check.link("silence", |link| matches!(link, Link::Silent { .. })).await;
    server.ask_agent("POST", "/resume");
    check.answering().await;
    assert_eq!(before, sessions(&server), "the session is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_seen_at_once_and_logged_in_to_again_when_it_is_back() {
    let mut server = ObjectServer::start("AGG_P", &[]);
    let mut check = Running::on(&server, "");
    check.answering().await;
    server.kill();
    let failed = check
        .link("a failure", |link| matches!(link, Link::Failed { .. }))
        .await;
    let Link::Failed { fault, message, .. } = failed else {
        panic!()
    };
    assert_eq!(fault, Fault::Connection, "{message}");
    server.start_again();
    check.answering().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_login_is_reported_with_the_servers_message_and_not_repeated_for_a_minute() {
    let server = ObjectServer::start_with_agent("AGG_P", &["--password=right"]);
    let mut check = Running::on(&server, "wrong");
    let rejected = check
        .link("a rejection", |link| matches!(link, Link::Failed { .. }))
        .await;
    let Link::Failed { fault, message, .. } = rejected else {
        panic!()
    };
    assert_eq!(fault, Fault::Login, "{message}");
    assert!(message.contains("Login failed"), "{message}");
    let seen = Instant::now();
    let refusal = check.refusals.current(seen).expect("no rejection in force");
    assert!(
        refusal.until <= seen + Duration::from_secs(60),
        "{refusal:?} at {seen:?}"
    );
    assert_eq!(refusal.message, message);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_behind_the_address_is_named_and_has_been_wrong_since_its_first_answer() {
    let server = ObjectServer::start_with_agent("AGG_B", &[]);
    let mut check = Running::expecting("AGG_P", &server, "");
    let is_mismatch = |link: &Link| {
        matches!(
            link,
            Link::Failed {
                fault: Fault::WrongServer,
                ..
            }
        )
    };
    let first = check.link("another server", is_mismatch).await;
    let Link::Failed { message, .. } = &first else { panic!() };
    assert_eq!(message, "server identifies itself as AGG_B, expected AGG_P");
    let later = check.link("another server, again", is_mismatch).await;
    assert_eq!(first, later);
    assert_eq!(sessions(&server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_of_a_side_share_a_rejection() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    server.ask_agent("POST", "/refuse-logins");
    let mut check = Running::on(&server, "");
    let is_rejection = |link: &Link| {
        matches!(
            link,
            Link::Failed {
                fault: Fault::Login,
                ..
            }
        )
    };
    check.link("a rejection", is_rejection).await;
    server.ask_agent("POST", "/accept-logins");
    // Its login would be accepted.
    let mut other = Running::with(Arc::clone(&check.refusals), "AGG_P", &server, "");
    let first = other.link("anything", |_| true).await;
    assert!(is_rejection(&first), "{first:?}");
    assert_eq!(sessions(&server).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_rejected_slowly_is_counted_once_for_both_checks_of_a_side() {
    let server = ObjectServer::start_with_agent("AGG_P", &["--password=right", "--refuse-after-ms=2000"]);
    let patient = Timing {
        unresponsive_after: DEADLINE,
        lost_after: DEADLINE,
        ..TIMING
    };
    let refusals = Arc::<Refusals>::default();
    let is_rejection = |link: &Link| {
        matches!(
            link,
            Link::Failed {
                fault: Fault::Login,
                ..
            }
        )
    };
    let mut checks = [(); 2].map(|()| Running::timed(patient, Arc::clone(&refusals), "AGG_P", &server, "wrong"));
    for check in &mut checks {
        check.link("a rejection", is_rejection).await;
    }
    let refused = &server.ask_agent("GET", "/status")["refused_logins"];
    assert_eq!(refused[APPLICATION], 1, "{refused}");
}
