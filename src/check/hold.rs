//! The path and the direct check: a connection to the ObjectServer that is kept open, and made again when it ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};

use super::{
    Check, Observation,
    link::{ConsumerGone, Failure, LinkReporter, now},
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

/// Checks the ObjectServer that `dialer` leads to until the receiver of `out` is dropped.
///
/// Without a `login` nothing is sent on the connection, so that the ObjectServer records no event.
pub async fn check_objectserver(dialer: Dialer, timing: Timing, login: Option<Login>, out: mpsc::Sender<Observation>) {
    let dial = || {
        let (dialer, out) = (dialer.clone(), out.clone());
        async move {
            let stream = dialer.dial().await.map_err(|error| Failure::Fault {
                fault: if error.is_tls_rejected() {
                    Fault::Tls
                } else {
                    Fault::Connection
                },
                message: error.to_string(),
            })?;
            prepare(stream.socket(), timing.unresponsive_after).map_err(Failure::connection)?;
            if let Some(expires) = stream.peer_expires() {
                let sent = out.send(Observation::Expires(expires)).await;
                sent.map_err(|_| ConsumerGone)?;
            }
            Ok(stream)
        }
    };
    hold(Check::Direct, &timing, dial, login, out.clone()).await;
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
    let dial = || {
        let (name, config) = (name.clone(), Arc::clone(&config));
        async move { tls::connect(address, name, config, &timing).await }
    };
    hold(Check::Path, &timing, dial, login, out).await;
}

/// Makes one connection after the other with `dial` and checks each until it ends.
async fn hold<S, D>(
    check: Check,
    timing: &Timing,
    dial: impl Fn() -> D,
    login: Option<Login>,
    out: mpsc::Sender<Observation>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: Future<Output = Result<S, Failure>>,
{
    let mut reporter = LinkReporter::new(check, timing, out);
    while !reporter.is_consumer_gone() {
        let checked = check_once(timing, &dial, login.as_ref(), &mut reporter).await;
        if let Err(ConsumerGone) = checked {
            return;
        }
    }
}

/// Makes one connection and checks it until it ends. Returns when the next attempt may be made.
async fn check_once<S, D>(
    timing: &Timing,
    dial: impl Fn() -> D,
    login: Option<&Login>,
    reporter: &mut LinkReporter,
) -> Result<(), ConsumerGone>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: Future<Output = Result<S, Failure>>,
{
    if let Some(refusal) = login.and_then(|login| login.refusals.current(now())) {
        reporter.failed(Failure::login(refusal.message)).await?;
        sleep_until(refusal.until.into()).await;
    }
    let ended = match (reporter.connect(dial()).await, login) {
        (Ok(stream), Some(login)) => session::run(stream, login, timing, reporter).await,
        (Ok(stream), None) => read_until_closed(stream, reporter).await,
        (Err(failure), _) => Err(failure),
    };
    if let Err(failure) = ended {
        reporter.failed(failure).await?;
        sleep(RETRY).await;
    }
    Ok(())
}

/// Reads until the connection ends. `Ok` if it had worked: then the next attempt may be made at once.
async fn read_until_closed<S: AsyncRead + Unpin>(mut stream: S, reporter: &mut LinkReporter) -> Result<(), Failure> {
    let mut buffer = [0; 512];
    if let Ok(read) = timeout(SETTLED_AFTER, stream.read(&mut buffer)).await {
        match read {
            Ok(0) => return Err(Failure::connection("connection closed immediately after it was opened")),
            Err(error) => return Err(Failure::connection(error)),
            Ok(_) => {}
        }
    }
    reporter.answering().await?;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    // Reported before the next attempt: it may confirm at once what another check has observed.
    Ok(reporter.silent(now()).await?)
}

#[cfg(test)]
mod tests;
