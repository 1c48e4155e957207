//! A probe: it numbers its events, sends the next one when the last was acknowledged, and sends again what was not.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use proxypair::{
    net::{TcpStream, connect, lookup},
    tds::{client::Client, login::LoginRecord},
};
use tokio::time::{sleep, timeout};

use super::{kubernetes::name_of, world::PAIR};

/// Time from an event to the next.
const EVERY: Duration = Duration::from_millis(200);
/// Time from a connection that failed to the next.
const RETRY: Duration = Duration::from_millis(500);
/// How long a probe waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What is seen of it.
#[derive(Debug, Default)]
pub struct Probe {
    /// The newest event that was acknowledged, and when.
    pub acknowledged: Option<(u64, Duration)>,
    /// The newest event that was sent.
    pub sent: u64,
    /// The address of the gate that it is connected to.
    pub connected: Option<SocketAddr>,
}

/// The text of an event.
pub fn event(probe: usize, number: u64) -> String {
    format!("insert into alerts.status values ('{probe}-{number}')")
}

/// The process of the probe with that number.
pub async fn run(seen: Rc<RefCell<Probe>>, number: usize) {
    let mut next = 1;
    loop {
        seen.borrow_mut().connected = None;
        if let Ok(Some(stream)) = timeout(PATIENCE, connected()).await {
            let _ended = session(&seen, number, stream, &mut next).await;
        }
        seen.borrow_mut().connected = None;
        sleep(RETRY).await;
    }
}

/// A connection to the virtual Service.
async fn connected() -> Option<TcpStream> {
    let service = lookup(name_of(PAIR)).await.ok()?;
    connect(SocketAddr::new(*service.first()?, 4400)).await.ok()
}

async fn session(seen: &RefCell<Probe>, number: usize, stream: TcpStream, next: &mut u64) -> Option<()> {
    seen.borrow_mut().connected = stream.peer_addr().ok();
    let login = LoginRecord::new("probe", "", "PROBE");
    let mut client = timeout(PATIENCE, Client::login(stream, &login)).await.ok()?.ok()?;
    loop {
        seen.borrow_mut().sent = *next;
        timeout(PATIENCE, client.query(&event(number, *next)))
            .await
            .ok()?
            .ok()?;
        seen.borrow_mut().acknowledged = Some((*next, turmoil::sim_elapsed().unwrap_or_default()));
        *next += 1;
        tokio::select! {
            () = sleep(EVERY) => {}
            _lost = client.lost() => return None,
        }
    }
}
