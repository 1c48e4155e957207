//! The node agent against the kernel, in a network namespace of its own.
//!
//! It needs root, and the programs ip, nft and conntrack. Without them it says so and passes, except where `CI` is set.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod node;
mod process;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use node::{
    DEADLINE, LIVING, LIVING_V6, LOST, LOST_V6, NODE, NODE_PORT, SERVICE, SERVICE_V6, connect, fed, in_namespace,
    lead_to, listen, lose, node, run,
};
use proxypair::agent::{
    conntrack::{Conntrack, Entry, Family, Flow},
    kernel::{Translation, local_addresses, translation},
    matching::{Frontend, PairKey, Target},
    metrics::AgentMetrics,
    reset::{self, round},
    watch::Known,
};
use tokio::sync::watch;

fn target() -> Target {
    let address = |text: &str| Frontend::Address(text.parse().unwrap());
    Target {
        pair: PairKey {
            namespace: "netcool".to_owned(),
            name: "proxy-v".to_owned(),
        },
        gates: [LOST, LOST_V6]
            .map(|gate| SocketAddr::new(gate.parse().unwrap(), 4400))
            .into(),
        frontends: [address(SERVICE), address(SERVICE_V6), Frontend::NodePort(NODE_PORT)].into(),
    }
}

fn declared() -> Arc<[Target]> {
    Arc::new([target()])
}

/// Whether a session is ended from the other side: what a probe sees that sends its next event.
fn is_reset(probe: &mut TcpStream) -> bool {
    probe.write_all(b"event").unwrap();
    matches!(probe.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

fn dumped(family: Family) -> Vec<Entry> {
    let mut entries = Vec::new();
    let undecodable = Conntrack::open()
        .unwrap()
        .dump(family, |entry| entries.push(entry))
        .unwrap();
    assert_eq!(undecodable, 0);
    entries
}

#[test]
fn sessions_on_a_lost_gate_are_answered_by_the_new_one_and_no_other_connection_is_touched() {
    in_namespace(|| {
        node();
        let _listeners = [
            listen(LOST, 4400),
            listen(LOST, 4500),
            listen(LIVING, 4400),
            listen(LOST_V6, 4400),
            listen(LIVING_V6, 4400),
        ];
        let node_port = format!("{NODE}:{NODE_PORT}");
        let mut probes = [SERVICE, &node_port, SERVICE_V6].map(connect);
        // A stranger's Service, another port of ours, and the pod itself.
        let _others = ["10.96.7.7:4100", "10.96.0.10:80", "10.244.1.5:4400", "[fd00:1::5]:4400"].map(connect);
        let udp = UdpSocket::bind("10.244.9.9:0").unwrap();
        udp.send_to(b"x", SERVICE).unwrap();
        lose();
        lead_to(LIVING, LIVING_V6);
        let _new = connect(SERVICE);
        let all = || ["ipv4", "ipv6"].map(|family| run("conntrack", &["-L", "-f", family]).lines().count());
        let before = all();

        let reset = round(declared).unwrap();
        let counts: Vec<_> = reset.reset.values().copied().collect();
        assert_eq!(
            (counts, reset.dumps, reset.undecodable),
            (vec![2, 1], 2, 0),
            "{reset:?}"
        );
        assert!(reset.refused.is_empty(), "{reset:?}");
        let after = all();
        assert_eq!((before[0] - after[0], before[1] - after[1]), (2, 1));

        let begun = Instant::now();
        for probe in &mut probes {
            assert!(is_reset(probe), "{probe:?}");
        }
        assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
        assert!(round(declared).unwrap().reset.is_empty());
    });
}

#[test]
fn a_login_that_waits_for_the_lost_gate_reaches_the_new_one() {
    in_namespace(|| {
        node();
        let _listener = listen(LIVING, 4400);
        lose();
        let probe = thread::scope(|threads| {
            let probe = threads.spawn(|| connect(SERVICE));
            let begun = Instant::now();
            // The segment that opens the connection is on its way to nowhere.
            while !dumped(Family::V4)
                .iter()
                .any(|entry| entry.reply.source.ip().to_string() == LOST)
            {
                assert!(begun.elapsed() < DEADLINE, "{}", run("conntrack", &["-L"]));
                thread::yield_now();
            }
            lead_to(LIVING, LIVING_V6);
            assert_eq!(round(declared).unwrap().reset.len(), 1);
            probe.join().unwrap()
        });
        let client = probe.local_addr().unwrap();
        let found = Conntrack::open()
            .unwrap()
            .find(client, SERVICE.parse().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(found.reply.source.to_string(), format!("{LIVING}:4400"));
    });
}

#[test]
fn what_is_withdrawn_between_dump_and_deletion_is_not_reset() {
    in_namespace(|| {
        node();
        let _listener = listen(LOST, 4400);
        let _probe = connect(SERVICE);
        let asked = std::cell::Cell::new(0);
        let reset = round(|| {
            asked.set(asked.get() + 1);
            if asked.get() == 1 { declared() } else { Arc::new([]) }
        });
        assert!(reset.unwrap().reset.is_empty());
        assert_eq!((asked.get(), dumped(Family::V4).len()), (2, 1));
    });
}

#[test]
fn an_entry_in_a_zone_is_deleted_there() {
    in_namespace(|| {
        node();
        let zone =
            "table ip zones { chain output { type filter hook output priority -300; tcp dport 4100 ct zone set 7; }; }";
        fed("nft", &["-f", "-"], &zone.replace("; }; }", "\n }\n }"));
        let _listener = listen(LIVING, 4400);
        lead_to(LIVING, LIVING_V6);
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        // Its answers come back outside of the zone, so it is never established. Its entry is what counts.
        let _ = client.connect(&SERVICE.parse::<SocketAddr>().unwrap().into());
        let listed = run("conntrack", &["-L"]);
        assert!(listed.contains("zone"), "{listed}");
        let service = SERVICE.parse().unwrap();
        let entry = dumped(Family::V4)
            .into_iter()
            .find(|entry| entry.original.destination == service)
            .unwrap();
        assert!(Conntrack::open().unwrap().delete(&entry).unwrap());
        let listed = run("conntrack", &["-L"]);
        assert!(!listed.contains("zone"), "{listed}");
    });
}

/// Source and destination of both directions of each TCP connection that conntrack lists.
fn listed(family: &str) -> BTreeSet<String> {
    let text = run("conntrack", &["-L", "-p", "tcp", "-f", family]);
    let value = |word: &str, name: &str| word.strip_prefix(name).map(str::to_owned);
    let of = |line: &str, name: &str| -> Vec<String> { line.split(' ').filter_map(|word| value(word, name)).collect() };
    text.lines()
        .map(|line| {
            let [source, destination, from, to] = ["src=", "dst=", "sport=", "dport="].map(|name| of(line, name));
            (0..2)
                .map(|at| format!("{} {} {} {} ", source[at], from[at], destination[at], to[at]))
                .collect()
        })
        .collect()
}

#[test]
fn the_dump_has_what_conntrack_lists() {
    in_namespace(|| {
        node();
        let listeners = [listen(LOST, 4400), listen(LOST_V6, 4400)];
        let connected = || {
            let probes = [SERVICE, SERVICE_V6].map(connect);
            (probes, listeners.each_ref().map(|listener| listener.accept().unwrap()))
        };
        // More than fit into one message of the kernel.
        let probes: Vec<_> = (0..300).map(|_| connected()).collect();
        UdpSocket::bind("10.244.9.9:0").unwrap().send_to(b"x", SERVICE).unwrap();
        for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let text = |flow: Flow| {
                let Flow { source, destination } = flow;
                let [source, destination] =
                    [source, destination].map(|address| format!("{} {} ", address.ip(), address.port()));
                source + &destination
            };
            let entries = dumped(family);
            let dumped: BTreeSet<_> = entries
                .iter()
                .map(|entry| text(entry.original) + &text(entry.reply))
                .collect();
            assert_eq!(dumped, listed(name));
            assert_eq!(dumped.len(), probes.len());
        }
    });
}

#[test]
fn a_node_that_does_not_translate_by_its_connection_table_is_known() {
    in_namespace(|| {
        node();
        let _listener = listen(LOST, 4400);
        let runtime = runtime();
        let seen = |address: &str| runtime.block_on(translation(address.parse().unwrap())).unwrap();
        assert_eq!(seen(SERVICE), Some(Translation::Tracked));
        assert_eq!(seen("10.244.1.5:4400"), Some(Translation::Direct));
        assert_eq!(seen("10.244.1.5:1"), None);
        assert!(local_addresses().unwrap().contains(&NODE.parse().unwrap()));
        fed("nft", &["-f", "-"], "flush ruleset");
        let _direct = listen("10.244.9.9", 4100);
        assert_eq!(seen("10.244.9.9:4100"), Some(Translation::Untracked));
    });
}

/// A runtime whose threads begin in the namespace of this one.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_session_that_is_translated_to_the_lost_gate_again_is_reset_again() {
    in_namespace(|| {
        node();
        let _listeners = [listen(LOST, 4400), listen(LIVING, 4400)];
        let mut probe = connect(SERVICE);
        lose();
        let metrics = AgentMetrics::default();
        let pair = proxypair::agent::metrics::labels(&target().pair);
        let reset = || metrics.sessions_reset.get_or_create(&pair).get();
        let (known_in, known) = watch::channel(Known {
            targets: declared(),
            blind: None,
            has_been_read: true,
        });
        let agent = metrics.clone();
        let ends = thread::scope(|threads| {
            let agent = threads.spawn(|| runtime().block_on(reset::run(known, agent, watch::Sender::new(None))));
            let probe = threads.spawn(|| is_reset(&mut probe));
            let begun = Instant::now();
            // The Service still leads to the lost gate, as on a node whose kube-proxy is late.
            while reset() < 3 {
                assert!(begun.elapsed() < DEADLINE, "reset {} times", reset());
                thread::sleep(Duration::from_millis(10));
            }
            lead_to(LIVING, LIVING_V6);
            let ends = probe.join().unwrap();
            drop(known_in);
            agent.join().unwrap();
            ends
        });
        assert!(ends, "the probe stayed");
    });
}

#[test]
fn a_session_through_a_service_without_a_gate_is_reset_when_it_has_one_again() {
    in_namespace(|| {
        node();
        let _listeners = [listen(LOST, 4400), listen(LIVING, 4400)];
        let mut probe = connect(SERVICE);
        lose();
        // As kube-proxy does for a Service without endpoints: rejected with ICMP, which ends no session.
        let empty = "
            flush map ip services frontends
            table ip empty {
              chain output {
                type filter hook output priority 0
                ip daddr 10.96.0.10 tcp dport 4100 counter reject
              }
            }";
        fed("nft", &["-f", "-"], empty);
        assert_eq!(round(declared).unwrap().reset.len(), 1);
        let ends = thread::scope(|threads| {
            let probe = threads.spawn(|| is_reset(&mut probe));
            let begun = Instant::now();
            while run("nft", &["list", "table", "ip", "empty"]).contains("packets 0 ") {
                assert!(begun.elapsed() < DEADLINE, "nothing was rejected");
                thread::sleep(Duration::from_millis(10));
            }
            assert!(!probe.is_finished(), "rejected is not reset");
            lead_to(LIVING, LIVING_V6);
            run("nft", &["delete", "table", "ip", "empty"]);
            probe.join().unwrap()
        });
        assert!(ends, "the probe stayed");
    });
}
