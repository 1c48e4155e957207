//! The stand-in proxy server between clients and a stand-in ObjectServer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxypair::check::{Credentials, Login, Observation, check_objectserver};
use proxypair::dial::{Address, Dialer};
use proxypair::domain::evidence::{Link, Timing};
use proxypair::tds::client::{Client, LoginError, QueryError};
use proxypair::tds::login::LoginRecord;
use proxypair::tds::wire::ByteOrder;
use testkit::certificates::Issuer;
use testkit::directory::{Directory, program};
use testkit::programs::{DEADLINE, ObjectServer, Program, eventually, free_address};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const USER: &str = "proxy";
const PASSWORD: &str = "se#cret";

/// The request mask of FreeTDS, which asks for wide tables.
const WIDE: [u8; 14] = [
    0, 0, 0x60, 8, 0x81, 0x81, 0xe8, 0x0f, 0x6d, 0x7f, 0xff, 0xff, 0xff, 0xfe,
];

/// An installation of the proxy server, as the real one has it.
struct Home {
    directory: Directory,
    listen: SocketAddr,
}

impl Home {
    /// With both files, compiled.
    fn new(remote: SocketAddr, ssl: &str, properties: &str) -> Self {
        let home = Self {
            directory: Directory::new(),
            listen: free_address(),
        };
        for path in ["bin", "etc/security/keys", "omnibus/bin", "omnibus/etc"] {
            fs::create_dir_all(home.path(path)).unwrap();
        }
        symlink(program("proxyserv"), home.path("bin/nco_igen")).unwrap();
        symlink(program("proxyserv"), home.path("omnibus/bin/nco_proxyserv")).unwrap();
        let entry = |name: &str, ssl: &str, address: SocketAddr| {
            format!(
                "[{name}]\n{{\n\tPrimary: {}{ssl} {}\n}}\n",
                address.ip(),
                address.port()
            )
        };
        let omni_dat = entry("AGG_P", ssl, remote) + &entry("PROXY_P", "", home.listen);
        fs::write(home.path("etc/omni.dat"), omni_dat).unwrap();
        let common = format!("RemoteServer: 'AGG_P'\nAuthUserName: '{USER}'\nAuthPassword: '{PASSWORD}'\n");
        fs::write(home.path("omnibus/etc/PROXY_P.props"), common + properties).unwrap();
        let compiled = home.command("bin/nco_igen").status().unwrap();
        assert!(compiled.success());
        home
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        command.env("NCHOME", self.directory.path()).stdin(Stdio::null());
        command
    }

    fn proxy(&self, when_gone: &str) -> Command {
        let mut command = self.command("omnibus/bin/nco_proxyserv");
        command
            .args(["-name", "PROXY_P"])
            .env("WHEN_OBJECTSERVER_GOES", when_gone);
        command
    }

    fn start(&self, when_gone: &str) -> Program {
        let program = Program(self.proxy(when_gone).spawn().unwrap());
        eventually("the proxy server listens", || std::net::TcpStream::connect(self.listen));
        program
    }

    /// What it says when it does not start.
    fn refusal(&self) -> String {
        let Output { status, stderr, .. } = self.proxy("exit").output().unwrap();
        assert_eq!(status.code(), Some(1));
        String::from_utf8_lossy(&stderr).into_owned()
    }
}

fn objectserver(options: &[&str]) -> ObjectServer {
    let login = [format!("--user={USER}"), format!("--password={PASSWORD}")];
    let options: Vec<_> = login
        .iter()
        .map(String::as_str)
        .chain(options.iter().copied())
        .collect();
    ObjectServer::start_with_agent("AGG_P", &options)
}

async fn log_in_with(record: &LoginRecord, proxy: SocketAddr) -> Result<Client<TcpStream>, LoginError> {
    let stream = TcpStream::connect(proxy).await.unwrap();
    timeout(DEADLINE, Client::login(stream, record))
        .await
        .expect("no answer to a login")
}

async fn log_in(proxy: SocketAddr) -> Client<TcpStream> {
    log_in_with(&LoginRecord::new("anybody", "", "PROBE"), proxy)
        .await
        .unwrap()
}

async fn insert(client: &mut Client<TcpStream>, identifier: &str) -> Result<(), QueryError> {
    let sql = format!("insert into alerts.status (Identifier) values ('{identifier}')");
    let answer = timeout(DEADLINE, client.query(&sql))
        .await
        .expect("no answer to an insert")?;
    assert_eq!(answer.counts, [1]);
    Ok(())
}

fn sessions(server: &ObjectServer, application: &str) -> usize {
    let sessions = server.ask_agent("GET", "/sessions");
    let is_it = |row: &&serde_json::Value| row["AppName"] == application;
    sessions.as_array().map_or(0, |rows| rows.iter().filter(is_it).count())
}

#[tokio::test]
async fn many_clients_share_few_sessions() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "ConnectionRatio: 4\n");
    let _proxy = home.start("stay");
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(log_in(home.listen).await);
    }
    let tasks = clients.into_iter().enumerate().map(|(number, mut client)| {
        tokio::spawn(async move {
            assert_eq!(client.server(), Some("PROXY_P"));
            for n in 0..20 {
                insert(&mut client, &format!("{number}-{n}")).await.unwrap();
            }
            client
        })
    });
    let clients = futures::future::join_all(tasks).await;
    assert_eq!(
        server
            .rows("select Identifier from alerts.status where Tally = 1")
            .len(),
        200
    );
    assert_eq!((sessions(&server, "PROXY"), sessions(&server, "PROBE")), (3, 0));
    let status = server.ask_agent("GET", "/status");
    assert_eq!(status["logins"], serde_json::json!({"PROXY": 3}));
    drop(clients);
}

#[tokio::test]
async fn every_client_is_answered_in_its_own_byte_order_and_format() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "");
    let _proxy = home.start("stay");
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for wide in [false, true] {
            let mut record = LoginRecord::new("anybody", "", "PROBE");
            record.order = order;
            if wide {
                record.capability.request = WIDE.to_vec();
            }
            let mut client = log_in_with(&record, home.listen).await.unwrap();
            let sql = "select Value from catalog.properties where PropName = 'Name'; select 70000 n, 5000000000 big, 1.5 f, '' blank";
            let answer = client.query(sql).await.unwrap();
            assert_eq!(
                answer.rows().next().unwrap().get("value").unwrap().text().as_deref(),
                Some("AGG_P")
            );
            let numbers: Vec<_> = answer.results[1].rows[0].iter().map(|value| value.text()).collect();
            let wanted = [Some("70000"), Some("5000000000"), Some("1.5"), None].map(|text| text.map(str::to_owned));
            assert_eq!(numbers, wanted, "{order:?} wide {wide}");
            let error = client.query("select nonsense").await.unwrap_err();
            assert!(
                matches!(&error, QueryError::Sql { server, .. } if server == "AGG_P"),
                "{error}"
            );
            client.query("select 1").await.unwrap();
            client.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn secure_mode_asks_for_the_proxy_servers_own_user() {
    let server = objectserver(&["--deny-sql"]);
    let home = Home::new(server.address, "", "SecureMode: TRUE\n");
    let _proxy = home.start("stay");
    let wrong = log_in_with(&LoginRecord::new(USER, "wrong", "PROBE"), home.listen).await;
    assert!(matches!(wrong, Err(LoginError::Refused { .. })));
    let mut client = log_in_with(&LoginRecord::new(USER, PASSWORD, "PROBE"), home.listen)
        .await
        .unwrap();
    insert(&mut client, "allowed").await.unwrap();
    let error = client.query("select Value from catalog.properties").await.unwrap_err();
    assert!(error.to_string().contains("Permission denied"), "{error}");
}

#[tokio::test]
async fn above_its_connections_it_refuses() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "Connections: 2\n");
    let _proxy = home.start("stay");
    let (first, _second) = (log_in(home.listen).await, log_in(home.listen).await);
    let third = log_in_with(&LoginRecord::new("anybody", "", "PROBE"), home.listen).await;
    assert!(matches!(third, Err(LoginError::Refused { .. })));
    first.close().await.unwrap();
    timeout(DEADLINE, async {
        while log_in_with(&LoginRecord::new("anybody", "", "PROBE"), home.listen)
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a place that was left stays taken");
}

#[tokio::test]
async fn it_exits_when_its_objectserver_goes_if_that_is_its_way() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "");
    let mut proxy = home.start("exit");
    let mut client = log_in(home.listen).await;
    insert(&mut client, "a").await.unwrap();
    server.ask_agent("POST", "/kill");
    eventually("the proxy server exits", || proxy.has_ended());
    timeout(DEADLINE, client.lost())
        .await
        .expect("the client's session goes on");
    let refusal = home.refusal();
    assert!(refusal.contains("Connection refused"), "{refusal}");
}

#[tokio::test]
async fn it_stays_and_lets_statements_wait_if_that_is_its_way() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "");
    let _proxy = home.start("stay");
    let mut before = log_in(home.listen).await;
    insert(&mut before, "a").await.unwrap();
    server.ask_agent("POST", "/kill");
    let mut after = log_in(home.listen).await;
    let mut impatient = log_in(home.listen).await;
    assert!(
        timeout(Duration::from_millis(200), insert(&mut impatient, "withdrawn"))
            .await
            .is_err()
    );
    drop(impatient);
    let waiting = tokio::spawn(async move {
        insert(&mut before, "b").await.unwrap();
        insert(&mut after, "c").await.unwrap();
    });
    server.ask_agent("POST", "/start");
    waiting.await.unwrap();
    assert_eq!(
        server
            .rows("select Identifier from alerts.status where Identifier in ('a', 'b', 'c')")
            .len(),
        3
    );
}

#[tokio::test]
async fn it_stays_and_answers_errors_if_that_is_its_way() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "");
    let _proxy = home.start("answer-errors");
    let mut client = log_in(home.listen).await;
    insert(&mut client, "a").await.unwrap();
    server.ask_agent("POST", "/kill");
    let error = insert(&mut client, "b").await.unwrap_err();
    assert!(
        matches!(&error, QueryError::Sql { server, class: 17, .. } if server == "PROXY_P"),
        "{error}"
    );
    server.ask_agent("POST", "/start");
    timeout(DEADLINE, async { while insert(&mut client, "c").await.is_err() {} })
        .await
        .expect("it does not find its ObjectServer again");
}

#[tokio::test]
async fn its_tls_takes_the_objectserver_of_the_right_name_only() {
    let (authority, directory) = (Issuer::new("Authority of a test"), Directory::new());
    for (name, is_right) in [("AGG_P", true), ("AGG_B", false)] {
        let [certificate, key] = authority.install(directory.path(), name).options();
        let server = objectserver(&[&certificate, &key]);
        let home = Home::new(server.address, " ssl", "");
        let refusal = home.refusal();
        assert!(refusal.contains("no stash file"), "{refusal}");
        fs::write(home.path("etc/security/keys/omni.sth"), "").unwrap();
        fs::write(home.path("etc/security/keys/omni.kdb"), authority.pem()).unwrap();
        if is_right {
            let _proxy = home.start("exit");
            insert(&mut log_in(home.listen).await, "a").await.unwrap();
        } else {
            let refusal = home.refusal();
            assert!(refusal.contains("Common Name"), "{refusal}");
        }
    }
}

#[test]
fn it_refuses_to_start_with_what_the_real_one_refuses() {
    let nowhere = free_address();
    for (properties, word) in [
        ("PollServer: 10\n", "unknown property PollServer"),
        ("ConnectionRatio: 'ten'\n", "ConnectionRatio"),
        ("SecureMode: 1\n", "SecureMode"),
        ("RemoteServer: 'AGG_X'\n", "AGG_X"),
        ("ConfigKeyFile: '/nowhere'\n", "ConfigKeyFile"),
        ("ConfigCryptoAlg: 'AES_FIPS'\n", "ConfigCryptoAlg AES_FIPS"),
    ] {
        let refusal = Home::new(nowhere, "", properties).refusal();
        assert!(refusal.contains(word), "{properties}: {refusal}");
    }
    let home = Home::new(nowhere, "", "");
    let interfaces = fs::File::options()
        .write(true)
        .open(home.path("etc/interfaces"))
        .unwrap();
    interfaces
        .set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
    assert!(home.refusal().contains("run nco_igen"));
    fs::remove_file(home.path("etc/interfaces")).unwrap();
    assert!(home.refusal().contains("run nco_igen"));
    fs::write(home.path("etc/omni.dat"), "[AGG_P]\n{\n").unwrap();
    let output = home.command("bin/nco_igen").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.starts_with("nco_igen: "), "{words}");
}

#[test]
fn it_reads_the_properties_file_it_is_given_and_ends_when_told_to() {
    let server = objectserver(&[]);
    let home = Home::new(server.address, "", "");
    let elsewhere = home.path("elsewhere.props");
    fs::rename(home.path("omnibus/etc/PROXY_P.props"), &elsewhere).unwrap();
    assert!(home.refusal().contains("PROXY_P.props"));
    let mut command = home.proxy("stay");
    command.arg("-propsfile").arg(&elsewhere).stderr(Stdio::piped());
    let mut proxy = Program(command.spawn().unwrap());
    eventually("the proxy server listens", || std::net::TcpStream::connect(home.listen));
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(proxy.id()), Signal::SIGTERM).unwrap();
    eventually("the proxy server ends", || proxy.has_ended());
    let mut said = String::new();
    proxy.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!said.contains(PASSWORD), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_through_a_proxy_server_that_may_only_insert_is_answered() {
    let server = objectserver(&["--deny-sql"]);
    let home = Home::new(server.address, "", "");
    let _proxy = home.start("stay");
    let (out, mut seen) = mpsc::channel(64);
    let gateways = watch::Sender::new(false);
    let login = Login {
        credentials: Arc::new(Credentials {
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
        }),
        allow_plaintext: true,
        object_server: "AGG_P".to_owned(),
        proxy: None,
        gateways: gateways.subscribe(),
        refusals: Arc::default(),
        undecodable: Arc::default(),
    };
    let timing = Timing {
        interval: Duration::from_millis(50),
        unreachable_after: Duration::ZERO,
        unresponsive_after: Duration::from_secs(3),
        lost_after: Duration::from_secs(1),
        healthy_after: Duration::ZERO,
    };
    let address = Address::new(home.listen.ip().to_string(), home.listen.port());
    let dialer = Dialer::new(address, timing.unresponsive_after);
    tokio::spawn(check_objectserver(dialer, timing, Some(login), out));
    let mut answers = 0;
    while answers < 3 {
        match timeout(DEADLINE, seen.recv()).await.expect("no answer") {
            // An answer may be late, on a machine that does other work.
            Some(Observation::Link(_, Link::Answering | Link::Silent { .. }) | Observation::Unchanged(_)) => {}
            // The read was rejected: nothing is known but that there is an answer.
            Some(Observation::Server(info)) => {
                assert_eq!((info.name, info.acting_primary), (None, None));
                answers += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}
