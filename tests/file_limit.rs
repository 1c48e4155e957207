//! The operator without a file descriptor left: no check may take that for the word of the server. Alone in its process, because the limit is
//! that of the process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs::File, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxypair::{
    check::{GateCommands, Observation, check_gate, check_objectserver, check_path, client_config, server_name},
    dial::{Address, Dialer},
    domain::evidence::{Link, Timing},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// File descriptors of this process: the soft limit that many systems start containers with is 1024.
const LIMIT: u64 = 1024;

const TIMING: Timing = Timing {
    interval: Duration::from_millis(100),
    unreachable_after: Duration::ZERO,
    unresponsive_after: DEADLINE,
    lost_after: DEADLINE,
    healthy_after: Duration::ZERO,
};

/// The next link, whatever else is observed.
async fn next(seen: &mut mpsc::Receiver<Observation>) -> Link {
    let link = async {
        loop {
            if let Observation::Link(_, link) = seen.recv().await.expect("the check has ended") {
                return link;
            }
        }
    };
    timeout(DEADLINE, link).await.expect("no link")
}

#[tokio::test]
async fn is_not_seen_by_any_check_and_is_no_failure_of_a_side() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, hard).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["operator".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let config = client_config(&certificate.pem(), &certificate.pem(), &key.serialize_pem()).unwrap();
    let name = server_name("gate.proxy-v.netcool").unwrap();

    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let dialer = Dialer::new(
        Address::new(address.ip().to_string(), address.port()),
        TIMING.unresponsive_after,
    );
    let (_commands, commands) = watch::channel(GateCommands {
        holder: "operator-1".to_owned(),
        term: 1,
        command: None,
        number: 0,
        ask: 0,
        look_at: Vec::new(),
        question: 0,
    });
    let mut checks = Vec::new();
    let mut channel = || {
        let (out, seen) = mpsc::channel(64);
        checks.push(seen);
        out
    };
    tokio::spawn(check_objectserver(dialer, TIMING, None, channel()));
    tokio::spawn(check_path(
        address,
        name.clone(),
        Arc::clone(&config),
        TIMING,
        None,
        channel(),
    ));
    tokio::spawn(check_gate(address, name, config, TIMING, commands, channel()));
    for seen in &mut checks {
        for _ in 0..3 {
            let link = next(seen).await;
            assert!(
                matches!(&link, Link::Unseen { message } if message.contains("Too many open files")),
                "{link:?}"
            );
        }
    }

    drop(files);
    let direct = &mut checks[0];
    while next(direct).await != Link::Answering {}
}
