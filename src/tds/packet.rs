//! Packets: the 8-byte header, and messages made of packets.
//!
//! A message is the payload of consecutive packets of one type up to the one with [`STATUS_EOM`]. The header is big-endian whatever the
//! client's byte order. Sources: FreeTDS `include/freetds/proto.h`, go-dblib `tds/packetHeader.go`, captured sessions.

use super::Error;

/// Length of a packet header in bytes.
pub const HEADER_LEN: usize = 8;

/// Size in bytes of a packet, header included, until the server announces another one. Every client and server starts with it.
pub const DEFAULT_PACKET_SIZE: u16 = 512;

/// Status bit: the last packet of its message.
pub const STATUS_EOM: u8 = 0x01;
/// Status bit: the server acknowledges a cancel.
pub const STATUS_ATTNACK: u8 = 0x02;
/// Status bit: the client asks for a cancel.
pub const STATUS_ATTN: u8 = 0x04;
/// Status bit: an event notification, which belongs to no request.
pub const STATUS_EVENT: u8 = 0x08;

/// What a packet carries. Any byte can arrive: [`PacketType::is_known`] is true for those that TDS 5.0 defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketType(pub u8);

impl PacketType {
    /// Plain SQL text, as TDS 4.x clients send it.
    pub const LANGUAGE: Self = Self(1);
    /// A login record and the capabilities after it.
    pub const LOGIN: Self = Self(2);
    /// A remote procedure call of TDS 4.6.
    pub const RPC: Self = Self(3);
    /// Everything a server sends.
    pub const RESPONSE: Self = Self(4);
    /// A cancel: a header without payload.
    pub const ATTENTION: Self = Self(6);
    /// Bulk data.
    pub const BULK: Self = Self(7);
    /// Opens a logical channel.
    pub const SETUP: Self = Self(8);
    /// Closes a logical channel.
    pub const CLOSE: Self = Self(9);
    /// A request made of tokens: what a TDS 5.0 client sends after its login.
    pub const NORMAL: Self = Self(15);

    const LAST: u8 = 17;

    /// Whether the number is one that TDS 5.0 defines (1 to 17). A TLS handshake (0x16) and a TDS 7 prelogin (0x12) are not.
    #[must_use]
    pub const fn is_known(self) -> bool {
        1 <= self.0 && self.0 <= Self::LAST
    }
}

/// A packet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the packet carries.
    pub kind: PacketType,
    /// Bits `STATUS_*`.
    pub status: u8,
    /// Length of the whole packet in bytes, from [`HEADER_LEN`] to 65,535.
    pub length: u16,
    /// Logical channel; 0 in every session seen.
    pub channel: u16,
    /// Packet number; all known peers send 0 or count, and none checks it.
    pub number: u8,
    /// Window; always 0.
    pub window: u8,
}

impl Header {
    /// A header for a packet of `length` bytes (header included) on channel 0.
    #[must_use]
    pub const fn new(kind: PacketType, status: u8, length: u16) -> Self {
        Self {
            kind,
            status,
            length,
            channel: 0,
            number: 0,
            window: 0,
        }
    }

    /// Reads a header. Any type passes: whether it is welcome is the reader's decision.
    ///
    /// # Errors
    ///
    /// [`Error::PacketTooShort`] when the announced length does not cover the header.
    pub const fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, Error> {
        let [kind, status, l0, l1, c0, c1, number, window] = bytes;
        let length = u16::from_be_bytes([l0, l1]);
        if (length as usize) < HEADER_LEN {
            return Err(Error::PacketTooShort { length });
        }
        let channel = u16::from_be_bytes([c0, c1]);
        Ok(Self {
            kind: PacketType(kind),
            status,
            length,
            channel,
            number,
            window,
        })
    }

    /// The header as it goes over the wire.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [l0, l1] = self.length.to_be_bytes();
        let [c0, c1] = self.channel.to_be_bytes();
        [self.kind.0, self.status, l0, l1, c0, c1, self.number, self.window]
    }

    /// Whether the packet ends its message.
    #[must_use]
    pub const fn ends_message(self) -> bool {
        self.status & STATUS_EOM != 0
    }

    /// Bytes that follow the header, from 0 to 65,527.
    #[must_use]
    pub const fn payload_len(self) -> usize {
        (self.length as usize).saturating_sub(HEADER_LEN)
    }
}

/// A complete message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Type of its packets.
    pub kind: PacketType,
    /// Status bits of its last packet.
    pub status: u8,
    /// The payloads, joined.
    pub payload: Vec<u8>,
}

/// Puts messages together from bytes that arrive in pieces of any size.
///
/// It holds at most the limit given to [`Assembler::new`], and grows with the bytes that arrived, not with announced lengths. After an
/// error the stream has lost its framing: drop the connection.
#[derive(Debug)]
pub struct Assembler {
    limit: usize,
    header: [u8; HEADER_LEN],
    header_filled: usize,
    packet: Option<Header>,
    packet_left: usize,
    /// Packets of the message so far.
    packets: usize,
    kind: Option<PacketType>,
    payload: Vec<u8>,
}

impl Assembler {
    /// An assembler that refuses messages of more than `limit` bytes of payload, or of more packets than that and one: a message that never
    /// ends need not have a payload.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            header: [0; HEADER_LEN],
            header_filled: 0,
            packet: None,
            packet_left: 0,
            packets: 0,
            kind: None,
            payload: Vec::new(),
        }
    }

    /// Refuses messages above this size from now on.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether the last byte consumed was the end of a message, so that the stream may end here.
    #[must_use]
    pub const fn is_between_messages(&self) -> bool {
        self.kind.is_none() && self.header_filled == 0
    }

    /// Takes bytes from the front of `input` until a message is complete or `input` is empty.
    ///
    /// # Errors
    ///
    /// [`Error::PacketTooShort`], [`Error::MixedMessage`], [`Error::MessageTooLong`] and [`Error::TooManyPackets`], each as soon as the header that causes it is
    /// complete.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        loop {
            let Some(packet) = self.packet else {
                if !self.take_header(input)? {
                    return Ok(None);
                }
                continue;
            };
            let (taken, rest) = input.split_at(self.packet_left.min(input.len()));
            self.payload.extend_from_slice(taken);
            self.packet_left -= taken.len();
            *input = rest;
            if self.packet_left > 0 {
                return Ok(None);
            }
            self.packet = None;
            if packet.ends_message() {
                self.kind = None;
                self.packets = 0;
                let payload = std::mem::take(&mut self.payload);
                return Ok(Some(Message {
                    kind: packet.kind,
                    status: packet.status,
                    payload,
                }));
            }
        }
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        let room = &mut self.header[self.header_filled..];
        let (taken, rest) = input.split_at(room.len().min(input.len()));
        room[..taken.len()].copy_from_slice(taken);
        self.header_filled += taken.len();
        *input = rest;
        if self.header_filled < HEADER_LEN {
            return Ok(false);
        }
        self.header_filled = 0;
        let header = Header::decode(self.header)?;
        let kind = *self.kind.get_or_insert(header.kind);
        if kind != header.kind {
            return Err(Error::MixedMessage {
                wanted: kind.0,
                found: header.kind.0,
            });
        }
        if self.payload.len() + header.payload_len() > self.limit {
            return Err(Error::MessageTooLong { limit: self.limit });
        }
        self.packets += 1;
        if self.packets > self.limit.saturating_add(1) {
            return Err(Error::TooManyPackets { limit: self.limit });
        }
        self.packet_left = header.payload_len();
        self.packet = Some(header);
        Ok(true)
    }
}

/// Cuts `payload` into packets of at most `packet_size` bytes (header included, raised to 9 when smaller) and appends them to `out`.
///
/// An empty payload gives one packet that is only a header, as a cancel is.
pub fn write_message(kind: PacketType, payload: &[u8], packet_size: u16, out: &mut Vec<u8>) {
    let room = usize::from(packet_size).max(HEADER_LEN + 1) - HEADER_LEN;
    let mut left = payload;
    loop {
        let (now, later) = left.split_at(room.min(left.len()));
        let status = if later.is_empty() { STATUS_EOM } else { 0 };
        let length = u16::try_from(HEADER_LEN + now.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&Header::new(kind, status, length).encode());
        out.extend_from_slice(now);
        left = later;
        if left.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
