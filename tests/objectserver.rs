//! The stand-in ObjectServer with the project's own client: what FreeTDS does not do, and what nobody should do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::net::SocketAddr;

use proxypair::tds::client::{Client, LoginError, QueryError};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::{PacketType, write_message};
use proxypair::tds::wire::ByteOrder;
use proxypair::tls::ObjectServerTls;
use testkit::certificates::Issuer;
use testkit::directory::Directory;
use testkit::programs::{DEADLINE, ObjectServer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The request mask of FreeTDS, which asks for wide tables.
const WIDE: [u8; 14] = [
    0, 0, 0x60, 8, 0x81, 0x81, 0xe8, 0x0f, 0x6d, 0x7f, 0xff, 0xff, 0xff, 0xfe,
];

async fn log_in_as(record: &LoginRecord, server: SocketAddr) -> Result<Client<TcpStream>, LoginError> {
    let stream = TcpStream::connect(server).await.unwrap();
    timeout(DEADLINE, Client::login(stream, record))
        .await
        .expect("no answer to a login")
}

async fn log_in(server: &ObjectServer) -> Result<Client<TcpStream>, LoginError> {
    log_in_as(&LoginRecord::new("root", "", "test"), server.address).await
}

#[tokio::test]
async fn both_byte_orders_and_both_formats_give_the_same_rows() {
    let server = ObjectServer::start("AGG_B", &["--backup"]);
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for wide in [false, true] {
            let mut record = LoginRecord::new("root", "", "test");
            record.order = order;
            if wide {
                record.capability.request = WIDE.to_vec();
            }
            let mut client = log_in_as(&record, server.address).await.unwrap();
            assert_eq!(client.server(), Some("AGG_B"));
            let sql = "select PropName, Value from catalog.properties where Value %= 'true'; \
                       select 70000 n, 5000000000 big, 1.5 f, '' blank";
            let answer = client.query(sql).await.unwrap();
            let row = answer.rows().next().unwrap();
            assert_eq!(
                row.get("PropName").unwrap().text().as_deref(),
                Some("BackupObjectServer")
            );
            let numbers: Vec<_> = answer.results[1].rows[0].iter().map(|value| value.text()).collect();
            let wanted = [Some("70000"), Some("5000000000"), Some("1.5"), None].map(|text| text.map(str::to_owned));
            assert_eq!(numbers, wanted, "{order:?} wide {wide}");
            client.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_error_leaves_the_session_usable() {
    let server = ObjectServer::start("AGG_P", &[]);
    let mut client = log_in(&server).await.unwrap();
    for sql in [
        "selec 1",
        "attach 'x' as y",
        "select * from nowhere",
        "insert into alerts.status (Serial) values (1)",
    ] {
        let error = client.query(sql).await.unwrap_err();
        assert!(
            matches!(&error, QueryError::Sql { server, .. } if server == "AGG_P"),
            "{sql}: {error}"
        );
    }
    assert_eq!(
        client
            .query("insert into alerts.status (Identifier) values ('a')")
            .await
            .unwrap()
            .counts,
        [1]
    );
    assert_eq!(
        client
            .query("insert into alerts.status (Identifier) values ('a')")
            .await
            .unwrap()
            .counts,
        [1]
    );
    assert_eq!(client.query("delete from alerts.status").await.unwrap().counts, [1]);
}

#[tokio::test]
async fn sessions_are_shown_while_they_are_open() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let first = log_in(&server).await.unwrap();
    let mut second = log_in(&server).await.unwrap();
    let answer = second
        .query("select ConnectionID, AppName from catalog.connections")
        .await
        .unwrap();
    assert_eq!(answer.rows().count(), 2);
    drop(first);
    eventually("one session is left", || match server.ask_agent("GET", "/sessions") {
        sessions if sessions.as_array().is_some_and(|list| list.len() == 1) => Ok(()),
        sessions => Err(sessions),
    });
}

#[tokio::test]
async fn a_stalled_server_keeps_its_sessions_and_answers_later() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut client = log_in(&server).await.unwrap();
    server.ask_agent("POST", "/stall");
    let question = client.query("select 1");
    tokio::pin!(question);
    assert_eq!(server.ask_agent("GET", "/status")["stalled"], true);
    tokio::select! {
        biased;
        answer = &mut question => panic!("answered while stalled: {answer:?}"),
        () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
    }
    server.ask_agent("POST", "/resume");
    timeout(DEADLINE, question)
        .await
        .expect("no answer after the stall")
        .unwrap();
}

#[tokio::test]
async fn a_server_told_to_refuse_refuses_right_logins() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    server.ask_agent("POST", "/refuse-logins");
    assert!(matches!(log_in(&server).await, Err(LoginError::Refused { .. })));
    server.ask_agent("POST", "/accept-logins");
    log_in(&server).await.unwrap();
}

#[tokio::test]
async fn a_reset_is_seen_as_a_reset() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut client = log_in(&server).await.unwrap();
    server.ask_agent("POST", "/reset");
    let lost = timeout(DEADLINE, client.lost()).await.expect("the session goes on");
    assert!(
        matches!(&lost, QueryError::Io(error) if error.kind() == ErrorKind::ConnectionReset),
        "{lost:?}"
    );
}

#[tokio::test]
async fn a_killed_server_stays_down_until_it_is_started_and_its_tables_can_be_read() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut client = log_in(&server).await.unwrap();
    client
        .query("insert into alerts.status (Identifier) values ('a')")
        .await
        .unwrap();
    assert_eq!(server.ask_agent("POST", "/kill")["running"], false);
    timeout(DEADLINE, client.lost()).await.expect("the session goes on");
    let refused = TcpStream::connect(server.address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        server.rows("select Identifier, Tally from alerts.status")[0]["Identifier"],
        "a"
    );
    assert_eq!(server.ask_agent("POST", "/start")["running"], true);
    let mut client = log_in(&server).await.unwrap();
    let answer = client.query("select Tally from alerts.status").await.unwrap();
    assert_eq!(answer.rows().next().unwrap().get("Tally").unwrap().int(), Some(1));
}

#[tokio::test]
async fn an_agent_restarts_a_dead_server_only_when_asked_to() {
    use nix::sys::signal::{Signal, kill};
    for (options, comes_back) in [(&[][..], false), (&["--restart"][..], true)] {
        let server = ObjectServer::start_with_agent("AGG_P", options);
        let before = server.ask_agent("GET", "/status")["pid"].as_i64().unwrap();
        kill(nix::unistd::Pid::from_raw(before.try_into().unwrap()), Signal::SIGKILL).unwrap();
        eventually("the agent has noticed", || {
            let status = server.ask_agent("GET", "/status");
            let is_as_wanted = status["running"] == comes_back && status["pid"].as_i64() != Some(before);
            if is_as_wanted { Ok(()) } else { Err(status) }
        });
    }
}

#[tokio::test]
async fn sigterm_ends_agent_and_server() {
    use nix::sys::signal::{Signal, kill};
    let mut server = ObjectServer::start_with_agent("AGG_P", &[]);
    let pid = nix::unistd::Pid::from_raw(server.program().id());
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("the agent ends", || server.program().has_ended());
    let refused = TcpStream::connect(server.address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_no_other() {
    let server = ObjectServer::start("AGG_P", &[]);
    let mut bystander = log_in(&server).await.unwrap();
    let mut login = Vec::new();
    LoginRecord::new("root", "", "test").encode(&mut login).unwrap();
    let packets = |kind, payload: &[u8]| {
        let mut out = Vec::new();
        write_message(kind, payload, 512, &mut out);
        out
    };
    let mut long_name = login.clone();
    long_name[0x03d] = 255;
    let after_login = |kind, payload: &[u8]| [packets(PacketType::LOGIN, &login), packets(kind, payload)].concat();
    let garbage = [
        packets(PacketType::LOGIN, &login[..100]),
        packets(PacketType::LOGIN, &[]),
        packets(PacketType::LOGIN, &long_name),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        b"\x12\x01\0\x3a\0\0\x01\0".to_vec(),
        b"\x02\x01\0\x07\0\0\0\0".to_vec(),
        b"\x02\0\xff\xff\0\0\0\0".to_vec(),
        after_login(PacketType::NORMAL, b"\x21\xff\xff\xff\x7f\0select 1"),
        after_login(PacketType::NORMAL, b"\x21\0\0\0\0"),
        after_login(PacketType::NORMAL, b"\xa6\xff\xff"),
        after_login(PacketType::BULK, b"\0"),
        after_login(PacketType(0), b""),
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let end = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "the server keeps a connection that sent {bytes:02x?}");
        bystander.query("select 1").await.unwrap();
    }
}

#[tokio::test]
async fn unknown_requests_are_answered_with_an_error() {
    let server = ObjectServer::start("AGG_P", &[]);
    let mut payload = Vec::new();
    LoginRecord::new("root", "", "test").encode(&mut payload).unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut packets = Vec::new();
    write_message(PacketType::LOGIN, &payload, 512, &mut packets);
    for request in [&b"\xe6\x01\x02"[..], b"\xa6\x03\0\x01\x01\0", b""] {
        write_message(PacketType::NORMAL, request, 512, &mut packets);
    }
    write_message(PacketType::ATTENTION, b"", 512, &mut packets);
    write_message(PacketType::NORMAL, b"\x71\0", 512, &mut packets);
    stream.write_all(&packets).await.unwrap();
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let ends = b"\xfd\x20\0\0\0\0\0\0\0\x04\x01\0\x11\0\0\0\0\xfd\0\0\0\0\0\0\0\0";
    assert!(answer.ends_with(ends), "{answer:02x?}");
    assert_eq!(
        answer
            .windows(9)
            .filter(|bytes| bytes == b"\xfd\x02\0\0\0\0\0\0\0")
            .count(),
        2
    );
}

/// Logs in over TLS by OMNIbus's rule, and asks for the server's name.
async fn name_over_tls(ca: &str, wanted: &str, server: SocketAddr) -> Result<Option<String>, String> {
    let tls = ObjectServerTls::new(ca.as_bytes(), wanted).unwrap();
    let stream = TcpStream::connect(server).await.unwrap();
    let stream = timeout(DEADLINE, tls.handshake(stream)).await.expect("no handshake");
    let stream = stream.map_err(|error| error.to_string())?;
    let login = LoginRecord::new("root", "", "test");
    let client = timeout(DEADLINE, Client::login(stream, &login)).await;
    let client = client
        .expect("no answer to a login")
        .map_err(|error| error.to_string())?;
    Ok(client.server().map(str::to_owned))
}

#[tokio::test]
async fn a_renewed_certificate_counts_from_the_next_connection_on() {
    let (old, new, directory) = (
        Issuer::new("Authority of a test"),
        Issuer::new("Authority of a test"),
        Directory::new(),
    );
    let options = old.install(directory.path(), "AGG_P").options();
    let server = ObjectServer::start_with_agent("AGG_P", &options.each_ref().map(String::as_str));
    let name = name_over_tls(&old.pem(), "AGG_P", server.address).await;
    assert_eq!(name.unwrap().as_deref(), Some("AGG_P"));
    let refusal = name_over_tls(&old.pem(), "AGG_B", server.address).await.unwrap_err();
    assert!(refusal.contains("Common Name"), "{refusal}");
    let refusal = name_over_tls(&new.pem(), "AGG_P", server.address).await.unwrap_err();
    assert!(refusal.contains("chain"), "{refusal}");

    new.install(directory.path(), "AGG_P");
    let name = name_over_tls(&new.pem(), "AGG_P", server.address).await;
    assert_eq!(name.unwrap().as_deref(), Some("AGG_P"));

    std::fs::write(directory.path().join("tls.crt"), "no certificate").unwrap();
    let name = name_over_tls(&new.pem(), "AGG_P", server.address).await;
    assert_eq!(name.unwrap().as_deref(), Some("AGG_P"), "the last usable one counts");
}

#[tokio::test]
async fn an_old_server_speaks_tls_1_2_only() {
    let (authority, directory) = (Issuer::new("Authority of a test"), Directory::new());
    let [certificate, key] = authority.install(directory.path(), "AGG_P").options();
    let server = ObjectServer::start("AGG_P", &[&certificate, &key, "--tls12-only"]);
    let tls = ObjectServerTls::new(authority.pem().as_bytes(), "AGG_P").unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let stream = tls.handshake(stream).await.unwrap();
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn the_users_of_a_file_may_change_while_the_server_runs() {
    let directory = Directory::new();
    let users = directory.path().join("users");
    std::fs::write(&users, "root:\nchecker:first:word\n").unwrap();
    let option = format!("--users={}", users.display());
    let server = ObjectServer::start_with_agent("AGG_P", &[&option]);
    let checker = |password| LoginRecord::new("checker", password, "proxypair-check");
    log_in_as(&checker("first:word"), server.address).await.unwrap();
    let refused = log_in_as(&checker("second"), server.address).await;
    assert!(matches!(refused, Err(LoginError::Refused { .. })));
    std::fs::write(&users, "checker:second\n").unwrap();
    log_in_as(&checker("second"), server.address).await.unwrap();
    assert!(log_in(&server).await.is_err(), "root is no user any more");
    std::fs::remove_file(&users).unwrap();
    assert!(log_in_as(&checker("second"), server.address).await.is_err());
    let status = server.ask_agent("GET", "/status");
    assert_eq!(status["logins"]["proxypair-check"], 2, "{status}");
    assert_eq!(status["refused_logins"]["proxypair-check"], 2, "{status}");
    eventually("both disconnects are counted", || {
        match server.ask_agent("GET", "/status")["disconnects"]["proxypair-check"].as_u64() {
            Some(2) => Ok(()),
            other => Err(other),
        }
    });
}

async fn property(client: &mut Client<TcpStream>, name: &str) -> String {
    let sql = format!("select PropName, Value from catalog.properties where PropName = '{name}'");
    let answer = client.query(&sql).await.unwrap();
    let row = answer.rows().next().unwrap();
    row.get("Value").unwrap().text().unwrap()
}

#[tokio::test]
async fn acting_primary_is_set_by_sql_and_by_the_agent_and_survives_a_kill() {
    let server = ObjectServer::start_with_agent("AGG_B", &["--backup"]);
    let mut client = log_in(&server).await.unwrap();
    assert_eq!(property(&mut client, "ActingPrimary").await, "FALSE");
    client.query("alter system set 'ActingPrimary' = TRUE;").await.unwrap();
    assert_eq!(property(&mut client, "ActingPrimary").await, "TRUE");
    for sql in ["alter system set 'Name' = 'X'", "alter system set 'ActingPrimary' = 7"] {
        assert!(matches!(client.query(sql).await, Err(QueryError::Sql { .. })), "{sql}");
    }
    server.ask_agent("POST", "/kill");
    server.ask_agent("POST", "/start");
    let mut client = log_in(&server).await.unwrap();
    assert_eq!(property(&mut client, "ActingPrimary").await, "TRUE");
    assert_eq!(property(&mut client, "BackupObjectServer").await, "TRUE");
    assert_eq!(property(&mut client, "Name").await, "AGG_B");
    let status = server.ask_agent("POST", "/property?name=ActingPrimary&value=FALSE");
    assert_eq!(status["properties"]["ActingPrimary"], "FALSE");
    assert_eq!(property(&mut client, "ActingPrimary").await, "FALSE");
}

#[tokio::test]
async fn a_session_is_shown_as_its_login_describes_it_and_can_be_dropped() {
    let server = ObjectServer::start("AGG_P", &[]);
    let mut login = LoginRecord::new("root", "", "GATEWAY");
    login.process = "failover_gate".to_owned();
    login.host = "gatehost".to_owned();
    let mut gateway = log_in_as(&login, server.address).await.unwrap();
    let mut client = log_in(&server).await.unwrap();
    let sql = "select ConnectionID, HostName, LogName, AppDescription, IsRealTime, ConnectTime from catalog.connections \
               where AppName = 'GATEWAY' and AppDescription = 'failover_gate'";
    let answer = client.query(sql).await.unwrap();
    let row = answer.rows().next().unwrap();
    assert_eq!(row.get("HostName").unwrap().text().as_deref(), Some("gatehost"));
    assert_eq!(row.get("LogName").unwrap().text().as_deref(), Some("root"));
    assert!(row.get("ConnectTime").unwrap().int().unwrap() > 1_700_000_000);
    let id = row.get("ConnectionID").unwrap().int().unwrap();
    client
        .query(&format!("alter system drop connection {id}"))
        .await
        .unwrap();
    timeout(DEADLINE, gateway.lost()).await.expect("the session goes on");
    assert!(
        client
            .query(&format!("alter system drop connection {id}"))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_restricted_proxy_may_insert_events_and_nothing_else() {
    let server = ObjectServer::start("AGG_P", &["--deny-sql"]);
    let mut proxy = log_in_as(&LoginRecord::new("root", "", "PROXY"), server.address)
        .await
        .unwrap();
    proxy
        .query("insert into alerts.status (Identifier) values ('a')")
        .await
        .unwrap();
    for sql in [
        "select Value from catalog.properties",
        "delete from alerts.status",
        "alter system set 'a' = TRUE",
    ] {
        let error = proxy.query(sql).await.unwrap_err();
        assert!(
            matches!(&error, QueryError::Sql { text, .. } if text.contains("Permission denied")),
            "{sql}: {error}"
        );
    }
    log_in(&server).await.unwrap().query("select 1").await.unwrap();
}

#[tokio::test]
async fn a_lock_holds_up_requests_and_not_logins() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let mut holder = log_in(&server).await.unwrap();
    holder.query("lock tables").await.unwrap();
    let mut other = log_in(&server).await.unwrap();
    let mut question = Box::pin(other.query("select 1"));
    holder.query("select 1").await.unwrap();
    assert_eq!(server.ask_agent("GET", "/status")["locked"], true);
    tokio::select! {
        biased;
        answer = &mut question => panic!("answered while locked: {answer:?}"),
        () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {}
    }
    drop(holder);
    timeout(DEADLINE, question)
        .await
        .expect("the lock outlives its session")
        .unwrap();

    // From before the lock, which may be older than the agent's answer.
    let start = std::time::Instant::now();
    server.ask_agent("POST", "/lock?for=200ms");
    timeout(DEADLINE, other.query("select 1"))
        .await
        .expect("the lock has no end")
        .unwrap();
    assert!(
        start.elapsed() >= std::time::Duration::from_millis(200),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_row_that_a_gateway_brings_is_merged_and_not_counted_again() {
    let server = ObjectServer::start("AGG_B", &["--backup"]);
    let mut client = log_in(&server).await.unwrap();
    let copy = |tally: u32, change: u32, summary: &str| {
        format!(
            "insert into alerts.status (Identifier, Tally, StateChange, FirstOccurrence, LastOccurrence, InternalLast, Summary, ServerName, \
             ServerSerial) values ('e', {tally}, {change}, 50, {change}, {change}, '{summary}', 'AGG_P', 7)"
        )
    };
    let row = async |client: &mut Client<TcpStream>| {
        let sql = "select Tally, Summary, StateChange, ServerName from alerts.status";
        let answer = client.query(sql).await.unwrap();
        let row: Vec<_> = answer.results[0].rows[0]
            .iter()
            .map(|value| value.text().unwrap())
            .collect();
        row.join(" ")
    };
    client.query(&copy(3, 100, "first")).await.unwrap();
    client.query(&copy(3, 100, "first")).await.unwrap();
    assert_eq!(row(&mut client).await, "3 first 100 AGG_P");
    client.query(&copy(2, 200, "newer")).await.unwrap();
    assert_eq!(row(&mut client).await, "3 newer 200 AGG_P");
    client.query(&copy(5, 150, "older")).await.unwrap();
    assert_eq!(row(&mut client).await, "5 newer 200 AGG_P");
    client
        .query("insert into alerts.status (Identifier, Summary) values ('e', 'again')")
        .await
        .unwrap();
    assert!(row(&mut client).await.starts_with("6 again "));
}

#[tokio::test]
async fn connects_and_disconnects_leave_events_when_they_are_watched() {
    let server = ObjectServer::start("AGG_P", &["--connection-watch"]);
    let mut client = log_in(&server).await.unwrap();
    let first = log_in(&server).await.unwrap();
    first.close().await.unwrap();
    let wanted = ["test::root:connect 2", "test::root:disconnect 1"];
    let look = async || {
        let sql = "select Identifier, Tally from alerts.status order by Identifier";
        let answer = client.query(sql).await.unwrap();
        let text = |row: &Vec<proxypair::tds::value::Value>| {
            let values: Vec<_> = row.iter().filter_map(|value| value.text()).collect();
            values.join(" ")
        };
        answer.results[0].rows.iter().map(text).collect::<Vec<_>>()
    };
    let seen = timeout(DEADLINE, async {
        let mut look = look;
        loop {
            let seen = look().await;
            if seen == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    seen.await.expect("no events of the watch");
}
