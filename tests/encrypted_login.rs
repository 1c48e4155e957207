//! Logins with an encrypted password: FreeTDS and the project's own client, against servers that demand it, know it, or
//! do not know it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use proxypair::tds::client::{ANSWER_MAX, Client, LoginError, PasswordPolicy};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::wire::ByteOrder;
use testkit::directory::Directory;
use testkit::programs::{DEADLINE, ObjectServer};
use tokio::net::TcpStream;
use tokio::time::timeout;

const USER: &str = "netcool";
const PASSWORD: &str = "s3cret with spaces";

/// Exit code of `bsqldb` when a login was refused.
const LOGIN_REFUSED: i32 = 14;

fn start(encryption: &str) -> ObjectServer {
    let options = [
        format!("--encryption={encryption}"),
        format!("--user={USER}"),
        format!("--password={PASSWORD}"),
    ];
    ObjectServer::start_with_agent("AGG_P", &options.each_ref().map(String::as_str))
}

/// Runs `bsqldb` with the given `encryption` in its configuration.
fn bsqldb(server: &ObjectServer, encryption: &str, password: &str) -> Output {
    let home = Directory::new();
    let configuration = home.path().join("freetds.conf");
    let (host, port) = (server.address.ip(), server.address.port());
    let entry = format!("[AGG_P]\nhost = {host}\nport = {port}\ntds version = 5.0\nencryption = {encryption}\n");
    fs::write(&configuration, entry).unwrap();
    let child = Command::new("bsqldb")
        .args(["-S", "AGG_P", "-U", USER, "-P", password, "-q", "-h"])
        .env("FREETDSCONF", &configuration)
        .env("HOME", home.path())
        .env("TDSVER", "5.0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("bsqldb is missing: apt-get install freetds-bin"),
        other => other.unwrap(),
    };
    let sql = "select LogName from catalog.connections\ngo\n";
    // A program that could not log in may be gone before it has read everything; its exit code tells.
    let _ = child.stdin.take().unwrap().write_all(sql.as_bytes());
    child.wait_with_output().unwrap()
}

async fn log_in(
    server: &ObjectServer,
    password: &str,
    order: ByteOrder,
    policy: PasswordPolicy,
) -> Result<Client<TcpStream>, LoginError> {
    let mut login = LoginRecord::new(USER, password, "test");
    login.order = order;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let client = timeout(DEADLINE, Client::with_policy(stream, &login, policy, ANSWER_MAX)).await;
    client.expect("no answer to a login")
}

#[test]
fn freetds_encrypts_its_password_where_the_server_asks_for_it() {
    for mode in ["required", "offered"] {
        let server = start(mode);
        let output = bsqldb(&server, "require", PASSWORD);
        assert!(output.status.success(), "{mode}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(USER),
            "{mode}: {output:?}"
        );
        for wrong in ["wrong", ""] {
            let output = bsqldb(&server, "require", wrong);
            assert_eq!(output.status.code(), Some(LOGIN_REFUSED), "{mode}: {output:?}");
        }
        let status = server.ask_agent("GET", "/status");
        assert_eq!(status["refused_logins"], serde_json::json!({"bsqldb": 2}), "{mode}");
    }
}

#[test]
fn the_empty_password_of_an_offer_is_never_taken_for_the_password() {
    let server = ObjectServer::start_with_agent("AGG_P", &["--encryption=off", "--user", USER, "--password", ""]);
    let output = bsqldb(&server, "require", PASSWORD);
    assert_eq!(output.status.code(), Some(LOGIN_REFUSED), "{output:?}");
}

#[tokio::test]
async fn the_own_client_encrypts_its_password_in_both_byte_orders() {
    for mode in ["required", "offered"] {
        let server = start(mode);
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let mut client = log_in(&server, PASSWORD, order, PasswordPolicy::Encrypted)
                .await
                .unwrap();
            assert_eq!(client.server(), Some("AGG_P"));
            client.query("select 1").await.unwrap();
            let wrong = log_in(&server, "wrong", order, PasswordPolicy::Encrypted).await;
            assert!(matches!(wrong, Err(LoginError::Refused { number: 4002, .. })), "{mode}");
        }
    }
}

#[tokio::test]
async fn a_plain_login_is_encrypted_where_the_server_demands_it() {
    let server = start("required");
    let policy = PasswordPolicy::on_stream(true, false);
    log_in(&server, PASSWORD, ByteOrder::Little, policy).await.unwrap();
    let wrong = log_in(&server, "wrong", ByteOrder::Little, policy).await;
    assert!(matches!(wrong, Err(LoginError::Refused { .. })));
}

#[tokio::test]
async fn a_server_that_does_not_know_encryption_gets_the_password_only_if_that_is_allowed() {
    let server = start("off");
    let guarded = PasswordPolicy::on_stream(false, false);
    let refused = log_in(&server, PASSWORD, ByteOrder::Little, guarded).await.unwrap_err();
    assert!(
        matches!(refused, LoginError::OfferRefused { number: 4002, .. }),
        "{refused}"
    );
    let allowed = PasswordPolicy::on_stream(false, true);
    log_in(&server, PASSWORD, ByteOrder::Little, allowed).await.unwrap();
    let status = server.ask_agent("GET", "/status");
    assert_eq!(status["logins"]["test"], 1, "{status}");
    assert_eq!(
        status["refused_logins"]["test"], 1,
        "plain text costs no failed login: {status}"
    );
}

#[tokio::test]
async fn an_empty_password_needs_no_encryption() {
    let server = ObjectServer::start("AGG_P", &["--encryption=off", "--user", USER]);
    log_in(&server, "", ByteOrder::Little, PasswordPolicy::Encrypted)
        .await
        .unwrap();
}
