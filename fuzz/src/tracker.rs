//! The gate's message tracker: the same answer however the bytes are split, the same as that of a count which keeps everything and begins anew
//! each time, and no memory.
//!
//! An input is a series of pieces: one byte with the direction and the length, then that many bytes of the stream.

use proxypair::gate::tracker::{Malformed, Outstanding, Tracker};

/// Bit of a piece's first byte: it comes from the server.
pub const FROM_SERVER: u8 = 0x80;
/// Most bytes of one piece.
pub const PIECE_MAX: usize = 0x7f;

const HEADER_LEN: usize = 8;
const EOM: u8 = 1;
const ATTN: u8 = 4;
const EVENT: u8 = 8;
const CANCEL: u8 = 6;

/// Whether the input consists of packets to its end. Panics if the tracker is wrong.
pub fn check(input: &[u8]) -> bool {
    let (mut whole, mut split) = (Tracker::default(), Tracker::default());
    let mut history = History::default();
    let mut cuts = fastrand::Rng::with_seed(input.iter().fold(0, |seed, byte| seed * 31 % 65_521 + u64::from(*byte)));
    let mut rest = input;
    while let [head, after @ ..] = rest {
        let (piece, later) = after.split_at(usize::from(head & !FROM_SERVER).min(after.len()));
        rest = later;
        let side = if head & FROM_SERVER == 0 {
            Side::Client
        } else {
            Side::Server
        };
        let at_once = without_memory(|| feed(&mut whole, side, piece));
        let mut in_parts = Ok(0);
        let mut left = piece;
        while let (false, Ok(before)) = (left.is_empty(), in_parts) {
            let (part, later) = left.split_at(cuts.usize(1..=left.len().min(12)));
            left = later;
            in_parts = without_memory(|| feed(&mut split, side, part)).map(|completed| before + completed);
        }
        let expected = history.feed(side, piece);
        assert_eq!(at_once, expected, "fed at once: {history:#?}");
        assert_eq!(in_parts, expected, "fed in parts: {history:#?}");
        if expected.is_err() {
            return false;
        }
        let expected = history.outstanding();
        assert_eq!(whole.outstanding(), expected, "fed at once: {history:#?}");
        assert_eq!(split.outstanding(), expected, "fed in parts: {history:#?}");
        let mid_message = history.client.is_mid_message();
        assert_eq!(whole.is_client_mid_message(), mid_message, "fed at once: {history:#?}");
        assert_eq!(split.is_client_mid_message(), mid_message, "fed in parts: {history:#?}");
    }
    !history.server_is_lost && history.client.unread.is_empty() && history.server.unread.is_empty()
}

fn feed(tracker: &mut Tracker, side: Side, bytes: &[u8]) -> Result<u32, Malformed> {
    match side {
        Side::Client => tracker.client(bytes),
        Side::Server => {
            tracker.upstream(bytes);
            Ok(0)
        }
    }
}

fn without_memory<T>(feed: impl FnOnce() -> T) -> T {
    let mut result = None;
    let used = allocation_counter::measure(|| result = Some(feed()));
    assert_eq!(used.count_total, 0, "the tracker takes memory");
    result.unwrap_or_else(|| unreachable!("it has been called"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What one packet of a session's past meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// The client began a message that is no cancel.
    Asked,
    Cancelled,
    /// The server ended a message that is no event.
    Answered,
}

/// Everything that has happened.
#[derive(Debug, Default)]
struct History {
    client: Past,
    server: Past,
    server_is_lost: bool,
    deeds: Vec<Deed>,
}

/// One direction: the bytes that are no whole packet yet, and whether a message has begun.
#[derive(Debug, Default)]
struct Past {
    unread: Vec<u8>,
    in_message: bool,
}

impl Past {
    /// The type and status of the next whole packet, and whether it begins a message.
    fn packet(&mut self) -> Result<Option<(u8, u8, bool)>, Malformed> {
        let [kind, status, high, low, ..] = *self.unread else {
            return Ok(None);
        };
        if self.unread.len() < HEADER_LEN {
            return Ok(None);
        }
        let length = u16::from_be_bytes([high, low]);
        if usize::from(length) < HEADER_LEN {
            return Err(Malformed { length });
        }
        if self.unread.len() < usize::from(length) {
            return Ok(None);
        }
        self.unread.drain(..usize::from(length));
        let begins = !self.in_message;
        self.in_message = status & EOM == 0;
        Ok(Some((kind, status, begins)))
    }

    fn is_mid_message(&self) -> bool {
        self.in_message || !self.unread.is_empty()
    }
}

impl History {
    /// Returns how many messages of the client ended.
    fn feed(&mut self, side: Side, bytes: &[u8]) -> Result<u32, Malformed> {
        let mut completed = 0;
        match side {
            Side::Client => {
                self.client.unread.extend_from_slice(bytes);
                while let Some((kind, status, begins)) = self.client.packet()? {
                    if kind == CANCEL || status & ATTN != 0 {
                        self.client.in_message = false;
                        self.deeds.push(Deed::Cancelled);
                    } else if begins {
                        self.deeds.push(Deed::Asked);
                    }
                    completed += u32::from(!self.client.in_message);
                }
            }
            Side::Server if self.server_is_lost => {}
            Side::Server => {
                self.server.unread.extend_from_slice(bytes);
                loop {
                    match self.server.packet() {
                        Ok(Some((_, status, _))) if status & EOM != 0 && status & EVENT == 0 => {
                            self.deeds.push(Deed::Answered);
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => {
                            self.server_is_lost = true;
                            break;
                        }
                    }
                }
            }
        }
        Ok(completed)
    }

    fn outstanding(&self) -> Outstanding {
        if self.client.is_mid_message() {
            return Outstanding::Request;
        }
        if self.server_is_lost {
            return Outstanding::Unsure;
        }
        if self.server.is_mid_message() {
            return Outstanding::Request;
        }
        let after_cancel = match self.deeds.iter().rposition(|deed| *deed == Deed::Cancelled) {
            None => self.deeds.as_slice(),
            Some(cancel) => match self.deeds[cancel..].iter().position(|deed| *deed == Deed::Asked) {
                Some(next) => &self.deeds[cancel + next..],
                None if self.deeds[cancel..].contains(&Deed::Answered) => return Outstanding::Unsure,
                None => return Outstanding::Request,
            },
        };
        // Nobody can be owed less than nothing: an answer that nobody asked for answers nothing later.
        let owed = after_cancel.iter().fold(0_usize, |owed, deed| match deed {
            Deed::Asked => owed + 1,
            Deed::Answered => owed.saturating_sub(1),
            Deed::Cancelled => owed,
        });
        if owed == 0 {
            Outstanding::Nothing
        } else {
            Outstanding::Request
        }
    }
}
