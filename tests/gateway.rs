//! The stand-in gateway between two stand-in ObjectServers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use proxypair::tds::client::Client;
use proxypair::tds::login::LoginRecord;
use serde_json::{Value, json};
use testkit::certificates::Issuer;
use testkit::directory::Directory;
use testkit::programs::{ObjectServer, Program, api, eventually, free_address};
use tokio::net::TcpStream;

const ALL: &str = "select Identifier, Tally, Summary, StateChange, FirstOccurrence, LastOccurrence, ServerName, ServerSerial \
                   from alerts.status order by Identifier";

struct Gateway {
    api: SocketAddr,
    _program: Program,
}

impl Gateway {
    fn start(primary: &ObjectServer, backup: &ObjectServer, options: &[&str]) -> Self {
        let api = free_address();
        let arguments = [
            format!("--primary={}", primary.address),
            format!("--backup={}", backup.address),
            format!("--listen={api}"),
            "--reconnect-delay=20ms".to_owned(),
        ];
        let interval = if options.iter().any(|option| option.starts_with("--interval=")) {
            None
        } else {
            Some("--interval=20ms")
        };
        let arguments: Vec<_> = arguments
            .iter()
            .map(String::as_str)
            .chain(interval)
            .chain(options.iter().copied())
            .collect();
        let program = Program::start("gateway", &arguments);
        let gateway = Self { api, _program: program };
        eventually("the gateway answers", || self::api(api, "GET", "/status"));
        gateway
    }

    fn ask(&self, method: &str, path: &str) -> Value {
        api(self.api, method, path).unwrap()
    }

    fn status(&self) -> Value {
        self.ask("GET", "/status")
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let status = self.status();
            if is_so(&status) { Ok(status) } else { Err(status) }
        })
    }

    fn wait_until_copying(&self) -> Value {
        self.wait_until("the gateway copies", |status| status["copying"] == true)
    }
}

fn pair(options: &[&str]) -> (ObjectServer, ObjectServer) {
    let primary = ObjectServer::start_with_agent("AGG_P", options);
    let backup = ObjectServer::start_with_agent("AGG_B", &[&["--backup"], options].concat());
    (primary, backup)
}

async fn probe(server: &ObjectServer) -> Client<TcpStream> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    Client::login(stream, &LoginRecord::new("root", "", "PROBE"))
        .await
        .unwrap()
}

async fn send(client: &mut Client<TcpStream>, identifier: &str) {
    let sql = format!("insert into alerts.status (Identifier, Summary) values ('{identifier}', 'it''s {identifier}')");
    client.query(&sql).await.unwrap();
}

fn acting_primary(server: &ObjectServer) -> Value {
    server.ask_agent("GET", "/status")["properties"]["ActingPrimary"].clone()
}

fn wait_until_equal(primary: &ObjectServer, backup: &ObjectServer, count: usize) -> Vec<Value> {
    eventually("both have the same events", || {
        let (left, right) = (primary.rows(ALL), backup.rows(ALL));
        if left == right && left.len() == count {
            Ok(left)
        } else {
            Err((left, right))
        }
    })
}

fn gateways(server: &ObjectServer) -> usize {
    let sessions = server.ask_agent("GET", "/sessions");
    let sessions = sessions.as_array().cloned().unwrap_or_default();
    let is_gateway = |row: &&Value| row["AppName"] == "GATEWAY" && row["AppDescription"] == "failover_gate";
    sessions.iter().filter(is_gateway).count()
}

#[tokio::test]
async fn events_are_copied_both_ways_once_and_repetitions_are_counted_once() {
    let (primary, backup) = pair(&[]);
    let gateway = Gateway::start(&primary, &backup, &[]);
    gateway.wait_until_copying();
    assert_eq!((gateways(&primary), gateways(&backup)), (1, 1));
    let (mut at_primary, mut at_backup) = (probe(&primary).await, probe(&backup).await);
    for n in 0..20 {
        send(&mut at_primary, &format!("p{n}")).await;
        send(&mut at_backup, &format!("b{n}")).await;
    }
    let rows = wait_until_equal(&primary, &backup, 40);
    assert!(rows.iter().all(|row| row["Tally"] == 1), "{rows:#?}");

    send(&mut at_primary, "b3").await;
    send(&mut at_backup, "p7").await;
    send(&mut at_backup, "p7").await;
    let tally = |server: &ObjectServer, identifier: &str| {
        let rows = server.rows(&format!(
            "select Tally from alerts.status where Identifier = '{identifier}'"
        ));
        rows[0]["Tally"].as_u64().unwrap()
    };
    eventually("the repetitions are known on both", || {
        let seen = [(&primary, "b3"), (&backup, "b3"), (&primary, "p7"), (&backup, "p7")].map(|(s, id)| tally(s, id));
        if seen == [2, 2, 3, 3] { Ok(()) } else { Err(seen) }
    });
    wait_until_equal(&primary, &backup, 40);

    send(&mut at_primary, "last").await;
    wait_until_equal(&primary, &backup, 41);
    let copied = gateway.status()["rows_copied"].clone();
    let each = |name: &str| copied[name].as_u64().unwrap();
    assert!(each("AGG_B") <= 25 && each("AGG_P") <= 25, "copies of copies: {copied}");
}

#[tokio::test]
async fn a_returning_primary_is_resynced_before_the_backup_stops_standing_in() {
    let (primary, backup) = pair(&[]);
    let gateway = Gateway::start(&primary, &backup, &[]);
    gateway.wait_until_copying();
    assert_eq!(acting_primary(&backup), "FALSE");
    let mut client = probe(&primary).await;
    for n in 0..5 {
        send(&mut client, &format!("before-{n}")).await;
    }
    wait_until_equal(&primary, &backup, 5);
    let copied_before = gateway.status()["rows_copied"]["AGG_B"].as_u64().unwrap();

    primary.ask_agent("POST", "/kill");
    eventually("the backup stands in", || match acting_primary(&backup) {
        value if value == "TRUE" => Ok(()),
        value => Err(value),
    });
    let mut client = probe(&backup).await;
    for n in 0..2500 {
        send(&mut client, &format!("meanwhile-{n}")).await;
    }
    // Long enough for all that must be seen within it.
    gateway.ask("POST", "/resync-at-least?time=10s");
    primary.ask_agent("POST", "/start");
    gateway.wait_until("the resync begins", |status| status["resyncing"] == true);
    assert_eq!((gateways(&primary), gateways(&backup)), (1, 1));
    assert_eq!(acting_primary(&backup), "TRUE", "attached, and not in step yet");
    wait_until_equal(&primary, &backup, 2505);
    let status = gateway.wait_until_copying();
    assert!(status["last_resync_ms"].as_u64().unwrap() >= 10_000, "{status}");
    assert_eq!(status["rows_copied"]["AGG_P"], 2500, "{status}");
    assert_eq!(status["rows_copied"]["AGG_B"], copied_before, "{status}");
    assert_eq!(acting_primary(&backup), "FALSE");
    let rows = primary.rows(ALL);
    assert!(rows.iter().all(|row| row["Tally"] == 1));
}

#[tokio::test]
async fn what_only_the_primary_had_when_it_died_comes_to_the_backup_too() {
    let (primary, backup) = pair(&[]);
    let gateway = Gateway::start(&primary, &backup, &["--interval=1h"]);
    gateway.wait_until_copying();
    send(&mut probe(&primary).await, "only here").await;
    primary.ask_agent("POST", "/kill");
    send(&mut probe(&backup).await, "only there").await;
    primary.ask_agent("POST", "/start");
    wait_until_equal(&primary, &backup, 2);
}

#[tokio::test]
async fn a_primary_that_was_gone_for_a_moment_is_signalled_before_the_gateway_attaches_again() {
    let (primary, backup) = pair(&[]);
    let gateway = Gateway::start(&primary, &backup, &[]);
    gateway.wait_until_copying();
    // Long enough for all that must be seen within it.
    gateway.ask("POST", "/resync-at-least?time=10s");
    primary.ask_agent("POST", "/kill");
    primary.ask_agent("POST", "/start");
    eventually("the gateway is attached to the primary", || match gateways(&primary) {
        0 => Err("it is not"),
        _ => Ok(()),
    });
    assert_eq!(acting_primary(&backup), "TRUE");
    gateway.wait_until_copying();
    assert_eq!(acting_primary(&backup), "FALSE");
}

#[tokio::test]
async fn with_another_description_the_backup_never_stops_standing_in() {
    let (primary, backup) = pair(&[]);
    let gateway = Gateway::start(&primary, &backup, &["--description=stock_gate"]);
    gateway.wait_until_copying();
    assert_eq!(acting_primary(&backup), "TRUE");
    assert_eq!(
        (gateways(&primary), gateways(&backup)),
        (0, 0),
        "attached under another description"
    );
}

#[tokio::test]
async fn it_leaves_a_side_and_comes_back_as_told() {
    let (primary, backup) = pair(&[]);
    let gateway = Gateway::start(&primary, &backup, &[]);
    gateway.wait_until_copying();
    gateway.ask("POST", "/detach?from=AGG_P");
    gateway.wait_until("detached", |status| {
        status["attached"] == json!({"AGG_P": false, "AGG_B": true})
    });
    eventually("the backup stands in", || {
        match (acting_primary(&backup), gateways(&primary)) {
            (value, 0) if value == "TRUE" => Ok(()),
            other => Err(other),
        }
    });
    let mut client = probe(&primary).await;
    send(&mut client, "while away").await;
    gateway.ask("POST", "/attach");
    wait_until_equal(&primary, &backup, 1);
    gateway.wait_until_copying();
    assert_eq!(acting_primary(&backup), "FALSE");
    let logins = primary.ask_agent("GET", "/status")["logins"]["GATEWAY"].clone();
    assert_eq!(logins, 2, "one login for each time it attached");
    assert!(api(gateway.api, "POST", "/detach?from=AGG_X").is_err());
}

#[tokio::test]
async fn a_resync_with_locks_holds_up_other_sessions_until_it_is_finished() {
    let (primary, backup) = pair(&[]);
    // Long enough for all that must be seen within it.
    let options = ["--resync-locks", "--resync-at-least=10s"];
    let gateway = Gateway::start(&primary, &backup, &options);
    gateway.wait_until("the resync begins", |status| status["resyncing"] == true);
    eventually(
        "the backup is locked",
        || match backup.ask_agent("GET", "/status")["locked"].clone() {
            Value::Bool(true) => Ok(()),
            other => Err(other),
        },
    );
    let mut client = probe(&backup).await;
    let mut held_up = Box::pin(send(&mut client, "waited"));
    tokio::select! {
        biased;
        () = &mut held_up => panic!("answered within a resync: {}", gateway.status()),
        () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
    }
    held_up.await;
    gateway.wait_until_copying();
    wait_until_equal(&primary, &backup, 1);

    gateway.ask("POST", "/resync-at-least?time=1h");
    primary.ask_agent("POST", "/kill");
    primary.ask_agent("POST", "/start");
    gateway.wait_until("the resync begins", |status| status["resyncing"] == true);
    primary.ask_agent("POST", "/kill");
    send(&mut client, "not held up by a resync that broke").await;
}

#[tokio::test]
async fn it_speaks_tls_and_takes_no_server_of_another_name() {
    let (authority, of_primary, of_backup) = (Issuer::new("Authority of a test"), Directory::new(), Directory::new());
    let options = |directory: &Directory, name| {
        let options = authority.install(directory.path(), name).options();
        let [certificate, key] = options;
        [
            certificate,
            key,
            "--user=netcool".to_owned(),
            "--password=secret".to_owned(),
        ]
    };
    let primary_options = options(&of_primary, "AGG_P");
    let primary = ObjectServer::start_with_agent("AGG_P", &primary_options.each_ref().map(String::as_str));
    let backup_options = options(&of_backup, "AGG_B");
    let mut backup_options: Vec<_> = backup_options.iter().map(String::as_str).collect();
    backup_options.push("--backup");
    let backup = ObjectServer::start_with_agent("AGG_B", &backup_options);
    let ca = format!("--ca={}", of_primary.path().join("ca.crt").display());
    let login = [ca.as_str(), "--user=netcool", "--password=secret"];
    Gateway::start(&primary, &backup, &login).wait_until_copying();

    let crossed = Gateway::start(&backup, &primary, &login);
    let status = crossed.wait_until("it says what is wrong", |status| status["last_error"].is_string());
    assert!(
        status["last_error"].as_str().unwrap().contains("Common Name"),
        "{status}"
    );
    assert_eq!(status["copying"], false);
}
