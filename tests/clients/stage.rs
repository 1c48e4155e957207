//! The environment of a client: a gate, a stand-in ObjectServer behind it, TLS where it is asked for, and an operator that commands drains.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use proxypair::protocol::{GateState, Request};
use testkit::certificates::Issuer;
use testkit::directory::Directory;
use testkit::gate::{Gate, Operator, until, within};
use testkit::programs::ObjectServer;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The one user of the ObjectServer.
pub const USER: &str = "netcool";
/// Its password.
pub const PASSWORD: &str = "secret";

const GRACE_PERIOD_MS: u64 = 60_000;

/// The gate's name towards probes.
const PROXY: &str = "PROXY_P";

/// How clients, gate and ObjectServer speak with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In plain TCP.
    Plain,
    /// TLS from the client to the gate, and TLS of its own from there to the ObjectServer.
    Secured,
    /// TLS from the client to the ObjectServer, which the gate passes through.
    PassedThrough,
}

impl Transport {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Secured, Self::PassedThrough];

    /// Bytes that TLS adds to each message as the gate counts it: header, type and tag of a record of TLS 1.3.
    pub const fn overhead(self) -> usize {
        match self {
            Self::Plain | Self::Secured => 0,
            Self::PassedThrough => 5 + 1 + 16,
        }
    }

    /// Whether the gate sees where requests and answers end.
    pub const fn shows_messages(self) -> bool {
        !matches!(self, Self::PassedThrough)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Secured => "tls",
            Self::PassedThrough => "tls_passed_through",
        }
    }
}

/// A pair's one side on loopback.
pub struct Stage {
    pub server: ObjectServer,
    pub gate: Gate,
    pub operator: Operator,
    tunnel: Option<Tunnel>,
    _certificates: [Directory; 2],
}

impl Stage {
    /// Starts everything and waits until clients are admitted.
    pub async fn set(transport: Transport) -> Self {
        let authority = Issuer::new("Authority of a test");
        let certificates = [Directory::new(), Directory::new()];
        let [of_server, of_gate] = certificates.each_ref().map(Directory::path);
        let server_options = authority.install(of_server, "AGG_P").options();
        authority.install(of_gate, PROXY);
        let ca = format!("--object-server-ca={}", of_server.join("ca.crt").display());
        let listener = format!("--listener-tls-dir={}", of_gate.display());
        let login = ["--user", USER, "--password", PASSWORD];
        let secured = [&login[..], &server_options.each_ref().map(String::as_str)].concat();
        let (server, gate, answers) = match transport {
            Transport::Plain => (&login[..], vec![], None),
            Transport::Secured => (&secured[..], vec![ca.as_str(), &listener], Some(PROXY)),
            Transport::PassedThrough => (&secured[..], vec![ca.as_str(), "--pass-through"], Some("AGG_P")),
        };
        let server = ObjectServer::start_with_agent("AGG_P", server);
        let gate = Gate::start(server.address, &gate);
        let operator = gate.admitting().await;
        let tunnel = match answers {
            Some(common_name) => Some(Tunnel::dig(gate.probes(), &of_gate.join("ca.crt"), common_name).await),
            None => None,
        };
        Self {
            server,
            gate,
            operator,
            tunnel,
            _certificates: certificates,
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        match &self.tunnel {
            Some(tunnel) => tunnel.address,
            None => self.gate.probes(),
        }
    }

    /// Orders a drain without a limit to its pace, and waits until it has begun or, with nobody left, is over.
    pub async fn drain(&mut self) -> GateState {
        self.operator
            .send(&Request::Drain {
                grace_period_ms: GRACE_PERIOD_MS,
                connections_per_second: 1000,
            })
            .await;
        self.operator
            .report("drains", |report| report.state != GateState::Open)
            .await
            .state
    }

    /// Waits until the drain has ended every session.
    pub async fn is_left(&mut self) {
        self.operator
            .report("nobody is left", |report| {
                report.sessions == 0 && report.state == GateState::Closed
            })
            .await;
    }

    /// How many sessions ended in a way, by the gate's own count.
    pub async fn ended(&self, how: &str) -> f64 {
        self.gate
            .metric(&format!("proxypair_gate_sessions_ended_total{{how=\"{how}\"}}"))
            .await
    }

    /// Identifiers and tallies in the ObjectServer's table, in the order in which they came.
    pub fn events(&self) -> Vec<(String, i64)> {
        let rows = self
            .server
            .rows("select Identifier, Tally from alerts.status order by Serial");
        let event = |row: &serde_json::Value| Some((row["Identifier"].as_str()?.to_owned(), row["Tally"].as_i64()?));
        rows.iter().map(|row| event(row).unwrap()).collect()
    }

    /// Waits until the table has at least this many events.
    pub async fn has_events(&self, count: usize) {
        until(
            "events in the table",
            async || self.events().len(),
            |found| *found >= count,
        )
        .await;
    }

    /// Bytes that the gate has forwarded from clients.
    pub async fn bytes_to_upstream(&self) -> f64 {
        self.gate.metric("proxypair_gate_to_upstream_bytes_total").await
    }

    /// The ObjectServer stops answering until [`Stage::resume`].
    pub fn stall(&self) {
        self.server.ask_agent("POST", "/stall");
    }

    /// It answers again.
    pub fn resume(&self) {
        self.server.ask_agent("POST", "/resume");
    }
}

/// TLS from the first byte for clients that have none: socat, with OpenSSL, which checks authority and Common Name. Ends when it is dropped.
struct Tunnel {
    address: SocketAddr,
    _socat: Child,
}

impl Tunnel {
    async fn dig(server: SocketAddr, ca: &Path, common_name: &str) -> Self {
        let mut command = Command::new("socat");
        command
            .args(["-d", "-d", "TCP-LISTEN:0,bind=127.0.0.1,fork"])
            .arg(format!(
                "OPENSSL:{server},cafile={},commonname={common_name},nodelay",
                ca.display()
            ))
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut socat = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: run `make packages`"));
        let mut lines = BufReader::new(socat.stderr.take().unwrap()).lines();
        let address = within("socat listens", async {
            loop {
                let line = lines
                    .next_line()
                    .await
                    .unwrap()
                    .unwrap_or_else(|| panic!("{command:?} has ended"));
                if let Some((_, address)) = line.split_once("listening on AF=2 ") {
                    return address.trim().parse().unwrap();
                }
            }
        })
        .await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { address, _socat: socat }
    }
}
