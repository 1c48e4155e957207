//! Whether a session has an unanswered request, from TDS packet headers alone.
//!
//! No I/O, no clock, and a fixed size whatever arrives. TDS is half duplex: one request message from the client, then one response
//! message from the server (go-dblib `tds/doc.go`), so counting messages is enough. There are three exceptions:
//!
//! - A cancel (packet type 6, or the status bit ATTN). A server that had already finished answers twice: the ordinary response, then the
//!   acknowledgement of the cancel (measured with jTDS). Headers do not distinguish these from a single response that acknowledges, so after
//!   a cancel the session is [`Outstanding::Unsure`] until the client's next request. A half-duplex client sends that only after it has
//!   received the acknowledgement, so the count starts again.
//! - A message from the server whose last packet carries the status bit EVENT. It answers no request.
//! - An invalid header (length below 8). From a client it is an error. From the server it makes the session [`Outstanding::Unsure`] for
//!   ever.

use crate::tds::packet::{HEADER_LEN, Header, PacketType, STATUS_ATTN, STATUS_EVENT};

/// Whether a session can be closed without breaking a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outstanding {
    /// Both directions are between messages and every request has its answer.
    Nothing,
    /// A message is incomplete or a request has no answer.
    Request,
    /// Headers cannot show it: wait until the session is quiet.
    Unsure,
}

/// A packet header with a length below 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet announces {length} bytes, which is less than its header")]
pub struct Malformed {
    /// The announced length in bytes, header included.
    pub length: u16,
}

/// The message boundaries of one session.
#[derive(Debug, Default)]
pub struct Tracker {
    client: PacketStream,
    upstream: PacketStream,
    /// Requests, complete or not, that have no answer yet.
    unanswered: u32,
    cancel: Option<Cancel>,
    upstream_lost: bool,
}

/// The answers since the last cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    Unanswered,
    AnsweredOnce,
}

impl Tracker {
    /// Reads bytes that the client sent, in pieces of any size. Returns how many messages they completed.
    ///
    /// # Errors
    ///
    /// [`Malformed`] at the first invalid header. The message boundaries are lost, so the session must be closed.
    pub fn client(&mut self, bytes: &[u8]) -> Result<u32, Malformed> {
        let Self {
            client,
            unanswered,
            cancel,
            ..
        } = self;
        let mut completed = 0_u32;
        client.feed(bytes, |packet, first| {
            let is_cancel = packet.kind == PacketType::ATTENTION || packet.status & STATUS_ATTN != 0;
            if is_cancel {
                *cancel = Some(Cancel::Unanswered);
            } else if first {
                if cancel.take().is_some() {
                    *unanswered = 0;
                }
                *unanswered = unanswered.saturating_add(1);
            }
            if packet.ends_message() || is_cancel {
                completed = completed.saturating_add(1);
                return Boundary::Ends;
            }
            Boundary::Continues
        })?;
        Ok(completed)
    }

    /// Reads bytes that the server sent, in pieces of any size.
    pub fn upstream(&mut self, bytes: &[u8]) {
        if self.upstream_lost {
            return;
        }
        let Self {
            upstream,
            unanswered,
            cancel,
            ..
        } = self;
        let fed = upstream.feed(bytes, |packet, _| {
            if !packet.ends_message() {
                return Boundary::Continues;
            }
            if packet.status & STATUS_EVENT == 0 {
                *unanswered = unanswered.saturating_sub(1);
                if let Some(cancel) = cancel {
                    *cancel = Cancel::AnsweredOnce;
                }
            }
            Boundary::Ends
        });
        self.upstream_lost = fed.is_err();
    }

    /// Whether the session could be closed now, according to the bytes read so far.
    #[must_use]
    pub fn outstanding(&self) -> Outstanding {
        if self.client.is_mid_message() {
            return Outstanding::Request;
        }
        if self.upstream_lost {
            return Outstanding::Unsure;
        }
        if self.upstream.is_mid_message() {
            return Outstanding::Request;
        }
        match self.cancel {
            Some(Cancel::Unanswered) => Outstanding::Request,
            Some(Cancel::AnsweredOnce) => Outstanding::Unsure,
            None if self.unanswered > 0 => Outstanding::Request,
            None => Outstanding::Nothing,
        }
    }

    /// Whether the client has begun a message and not ended it.
    #[must_use]
    pub fn is_client_mid_message(&self) -> bool {
        self.client.is_mid_message()
    }
}

/// Whether a packet ends its message.
enum Boundary {
    Continues,
    Ends,
}

/// The packets of one direction.
#[derive(Debug, Default)]
struct PacketStream {
    header: [u8; HEADER_LEN],
    header_filled: usize,
    /// The packet whose payload is arriving, and the number of bytes still missing.
    packet: Option<(Header, usize)>,
    /// Whether a packet of the current message has been read already.
    in_message: bool,
}

impl PacketStream {
    /// Calls `on_packet` with the header of each packet whose last byte is among these, and whether it is the first of its message.
    fn feed(&mut self, mut bytes: &[u8], mut on_packet: impl FnMut(Header, bool) -> Boundary) -> Result<(), Malformed> {
        loop {
            if let Some((header, missing)) = self.packet {
                let taken = missing.min(bytes.len());
                bytes = &bytes[taken..];
                if taken < missing {
                    self.packet = Some((header, missing - taken));
                    return Ok(());
                }
                self.packet = None;
                let first = !self.in_message;
                self.in_message = matches!(on_packet(header, first), Boundary::Continues);
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let room = &mut self.header[self.header_filled..];
            let taken = room.len().min(bytes.len());
            room[..taken].copy_from_slice(&bytes[..taken]);
            self.header_filled += taken;
            bytes = &bytes[taken..];
            if self.header_filled < HEADER_LEN {
                return Ok(());
            }
            self.header_filled = 0;
            let header = Header::decode(self.header).map_err(|_| Malformed {
                length: u16::from_be_bytes([self.header[2], self.header[3]]),
            })?;
            self.packet = Some((header, header.payload_len()));
        }
    }

    fn is_mid_message(&self) -> bool {
        self.in_message || self.packet.is_some() || self.header_filled > 0
    }
}

#[cfg(test)]
mod tests;
