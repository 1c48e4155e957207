//! A fleet of probes between two ObjectServers, one of which is killed and returns: nothing acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Service;
use proxypair::{
    api::{Side, Sides},
    domain::{
        children::{OMNI_DAT, probes, reach, side_service, virtual_service},
        pair::Pair,
    },
};
use serde_json::{Value, json};
use testkit::certificates::Issuer;
use testkit::directory::Directory;
use testkit::programs::{ObjectServer, Program, api, eventually, free_address};

const PROBES: u64 = 5;

struct Fleet {
    address: SocketAddr,
    program: Program,
}

impl Fleet {
    fn start(server: &str, options: &[&str]) -> Self {
        let address = free_address();
        let listen = format!("--listen={address}");
        let probes = format!("--probes={PROBES}");
        let server = format!("--server={server}");
        let arguments = [&[listen.as_str(), &probes, &server, "--rate=50"], options].concat();
        let program = Program::start("probe", &arguments);
        eventually("the fleet answers", || api(address, "GET", "/report"));
        Self { address, program }
    }

    fn ask(&self, method: &str, path: &str) -> Value {
        api(self.address, method, path).unwrap()
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let report = self.ask("GET", "/report");
            if is_so(&report) {
                Ok(report)
            } else {
                Err(report["totals"].clone())
            }
        })
    }

    fn wait_for_events_from(&self, server: &str, more: u64) {
        let answered = |report: &Value| report["totals"]["answered_by"][server].as_u64().unwrap_or(0);
        let before = answered(&self.ask("GET", "/report"));
        self.wait_until(&format!("{more} more events with {server}"), |report| {
            answered(report) >= before + more
        });
    }
}

fn identifiers(servers: &[&ObjectServer]) -> BTreeSet<String> {
    let rows = servers
        .iter()
        .flat_map(|server| server.rows("select Identifier from alerts.status"));
    rows.map(|row| row["Identifier"].as_str().unwrap().to_owned()).collect()
}

fn acknowledged(report: &Value) -> BTreeSet<String> {
    let name = report["name"].as_str().unwrap();
    let mut all = BTreeSet::new();
    for probe in report["probes"].as_array().unwrap() {
        for range in probe["acknowledged_ranges"].as_array().unwrap() {
            let number = &probe["probe"];
            let (first, last) = (range[0].as_u64().unwrap(), range[1].as_u64().unwrap());
            all.extend((first..=last).map(|n| format!("{name}-{number}-{n}")));
        }
    }
    all
}

#[test]
fn a_server_is_killed_and_returns_and_no_acknowledged_event_is_lost() {
    let primary = ObjectServer::start_with_agent("AGG_P", &[]);
    let backup = ObjectServer::start_with_agent("AGG_B", &["--backup"]);
    let server_backup = format!("--server-backup={}", backup.address);
    let mut fleet = Fleet::start(
        &primary.address.to_string(),
        &[&server_backup, "--reconnect-delay=20ms"],
    );
    fleet.wait_for_events_from("AGG_P", 100);

    fleet.ask("POST", "/mark?name=failover");
    primary.ask_agent("POST", "/kill");
    fleet.wait_for_events_from("AGG_B", 100);

    primary.ask_agent("POST", "/start");
    fleet.ask("POST", "/mark?name=failback");
    backup.ask_agent("POST", "/reset");
    fleet.wait_for_events_from("AGG_P", 100);
    fleet.wait_until("all sessions are home", |report| {
        report["totals"]["sessions"] == json!({"AGG_P": PROBES})
    });

    let report = fleet.ask("POST", "/stop");
    eventually("the fleet ends", || fleet.program.has_ended());
    assert_eq!(report["finished"], true);
    assert_eq!(report["totals"]["kept"], 0);
    assert_eq!(report["totals"]["made"], report["totals"]["acknowledged"]);
    assert!(
        report["totals"]["reconnects"].as_u64().unwrap() >= 2 * PROBES,
        "{}",
        report["totals"]
    );
    let stored = identifiers(&[&primary, &backup]);
    let lost: Vec<_> = acknowledged(&report).difference(&stored).cloned().collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(
        acknowledged(&report).len() as u64,
        report["totals"]["made"].as_u64().unwrap()
    );

    let windows = report["windows"].as_array().unwrap();
    let names: Vec<_> = windows.iter().map(|window| window["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["failover", "failback"]);
    assert_eq!(windows[0]["worst"]["gap"]["first_server_after"], "AGG_B");
    assert_eq!(windows[0]["probes"].as_array().unwrap().len() as u64, PROBES);
}

#[test]
fn events_are_kept_while_there_is_no_server_and_sent_in_order_afterwards() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    // Before the first event: how many would be sent before a kill is a matter of pace.
    server.ask_agent("POST", "/kill");
    let fleet = Fleet::start(&server.address.to_string(), &["--count=40", "--reconnect-delay=20ms"]);
    let report = fleet.wait_until("all events are made", |report| report["totals"]["made"] == 40 * PROBES);
    assert!(report["totals"]["kept"].as_u64().unwrap() > 0);
    assert!(report["totals"]["connect_failures"]["refused"].as_u64().unwrap() > 0);
    server.ask_agent("POST", "/start");
    eventually("all events are stored", || match identifiers(&[&server]).len() as u64 {
        stored if stored == 40 * PROBES => Ok(()),
        stored => Err(stored),
    });
    let rows = server.rows("select Identifier from alerts.status where Identifier like 'load-1-%' order by Serial");
    let wanted: Vec<_> = (1..=40).map(|n| json!({"Identifier": format!("load-1-{n}")})).collect();
    assert_eq!(rows, wanted);
}

#[test]
fn a_network_timeout_moves_a_probe_away_from_a_silent_server() {
    let silent = ObjectServer::start_with_agent("AGG_P", &[]);
    let other = ObjectServer::start_with_agent("AGG_B", &["--backup"]);
    let server_backup = format!("--server-backup={}", other.address);
    let options = [
        &server_backup,
        "--network-timeout=1s",
        "--connect-timeout=1s",
        "--reconnect-delay=20ms",
    ];
    let fleet = Fleet::start(&silent.address.to_string(), &options);
    fleet.wait_for_events_from("AGG_P", 20);
    silent.ask_agent("POST", "/stall");
    fleet.wait_for_events_from("AGG_B", 20);
}

/// The `omni.dat` in the ConfigMap of a pair whose node ports lead to these servers.
fn omni_dat_for(of_pair: SocketAddr, of_backup: SocketAddr) -> String {
    let pair = json!({
        "apiVersion": "proxypair.dev/v1alpha1",
        "kind": "ProxyPair",
        "metadata": {"name": "proxy-v", "namespace": "netcool", "uid": "1"},
        "spec": {
            "serverName": "PROXY_V",
            "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com"}},
            "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}},
            "service": {"type": "NodePort"},
        }
    });
    let pair = Pair::validate(&serde_json::from_value(pair).unwrap()).unwrap();
    let at = |mut service: Service, address: SocketAddr| {
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(address.port().into());
        service
    };
    let reach = reach(
        &pair,
        &at(virtual_service(&pair, Side::Primary), of_pair),
        Sides {
            primary: &at(side_service(&pair, Side::Primary), of_pair),
            backup: &at(side_service(&pair, Side::Backup), of_backup),
        },
        &Sides {
            primary: Some(of_pair.ip().to_string()),
            backup: Some(of_backup.ip().to_string()),
        },
    );
    probes(&pair, &reach).data.unwrap()[OMNI_DAT].clone()
}

#[test]
fn a_probe_finds_both_servers_of_a_pair_in_the_omni_dat_made_for_it() {
    let primary = ObjectServer::start_with_agent("AGG_P", &[]);
    let backup = ObjectServer::start_with_agent("AGG_B", &["--backup"]);
    let file = std::env::temp_dir().join(format!("proxypair-omni-{}.dat", std::process::id()));
    std::fs::write(&file, omni_dat_for(primary.address, backup.address)).unwrap();
    let omni_dat = format!("--omni-dat={}", file.display());
    let fleet = Fleet::start("PROXY_V", &[&omni_dat, "--reconnect-delay=20ms"]);
    std::fs::remove_file(&file).unwrap();
    fleet.wait_for_events_from("AGG_P", 20);
    primary.ask_agent("POST", "/kill");
    fleet.wait_for_events_from("AGG_B", 20);
}

/// An `omni.dat` in which `PROXY_V` is at this address and speaks TLS.
fn ssl_at(address: SocketAddr) -> String {
    format!(
        "[PROXY_V]\n{{\n\tPrimary: {} ssl {}\n}}\n",
        address.ip(),
        address.port()
    )
}

#[test]
fn a_probe_takes_any_of_its_common_names_over_tls_and_counts_other_certificates_as_refused() {
    let authority = Issuer::new("Authority of a test");
    let [own, other, omni] = [(); 3].map(|()| Directory::new());
    let [certificate, key] = authority.install(own.path(), "PROXY_P").options();
    authority.install(other.path(), "PROXY_X");
    let server = ObjectServer::start_with_agent("AGG_P", &[&certificate, &key]);
    let omni_dat = omni.path().join("omni.dat");
    std::fs::write(&omni_dat, ssl_at(server.address)).unwrap();
    let omni_dat = format!("--omni-dat={}", omni_dat.display());
    let ca = format!("--tls-ca={}", own.path().join("ca.crt").display());
    let names = "--ssl-server-common-name=PROXY_B,PROXY_P";
    let fleet = Fleet::start("PROXY_V", &[&omni_dat, &ca, names, "--reconnect-delay=20ms"]);
    fleet.wait_for_events_from("AGG_P", 20);
    assert_eq!(fleet.ask("GET", "/report")["totals"]["connect_failures"], json!({}));

    // Without other names the certificate has to have that of the pair.
    let strict = Fleet::start("PROXY_V", &[&omni_dat, &ca, "--reconnect-delay=20ms"]);
    let refused = strict.wait_until("refuses the certificate", |report| {
        report["totals"]["connect_failures"]["tls_refused"].as_u64() > Some(PROBES)
    });
    assert_eq!(refused["totals"]["acknowledged"], 0);

    server.ask_agent("POST", "/kill");
    server.ask_agent("POST", &format!("/certificate?directory={}", other.path().display()));
    server.ask_agent("POST", "/start");
    fleet.wait_until("refuses the other certificate", |report| {
        report["totals"]["connect_failures"]["tls_refused"].as_u64() > Some(0)
    });
    server.ask_agent("POST", "/kill");
    server.ask_agent("POST", &format!("/certificate?directory={}", own.path().display()));
    server.ask_agent("POST", "/start");
    fleet.wait_for_events_from("AGG_P", 20);
}

#[test]
fn a_paused_fleet_makes_no_events_and_reports() {
    let server = ObjectServer::start_with_agent("AGG_P", &[]);
    let fleet = Fleet::start(&server.address.to_string(), &[]);
    fleet.wait_for_events_from("AGG_P", 20);
    fleet.ask("POST", "/pause");
    let paused = fleet.wait_until("nothing is kept", |report| report["totals"]["kept"] == 0);
    assert_eq!(paused["paused"], true);
    let now = |report: &Value| report["now_us"].as_u64().unwrap();
    let later = fleet.wait_until("ten periods pass", |report| now(report) > now(&paused) + 200_000);
    assert_eq!(later["totals"]["made"], paused["totals"]["made"]);
    fleet.ask("POST", "/resume");
    fleet.wait_for_events_from("AGG_P", 20);
}
