//! Holding a connection open and saying what becomes of it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::{self, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Check, Observation, login::Login, session::log_in_and_ask};
use crate::{
    dial::{Dialer, prepare},
    domain::evidence::{Fault, Link, Timing},
};

/// A connection counts only when it has stayed open so long: one that is accepted and closed again leads nowhere.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// Time from a failed attempt to the next.
const RETRY: Duration = Duration::from_millis(100);
/// After this time an unanswered attempt is given up for a new one, which the kernel sends at once.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Why a connection could not be made.
pub(super) struct Refused {
    pub fault: Fault,
    pub message: String,
}

impl Refused {
    pub(super) fn plain(message: impl ToString) -> Self {
        Self {
            fault: Fault::Connection,
            message: message.to_string(),
        }
    }

    /// Nothing has come back, which has been said.
    pub(super) fn silence() -> Self {
        Self {
            fault: Fault::Connection,
            message: String::new(),
        }
    }
}

/// Holds a connection to the ObjectServer that `dialer` leads to. Without a `login` it says nothing on it, and leaves no event there.
pub async fn check_objectserver(dialer: Dialer, timing: Timing, login: Option<Login>, out: mpsc::Sender<Observation>) {
    let dial = || {
        let (dialer, out) = (dialer.clone(), out.clone());
        async move {
            let stream = dialer.dial().await.map_err(|error| Refused {
                fault: if error.is_tls_rejected() {
                    Fault::Tls
                } else {
                    Fault::Connection
                },
                message: error.to_string(),
            })?;
            prepare(stream.socket(), timing.unresponsive_after).map_err(Refused::plain)?;
            if let Some(expires) = stream.peer_expires() {
                // Whether anybody listens is found out by what is said next.
                let _ = out.send(Observation::Expires(expires)).await;
            }
            Ok(stream)
        }
    };
    hold(Check::Direct, &timing, dial, login, out.clone()).await;
}

/// Holds a connection to the ObjectServer through the check port of the gate at `address`.
pub async fn check_path(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    timing: Timing,
    login: Option<Login>,
    out: mpsc::Sender<Observation>,
) {
    let dial = || {
        let (name, config) = (name.clone(), Arc::clone(&config));
        async move { connect(address, &name, &config, &timing).await }
    };
    hold(Check::Path, &timing, dial, login, out).await;
}

/// Dials a port of a gate and proves who is who.
pub(super) async fn connect(
    address: SocketAddr,
    name: &ServerName<'static>,
    config: &Arc<ClientConfig>,
    timing: &Timing,
) -> Result<TlsStream<TcpStream>, Refused> {
    let refused = |error: io::Error| {
        let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        Refused {
            fault: if tls { Fault::Tls } else { Fault::Connection },
            message: format!("{address}: {error}"),
        }
    };
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    prepare(&stream, timing.unresponsive_after).map_err(refused)?;
    TlsConnector::from(Arc::clone(config))
        .connect(name.clone(), stream)
        .await
        .map_err(refused)
}

/// Makes a connection with `dial`, keeps a read pending on it, and begins again when it ends. Returns when nobody listens.
async fn hold<S, D>(
    eye: Check,
    timing: &Timing,
    dial: impl Fn() -> D,
    login: Option<Login>,
    out: mpsc::Sender<Observation>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: Future<Output = Result<S, Refused>>,
{
    let mut trouble = Trouble::new(eye, timing, out.clone());
    while !out.is_closed() {
        if let Some(refusal) = login.as_ref().and_then(|login| login.refusals.standing(Instant::now())) {
            let refused = Refused {
                fault: Fault::Login,
                message: refusal.message,
            };
            if !trouble.failed(refused).await {
                return;
            }
            sleep_until(refusal.until.into()).await;
        }
        let Some(dialled) = trouble.attempt(dial()).await else {
            return;
        };
        let ended = match (dialled, &login) {
            (Ok(stream), None) => settle_and_read(stream, &mut trouble).await,
            (Ok(stream), Some(login)) => log_in_and_ask(stream, login, timing, &mut trouble, &out).await,
            (Err(refused), _) => Err(refused),
        };
        if let Err(refused) = ended
            && !(trouble.failed(refused).await && pause().await)
        {
            return;
        }
    }
}

async fn pause() -> bool {
    sleep(RETRY).await;
    true
}

/// Reads until the connection ends. `Ok` if it had been settled: then the next attempt may come at once.
async fn settle_and_read<S: AsyncRead + Unpin>(mut stream: S, trouble: &mut Trouble) -> Result<(), Refused> {
    let mut buffer = [0; 512];
    if let Ok(read) = timeout(SETTLED_AFTER, stream.read(&mut buffer)).await {
        match read {
            Ok(0) => return Err(Refused::plain("the connection was closed as soon as it was open")),
            Err(error) => return Err(Refused::plain(error)),
            Ok(_) => {}
        }
    }
    if !trouble.answering().await {
        return Ok(());
    }
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    // Said at once: whoever weighs another eye's word need not wait for the second attempt.
    let since = Instant::now();
    trouble.lost(since);
    trouble.say(Link::Silent { since }).await;
    Ok(())
}

/// What is wrong with a connection, and since when.
pub(super) struct Trouble {
    eye: Check,
    interval: Duration,
    since: Option<Instant>,
    out: mpsc::Sender<Observation>,
}

impl Trouble {
    pub(super) fn new(eye: Check, timing: &Timing, out: mpsc::Sender<Observation>) -> Self {
        Self {
            eye,
            interval: timing.interval,
            since: None,
            out,
        }
    }

    /// Runs one attempt, and says so when it is silent. `None` when nobody listens any more.
    pub(super) async fn attempt<S>(
        &mut self,
        dial: impl Future<Output = Result<S, Refused>>,
    ) -> Option<Result<S, Refused>> {
        let started = Instant::now();
        let until = time::Instant::now() + ATTEMPT;
        tokio::pin!(dial);
        if let Ok(done) = timeout(self.interval.min(ATTEMPT), &mut dial).await {
            return Some(done);
        }
        let since = *self.since.get_or_insert(started);
        self.say(Link::Silent { since }).await.then_some(())?;
        match time::timeout_at(until, dial).await {
            Ok(done) => Some(done),
            // Still silent, which has been said.
            Err(_) => Some(Err(Refused::silence())),
        }
    }

    /// Who sees it.
    pub(super) const fn eye(&self) -> Check {
        self.eye
    }

    /// How long something may take until it is called late.
    pub(super) const fn interval(&self) -> Duration {
        self.interval
    }

    /// Since when nothing comes back: the earliest moment that was told, or `since`.
    pub(super) fn is_silent(&mut self, since: Instant) -> Instant {
        *self.since.get_or_insert(since)
    }

    /// Since when nothing came back, if that was told.
    pub(super) const fn silent_since(&self) -> Option<Instant> {
        self.since
    }

    /// The connection works.
    pub(super) async fn answering(&mut self) -> bool {
        self.since = None;
        self.say(Link::Answering).await
    }

    /// The connection that worked has ended; if it cannot be made again, it failed at `since`.
    pub(super) fn lost(&mut self, since: Instant) {
        self.since = Some(since);
    }

    /// The connection cannot be made. Silence, which has no message, has been said already.
    pub(super) async fn failed(&mut self, refused: Refused) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if refused.message.is_empty() {
            return !self.out.is_closed();
        }
        self.say(Link::Failed {
            since,
            fault: refused.fault,
            message: refused.message,
        })
        .await
    }

    pub(super) async fn say(&self, link: Link) -> bool {
        self.out.send(Observation::Link(self.eye, link)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::dial::Address;

    const TIMING: Timing = Timing {
        interval: Duration::from_millis(200),
        unreachable_after: Duration::ZERO,
        unresponsive_after: Duration::from_secs(3),
        healthy_after: Duration::ZERO,
    };

    /// Links as they are seen, until one fits; with a deadline that prints what was seen.
    async fn until(seen: &mut mpsc::Receiver<Observation>, what: &str, fits: impl Fn(&Link) -> bool) -> Vec<Link> {
        let mut links = Vec::new();
        let deadline = time::Instant::now() + Duration::from_secs(10);
        loop {
            match time::timeout_at(deadline, seen.recv()).await {
                Ok(Some(Observation::Link(_, link))) => {
                    links.push(link);
                    if fits(&links[links.len() - 1]) {
                        return links;
                    }
                }
                other => panic!("no {what}: {other:?} after {links:?}"),
            }
        }
    }

    fn watch(address: SocketAddr) -> mpsc::Receiver<Observation> {
        let (out, seen) = mpsc::channel(64);
        let address = Address::new(address.ip().to_string(), address.port());
        let dialer = Dialer::new(address, TIMING.unresponsive_after);
        tokio::spawn(check_objectserver(dialer, TIMING, None, out));
        seen
    }

    #[tokio::test]
    async fn a_server_that_dies_is_seen_at_once_and_called_failed_only_after_a_second_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut seen = watch(address);
        let (held, _) = listener.accept().await.unwrap();
        until(&mut seen, "answer", |link| *link == Link::Answering).await;
        let died = Instant::now();
        drop((listener, held));
        let links = until(&mut seen, "failure", |link| matches!(link, Link::Failed { .. })).await;
        assert!(matches!(links[0], Link::Silent { .. }), "{links:?}");
        let Link::Failed {
            since,
            fault: Fault::Connection,
            message,
        } = &links[links.len() - 1]
        else {
            panic!("{links:?}")
        };
        assert!(*since >= died && message.contains("refused"), "{links:?}");

        let _back = TcpListener::bind(address).await.unwrap();
        until(&mut seen, "return", |link| *link == Link::Answering).await;
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_and_comes_back_at_once_never_counts_as_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut seen = watch(listener.local_addr().unwrap());
        for _ in 0..3 {
            let (held, _) = listener.accept().await.unwrap();
            let links = until(&mut seen, "answer", |link| *link == Link::Answering).await;
            assert!(
                !links.iter().any(|link| matches!(link, Link::Failed { .. })),
                "{links:?}"
            );
            drop(held);
        }
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_closes_leads_nowhere() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut seen = watch(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((accepted, _)) = listener.accept().await {
                drop(accepted);
            }
        });
        for _ in 0..3 {
            let links = until(&mut seen, "failure", |link| matches!(link, Link::Failed { .. })).await;
            assert!(!links.contains(&Link::Answering), "{links:?}");
        }
    }

    #[tokio::test]
    async fn silence_is_told_with_the_moment_it_began() {
        // A backlog that is full answers nothing: the kernel drops what comes.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            fill.push(stream);
        }
        let began = Instant::now();
        let mut seen = watch(address);
        let links = until(&mut seen, "silence", |link| matches!(link, Link::Silent { .. })).await;
        let Link::Silent { since } = links[0] else {
            panic!("{links:?}")
        };
        assert!(since >= began && since.elapsed() >= TIMING.interval, "{links:?}");
    }
}
