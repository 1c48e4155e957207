//! Logins and answers that lead to nothing, and what a server says about itself.

use super::*;

/// What the session ended with.
fn failure(ended: Result<(), Failure>) -> (Fault, String) {
    match ended {
        Err(Failure::Fault { fault, message }) => (fault, message),
        other => panic!("{other:?}"),
    }
}

/// An answer with a token that does not exist.
const UNKNOWN_TOKEN: &[u8] = &[0x99, 0, 0];

#[tokio::test(start_paused = true)]
async fn an_answer_to_the_login_that_cannot_be_decoded_is_told_and_not_asked_for_again_for_a_minute() {
    let mut stage = Stage::set(Check::Path);
    let running = stage.start();
    stage.server.login().await;
    stage
        .server
        .channel
        .send(PacketType::RESPONSE, UNKNOWN_TOKEN)
        .await
        .unwrap();
    let (fault, message) = failure(stage.ended(running).await);
    assert_eq!(fault, Fault::Protocol);
    assert_eq!(
        message,
        "the answer to the login cannot be decoded: token of an answer cannot be 0x99"
    );
    assert_eq!(stage.login.refusal(now()).unwrap().until - now(), 60 * SECOND);
    // It is no rejection: the side's other check goes on.
    assert!(stage.login.refusals.current(now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_query_that_cannot_be_decoded_ends_the_session_and_the_logins_become_rare() {
    let mut stage = Stage::set(Check::Direct);
    for minutes in [1, 2, 4] {
        let running = stage.start();
        stage.server.accept().await;
        stage.server.expect(PROPERTIES).await;
        stage
            .server
            .channel
            .send(PacketType::RESPONSE, UNKNOWN_TOKEN)
            .await
            .unwrap();
        let (fault, message) = failure(stage.ended(running).await);
        assert_eq!(fault, Fault::Protocol);
        assert_eq!(
            message,
            "the answer cannot be decoded: token of an answer cannot be 0x99"
        );
        let refusal = stage.login.refusal(now()).unwrap();
        assert_eq!(refusal.until - now(), 60 * minutes * SECOND);
        tokio::time::advance(60 * minutes * SECOND).await;
    }
    let _running = stage.start();
    stage.server.accept().await;
    stage.server.answer_properties().await;
    stage.answered().await;
    assert_eq!(stage.login.refusal(now()), None);
    assert_eq!(stage.sessions_ended, 3);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_cannot_be_written_says_nothing_about_the_server() {
    let mut stage = Stage::set(Check::Direct);
    let credentials = Credentials {
        user: "svc-netcool-proxypair-check@corp.example.com".to_owned(),
        password: "secret".to_owned(),
    };
    stage.login.credentials = Arc::new(credentials);
    let running = stage.start();
    let link = stage.link().await;
    let Link::Unseen { message } = link else {
        panic!("{link:?}")
    };
    assert_eq!(
        message,
        "the login cannot be sent: user name is 44 bytes long, its field holds 30"
    );
    assert!(stage.server.message().await.is_none(), "something was sent");
    assert!(matches!(stage.ended(running).await, Err(Failure::NoAnswer)));
}

/// Two checks of a side with the same rejections.
fn two_checks() -> (Stage, Stage) {
    let (direct, mut path) = (Stage::set(Check::Direct), Stage::set(Check::Path));
    path.login.refusals = Arc::clone(&direct.login.refusals);
    (direct, path)
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_rejected_slowly_is_tried_by_one_check_alone() {
    let (mut direct, mut path) = two_checks();
    let first = direct.start();
    direct.server.login().await;
    let second = path.start();
    sleep(TIMING.interval * 2).await;
    let reason = ServerMessage::new(4002, 14, NAME, "Login failed.");
    direct
        .server
        .answer_login(LoginAck::FAIL, &[Token::Message(reason)])
        .await;
    let message = login_failure(direct.ended(first).await);
    assert_eq!(login_failure(path.ended(second).await), message);
    assert!(path.server.message().await.is_none(), "it was tried twice");
    let refusal = direct.login.refusals.current(now()).unwrap();
    assert_eq!(refusal.until - now(), 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_gets_no_answer_holds_up_the_other_check_no_longer_than_silence_may_last() {
    let (mut direct, mut path) = two_checks();
    let _first = direct.start();
    direct.server.login().await;
    let began = now();
    let _second = path.start();
    path.server.accept().await;
    assert_eq!(now() - began, TIMING.unresponsive_after);
    path.server.answer_properties().await;
    path.answered().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_is_cut_and_escaped() {
    let long = "x\u{1b}[2J".repeat(1000);
    let mut stage = Stage::set(Check::Direct);
    stage.gateways.send_replace(true);
    stage.server = Server::on(duplex(4096).1);
    let running = stage.start();
    stage.server.accept().await;
    stage.server.expect(PROPERTIES).await;
    stage.server.answer_error(&long).await;
    stage.server.expect(GATEWAYS).await;
    stage.server.answer_error(&long).await;
    let said = stage.answered().await.gateways.unwrap().unwrap_err();
    assert!(said.chars().count() <= 300 && !said.contains('\u{1b}'), "{said}");
    running.abort();

    let mut stage = Stage::set(Check::Direct);
    let running = stage.start();
    stage.server.login().await;
    let reason = ServerMessage::new(4002, 14, NAME, &long);
    stage
        .server
        .answer_login(LoginAck::FAIL, &[Token::Message(reason)])
        .await;
    let message = login_failure(stage.ended(running).await);
    assert!(
        message.chars().count() <= 300 && !message.contains('\u{1b}'),
        "{message}"
    );
}

#[test]
fn what_a_login_that_led_to_nothing_says_about_the_server() {
    use crate::tds::Error;
    let fault = |error| match failed_login(&error) {
        Failure::Fault { fault, .. } => Some(fault),
        Failure::Unseen { .. } => None,
        other => panic!("{other:?}"),
    };
    let unfinished = Error::Unfinished;
    let refused = LoginError::Refused {
        number: 4002,
        text: String::new(),
    };
    let local = std::io::Error::from_raw_os_error(105); // ENOBUFS
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    for (error, expected) in [
        (refused, Some(Fault::Login)),
        (
            LoginError::Encryption(EncryptionError::Key(String::new())),
            Some(Fault::Login),
        ),
        (LoginError::Closed { spoke: true }, Some(Fault::Connection)),
        (LoginError::Io(reset), Some(Fault::Connection)),
        (LoginError::NotTds { first: 0x15 }, Some(Fault::WrongServer)),
        (LoginError::NotTds { first: b'S' }, Some(Fault::WrongServer)),
        (LoginError::NotTds { first: 15 }, Some(Fault::Protocol)),
        (LoginError::Protocol(unfinished.clone()), Some(Fault::Protocol)),
        (LoginError::NoVerdict, Some(Fault::Protocol)),
        (
            LoginError::OlderProtocol { version: [4, 2, 0, 0] },
            Some(Fault::Protocol),
        ),
        (LoginError::Unwritable(unfinished), None),
        (LoginError::Encryption(EncryptionError::Crypto), None),
        (LoginError::Io(local), None),
    ] {
        let words = error.to_string();
        assert_eq!(fault(error), expected, "{words}");
    }
}
