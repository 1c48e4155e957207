//! A network namespace that looks like a node: addresses of two gates on its loopback interface, and nftables rules that translate as
//! kube-proxy's do.

use std::{
    io::Write,
    net::{IpAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};

pub const LOST: &str = "10.244.1.5";
pub const LIVING: &str = "10.244.2.5";
pub const NODE: &str = "192.168.1.7";
pub const SERVICE: &str = "10.96.0.10:4100";
pub const NODE_PORT: u16 = 31_400;
pub const LOST_V6: &str = "fd00:1::5";
pub const LIVING_V6: &str = "fd00:2::5";
pub const SERVICE_V6: &str = "[fd00:96::a]:4100";

/// How long anything here may take. Nothing waits that long unless something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a test in a network namespace of its own, on a thread that ends with it.
pub fn in_namespace(test: fn()) {
    let possible = thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return Err(format!("no network namespace can be made: {error}"));
        }
        for program in ["ip", "nft", "conntrack"] {
            let found = Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            found.map_err(|error| format!("{program} cannot be run: {error}"))?;
        }
        test();
        Ok(())
    });
    if let Err(reason) = possible.join().unwrap() {
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        eprintln!("not tested: {reason}");
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    fed(program, args, "")
}

pub fn fed(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A node whose Service leads to the gate that will be lost.
pub fn node() {
    run("ip", &["link", "set", "lo", "up"]);
    for address in ["10.244.9.9/24", "192.168.1.7/24", "10.244.1.5/32", "10.244.2.5/32"] {
        run("ip", &["addr", "add", address, "dev", "lo"]);
    }
    run("ip", &["route", "add", "default", "dev", "lo", "src", "10.244.9.9"]);
    for address in ["fd00:9::9/64", "fd00:1::5/128", "fd00:2::5/128"] {
        run("ip", &["-6", "addr", "add", address, "dev", "lo", "nodad"]);
    }
    run(
        "ip",
        &["-6", "route", "add", "fd00:96::/64", "dev", "lo", "src", "fd00:9::9"],
    );
    fed("nft", &["-f", "-"], TRANSLATION);
    lead_to(LOST, LOST_V6);
}

pub const TRANSLATION: &str = "
table ip services {
  map frontends { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
  chain output {
    type nat hook output priority -100
    dnat to ip daddr . tcp dport map @frontends
    udp dport 4100 dnat to 10.244.1.5:4400
  }
}
table ip6 services {
  map frontends { type ipv6_addr . inet_service : ipv6_addr . inet_service; }
  chain output {
    type nat hook output priority -100
    dnat to ip6 daddr . tcp dport map @frontends
  }
}
table ip stranger {
  chain output {
    type nat hook output priority -90
    ip daddr 10.96.7.7 tcp dport 4100 dnat to 10.244.1.5:4400
    ip daddr 10.96.0.10 tcp dport 80 dnat to 10.244.1.5:4500
  }
}
";

/// Switches the Service to another gate, as kube-proxy does: what is translated already stays.
pub fn lead_to(gate: &str, gate_v6: &str) {
    let commands = format!(
        "flush map ip services frontends
         add element ip services frontends {{ 10.96.0.10 . 4100 : {gate} . 4400, {NODE} . {NODE_PORT} : {gate} . 4400 }}
         flush map ip6 services frontends
         add element ip6 services frontends {{ fd00:96::a . 4100 : {gate_v6} . 4400 }}"
    );
    fed("nft", &["-f", "-"], &commands);
}

/// From now on nothing comes back from the first gate: its machine is gone.
pub fn lose() {
    let drops = "
        table inet cut {
          chain input {
            type filter hook input priority 0
            ip daddr 10.244.1.5 drop
            ip6 daddr fd00:1::5 drop
          }
        }";
    fed("nft", &["-f", "-"], drops);
}

pub fn listen(ip: &str, port: u16) -> TcpListener {
    TcpListener::bind((ip.parse::<IpAddr>().unwrap(), port)).unwrap()
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address.parse().unwrap(), DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}
