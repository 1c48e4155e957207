//! The containers of engine Proxyserv as the operator declares them, run one after the other on this machine: the stand-in proxy server that
//! they start brings an event to an ObjectServer with TLS and logins.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use proxypair::api::Side;
use proxypair::domain::children::{GateImage, deployment};
use proxypair::domain::pair::Pair;
use proxypair::domain::references::Contents;
use proxypair::tds::client::Client;
use proxypair::tds::login::LoginRecord;
use serde_json::{Value, json};
use testkit::certificates::Issuer;
use testkit::directory::{Directory, program};
use testkit::programs::{DEADLINE, ObjectServer, Program, eventually, free_address};
use tokio::net::TcpStream;
use tokio::time::timeout;

const USER: &str = "proxy";
const PASSWORD: &str = "se#cret";

/// A directory that is the file system of the pod's containers.
struct Machine {
    directory: Directory,
    pod: PodSpec,
    listen: SocketAddr,
}

impl Machine {
    /// The pod of the primary, with the stand-in proxy server installed in the user's image.
    fn new(object_server: SocketAddr, properties: Value) -> Self {
        let directory = Directory::new();
        for path in [
            "nc/bin",
            "nc/etc",
            "nc/omnibus/bin",
            "run/proxypair/bin",
            "run/proxypair/etc",
            "run/proxypair/private",
            "run/proxypair/secret",
        ] {
            fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        for name in ["nc/bin/nco_igen", "nc/omnibus/bin/nco_proxyserv"] {
            symlink(program("proxyserv"), directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("nc/etc/from-the-image"), "").unwrap();
        let object = json!({
            "apiVersion": "proxypair.dev/v1alpha1",
            "kind": "ProxyPair",
            "metadata": {"name": "proxy-v", "namespace": "netcool", "uid": "1"},
            "spec": {
                "serverName": "PROXY_V",
                "primary": {"serverName": "PROXY_P", "objectServer": {
                    "name": "AGG_P",
                    "host": object_server.ip().to_string(),
                    "port": object_server.port(),
                    "tls": {"caBundle": {"secretName": "ca"}},
                }},
                "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}},
                "proxy": {
                    "engine": "Proxyserv",
                    "image": "example.com/nco-proxyserv:8",
                    "ncHome": directory.path().join("nc"),
                    "secretName": "netcool-proxy",
                    "properties": properties,
                },
            }
        });
        let pair = Pair::validate(&serde_json::from_value(object).unwrap()).unwrap();
        let image = GateImage {
            image: "example.com/proxypair:1".to_owned(),
            pull_policy: None,
        };
        let declared = deployment(&pair, Side::Primary, &image, &Contents::new());
        Self {
            directory,
            pod: declared.spec.unwrap().template.spec.unwrap(),
            listen: free_address(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn put_secret(&self, key: &str, value: &str) {
        fs::write(self.path("run/proxypair/secret").join(key), value).unwrap();
    }

    fn container(&self, name: &str) -> &Container {
        self.pod
            .init_containers
            .iter()
            .flatten()
            .find(|container| container.name == name)
            .unwrap()
    }

    /// What the container runs, with the paths and the port of this machine.
    fn command(&self, name: &str) -> Command {
        let container = self.container(name);
        let own = [env!("CARGO_BIN_EXE_proxypair").to_owned()];
        let words = container
            .command
            .as_deref()
            .unwrap_or(&own)
            .iter()
            .chain(container.args.iter().flatten());
        let root = self.directory.path().display();
        let mut words = words.map(|word| match word.split_once("/run/proxypair/") {
            Some((before, after)) if before.is_empty() || before.ends_with('=') => {
                format!("{before}{root}/run/proxypair/{after}")
            }
            _ if word == "--listen=127.0.0.1:4410" => format!("--listen={}", self.listen),
            _ => word.clone(),
        });
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::null()).env_clear();
        for variable in container.env.iter().flatten() {
            command.env(&variable.name, variable.value.clone().unwrap_or_default());
        }
        command
    }

    fn run(&self, name: &str) -> Output {
        self.command(name).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, name: &str) {
        let Output { status, stderr, stdout } = self.run(name);
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{name}: {status}: {said}");
        assert!(stdout.is_empty() && said.is_empty(), "{name} said {said}");
    }

    /// Everything before the proxy, and the copy of `$NCHOME/etc` mounted in its place.
    fn prepare(&self) {
        self.succeeds("tools");
        self.succeeds("copy");
        fs::rename(self.path("nc/etc"), self.path("etc-of-the-image")).unwrap();
        fs::rename(self.path("run/proxypair/etc"), self.path("nc/etc")).unwrap();
    }
}

fn object_server(authority: &Issuer, directory: &Directory) -> ObjectServer {
    let login = [format!("--user={USER}"), format!("--password={PASSWORD}")];
    let options = [login, authority.install(directory.path(), "AGG_P").options()].concat();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    ObjectServer::start_with_agent("AGG_P", &options)
}

#[tokio::test]
async fn an_event_goes_through_the_proxy_that_the_pod_starts() {
    let (authority, directory) = (Issuer::new("Authority of a test"), Directory::new());
    let server = object_server(&authority, &directory);
    let machine = Machine::new(server.address, json!({"ConnectionRatio": 2, "MessageLevel": "debug"}));
    for (key, value) in [
        ("AuthUserName", USER),
        ("AuthPassword", PASSWORD),
        ("omni.kdb", &authority.pem()),
        ("omni.sth", "x"),
    ] {
        machine.put_secret(key, value);
    }
    machine.prepare();
    machine.succeeds("files");
    assert!(machine.path("nc/etc/from-the-image").exists());

    let _proxy = Program(machine.command("proxy").spawn().unwrap());
    eventually("the proxy listens", || std::net::TcpStream::connect(machine.listen));
    let stream = TcpStream::connect(machine.listen).await.unwrap();
    let login = LoginRecord::new("probe", "", "PROBE");
    let mut client = timeout(DEADLINE, Client::login(stream, &login))
        .await
        .expect("no answer")
        .unwrap();
    assert_eq!(client.server(), Some("PROXY_P"));
    let sent = client.query("insert into alerts.status (Identifier) values ('through the pod')");
    assert_eq!(timeout(DEADLINE, sent).await.expect("no answer").unwrap().counts, [1]);
    assert_eq!(
        server
            .rows("select Identifier from alerts.status where Identifier = 'through the pod'")
            .len(),
        1
    );
}

#[test]
fn nobody_else_can_read_the_password() {
    let machine = Machine::new(free_address(), json!({}));
    for (key, value) in [
        ("AuthUserName", USER),
        ("AuthPassword", PASSWORD),
        ("omni.kdb", "x"),
        ("omni.sth", "x"),
    ] {
        machine.put_secret(key, value);
    }
    machine.prepare();
    machine.succeeds("files");
    let props = machine.path("run/proxypair/private/PROXY_P.props");
    assert!(fs::read_to_string(&props).unwrap().contains(PASSWORD));
    assert_eq!(fs::metadata(&props).unwrap().permissions().mode() & 0o777, 0o400);
}

#[test]
fn what_the_secret_lacks_is_the_last_thing_said() {
    let machine = Machine::new(free_address(), json!({}));
    machine.put_secret("AuthUserName", USER);
    machine.prepare();
    let Output { status, stderr, .. } = machine.run("files");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1));
    assert_eq!(said.trim(), "Error: the Secret has AuthUserName but no AuthPassword");
}

/// The stand-in refuses what it does not know, as the real one does: its words are what status shows.
#[test]
fn a_proxy_that_ends_says_why_on_its_standard_error() {
    let machine = Machine::new(free_address(), json!({}));
    machine.put_secret("omni.kdb", "no certificate");
    machine.put_secret("omni.sth", "x");
    machine.prepare();
    machine.succeeds("files");
    let mut proxy = machine.command("proxy").stderr(Stdio::piped()).spawn().unwrap();
    let ended = eventually("the proxy ends", || proxy.try_wait().unwrap().ok_or("it runs"));
    let said = proxy.wait_with_output().unwrap().stderr;
    assert!(!ended.success());
    assert!(!said.is_empty());
}
