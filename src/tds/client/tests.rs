//! The client against a peer that plays back what servers send.

use super::*;
use crate::tds::Error;
use crate::tds::packet::{Assembler, write_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const ACCEPT: &[u8] = b"\xad\x14\0\x05\x05\0\0\0\x0aSQL Server\x0f\0\0\0\xfd\0\0\0\0\0\0\0\0";
const REFUSE: &[u8] = b"\xad\x14\0\x06\x05\0\0\0\x0aSQL Server\x0f\0\0\0\xe5\x27\0\xa2\x0f\0\0\x01\x0e\x05ZZZZZ\0\0\0\x0d\0Login failed.\x05AGG_P\0\0\0\xfd\x02\0\0\0\0\0\0\0";
const DONE_ERROR: &[u8] = b"\xfd\x02\0\0\0\0\0\0\0";
const SQL_ERROR: &[u8] = b"\xe5\x36\0\x66\0\0\0\x01\x0f\x05ZZZZZ\0\0\0\x1c\0Incorrect syntax near 'foo'.\x05NCOMS\0\x01\0\xfd\x02\0\0\0\0\0\0\0";
const TRUE: &[u8] = b"\xee\x10\0\x01\0\x05Value\x20\0\0\0\0\x27\xff\0\xd1\x04TRUE\xfd\x10\0\0\0\x01\0\0\0";

async fn read_message(stream: &mut DuplexStream) -> Message {
    let mut assembler = Assembler::new(4096);
    loop {
        let byte = stream.read_u8().await.unwrap();
        if let Some(message) = assembler.feed(&mut [byte].as_slice()).unwrap() {
            return message;
        }
    }
}

async fn play(answers: &[&[u8]], mut stream: DuplexStream) {
    play_on(answers, &mut stream).await;
}

async fn play_on(answers: &[&[u8]], stream: &mut DuplexStream) {
    for answer in answers {
        read_message(stream).await;
        let mut packets = Vec::new();
        write_message(PacketType::RESPONSE, answer, 20, &mut packets);
        stream.write_all(&packets).await.unwrap();
    }
}

async fn log_in(answer: &'static [u8]) -> Result<Client<DuplexStream>, LoginError> {
    let (near, far) = duplex(4096);
    tokio::spawn(async move { play(&[answer], far).await });
    Client::login(near, &LoginRecord::new("root", "", "test")).await
}

async fn log_in_raw(answer: &'static [u8]) -> LoginError {
    let (near, mut far) = duplex(4096);
    tokio::spawn(async move {
        read_message(&mut far).await;
        far.write_all(answer).await.unwrap();
    });
    Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap_err()
}

async fn ask(answer: &'static [u8]) -> Result<Answer, QueryError> {
    let (near, far) = duplex(4096);
    tokio::spawn(async move { play(&[ACCEPT, answer], far).await });
    let mut client = Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap();
    client.query("select Value from catalog.properties").await
}

#[tokio::test]
async fn finds_a_value_by_the_name_of_its_column() {
    let answer = ask(TRUE).await.unwrap();
    let row = answer.rows().next().unwrap();
    assert_eq!(row.get("Value").unwrap().text().as_deref(), Some("TRUE"));
    assert_eq!(row.get("VALUE"), row.get("Value"));
    assert!(row.get("Valu").is_none());
    assert_eq!(answer.counts, [1]);
}

#[tokio::test]
async fn an_sql_error_carries_the_servers_words_and_name() {
    match ask(SQL_ERROR).await.unwrap_err() {
        QueryError::Sql {
            server,
            number,
            class,
            text,
        } => {
            assert_eq!((server.as_str(), number, class), ("NCOMS", 102, 15));
            assert_eq!(text, "Incorrect syntax near 'foo'.");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failure_without_a_message_is_an_error_too() {
    assert!(matches!(ask(DONE_ERROR).await, Err(QueryError::Sql { number: 0, .. })));
}

#[tokio::test]
async fn an_answer_without_an_end_acknowledges_nothing() {
    for unfinished in [&b""[..], b"\xfd\x11\0\0\0\x01\0\0\0"] {
        assert!(matches!(
            ask(unfinished).await,
            Err(QueryError::Protocol(Error::Unfinished))
        ));
    }
}

#[tokio::test]
async fn a_refused_login_keeps_the_servers_reason() {
    match log_in(REFUSE).await.unwrap_err() {
        LoginError::Refused { number, text } => assert_eq!((number, text.as_str()), (4002, "Login failed.")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_demand_for_encryption_is_told_apart() {
    const NEGOTIATE: &[u8] = b"\xad\x14\0\x07\x05\0\0\0\x0aSQL Server\x0f\0\0\0\xfd\0\0\0\0\0\0\0\0";
    assert!(matches!(log_in(NEGOTIATE).await, Err(LoginError::EncryptionDemanded)));
}

#[tokio::test]
async fn an_older_server_is_told_apart() {
    const OLD: &[u8] = b"\xad\x14\0\x05\x04\x02\0\0\x0aSQL Server\x0f\0\0\0\xfd\0\0\0\0\0\0\0\0";
    assert!(matches!(
        log_in(OLD).await,
        Err(LoginError::OlderProtocol { version: [4, 2, 0, 0] })
    ));
}

#[tokio::test]
async fn a_tls_alert_is_not_tds() {
    let error = log_in_raw(b"\x15\x03\x01\x00\x02\x02\x28").await;
    assert!(matches!(error, LoginError::NotTds { first: 0x15 }));
}

#[tokio::test]
async fn a_port_that_closes_without_a_word_may_be_a_tls_port() {
    let error = log_in_raw(b"").await;
    assert!(matches!(error, LoginError::Closed { spoke: false }));
    assert_eq!(
        error.to_string(),
        "closed by the server before any TDS byte: is this a TLS port?"
    );
}

#[tokio::test]
async fn a_server_that_closes_within_its_answer_is_told_apart() {
    let error = log_in_raw(b"\x04\x01\x00\x20\0\0\0\0\xad").await;
    assert!(matches!(error, LoginError::Closed { spoke: true }));
}

#[tokio::test]
async fn an_answer_above_the_limit_ends_the_session() {
    let (near, far) = duplex(4096);
    tokio::spawn(async move { play(&[ACCEPT, &[0xfd; 200]], far).await });
    let login = LoginRecord::new("root", "", "test");
    let mut client = Client::with_policy(near, &login, PasswordPolicy::Plain, 100)
        .await
        .unwrap();
    let error = client.query("select 1").await.unwrap_err();
    assert!(matches!(
        error,
        QueryError::Protocol(Error::MessageTooLong { limit: 100 })
    ));
}

#[tokio::test]
async fn an_answer_to_a_login_has_a_smaller_limit_than_one_to_a_query() {
    let (near, far) = duplex(4096);
    let long = vec![0xfd; LOGIN_ANSWER_MAX + 1];
    tokio::spawn(async move { flood_once(&long, far).await });
    let error = Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap_err();
    let limit = LOGIN_ANSWER_MAX;
    assert!(
        matches!(error, LoginError::Protocol(Error::MessageTooLong { limit: found }) if found == limit),
        "{error}"
    );

    let (near, far) = duplex(4096);
    let long = [vec![0xae, 0xff, 0xff], vec![0; 0xffff], TRUE.to_vec()].concat();
    assert!(long.len() > LOGIN_ANSWER_MAX);
    tokio::spawn(async move { play(&[ACCEPT, &long], far).await });
    let mut client = Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap();
    client.query("select 1").await.unwrap();
}

#[tokio::test]
async fn an_answer_to_a_login_has_no_more_tokens_than_a_login_needs() {
    let more = b"\xfd\x01\0\0\0\0\0\0\0".repeat(LOGIN_TOKENS_MAX);
    let answer = Box::leak([more.as_slice(), ACCEPT].concat().into_boxed_slice());
    let error = log_in(answer).await.unwrap_err();
    assert!(
        matches!(error, LoginError::Protocol(Error::TooManyTokens { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_format_without_columns_is_refused_before_its_rows_can_count() {
    const FORMAT: &[u8] = b"\xec\x02\0\0\0\xd7\xd7\xd7\xd7";
    let error = log_in(FORMAT).await.unwrap_err();
    assert!(
        matches!(error, LoginError::Protocol(Error::NoColumns { .. })),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "the answer to the login cannot be decoded: format without columns"
    );
}

/// Reads a login and answers with `payload`, of which the client need not read all.
async fn flood_once(payload: &[u8], mut stream: DuplexStream) {
    read_message(&mut stream).await;
    let mut packets = Vec::new();
    write_message(PacketType::RESPONSE, payload, 512, &mut packets);
    let _ = stream.write_all(&packets).await;
}

/// Reads a login and then sends `bytes` for as long as they are read.
async fn flood(bytes: &'static [u8], first: &'static [u8], mut stream: DuplexStream) {
    read_message(&mut stream).await;
    let mut packets = Vec::new();
    if !first.is_empty() {
        write_message(PacketType::RESPONSE, first, 512, &mut packets);
    }
    let mut sent = stream.write_all(&packets).await;
    while sent.is_ok() {
        sent = stream.write_all(bytes).await;
    }
}

#[tokio::test]
async fn an_answer_of_empty_packets_ends_although_its_last_one_never_comes() {
    let (near, far) = duplex(4096);
    tokio::spawn(flood(b"\x04\0\0\x08\0\0\0\0", b"", far));
    let error = Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, LoginError::Protocol(Error::TooManyPackets { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_sends_on_without_being_asked_is_left() {
    // Whole messages, and one that never ends.
    for chatter in [&b"\x04\x01\0\x0a\0\0\0\0\xfd\xfd"[..], b"\x04\0\0\x0a\0\0\0\0\xfd\xfd"] {
        let (near, far) = duplex(4096);
        tokio::spawn(flood(chatter, ACCEPT, far));
        let mut client = Client::login(near, &LoginRecord::new("root", "", "test"))
            .await
            .unwrap();
        let error = client.lost().await;
        assert!(matches!(error, QueryError::Protocol(Error::Unasked { .. })), "{error}");
    }
}

#[tokio::test]
async fn little_that_was_not_asked_for_is_thrown_away() {
    let (near, mut far) = duplex(4096);
    let peer = tokio::spawn(async move {
        play_on(&[ACCEPT], &mut far).await;
        for _ in 0..100 {
            far.write_all(b"\x04\x01\0\x09\0\0\0\0\xfd").await.unwrap();
        }
        far
    });
    let mut client = Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap();
    let far = peer.await.unwrap();
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), client.lost()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    drop(far);
    assert!(matches!(client.lost().await, QueryError::Closed));
}

#[tokio::test]
async fn a_login_that_does_not_fit_its_fields_is_found_before_a_byte_is_sent() {
    for (user, password, words) in [
        (
            "u".repeat(31),
            "secret".to_owned(),
            "user name is 31 bytes long, its field holds 30",
        ),
        (
            "user".to_owned(),
            "p".repeat(254),
            "password is 254 bytes long, its field holds 253",
        ),
    ] {
        for policy in [PasswordPolicy::Plain, PasswordPolicy::Encrypted] {
            let (near, mut far) = duplex(4096);
            let login = LoginRecord::new(&user, &password, "test");
            let error = Client::with_policy(near, &login, policy, ANSWER_MAX).await.unwrap_err();
            assert!(matches!(error, LoginError::Unwritable(_)), "{error}");
            assert_eq!(error.to_string(), format!("the login cannot be sent: {words}"));
            assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0, "something was sent");
        }
    }
}

#[tokio::test]
async fn an_idle_session_sees_that_the_server_closes() {
    let mut client = log_in(ACCEPT).await.unwrap();
    assert!(matches!(client.lost().await, QueryError::Closed));
}

#[tokio::test]
async fn closing_sends_a_logout() {
    let (near, mut far) = duplex(4096);
    let peer = tokio::spawn(async move {
        read_message(&mut far).await;
        let mut packets = Vec::new();
        write_message(PacketType::RESPONSE, ACCEPT, 512, &mut packets);
        far.write_all(&packets).await.unwrap();
        read_message(&mut far).await
    });
    let client = Client::login(near, &LoginRecord::new("root", "", "test"))
        .await
        .unwrap();
    client.close().await.unwrap();
    assert_eq!(peer.await.unwrap().payload, [0x71, 0]);
}

/// Logs in under the policy that never shows a password; gives the first message that the server got, too.
async fn log_in_encrypted(answer: &'static [u8]) -> (Message, Result<Client<DuplexStream>, LoginError>) {
    let (near, mut far) = duplex(4096);
    let peer = tokio::spawn(async move {
        let first = read_message(&mut far).await;
        let mut packets = Vec::new();
        write_message(PacketType::RESPONSE, answer, 512, &mut packets);
        far.write_all(&packets).await.unwrap();
        first
    });
    let login = LoginRecord::new("root", "secret", "test");
    let client = Client::with_policy(near, &login, PasswordPolicy::Encrypted, ANSWER_MAX).await;
    (peer.await.unwrap(), client)
}

#[tokio::test]
async fn an_offer_shows_no_password_in_any_field() {
    let (first, _) = log_in_encrypted(REFUSE).await;
    assert!(!first.payload.windows(6).any(|bytes| bytes == b"secret"));
    let lengths = [0x05c, 0x1c9, 0x202].map(|offset| first.payload[offset]);
    assert_eq!(lengths, [0, 0, 0xa0], "password, remote passwords, offer");
}

#[tokio::test]
async fn a_session_that_needed_no_password_is_given_up() {
    let (_, client) = log_in_encrypted(ACCEPT).await;
    assert!(matches!(client, Err(LoginError::Unauthenticated)));
}

#[tokio::test]
async fn a_refused_offer_is_no_refused_password() {
    let (_, client) = log_in_encrypted(REFUSE).await;
    assert!(matches!(client, Err(LoginError::OfferRefused { number: 4002, .. })));
}

#[test]
fn a_password_is_shown_in_tls_and_where_that_is_allowed() {
    for (encrypted, allowed, policy) in [
        (true, false, PasswordPolicy::Plain),
        (true, true, PasswordPolicy::Plain),
        (false, true, PasswordPolicy::Plain),
        (false, false, PasswordPolicy::Encrypted),
    ] {
        assert_eq!(PasswordPolicy::on_stream(encrypted, allowed), policy);
    }
}
