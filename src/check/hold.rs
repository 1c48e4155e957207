//! The path and the direct check: a connection to the ObjectServer that is kept open, and made again when it ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
    time::{self, sleep, sleep_until, timeout},
};

use super::{
    Check, Observation,
    link::{ATTEMPT, ConsumerGone, Failure, LinkReporter, now},
    login::Login,
    session, tls,
};
use crate::{
    dial::{Dialer, prepare},
    domain::evidence::{Fault, Timing},
};

/// Without a login, how long a connection must stay open until it counts as working: a port that accepts and closes leads nowhere.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// Time from a failed attempt to the next.
const RETRY: Duration = Duration::from_millis(100);
/// Time to the next attempt after a connection on which the server sent without being asked.
const RETRY_CHATTER: Duration = Duration::from_secs(60);
/// Most bytes that a server may send on a connection on which it is asked nothing.
const UNASKED_MAX: usize = 64 << 10;

/// Checks the ObjectServer that `dialer` leads to until the receiver of `out` is dropped.
///
/// Without a `login` nothing is sent on the connection, so that the ObjectServer records no event.
pub async fn check_objectserver(dialer: Dialer, timing: Timing, login: Option<Login>, out: mpsc::Sender<Observation>) {
    let resolve = || async { Ok(dialer.resolve().await?) };
    let dial = |addresses: Vec<SocketAddr>| {
        let (dialer, out) = (dialer.clone(), out.clone());
        async move {
            let stream = dialer.dial_any(addresses, ATTEMPT).await?;
            prepare(stream.socket(), timing.unresponsive_after).map_err(|error| Failure::io(&error, &error))?;
            if let Some(expires) = stream.peer_expires() {
                let sent = out.send(Observation::Expires(expires)).await;
                sent.map_err(|_| ConsumerGone)?;
            }
            Ok(stream)
        }
    };
    let waits_for = format!(
        "the resolver has not answered yet what the address of {} is",
        dialer.address().host()
    );
    hold(Check::Direct, &timing, &waits_for, resolve, dial, login, out.clone()).await;
}

/// Checks the way to the ObjectServer through the check port of the gate at `address` until the receiver of `out` is dropped.
pub async fn check_path(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    timing: Timing,
    login: Option<Login>,
    out: mpsc::Sender<Observation>,
) {
    let resolve = move || async move { Ok(address) };
    let dial = |address| {
        let (name, config) = (name.clone(), Arc::clone(&config));
        async move { tls::connect(address, name, config, &timing).await }
    };
    hold(Check::Path, &timing, "", resolve, dial, login, out).await;
}

/// Makes one connection after the other, with `dial` to what `resolve` finds, and checks each until it ends. `waits_for` says what takes
/// long if `resolve` does.
async fn hold<A, S, R, D>(
    check: Check,
    timing: &Timing,
    waits_for: &str,
    resolve: impl Fn() -> R,
    dial: impl Fn(A) -> D,
    login: Option<Login>,
    out: mpsc::Sender<Observation>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    R: Future<Output = Result<A, Failure>>,
    D: Future<Output = Result<S, Failure>>,
{
    let mut reporter = LinkReporter::new(check, timing, out);
    while !reporter.is_consumer_gone() {
        let checked = async {
            wait_for_login(login.as_ref(), &mut reporter).await?;
            let ended = match connect(waits_for, &resolve, &dial, &mut reporter).await {
                Ok(stream) => check_stream(stream, login.as_ref(), timing, &mut reporter).await,
                Err(failure) => Err(failure),
            };
            report_end(ended, &mut reporter).await
        };
        if let Err(ConsumerGone) = checked.await {
            return;
        }
    }
}

/// Waits until a login may be tried.
async fn wait_for_login(login: Option<&Login>, reporter: &mut LinkReporter) -> Result<(), ConsumerGone> {
    if let Some(refusal) = login.and_then(|login| login.refusal(now())) {
        reporter.failed(refusal.failure()).await?;
        reporter.during(sleep_until(refusal.until.into())).await?;
    }
    Ok(())
}

async fn connect<A, S, R, D>(
    waits_for: &str,
    resolve: impl Fn() -> R,
    dial: impl Fn(A) -> D,
    reporter: &mut LinkReporter,
) -> Result<S, Failure>
where
    R: Future<Output = Result<A, Failure>>,
    D: Future<Output = Result<S, Failure>>,
{
    let address = reporter.look_up(waits_for, resolve()).await?;
    reporter.connect(dial(address)).await
}

async fn check_stream<S>(
    stream: S,
    login: Option<&Login>,
    timing: &Timing,
    reporter: &mut LinkReporter,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    match login {
        Some(login) => session::run(stream, login, timing, reporter).await,
        None => read_until_closed(stream, timing, reporter).await,
    }
}

/// Reports why a connection ended, and waits until the next attempt may be made.
async fn report_end(ended: Result<(), Failure>, reporter: &mut LinkReporter) -> Result<(), ConsumerGone> {
    let Err(failure) = ended else { return Ok(()) };
    let pause = match failure {
        Failure::Fault {
            fault: Fault::Protocol, ..
        } => RETRY_CHATTER,
        _ => RETRY,
    };
    reporter.failed(failure).await?;
    reporter.during(sleep(pause)).await
}

/// Reads until the connection ends. `Ok` if it had worked: then the next attempt may be made at once.
async fn read_until_closed<S>(mut stream: S, timing: &Timing, reporter: &mut LinkReporter) -> Result<(), Failure>
where
    S: AsyncRead + Unpin,
{
    let made = time::Instant::now();
    let mut buffer = [0; 512];
    let mut unasked = match timeout(SETTLED_AFTER, stream.read(&mut buffer)).await {
        Err(_) => 0,
        Ok(Ok(0)) => return Err(Failure::connection("connection closed immediately after it was opened")),
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return Err(Failure::io(&error, &error)),
    };
    if !reporter.trust.is_lost() {
        reporter.answering().await?;
    }
    let proved_at = sleep_until(made + timing.unresponsive_after);
    tokio::pin!(proved_at);
    loop {
        tokio::select! {
            read = reporter.during(stream.read(&mut buffer)) => match read? {
                Ok(0) | Err(_) => break,
                Ok(read) => unasked += read,
            },
            () = &mut proved_at, if reporter.trust.is_lost() => {
                reporter.trust.proved();
                reporter.answering().await?;
            }
        }
        if unasked > UNASKED_MAX {
            let message = format!("the server sent more than {UNASKED_MAX} bytes although it was asked nothing");
            return Err(Failure::fault(Fault::Protocol, message));
        }
    }
    lost(made, unasked > 0, reporter).await
}

/// A connection that had worked was lost. Once may be an accident; again and again without proof in between is a failure since the first.
async fn lost(made: time::Instant, has_spoken: bool, reporter: &mut LinkReporter) -> Result<(), Failure> {
    if reporter.trust.lost(made, has_spoken, time::Instant::now()) {
        let since = reporter
            .trust
            .unproved_since()
            .map_or_else(now, time::Instant::into_std);
        let failure = Failure::connection("connections are accepted and closed again, one after the other");
        reporter.failed_since(since, failure).await?;
        reporter.during(sleep(RETRY)).await?;
        return Ok(());
    }
    // Reported before the next attempt: it may confirm at once what another check has observed.
    Ok(reporter.silent(now()).await?)
}

#[cfg(test)]
mod tests;
