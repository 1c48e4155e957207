//! Looks at a machine: whether anything comes back from it to fresh connections.
//!
//! A machine that is gone acknowledges nothing; the kernel of one whose processes are slow, or stopped, still does. A connection that exists
//! tells them apart only after its retransmissions, which become ever rarer. So each look is a round of new connections, close together: a packet
//! that is lost costs one of them, not the round.

use std::{net::SocketAddr, pin::pin, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep, sleep_until, timeout_at},
};

use crate::{
    net::{ConnectError, TcpStream, connect},
    protocol::Seen,
};

/// Connections in one round.
const ATTEMPTS: u32 = 5;
/// Time from one to the next.
const ATTEMPT_EVERY: Duration = Duration::from_millis(100);
/// How long a round lasts at the longest: the last attempt has 300 ms to be answered.
const ROUND: Duration = Duration::from_millis(700);
/// Time from a round to the next while there is a question.
pub const AGAIN: Duration = Duration::from_millis(300);
/// The same without one.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// What one look at an address asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether its host answers.
    Host,
    /// Whether the gate whose HTTP port it is accepts probes.
    Gate,
}

/// What was seen last, and for which question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The question that was asked when the look began; 0 if there was none.
    pub question: u64,
    /// What came back.
    pub seen: Seen,
}

/// Looks at the gate whose HTTP port is `address` until this is dropped: again and again while `question` is not 0, else now and then.
///
/// That nothing comes back says something only of a machine from which something has come back before, to this lookout: it may be out of sight
/// for a reason of the network between.
pub async fn look_at(address: SocketAddr, mut question: watch::Receiver<u64>, shown: impl Fn(Look)) {
    let mut was_seen = false;
    loop {
        let asked = *question.borrow_and_update();
        let seen = tokio::select! {
            seen = round(address, Depth::Gate) => seen,
            changed = question.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        was_seen |= matches!(seen, Seen::Host | Seen::Ready);
        shown(Look {
            question: asked,
            seen: if seen == Seen::Nothing && !was_seen {
                Seen::Untried
            } else {
                seen
            },
        });
        let pause = if asked == 0 { NOW_AND_THEN } else { AGAIN };
        tokio::select! {
            () = sleep(pause) => {}
            changed = question.changed() => if changed.is_err() { return },
        }
    }
}

/// One look, at most 700 ms long.
pub async fn round(address: SocketAddr, depth: Depth) -> Seen {
    let end = Instant::now() + ROUND;
    let mut due = interval(ATTEMPT_EVERY);
    let mut begun = 0;
    let mut attempts = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(connected) = attempts.next() => match connected {
                Ok(stream) if depth == Depth::Gate => return match timeout_at(end, is_ready(stream)).await {
                    Ok(true) => Seen::Ready,
                    Ok(false) | Err(_) => Seen::Host,
                },
                Ok(_) => return Seen::Host,
                // This machine could not look.
                Err(ConnectError::Local(_)) => return Seen::Untried,
                Err(ConnectError::Remote(error)) if is_its_own_word(&error) => return Seen::Host,
                // Somebody on the way says that nothing will come back.
                Err(ConnectError::Remote(_)) => {}
            },
            _ = due.tick(), if begun < ATTEMPTS => {
                begun += 1;
                attempts.push(connect(address));
            }
            () = sleep_until(end) => return Seen::Nothing,
        }
    }
}

fn is_its_own_word(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | ConnectionAborted)
}

/// Whether the gate at the other end says that it accepts probes.
async fn is_ready(stream: TcpStream) -> bool {
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
        return false;
    };
    let request = Request::get("/readyz")
        .header("host", "gate")
        .body(Empty::<Bytes>::new());
    let Ok(request) = request else { return false };
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It may have brought the answer, too.
        _ended = connection => answer.await,
    };
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[cfg(test)]
mod tests;
