//! One probe's session: its login header, the dial, and the timers and orders under which the [`Link`] runs.
//!
//! Order of events, each with what ends it early:
//!
//! 1. TLS that ends here has its handshake, before this begins. Then the first packet header is read. It must be that of a TDS login, and the
//!    whole login message must be there within the login timeout, the handshake included. Until then nobody else is troubled: the
//!    ObjectServer is not dialled. Where TLS passes through, its first record stands for the header and its first application data for the
//!    login.
//! 2. The ObjectServer is dialled.
//! 3. Bytes are forwarded, without a limit in time between messages. A message once begun must be complete within the message timeout; the
//!    time that the ObjectServer takes to accept it does not count.
//! 4. When one end closes its direction the other end is told and has the message timeout to finish. When the ObjectServer closes, the
//!    probe is closed.
//!
//! In a drain the session ends with a permit of the [`Pacer`], taken only while nothing is outstanding. Reading, forwarding and this
//! decision happen in one task: a request is either forwarded, and then the session lives until its answer is written, or it is never
//! forwarded. Only the drain's deadline breaks that.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::debug;

use super::admission::{ClosedBy, Decision};
use super::drain::Pacer;
use super::link::{Lane, Link, Progress, Standing};
use super::metrics::{Ending, Metrics, Refusal};
use super::passing::{Accepts, Passing};
use super::tracker::Outstanding;
use crate::dial::DialError;

/// Silence after which a session is taken to be between messages when headers cannot tell.
const QUIET: Duration = Duration::from_secs(1);

/// How long a closed session waits for the probe to close too, so that what it still sends does not destroy the last answer on its way.
const LINGER: Duration = Duration::from_secs(1);

/// How long a probe may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the connection to the end of the login message.
    pub login: Duration,
    /// From the first byte of a message to its last.
    pub message: Duration,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It never reached the ObjectServer.
    Refused(Refusal),
    /// It was a session.
    Ended(Ending),
}

/// Everything a session is told from outside.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// What to do with sessions; changes.
    pub decisions: watch::Receiver<Decision>,
    /// Issues the permits to close.
    pub pacer: &'a Pacer,
    /// Where bytes are counted.
    pub metrics: &'a Metrics,
    /// The time limits.
    pub patience: Patience,
    /// When the login must be complete: [`Patience::login`] after the probe has connected.
    pub login_by: Instant,
    /// What the probe may speak.
    pub accepts: Accepts,
}

/// Serves one probe until its session is over. Closes the upstream connection; the client's is left to [`part`] or to be dropped.
pub async fn serve<C, U, D>(client: &mut C, dial: impl FnOnce() -> D, surroundings: Surroundings<'_>) -> Outcome
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<U, DialError>>,
{
    let Surroundings {
        mut decisions,
        pacer,
        metrics,
        patience,
        login_by,
        accepts,
    } = surroundings;
    let set_up = async {
        let (first, passing) = match timeout_at(login_by, first_bytes(client, accepts)).await {
            Ok(first) => first?,
            Err(_) => return Err(Refusal::LoginTimeout),
        };
        match dial().await {
            Ok(upstream) => Ok((first, passing, upstream)),
            Err(error) => {
                debug!(%error, "a session finds no ObjectServer");
                Err(Refusal::Upstream)
            }
        }
    };
    let set_up = tokio::select! {
        biased;
        _ = decisions.wait_for(|decision| *decision != Decision::Open) => Err(Refusal::NotAdmitting),
        set_up = set_up => set_up,
    };
    let (first, passing, upstream) = match set_up {
        Ok(set_up) => set_up,
        Err(reason) => return Outcome::Refused(reason),
    };
    match Link::join(client, upstream, first, passing, metrics) {
        Ok(link) => Outcome::Ended(forward(link, decisions, pacer, login_by, patience).await),
        Err(_) => Outcome::Refused(Refusal::NotLogin),
    }
}

/// Ends a session politely: closes the sending direction, then waits a second at most for the probe to close. Without that, a request which
/// the probe sends at the same moment would make the kernel reset the connection, and the last answer could be lost on its way.
pub async fn part<C: AsyncRead + AsyncWrite + Unpin>(mut client: C) {
    let mut discarded = [0; 512];
    let linger = async {
        if client.shutdown().await.is_err() {
            return;
        }
        while matches!(client.read(&mut discarded).await, Ok(1..)) {}
    };
    // Whether the probe has closed or not, it was told.
    let _late = timeout(LINGER, linger).await;
}

async fn first_bytes<C: AsyncRead + Unpin>(client: &mut C, accepts: Accepts) -> Result<(Lane, Passing), Refusal> {
    let mut lane = Lane::default();
    loop {
        if lane.fill(client).await.unwrap_or(0) == 0 {
            return Err(Refusal::Gone);
        }
        if let Some(passing) = Passing::begin(lane.waiting(), accepts)? {
            return Ok((lane, passing));
        }
    }
}

async fn forward<C, U>(
    mut link: Link<'_, C, U>,
    mut decisions: watch::Receiver<Decision>,
    pacer: &Pacer,
    login_by: Instant,
    patience: Patience,
) -> Ending
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut clock = Clock::new(login_by, patience);
    loop {
        let drained_by = match *decisions.borrow_and_update() {
            Decision::Open => None,
            Decision::Draining { deadline, .. } => Some(deadline),
            Decision::Closed(ClosedBy::Order) => return Ending::Dropped,
            Decision::Closed(ClosedBy::Upstream) => return Ending::UpstreamLost,
        };
        let now = Instant::now();
        let standing = link.standing(drained_by.is_some());
        if let Some(late) = clock.look(now, standing, link.messages(), link.is_waiting_for_upstream()) {
            return late;
        }
        if drained_by.is_some_and(|deadline| now >= deadline) {
            return Ending::DrainedDeadline;
        }
        let may_close = clock.may_close(now);
        let wake = clock.next(now).into_iter().chain(drained_by).min();
        tokio::select! {
            biased;
            progress = link.advance(drained_by.is_some(), standing) => if let Progress::Ended(how) = progress {
                return how;
            },
            changed = decisions.changed() => if changed.is_err() {
                return Ending::Stopped;
            },
            () = pacer.permit(), if may_close => return Ending::DrainedIdle,
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
        }
    }
}

/// A session's time limits, looked at whenever its standing changes or one of them is due.
#[derive(Debug)]
struct Clock {
    login_by: Instant,
    patience: Patience,
    standing: Option<Standing>,
    /// When the message that is under way began, and how many had been completed then.
    message: Option<(Instant, u64)>,
    half_closed_since: Option<Instant>,
    /// Since when nothing has moved, while headers cannot tell whether anything is outstanding.
    quiet_since: Option<Instant>,
}

impl Clock {
    const fn new(login_by: Instant, patience: Patience) -> Self {
        Self {
            login_by,
            patience,
            standing: None,
            message: None,
            half_closed_since: None,
            quiet_since: None,
        }
    }

    /// Takes the present standing. Returns how the session ends if its time is up.
    fn look(
        &mut self,
        now: Instant,
        standing: Standing,
        messages: u64,
        is_waiting_for_upstream: bool,
    ) -> Option<Ending> {
        let before = self.standing.replace(standing);
        self.message = match self.message {
            _ if !standing.is_mid_message => None,
            // Bytes that the ObjectServer does not take are not the client's delay.
            Some((began, completed)) if completed == messages && !is_waiting_for_upstream => Some((began, completed)),
            _ => Some((now, messages)),
        };
        self.half_closed_since = standing.is_half_closed.then_some(self.half_closed_since.unwrap_or(now));
        self.quiet_since = match (standing.outstanding, before) {
            (Outstanding::Unsure, Some(before))
                if before.outstanding == Outstanding::Unsure && before.activity == standing.activity =>
            {
                self.quiet_since
            }
            (Outstanding::Unsure, _) => Some(now),
            _ => None,
        };
        if !standing.has_logged_in && now >= self.login_by {
            return Some(Ending::LoginTimeout);
        }
        let is_late = |since: Option<Instant>| since.is_some_and(|since| now >= since + self.patience.message);
        (is_late(self.message.map(|(began, _)| began)) || is_late(self.half_closed_since))
            .then_some(Ending::MessageTimeout)
    }

    /// Whether nothing is outstanding, or seems to be after a quiet moment.
    fn may_close(&self, now: Instant) -> bool {
        match self.standing.map(|standing| standing.outstanding) {
            Some(Outstanding::Nothing) => true,
            Some(Outstanding::Unsure) => self.quiet_since.is_some_and(|since| now >= since + QUIET),
            Some(Outstanding::Request) | None => false,
        }
    }

    /// When to look again at the latest.
    fn next(&self, now: Instant) -> Option<Instant> {
        let login = self
            .standing
            .is_none_or(|standing| !standing.has_logged_in)
            .then_some(self.login_by);
        let message = self.message.map(|(began, _)| began + self.patience.message);
        let half_closed = self.half_closed_since.map(|since| since + self.patience.message);
        let quiet = self.quiet_since.map(|since| since + QUIET).filter(|at| *at > now);
        [login, message, half_closed, quiet].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::admission::Pace;
    use crate::tds::packet::{PacketType, write_message};
    use std::sync::Arc;
    use tokio::io::{BufStream, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience {
        login: Duration::from_secs(10),
        message: Duration::from_secs(60),
    };
    /// What a pipe holds: little, so that back pressure is felt.
    const PIPE: usize = 256;

    /// A session between two pipes, on paused time.
    struct Stage {
        client: DuplexStream,
        upstream: Option<DuplexStream>,
        decisions: watch::Sender<Decision>,
        session: JoinHandle<Outcome>,
        start: Instant,
    }

    impl Stage {
        fn set() -> Self {
            Self::set_for(Accepts::Tds)
        }

        fn set_for(accepts: Accepts) -> Self {
            let (client, mut inner_client) = duplex(PIPE);
            let (upstream, inner_upstream) = duplex(PIPE);
            let decisions = watch::Sender::new(Decision::Open);
            let pacer = Arc::new(Pacer::default());
            let (running, decided) = (Arc::clone(&pacer), decisions.subscribe());
            let (_sessions, counted) = watch::channel(1);
            tokio::spawn(async move { running.run(decided, counted).await });
            let decided = decisions.subscribe();
            let session = tokio::spawn(async move {
                let metrics = Metrics::default();
                let surroundings = Surroundings {
                    decisions: decided,
                    pacer: &pacer,
                    metrics: &metrics,
                    patience: PATIENCE,
                    login_by: Instant::now() + PATIENCE.login,
                    accepts,
                };
                serve(&mut inner_client, || async { Ok(inner_upstream) }, surroundings).await
            });
            Self {
                client,
                upstream: Some(upstream),
                decisions,
                session,
                start: Instant::now(),
            }
        }

        /// One whose login has been answered.
        async fn logged_in() -> Self {
            let mut stage = Self::set();
            stage.send(&message(PacketType::LOGIN, 100)).await;
            stage.read_upstream(108).await;
            stage.answer(&message(PacketType::RESPONSE, 0)).await;
            stage.read_client(8).await;
            stage
        }

        fn drain(&self, grace: Duration) {
            self.decisions.send_replace(Decision::Draining {
                deadline: Instant::now() + grace,
                pace: Pace::AtMost(1000),
            });
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.client.write_all(bytes).await.unwrap();
        }

        async fn answer(&mut self, bytes: &[u8]) {
            self.upstream.as_mut().unwrap().write_all(bytes).await.unwrap();
        }

        async fn read_upstream(&mut self, length: usize) {
            self.upstream
                .as_mut()
                .unwrap()
                .read_exact(&mut vec![0; length])
                .await
                .unwrap();
        }

        async fn read_client(&mut self, length: usize) {
            self.client.read_exact(&mut vec![0; length]).await.unwrap();
        }

        /// How it ended and after how many seconds.
        async fn ending(self) -> (Outcome, u64) {
            let Self {
                client: _client,
                upstream: _upstream,
                decisions: _decisions,
                session,
                start,
            } = self;
            let outcome = session.await.unwrap();
            (outcome, start.elapsed().as_secs())
        }
    }

    fn message(kind: PacketType, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write_message(kind, &vec![0; length], 512, &mut out);
        out
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_the_login_timeout_for_its_login() {
        assert_eq!(
            Stage::set().ending().await,
            (Outcome::Refused(Refusal::LoginTimeout), 10)
        );
        let mut begun = Stage::set();
        begun.send(&message(PacketType::LOGIN, 100)[..50]).await;
        assert_eq!(begun.ending().await, (Outcome::Ended(Ending::LoginTimeout), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_once_begun_has_the_message_timeout_to_end() {
        let mut stage = Stage::logged_in().await;
        tokio::time::sleep(300 * SECOND).await;
        stage.send(&[15]).await;
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::MessageTimeout), 360));
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_objectserver_takes_to_accept_a_message_is_not_the_clients() {
        let mut stage = Stage::logged_in().await;
        let request = message(PacketType::NORMAL, 20_000);
        let (sent, received) = (request.len(), &request[..]);
        let upstream = stage.upstream.take().unwrap();
        let sending = stage.client.write_all(received);
        let receiving = async {
            let mut upstream = upstream;
            tokio::time::sleep(300 * SECOND).await;
            upstream.read_exact(&mut vec![0; sent]).await.unwrap();
            upstream
        };
        let (sending, upstream) = tokio::join!(sending, receiving);
        sending.unwrap();
        stage.upstream = Some(upstream);
        stage.answer(&message(PacketType::RESPONSE, 0)).await;
        stage.read_client(8).await;
        assert!(!stage.session.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_when_the_client_has_closed_its_direction_is_bounded() {
        let mut stage = Stage::logged_in().await;
        stage.send(&message(PacketType::NORMAL, 10)).await;
        stage.client.shutdown().await.unwrap();
        stage.read_upstream(18).await;
        assert_eq!(stage.upstream.as_mut().unwrap().read(&mut [0]).await.unwrap(), 0);
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::MessageTimeout), 60));
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_is_closed_when_the_objectserver_closes() {
        let mut stage = Stage::logged_in().await;
        stage.answer(&message(PacketType::RESPONSE, 5)).await;
        stage.upstream = None;
        stage.read_client(13).await;
        assert_eq!(stage.client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::Upstream), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_the_client_does_not_read_keeps_a_drain_waiting() {
        let mut stage = Stage::logged_in().await;
        stage.send(&message(PacketType::NORMAL, 10)).await;
        stage.read_upstream(18).await;
        stage.drain(100 * SECOND);
        stage.answer(&message(PacketType::RESPONSE, 500)).await;
        tokio::time::sleep(50 * SECOND).await;
        assert!(!stage.session.is_finished());
        stage.read_client(508).await;
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_a_busy_session_at_its_deadline() {
        let mut stage = Stage::logged_in().await;
        stage.send(&[15]).await;
        stage.drain(20 * SECOND);
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedDeadline), 20));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_cancel_each_answer_starts_the_quiet_moment_again() {
        let mut stage = Stage::logged_in().await;
        stage.send(&message(PacketType::NORMAL, 10)).await;
        stage.send(&message(PacketType::ATTENTION, 0)).await;
        stage.read_upstream(26).await;
        stage.drain(20 * SECOND);
        tokio::time::sleep(5 * SECOND).await;
        for _ in 0..5 {
            stage.answer(&message(PacketType::RESPONSE, 0)).await;
            stage.read_client(8).await;
            tokio::time::sleep(QUIET * 9 / 10).await;
            assert!(!stage.session.is_finished());
        }
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 9));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_writer_keeps_back_is_flushed() {
        let (mut client, inner_client) = duplex(PIPE);
        let (mut upstream, inner_upstream) = duplex(PIPE);
        // As in TLS, what is written stays inside until it is flushed or too much.
        let (mut inner_client, inner_upstream) = (BufStream::new(inner_client), BufStream::new(inner_upstream));
        let (pacer, metrics) = (Pacer::default(), Metrics::default());
        let decisions = watch::Sender::new(Decision::Open);
        let surroundings = Surroundings {
            decisions: decisions.subscribe(),
            pacer: &pacer,
            metrics: &metrics,
            patience: PATIENCE,
            login_by: Instant::now() + PATIENCE.login,
            accepts: Accepts::Tds,
        };
        let exchange = async {
            for kind in [PacketType::LOGIN, PacketType::NORMAL] {
                client.write_all(&message(kind, 100)).await.unwrap();
                upstream.read_exact(&mut [0; 108]).await.unwrap();
                upstream.write_all(&message(PacketType::RESPONSE, 50)).await.unwrap();
                client.read_exact(&mut [0; 58]).await.unwrap();
            }
        };
        tokio::select! {
            outcome = serve(&mut inner_client, || async { Ok(inner_upstream) }, surroundings) => panic!("{outcome:?}"),
            done = timeout(30 * SECOND, exchange) => done.unwrap(),
        }
    }

    /// A TLS record.
    fn record(kind: u8, length: u8) -> Vec<u8> {
        let mut out = vec![kind, 3, 3, 0, length];
        out.resize(5 + usize::from(length), 0xab);
        out
    }

    #[tokio::test(start_paused = true)]
    async fn tls_that_passes_through_is_drained_a_quiet_moment_after_the_last_word_of_the_server() {
        let mut stage = Stage::set_for(Accepts::Tls);
        for (kind, length) in [(22, 100), (23, 30)] {
            stage.send(&record(kind, length)).await;
            stage.read_upstream(5 + usize::from(length)).await;
            stage.answer(&record(kind, 50)).await;
            stage.read_client(55).await;
        }
        stage.send(&record(23, 10)).await;
        stage.read_upstream(15).await;
        stage.drain(100 * SECOND);
        tokio::time::sleep(30 * SECOND).await;
        assert!(!stage.session.is_finished());
        // An answer in pieces.
        for _ in 0..3 {
            stage.answer(&record(23, 50)).await;
            stage.read_client(55).await;
            tokio::time::sleep(QUIET * 9 / 10).await;
            assert!(!stage.session.is_finished());
        }
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::DrainedIdle), 32));
    }

    #[tokio::test(start_paused = true)]
    async fn tls_that_passes_through_has_the_login_timeout_for_its_handshake() {
        let mut stage = Stage::set_for(Accepts::Either);
        stage.send(&record(22, 100)).await;
        stage.read_upstream(105).await;
        stage.answer(&record(22, 100)).await;
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::LoginTimeout), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_being_set_up_is_refused_when_the_gate_stops_admitting() {
        let stage = Stage::set();
        stage.drain(20 * SECOND);
        assert_eq!(stage.ending().await, (Outcome::Refused(Refusal::NotAdmitting), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_sessions_end_at_once_when_the_objectserver_is_lost() {
        let mut stage = Stage::logged_in().await;
        stage.send(&message(PacketType::NORMAL, 10)).await;
        stage.decisions.send_replace(Decision::Closed(ClosedBy::Upstream));
        assert_eq!(stage.ending().await, (Outcome::Ended(Ending::UpstreamLost), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_after_the_close_is_never_forwarded() {
        let mut stage = Stage::logged_in().await;
        stage.drain(20 * SECOND);
        while !stage.session.is_finished() {
            tokio::time::sleep(SECOND / 100).await;
        }
        // The session holds its end of the pipe no more, so the client's request goes nowhere.
        assert!(stage.client.write_all(&message(PacketType::NORMAL, 10)).await.is_err());
        let mut rest = Vec::new();
        stage.upstream.as_mut().unwrap().read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
}
