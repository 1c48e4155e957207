//! Which gate does an address lead to? Asked on the port for probes, so it shows what happens to a probe that connects now.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    dial::{Address, DialError, Dialer, is_local},
    protocol::ROUTE_QUESTION,
};

/// The longest name that is accepted, in bytes.
const LONGEST_NAME: u64 = 256;

/// Why it is not known which gate an address leads to.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No connection: no gate behind the address has its port open, or this machine could not dial.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection failed before the answer was complete.
    #[error("{address} closed the connection without naming its gate: {source}")]
    Closed {
        /// The address as dialled.
        address: Address,
        /// The kernel's error.
        source: io::Error,
    },
    /// What answers is not a gate.
    #[error("what answers on {address} is not a gate")]
    NotAGate {
        /// The address as dialled.
        address: Address,
    },
    /// No complete answer within the time limit.
    #[error("{address} did not name its gate within {limit:?}")]
    Timeout {
        /// The address as dialled.
        address: Address,
        /// The time limit for everything.
        limit: Duration,
    },
}

impl RouteError {
    /// Whether the error arose on this machine and says nothing about the route.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_local(),
            Self::Closed { source, .. } => is_local(source),
            Self::NotAGate { .. } | Self::Timeout { .. } => false,
        }
    }
}

/// Asks which gate `address`, a port for probes, leads to. Returns the name that is in that gate's
/// [reports](crate::protocol::Report::gate). Everything together takes at most `limit`.
///
/// # Errors
///
/// [`RouteError`].
pub async fn ask_route(address: &Address, limit: Duration) -> Result<String, RouteError> {
    timeout(limit, ask(address, limit)).await.unwrap_or_else(|_| {
        Err(RouteError::Timeout {
            address: address.clone(),
            limit,
        })
    })
}

async fn ask(address: &Address, limit: Duration) -> Result<String, RouteError> {
    let mut stream = Dialer::new(address.clone(), limit).dial().await?;
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(&ROUTE_QUESTION).await?;
        (&mut stream).take(LONGEST_NAME + 1).read_to_end(&mut answer).await
    };
    match exchange.await {
        Ok(1..) => {}
        Ok(0) => return Err(closed(address, io::ErrorKind::UnexpectedEof.into())),
        Err(source) => return Err(closed(address, source)),
    }
    name(&answer).ok_or_else(|| RouteError::NotAGate {
        address: address.clone(),
    })
}

fn closed(address: &Address, source: io::Error) -> RouteError {
    RouteError::Closed {
        address: address.clone(),
        source,
    }
}

/// The name in an answer: one line of printable ASCII.
fn name(answer: &[u8]) -> Option<String> {
    let line = answer.strip_suffix(b"\n")?;
    let is_name = !line.is_empty() && line.iter().all(u8::is_ascii_graphic);
    is_name.then(|| String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Asks a server that reads the question and answers with these bytes.
    async fn answered(answer: &'static [u8]) -> Result<String, RouteError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).await.unwrap();
            assert_eq!(question, ROUTE_QUESTION);
            stream.write_all(answer).await.unwrap();
        };
        tokio::join!(ask_route(&address, LIMIT), serve).0
    }

    #[tokio::test]
    async fn a_gate_is_known_by_its_line() {
        assert_eq!(answered(b"PROXY_P\n").await.unwrap(), "PROXY_P");
        assert!(matches!(answered(b"").await, Err(RouteError::Closed { .. })));
        for other in [
            &b"PROXY_P"[..],
            b"\n",
            b"PROXY_P\nPROXY_B\n",
            b"\x04\x01\x00\x08\n",
            &[b'x'; 300],
        ] {
            assert!(
                matches!(answered(other).await, Err(RouteError::NotAGate { .. })),
                "{other:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        let asked = ask_route(&address, Duration::from_millis(100)).await;
        assert!(matches!(asked, Err(RouteError::Timeout { .. })));
    }

    #[tokio::test]
    async fn a_closed_port_is_not_an_error_of_this_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        drop(listener);
        let error = ask_route(&address, LIMIT).await.unwrap_err();
        assert!(matches!(error, RouteError::Dial(_)) && !error.is_local(), "{error}");
    }
}
