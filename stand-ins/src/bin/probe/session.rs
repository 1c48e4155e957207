//! The probes: each connects, sends, and connects again.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use proxypair::tds::client::{Client, LoginError, QueryError};
use proxypair::tds::login::LoginRecord;
use proxypair::tls::HandshakeError;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsStream;

use crate::Options;
use crate::fleet::Fleet;
use crate::omni_dat::Server;
use crate::record::{Event, Session};
use crate::servers::Servers;
use stand_ins::wire::Wire;

/// Application name of a probe, as `catalog.connections` shows it.
const APPLICATION: &str = "PROBE";

/// How long an orderly end may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

struct Probe {
    index: usize,
    options: Arc<Options>,
    servers: Arc<Servers>,
    fleet: Arc<Fleet>,
    login: LoginRecord,
}

/// Why there is no session, as one word for the report.
struct ConnectFailure(&'static str);

/// Runs all probes of the fleet until each is finished.
pub async fn run_all(fleet: &Arc<Fleet>, options: &Options, servers: Arc<Servers>) {
    let options = Arc::new(options.clone());
    let mut probes = JoinSet::new();
    for index in 0..fleet.size() {
        probes.spawn(run(
            index,
            Arc::clone(&options),
            Arc::clone(&servers),
            Arc::clone(fleet),
        ));
    }
    let duration = async {
        match options.duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let all = async { while probes.join_next().await.is_some() {} };
    tokio::pin!(all);
    tokio::select! {
        () = &mut all => return,
        () = duration => fleet.end(),
    }
    all.await;
}

/// Runs the probe with this index until it is finished.
async fn run(index: usize, options: Arc<Options>, servers: Arc<Servers>, fleet: Arc<Fleet>) {
    let mut login = LoginRecord::new(&options.user, &options.password, APPLICATION);
    login.host = format!("{}-{}", options.name, index + 1);
    let probe = Probe {
        index,
        options,
        servers: Arc::clone(&servers),
        fleet,
        login,
    };
    let mut connected_before = false;
    let mut order = servers.all.iter().cycle();
    while !probe.fleet.with(index, |record, _| record.is_finished()) {
        let Some(server) = order.next() else { return };
        let acknowledged = match probe.connect(server).await {
            Ok((client, name)) => {
                if connected_before {
                    probe.fleet.with(index, |record, _| record.reconnect());
                }
                connected_before = true;
                let acknowledged = probe
                    .serve(
                        client,
                        Session {
                            server: name,
                            address: server.address.clone(),
                        },
                    )
                    .await;
                order = servers.all.iter().cycle();
                acknowledged
            }
            Err(ConnectFailure(kind)) => {
                probe.fleet.with(index, |record, _| record.fail_to_connect(kind));
                0
            }
        };
        if acknowledged == 0 {
            sleep(probe.options.reconnect_delay).await;
        }
    }
}

impl Probe {
    async fn connect(&self, server: &Server) -> Result<(Client<Wire>, String), ConnectFailure> {
        let limit = self.options.connect_timeout;
        let stream = timeout(limit, TcpStream::connect(&server.address)).await;
        let stream = stream
            .map_err(|_| ConnectFailure("timeout"))?
            .map_err(|error| classify(&error))?;
        let _ = stream.set_nodelay(true);
        let stream = match self.servers.tls(server) {
            None => Wire::Plain(stream),
            Some(tls) => {
                let secured = timeout(limit, tls.handshake(stream)).await;
                let secured = secured.map_err(|_| ConnectFailure("tls_timeout"))?.map_err(|error| {
                    if matches!(error, HandshakeError::Closed(_)) {
                        return ConnectFailure("tls_closed");
                    }
                    tracing::debug!(probe = self.index + 1, %error, "no TLS");
                    ConnectFailure("tls_refused")
                })?;
                Wire::Tls(Box::new(TlsStream::Client(secured)))
            }
        };
        let client = timeout(limit, Client::login(stream, &self.login)).await;
        let mut client = client.map_err(|_| ConnectFailure("login_timeout"))?.map_err(|error| {
            ConnectFailure(match error {
                LoginError::Io(_) | LoginError::Closed { .. } => "login_closed",
                LoginError::Refused { .. } | LoginError::EncryptionDemanded => "login_refused",
                _ => "protocol",
            })
        })?;
        let server = match client.server() {
            Some(server) => server.to_owned(),
            None => timeout(limit, ask_name(&mut client))
                .await
                .ok()
                .flatten()
                .ok_or(ConnectFailure("login_timeout"))?,
        };
        Ok((client, server))
    }

    /// Sends events until the session is lost or there are no more; returns how many were acknowledged.
    async fn serve(&self, mut client: Client<Wire>, session: Session) -> u64 {
        let server = session.server.clone();
        self.fleet
            .with(self.index, |record, _| record.set_session(Some(session)));
        let mut acknowledged = 0;
        let mut changes = self.fleet.changes();
        let lost = loop {
            changes.mark_unchanged();
            let (event, next_due, finished) = self.fleet.with(self.index, |record, now| {
                record.make_due(now);
                (record.oldest(), record.next_due(), record.is_finished())
            });
            if finished {
                break false;
            }
            if let Some(event) = event {
                self.fleet.with(self.index, |record, _| record.send(event));
                match self.within_network_timeout(client.query(&self.insert(event))).await {
                    Some(Ok(_)) => {
                        self.fleet.acknowledge(self.index, &server);
                        acknowledged += 1;
                    }
                    Some(Err(error)) => {
                        if matches!(error, QueryError::Sql { .. }) {
                            tracing::warn!(probe = self.index + 1, event = event.number, %error, "event refused");
                            self.fleet.with(self.index, |record, _| record.refuse());
                        }
                        break true;
                    }
                    None => break true,
                }
                continue;
            }
            let due = async {
                match next_due {
                    Some(due) => sleep_until(self.fleet.clock.instant(due)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                _ = changes.changed() => {}
                _ = client.lost() => break true,
            }
        };
        if !lost {
            let _ = timeout(CLOSE_DEADLINE, client.close()).await;
        }
        self.fleet.with(self.index, |record, _| record.set_session(None));
        acknowledged
    }

    async fn within_network_timeout<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        if self.options.network_timeout.is_zero() {
            return Some(answer.await);
        }
        timeout(self.options.network_timeout, answer).await.ok()
    }

    fn insert(&self, event: Event) -> String {
        let Event { number, at } = event;
        let name = &self.options.name;
        let probe = self.index + 1;
        let seconds = at / 1_000_000;
        format!(
            "insert into alerts.status (Identifier, Node, Manager, Agent, AlertGroup, AlertKey, Severity, Summary, \
             FirstOccurrence, LastOccurrence) values ('{name}-{probe}-{number}', '{name}-{probe}', 'probe', 'stand-in', \
             'load', '{number}', 3, 'Event {number} of probe {probe}', {seconds}, {seconds})"
        )
    }
}

async fn ask_name(client: &mut Client<Wire>) -> Option<String> {
    let answer = client
        .query("select Value from catalog.properties where PropName = 'ServerName'")
        .await;
    answer.ok()?.rows().next()?.get("Value")?.text()
}

fn classify(error: &io::Error) -> ConnectFailure {
    ConnectFailure(match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset => "reset",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        _ if error.raw_os_error().is_none() => "name",
        _ => "other",
    })
}
