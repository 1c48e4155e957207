//! What a probe's connection is before it is a session: its first bytes, the TLS handshake, the login, or a [route question].
//!
//! The ObjectServer is not dialled before the login is complete, so a client that sends none costs it nothing. A login is at most [`BUFFER`]
//! bytes long.
//!
//! [route question]: crate::protocol::ROUTE_QUESTION

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{
    forward::Lane,
    framing::{Accepts, Framing},
    metrics::RefusalReason,
};
use crate::{
    net::{TcpStream, peek},
    protocol::ROUTE_QUESTION,
};

#[cfg(doc)]
use super::forward::BUFFER;

/// What a client has sent until the end of its login.
#[derive(Debug)]
pub struct Login {
    /// All bytes, to be forwarded.
    pub bytes: Lane,
    /// The session's protocol, which has read them.
    pub framing: Framing,
    /// Number of messages that they complete. 0 if TLS passes through: its handshake has only begun.
    pub messages: u32,
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With a login, or TLS around it, of which nothing was read yet.
    Client,
    /// With a route question, which was read.
    RouteQuestion,
}

/// Looks at the first byte of a connection. If it may be that of a route question, reads the question.
///
/// # Errors
///
/// Why the client is refused.
pub async fn opening(client: &mut TcpStream) -> Result<Opening, RefusalReason> {
    let mut first = [0];
    match peek(client, &mut first).await {
        Ok(1..) => {}
        Ok(0) | Err(_) => return Err(RefusalReason::Gone),
    }
    // Neither TLS nor a TDS login begins with this byte.
    if first[0] != ROUTE_QUESTION[0] {
        return Ok(Opening::Client);
    }
    let mut question = ROUTE_QUESTION;
    match client.read_exact(&mut question).await {
        Ok(_) if question == ROUTE_QUESTION => Ok(Opening::RouteQuestion),
        _ => Err(RefusalReason::NotLogin),
    }
}

/// Answers a route question with the name of this gate. The connection may be dropped then.
///
/// # Errors
///
/// The kernel's.
pub async fn answer_route_question(client: &mut TcpStream, name: &str) -> std::io::Result<()> {
    client.write_all(format!("{name}\n").as_bytes()).await?;
    client.shutdown().await
}

/// Reads a client's login to its end; where TLS passes through, its first record.
///
/// # Errors
///
/// Why the client is refused.
pub async fn receive<C: AsyncRead + Unpin>(client: &mut C, accepts: Accepts) -> Result<Login, RefusalReason> {
    let mut bytes = Lane::default();
    let mut framing = None;
    let mut messages = 0;
    let mut seen = 0;
    loop {
        if bytes.is_full() {
            return Err(RefusalReason::LoginTooLong);
        }
        if bytes.fill(client).await.unwrap_or(0) == 0 {
            return Err(RefusalReason::Gone);
        }
        let mut known = match framing.take() {
            Some(known) => known,
            None => match Framing::detect(bytes.waiting(), accepts)? {
                Some(detected) => detected,
                None => continue,
            },
        };
        let more = known.client(&bytes.waiting()[seen..]);
        messages += more.map_err(|_| RefusalReason::NotLogin)?;
        seen = bytes.waiting().len();
        let is_complete = match known {
            Framing::Tds(_) => messages > 0,
            Framing::Tls(_) => !known.is_client_mid_message(),
        };
        if is_complete {
            return Ok(Login {
                bytes,
                framing: known,
                messages,
            });
        }
        framing = Some(known);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        gate::forward::BUFFER,
        tds::packet::{PacketType, write_message},
    };

    fn login(length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write_message(PacketType::LOGIN, &vec![0; length], 512, &mut out);
        out
    }

    /// Receives from a client that sends these bytes, cut into pieces, and then closes.
    async fn received(bytes: &[u8], piece: usize, accepts: Accepts) -> Result<Login, RefusalReason> {
        let (mut client, mut gate) = tokio::io::duplex(piece);
        let send = async {
            let _closed = client.write_all(bytes).await;
            drop(client);
        };
        tokio::join!(send, async { receive(&mut gate, accepts).await }).1
    }

    #[tokio::test]
    async fn a_login_is_complete_with_its_last_packet_however_it_is_cut() {
        let whole = login(1200);
        for piece in [1, 7, 512, 4096] {
            let received = received(&whole, piece, Accepts::Tds).await.unwrap();
            assert_eq!((received.bytes.waiting(), received.messages), (&whole[..], 1));
        }
        let cut = received(&whole[..whole.len() - 1], 4096, Accepts::Tds).await;
        assert_eq!(cut.unwrap_err(), RefusalReason::Gone);
    }

    #[tokio::test]
    async fn a_login_longer_than_the_buffer_is_refused() {
        let refused = received(&login(BUFFER), 4096, Accepts::Tds).await;
        assert_eq!(refused.unwrap_err(), RefusalReason::LoginTooLong);
    }

    #[tokio::test]
    async fn where_tls_passes_through_the_first_record_is_enough() {
        let mut hello = vec![22, 3, 1, 1, 0];
        hello.resize(5 + 256, 0xab);
        let complete = received(&hello, 100, Accepts::Tls).await.unwrap();
        assert_eq!((complete.bytes.waiting(), complete.messages), (&hello[..], 0));
        let cut = received(&hello[..200], 100, Accepts::Tls).await;
        assert_eq!(cut.unwrap_err(), RefusalReason::Gone);
    }

    #[tokio::test]
    async fn a_route_question_is_told_from_everything_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (bytes, expected) in [
            (&ROUTE_QUESTION[..], Ok(Opening::RouteQuestion)),
            (b"POST / HTTP/1.1\r\n", Err(RefusalReason::NotLogin)),
            (b"PP", Err(RefusalReason::NotLogin)),
            (&[2, 0], Ok(Opening::Client)),
            (&[22, 3], Ok(Opening::Client)),
            (b"", Err(RefusalReason::Gone)),
        ] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            assert_eq!(opening(&mut accepted).await, expected, "{bytes:?}");
        }
    }
}
