//! A gate process with everything around it: certificates, an ObjectServer that speaks minimal TDS, probes and an operator.
//!
//! Each gate has a loopback address of its own, so that tests run side by side with fixed ports. Every wait has a deadline and says what it
//! has seen when that is over.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use proxypair::protocol::{GateState, MAX_LINE, Report, Request, UnreachableCause, Upstream};
use proxypair::tds::packet::{Assembler, Message, PacketType, write_message};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::sync::CancellationToken;

use crate::directory::{Directory, program};

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test waits for, with a deadline that says what was awaited.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until `condition` is what it should be; looks again every few milliseconds.
pub async fn until<T: std::fmt::Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> T,
    is_right: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look().await;
        if is_right(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not within {PATIENCE:?}; seen last: {seen:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address of this machine that nobody else uses now.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    let [_, _, high, low] = process.to_be_bytes();
    let test = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 | (high & 0x3f), low, u8::try_from(test).unwrap())
}

/// An authority and what it signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Makes one.
    pub fn create() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client's configuration: trusts this authority and is known to it.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client_known_to(self)
    }

    /// One that trusts this authority and shows a certificate of another.
    pub fn client_known_to(&self, other: &Self) -> Arc<ClientConfig> {
        let (certificate, key) = other.sign("operator.test");
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        Arc::new(config)
    }

    /// Puts a server's files into a directory the way the kubelet does: a new directory, then one link is replaced.
    pub fn install(&self, directory: &Path) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (certificate, key) = self.sign("gate.test");
        let generation = directory.join(format!("..{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&generation).unwrap();
        for (name, content) in [("ca.crt", self.0.pem()), ("tls.crt", certificate), ("tls.key", key)] {
            fs::write(generation.join(name), content).unwrap();
            let link = directory.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        let fresh = directory.join("..data_tmp");
        symlink(&generation, &fresh).unwrap();
        fs::rename(fresh, directory.join("..data")).unwrap();
    }
}

/// A running `proxypair gate`. Killed when dropped, and its log printed if the test is failing then.
pub struct Gate {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub address: Ipv4Addr,
    pub authority: Authority,
    directory: Directory,
}

impl Gate {
    /// Starts a gate for an ObjectServer, with arguments beside those that every gate has.
    pub fn start(upstream: SocketAddr, arguments: &[&str]) -> Self {
        Self::start_at(own_address(), upstream, arguments)
    }

    /// Starts one at a given address.
    pub fn start_at(address: Ipv4Addr, upstream: SocketAddr, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(program("proxypair")), address, upstream, arguments)
    }

    /// Starts one after a command of the shell, such as `ulimit -n 128`.
    pub fn start_after(command: &str, upstream: SocketAddr, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command} && exec \"$0\" \"$@\"")]);
        shell.arg(program("proxypair"));
        Self::spawn(shell, own_address(), upstream, arguments)
    }

    fn spawn(mut command: Command, address: Ipv4Addr, upstream: SocketAddr, arguments: &[&str]) -> Self {
        let authority = Authority::create();
        let directory = Directory::new();
        authority.install(directory.path());
        let mut child = command
            .args([
                "--log",
                "info,proxypair=debug",
                "gate",
                "--name",
                "PROXY_P",
                "--object-server-name",
                "AGG_P",
            ])
            .args([
                "--listen",
                &format!("{address}:4400"),
                "--check-listen",
                &format!("{address}:4401"),
            ])
            .args([
                "--control-listen",
                &format!("{address}:4402"),
                "--admin-listen",
                &format!("{address}:4403"),
            ])
            .args(["--object-server", &upstream.to_string()])
            .arg("--tls-dir")
            .arg(directory.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let written = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            log,
            address,
            authority,
            directory,
        }
    }

    /// An address that a gate could use.
    pub fn free_address() -> Ipv4Addr {
        own_address()
    }

    pub fn probes(&self) -> SocketAddr {
        (self.address, 4400).into()
    }

    pub fn admin(&self) -> SocketAddr {
        (self.address, 4403).into()
    }

    pub fn checks(&self) -> SocketAddr {
        (self.address, 4401).into()
    }

    pub fn control(&self) -> SocketAddr {
        (self.address, 4402).into()
    }

    /// Directory of the certificates.
    pub fn tls_directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.times_logged(text) > 0
    }

    pub fn times_logged(&self, text: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains(text)).count()
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        let process = i32::try_from(self.child.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    pub async fn exit(&mut self) -> ExitStatus {
        within("the gate exits", self.child.wait()).await.unwrap()
    }

    /// An operator's control connection after its hello.
    pub async fn operator(&self, holder: &str, term: u64) -> Operator {
        let stream = until(
            "a control connection",
            async || connect_tls(self.control(), self.authority.client()).await,
            Result::is_ok,
        )
        .await
        .unwrap();
        let mut operator = Operator::on(stream);
        operator
            .send(&Request::Hello {
                holder: holder.to_owned(),
                term,
            })
            .await;
        operator
    }

    /// Waits until probes are admitted.
    pub async fn admitting(&self) -> Operator {
        let mut operator = self.operator("test", 1).await;
        operator.open().await;
        operator
    }

    /// A check that has logged in.
    pub async fn check(&self) -> TlsStream<TcpStream> {
        let mut check = connect_tls(self.checks(), self.authority.client()).await.unwrap();
        check.write_all(&login()).await.unwrap();
        within("the answer to a check's login", check.read_exact(&mut [0; 8]))
            .await
            .unwrap();
        check
    }

    /// Waits until the kernel refuses probes.
    pub async fn until_closed(&self) {
        until(
            "probes are refused",
            async || is_refused(self.probes()).await,
            |refused| *refused,
        )
        .await;
    }

    /// Status and body of a page of the administration port.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect((self.address, 4403)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The value of a metric, 0 if it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// How many sessions ended in a way, by the gate's own count.
    pub async fn ended(&self, how: &str) -> f64 {
        let metric = format!("proxypair_gate_sessions_ended_total{{how=\"{how}\"}}");
        self.metric(&metric).await
    }

    /// How many sessions were refused for a reason, by the gate's own count.
    pub async fn refused(&self, reason: &str) -> f64 {
        let metric = format!("proxypair_gate_sessions_refused_total{{reason=\"{reason}\"}}");
        self.metric(&metric).await
    }

    /// Waits until so many sessions have ended in a way.
    pub async fn until_ended(&self, how: &str, count: f64) {
        let what = format!("{count} sessions have ended as {how}");
        until(&what, async || self.ended(how).await, |ended| *ended == count).await;
    }

    /// Waits until so many sessions were refused for a reason.
    pub async fn until_refused(&self, reason: &str, count: f64) {
        let what = format!("{count} sessions were refused as {reason}");
        until(&what, async || self.refused(reason).await, |refused| *refused == count).await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.log.lock().unwrap().iter() {
                eprintln!("gate: {line}");
            }
        }
    }
}

pub async fn connect_tls(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config)
        .connect(ServerName::try_from("gate.test").unwrap(), stream)
        .await
}

/// The operator's end of a control connection.
pub struct Operator {
    lines: Framed<TlsStream<TcpStream>, LinesCodec>,
    last: Option<Report>,
    /// How many have come.
    pub reports: u64,
}

impl Operator {
    pub fn on(stream: TlsStream<TcpStream>) -> Self {
        Self {
            lines: Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE)),
            last: None,
            reports: 0,
        }
    }

    pub async fn send(&mut self, request: &Request) {
        self.send_text(&serde_json::to_string(request).unwrap()).await;
    }

    pub async fn send_text(&mut self, line: &str) {
        self.lines.send(line).await.unwrap();
    }

    /// The next report; none when the gate has closed the connection.
    pub async fn next(&mut self) -> Option<Report> {
        let line = within("a report", self.lines.next()).await?.ok()?;
        let report: Report = serde_json::from_str(&line).unwrap();
        self.last = Some(report.clone());
        self.reports += 1;
        Some(report)
    }

    /// Waits for a report that is as it should be, and returns it.
    pub async fn report(&mut self, what: &str, is_right: impl Fn(&Report) -> bool) -> Report {
        let mut seen = self.last.clone();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout_at(deadline, self.next()).await {
                Ok(Some(report)) if is_right(&report) => return report,
                Ok(Some(report)) => seen = Some(report),
                Ok(None) => panic!("{what}: the gate closed the connection; seen last: {seen:?}"),
                Err(_) => panic!("{what}: not within {PATIENCE:?}; seen last: {seen:?}"),
            }
        }
    }

    /// Waits until probes are admitted.
    pub async fn open(&mut self) -> Report {
        self.report("admits", |report| report.state == GateState::Open).await
    }

    /// Waits until probes are refused because the ObjectServer, or the proxy server before it, cannot be reached for this cause; returns the message.
    pub async fn away(&mut self, expected: UnreachableCause) -> String {
        let is_away = |report: &Report| {
            report.state == GateState::Closed && why(report).is_some_and(|(cause, _)| cause == expected)
        };
        let report = self.report("says why", is_away).await;
        why(&report).unwrap().1.to_owned()
    }

    /// Pings and returns the answer.
    pub async fn ping(&mut self, nonce: u64) -> Report {
        self.send(&Request::Ping {
            nonce,
            look_at: Vec::new(),
        })
        .await;
        self.report("answers a ping", |report| report.answers == Some(nonce))
            .await
    }
}

/// Why the upstream of a report cannot be reached, if it cannot.
pub fn why(report: &Report) -> Option<(UnreachableCause, &str)> {
    match &report.upstream {
        Upstream::Reachable => None,
        Upstream::Unreachable { cause, message } => Some((*cause, message)),
    }
}

/// What the stand-in ObjectServer has done.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Connections accepted.
    pub accepted: u64,
    /// How often each request arrived.
    pub received: HashMap<u64, u32>,
    /// Cancels received.
    pub cancels: u32,
    /// Connections whose client has closed its direction.
    pub half_closed: u32,
}

/// An ObjectServer of which only the packets are real: it answers each login with an empty response, and each request with its own payload.
/// Stops, and cuts everybody off, when dropped.
pub struct ObjectServer {
    pub address: SocketAddr,
    deeds: Arc<Mutex<Deeds>>,
    /// Answers are given while this is true.
    answering: watch::Sender<bool>,
    /// How new connections are secured, if they are.
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    deaf: CancellationToken,
    stopped: CancellationToken,
    task: JoinHandle<()>,
}

/// How a stand-in ObjectServer behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// Closes each connection as soon as it is accepted, unless a login has been announced within this time.
    pub closes_silent_after: Option<Duration>,
    /// Takes this long for each answer.
    pub delay: Duration,
}

impl ObjectServer {
    pub async fn start(manners: Manners) -> Self {
        Self::start_at((own_address(), 4100).into(), manners).await
    }

    /// An address where one could be started.
    pub fn free_address() -> SocketAddr {
        (own_address(), 4100).into()
    }

    pub async fn start_at(address: SocketAddr, manners: Manners) -> Self {
        Self::start_with(address, manners, None).await
    }

    /// One that speaks TLS.
    pub async fn start_secured(address: SocketAddr, tls: Arc<ServerConfig>) -> Self {
        Self::start_with(address, Manners::default(), Some(tls)).await
    }

    /// Secures new connections in another way.
    pub fn secure(&self, tls: Arc<ServerConfig>) {
        self.tls.send_replace(Some(tls));
    }

    async fn start_with(address: SocketAddr, manners: Manners, tls: Option<Arc<ServerConfig>>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let deeds = Arc::new(Mutex::new(Deeds::default()));
        let answering = watch::Sender::new(true);
        let tls = watch::Sender::new(tls);
        let (stopped, deaf) = (CancellationToken::new(), CancellationToken::new());
        let (told, done, stop) = (answering.subscribe(), Arc::clone(&deeds), stopped.clone());
        let (secured, closed) = (tls.subscribe(), deaf.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = serve(listener, manners, secured, told, done, stop.clone()) => {}
                () = stop.cancelled() => {}
                // Ends with the listener, not with the connections.
                () = closed.cancelled() => {}
            }
        });
        Self {
            address,
            deeds,
            answering,
            tls,
            deaf,
            stopped,
            task,
        }
    }

    /// Closes its port. The connections that there are go on.
    pub async fn stop_listening(&self) {
        self.deaf.cancel();
        until(
            "the port is closed",
            async || is_refused(self.address).await,
            |refused| *refused,
        )
        .await;
    }

    /// Gives no answers until told otherwise.
    pub fn hold_answers(&self) {
        self.answering.send_replace(false);
    }

    pub fn give_answers(&self) {
        self.answering.send_replace(true);
    }

    /// Waits until a request has arrived.
    pub async fn until_received(&self, id: u64) {
        let arrived = async || self.deeds(|deeds| deeds.received.contains_key(&id));
        until("the request arrives", arrived, |arrived| *arrived).await;
    }

    pub fn deeds<T>(&self, look: impl FnOnce(&Deeds) -> T) -> T {
        look(&self.deeds.lock().unwrap())
    }

    /// Dies: nobody listens any more, and every connection is closed.
    pub async fn kill(self) -> SocketAddr {
        self.stopped.cancel();
        within("the ObjectServer stops", self.task).await.unwrap();
        self.address
    }
}

async fn serve(
    listener: TcpListener,
    manners: Manners,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    answering: watch::Receiver<bool>,
    deeds: Arc<Mutex<Deeds>>,
    stopped: CancellationToken,
) {
    while let Ok((stream, _)) = listener.accept().await {
        deeds.lock().unwrap().accepted += 1;
        let (answering, deeds, stopped) = (answering.clone(), Arc::clone(&deeds), stopped.clone());
        let tls = tls.borrow().clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = receive(stream, tls, manners, answering, deeds) => {}
                () = stopped.cancelled() => {}
            }
        });
    }
}

async fn receive(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    manners: Manners,
    answering: watch::Receiver<bool>,
    deeds: Arc<Mutex<Deeds>>,
) -> io::Result<()> {
    if let Some(patience) = manners.closes_silent_after
        && tokio::time::timeout(patience, stream.peek(&mut [0])).await.is_err()
    {
        return Ok(());
    }
    match tls {
        Some(tls) => {
            let stream = TlsAcceptor::from(tls).accept(stream).await?;
            converse(stream, manners, answering, deeds).await
        }
        None => converse(stream, manners, answering, deeds).await,
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    manners: Manners,
    mut answering: watch::Receiver<bool>,
    deeds: Arc<Mutex<Deeds>>,
) -> io::Result<()> {
    let mut assembler = Assembler::new(1 << 20);
    let mut buffer = vec![0; 8192];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            deeds.lock().unwrap().half_closed += 1;
            return Ok(());
        }
        let mut input = &buffer[..read];
        while let Some(message) = assembler.feed(&mut input).map_err(io::Error::other)? {
            let Message { kind, payload, .. } = message;
            if let (PacketType::NORMAL, Some(id)) = (kind, payload.first_chunk()) {
                *deeds
                    .lock()
                    .unwrap()
                    .received
                    .entry(u64::from_be_bytes(*id))
                    .or_default() += 1;
            }
            if kind == PacketType::ATTENTION {
                deeds.lock().unwrap().cancels += 1;
            }
            tokio::time::sleep(manners.delay).await;
            answering
                .wait_for(|answering| *answering)
                .await
                .map_err(io::Error::other)?;
            let payload = if kind == PacketType::NORMAL {
                payload
            } else {
                Vec::new()
            };
            let mut out = Vec::new();
            write_message(PacketType::RESPONSE, &payload, 512, &mut out);
            stream.write_all(&out).await?;
            stream.flush().await?;
        }
    }
}

/// A probe's session.
pub struct Probe<S = TcpStream> {
    pub stream: S,
    assembler: Assembler,
}

/// The bytes of a login, cut into packets as all clients do.
pub fn login() -> Vec<u8> {
    let mut out = Vec::new();
    write_message(PacketType::LOGIN, &[0; 600], 512, &mut out);
    out
}

/// The bytes of a request, `length` bytes long without its headers.
pub fn request(id: u64, length: usize) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.resize(length.max(8), 0x20);
    let mut out = Vec::new();
    write_message(PacketType::NORMAL, &payload, 512, &mut out);
    out
}

/// An order to drain.
pub fn drain(grace: Duration, connections_per_second: u32) -> Request {
    Request::Drain {
        grace_period_ms: u64::try_from(grace.as_millis()).unwrap(),
        connections_per_second,
    }
}

/// A number that no other request of this process has.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Probe {
    /// Connects without saying anything.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Connects and logs in.
    pub async fn log_in(address: SocketAddr) -> io::Result<Self> {
        Self::connect(address).await?.logged_in().await
    }

    /// Whether the session is still there.
    pub fn is_open(&self) -> bool {
        matches!(self.stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Probe<TlsStream<TcpStream>> {
    /// Connects with TLS and logs in.
    pub async fn log_in_secured(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        Self::over(connect_tls(address, config).await?).logged_in().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Probe<S> {
    fn over(stream: S) -> Self {
        Self {
            stream,
            assembler: Assembler::new(1 << 20),
        }
    }

    async fn logged_in(mut self) -> io::Result<Self> {
        self.send(&login()).await?;
        self.answer().await?;
        Ok(self)
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next message from the server. An end of the stream is an error.
    pub async fn answer(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut input = &buffer[..read];
            if let Some(message) = self.assembler.feed(&mut input).map_err(io::Error::other)? {
                assert!(input.is_empty(), "bytes behind an answer");
                return Ok(message.payload);
            }
        }
    }

    /// Sends a request and checks that the answer belongs to it.
    pub async fn ask(&mut self, id: u64) -> io::Result<()> {
        self.send(&request(id, 100)).await?;
        let answer = self.answer().await?;
        assert_eq!(answer.first_chunk(), Some(&id.to_be_bytes()), "somebody else's answer");
        Ok(())
    }

    /// Waits until the gate has closed; returns how many bytes came before.
    pub async fn closed(&mut self) -> usize {
        let mut rest = Vec::new();
        // A reset is a close too.
        let _reset = within("the gate closes the session", self.stream.read_to_end(&mut rest)).await;
        rest.len()
    }
}

/// Whether the kernel refuses a connection.
pub async fn is_refused(address: SocketAddr) -> bool {
    matches!(TcpStream::connect(address).await, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}
