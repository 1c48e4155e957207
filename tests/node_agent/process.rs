//! The process as the chart runs it: root without any capability but one.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::node::{DEADLINE, LOST, in_namespace, listen, node};

const ADMIN: &str = "127.0.0.1:4404";

/// A cluster that does not answer.
const KUBECONFIG: &str = "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {token: t}}], \
                          clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
                          contexts: [{name: c, context: {cluster: c, user: u}}]}";

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    /// Runs with `privileges`, options of setpriv(1).
    fn with(privileges: &[&str]) -> Self {
        let path = format!("{}/node-agent.kubeconfig", env!("CARGO_TARGET_TMPDIR"));
        fs::write(&path, KUBECONFIG).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--no-new-privs", "--inh-caps", "-all"]).args(privileges);
        command.args([env!("CARGO_BIN_EXE_proxypair"), "node-agent"]);
        command.env("KUBECONFIG", path).envs([
            ("KUBERNETES_SERVICE_HOST", "10.96.0.10"),
            ("KUBERNETES_SERVICE_PORT", "4100"),
        ]);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    /// Waits until the answer to `/readyz` contains `text`.
    fn says(&self, text: &str) {
        let begun = Instant::now();
        loop {
            let answer = get("/readyz").unwrap_or_default();
            if answer.contains(text) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its exit after SIGTERM.
    fn stopped(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

fn get(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ADMIN)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn as_root_with_the_one_capability_may_use_the_connection_table_and_stops_on_sigterm() {
    in_namespace(|| {
        node();
        let _listener = listen(LOST, 4400);
        let agent = Agent::with(&["--bounding-set", "-all,+net_admin"]);
        agent.says("Connection refused");
        assert!(get("/metrics").unwrap().contains("proxypair_agent_lost_gates 0"));
        assert!(get("/livez").unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(agent.stopped(), Some(0));
    });
}

#[test]
fn without_it_the_readiness_says_so() {
    in_namespace(|| {
        node();
        let _listener = listen(LOST, 4400);
        Agent::with(&["--bounding-set", "-all"]).says("needs the capability NET_ADMIN");
    });
}

/// A capability in the bounding set is all that Kubernetes gives a container, which makes it effective for root alone.
#[test]
fn as_another_user_the_readiness_says_so() {
    in_namespace(|| {
        node();
        let _listener = listen(LOST, 4400);
        let user = [
            "--bounding-set",
            "-all,+net_admin,+setuid,+setgid",
            "--reuid",
            "65532",
            "--regid",
            "0",
            "--clear-groups",
        ];
        Agent::with(&user).says("needs the capability NET_ADMIN");
    });
}

#[test]
fn a_kernel_that_takes_no_session_in_the_middle_is_said() {
    in_namespace(|| {
        node();
        let _listener = listen(LOST, 4400);
        crate::node::run("sysctl", &["-qw", "net.netfilter.nf_conntrack_tcp_loose=0"]);
        Agent::with(&["--bounding-set", "-all,+net_admin"]).says("nf_conntrack_tcp_loose is 0");
    });
}
