//! Starts the stand-ins on free loopback ports, talks to their APIs, and waits for conditions.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::directory::{Directory, program};

/// How long anything that a test waits for may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long one answer of an API may take.
const API_DEADLINE: Duration = Duration::from_secs(30);

/// Where [`free_address`] looks for ports.
const FREE_PORTS: Range<u32> = 20_000..30_000;

/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until `look` gives a value, and fails with what it saw last when that takes longer than [`DEADLINE`].
pub fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > DEADLINE => panic!("not within {DEADLINE:?}: {what}; last seen: {seen:#?}"),
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// An address where nothing listens: on a loopback address of this process's own, so that other test programs cannot take it meanwhile, and with
/// a port below the range from which the kernel takes those of outgoing connections.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    /// 127.128.0.0, above which there is room for every process id.
    const OWN: u32 = 0x7f80_0000;
    let own = Ipv4Addr::from(OWN | (std::process::id() & 0x3f_ffff));
    for _ in FREE_PORTS {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % (FREE_PORTS.end - FREE_PORTS.start);
        let port = u16::try_from(FREE_PORTS.start + offset).expect("ports have 16 bits");
        let address = SocketAddr::from((own, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port in {FREE_PORTS:?} of {own}");
}

/// A running program, killed when dropped.
#[derive(Debug)]
pub struct Program(pub Child);

impl Program {
    /// Starts the stand-in of this name.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("failed to start {name}: {error}")))
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.0.kill().expect("failed to kill");
        self.0.wait().expect("failed to wait");
    }

    /// Whether it has ended, and how.
    pub fn has_ended(&mut self) -> Result<(), &'static str> {
        match self.0.try_wait().expect("failed to look at a child") {
            Some(_) => Ok(()),
            None => Err("still running"),
        }
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.0.id().try_into().expect("process ids are positive")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stand-in ObjectServer, with or without an agent.
#[derive(Debug)]
pub struct ObjectServer {
    pub name: &'static str,
    pub address: SocketAddr,
    pub agent: Option<SocketAddr>,
    arguments: Vec<String>,
    program: Program,
    _data: Directory,
}

impl ObjectServer {
    /// Starts one that its test kills and starts itself.
    pub fn start(name: &'static str, options: &[&str]) -> Self {
        Self::launch(name, None, options)
    }

    /// Starts one below an agent.
    pub fn start_with_agent(name: &'static str, options: &[&str]) -> Self {
        Self::launch(name, Some(free_address()), options)
    }

    /// Starts it again after [`ObjectServer::kill`].
    pub fn start_again(&mut self) {
        self.program = run(&self.arguments, self.address);
    }

    /// Kills the program that was started: the agent where there is one.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// The program that was started.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Asks the agent.
    pub fn ask_agent(&self, method: &str, path: &str) -> Value {
        let agent = self.agent.expect("this one has no agent");
        api(agent, method, path).unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.name))
    }

    /// Rows of the tables, read by the agent.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let path = format!("/sql?q={}", sql.replace('%', "%25").replace(' ', "+"));
        match self.ask_agent("GET", &path) {
            Value::Array(rows) => rows,
            other => panic!("{sql}: {other}"),
        }
    }

    fn launch(name: &'static str, agent: Option<SocketAddr>, options: &[&str]) -> Self {
        let (address, data) = (free_address(), Directory::new());
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--listen={address}"),
            format!("--data={}", data.path().display()),
        ];
        arguments.extend(agent.map(|agent| format!("--agent-listen={agent}")));
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let program = run(&arguments, address);
        if let Some(agent) = agent {
            eventually("the agent answers", || api(agent, "GET", "/status"));
        }
        Self {
            name,
            address,
            agent,
            arguments,
            program,
            _data: data,
        }
    }
}

fn run(arguments: &[String], address: SocketAddr) -> Program {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let program = Program::start("objectserver", &arguments);
    eventually("the ObjectServer listens", || TcpStream::connect(address));
    program
}

/// Asks an HTTP API that answers in JSON.
pub fn api(address: SocketAddr, method: &str, path: &str) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.set_read_timeout(Some(API_DEADLINE)).map_err(text)?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("no answer: {answer:?}"))?;
    if head.starts_with("HTTP/1.1 200 ") {
        serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
    } else {
        Err(answer)
    }
}
