//! Knows, from packet headers alone, whether a session has a request that is not answered.
//!
//! No I/O, no clock, and a fixed size whatever arrives. TDS is half duplex: one request message from the client, then one response
//! message from the server (go-dblib `tds/doc.go`), so counting messages is enough. Three things disturb the count:
//!
//! - A cancel (packet type 6, or the status bit ATTN). A server that had finished already answers twice: the ordinary response, then the
//!   acknowledgement of the cancel (measured with jTDS). Headers do not tell these from one response that acknowledges, so after a cancel
//!   the session is [`Outstanding::Unsure`] until the client's next request: a half-duplex client sends one only when it has seen the
//!   acknowledgement, and the count starts afresh.
//! - A message from the server whose last packet carries the status bit EVENT. It answers no request.
//! - A header that is none (length below 8). From a client it is an error. From the server it makes the session
//!   [`Outstanding::Unsure`] for ever.

use crate::tds::packet::{HEADER_LEN, Header, PacketType, STATUS_ATTN, STATUS_EVENT};

/// Whether a session can be closed without breaking a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outstanding {
    /// Both directions are between messages and every request has its answer.
    Nothing,
    /// A message is under way or a request has no answer.
    Request,
    /// Headers cannot tell any more: go by a quiet moment.
    Unsure,
}

/// A stream whose packet headers are no headers: an announced length below 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet announces {length} bytes, which is less than its header")]
pub struct Malformed {
    /// The announced length in bytes, header included.
    pub length: u16,
}

/// The message boundaries of one session.
#[derive(Debug, Default)]
pub struct Tracker {
    client: Stream,
    upstream: Stream,
    /// Requests complete or under way that have no answer yet.
    unanswered: u32,
    cancel: Option<Cancel>,
    upstream_lost: bool,
}

/// What has come back since the last cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    Unanswered,
    AnsweredOnce,
}

impl Tracker {
    /// Takes bytes that the client sent, in pieces of any size. Returns how many messages they completed.
    ///
    /// # Errors
    ///
    /// [`Malformed`] at the first header that is none. The stream has no boundaries any more: drop the session.
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
                return Message::Ended;
            }
            Message::GoesOn
        })?;
        Ok(completed)
    }

    /// Takes bytes that the server sent, in pieces of any size.
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
                return Message::GoesOn;
            }
            if packet.status & STATUS_EVENT == 0 {
                *unanswered = unanswered.saturating_sub(1);
                if let Some(cancel) = cancel {
                    *cancel = Cancel::AnsweredOnce;
                }
            }
            Message::Ended
        });
        self.upstream_lost = fed.is_err();
    }

    /// Whether the session could be closed now, as far as the bytes fed so far tell.
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

/// What a packet means for the message that it belongs to.
enum Message {
    GoesOn,
    Ended,
}

/// The packets of one direction.
#[derive(Debug, Default)]
struct Stream {
    header: [u8; HEADER_LEN],
    header_filled: usize,
    /// The packet whose payload is arriving, and what is still missing of it.
    packet: Option<(Header, usize)>,
    /// Whether a packet of the present message has been read already.
    in_message: bool,
}

impl Stream {
    /// Calls `on_packet` with the header of each packet whose last byte is among these, and whether it is the first of its message.
    fn feed(&mut self, mut bytes: &[u8], mut on_packet: impl FnMut(Header, bool) -> Message) -> Result<(), Malformed> {
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
                self.in_message = matches!(on_packet(header, first), Message::GoesOn);
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
mod tests {
    use super::*;
    use crate::tds::packet::{STATUS_EOM, write_message};
    use proptest::prelude::*;

    fn request() -> Vec<u8> {
        message(PacketType::NORMAL, 20)
    }

    fn response() -> Vec<u8> {
        message(PacketType::RESPONSE, 600)
    }

    fn message(kind: PacketType, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        write_message(kind, &vec![0xab; length], 512, &mut out);
        out
    }

    const CANCEL: [u8; 8] = [6, 1, 0, 8, 0, 0, 0, 0];

    #[test]
    fn a_request_is_outstanding_from_its_first_byte_to_the_last_of_its_answer() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.outstanding(), Outstanding::Nothing);
        for byte in request() {
            tracker.client(&[byte]).unwrap();
            assert_eq!(tracker.outstanding(), Outstanding::Request);
        }
        let answer = response();
        for byte in &answer[..answer.len() - 1] {
            tracker.upstream(&[*byte]);
            assert_eq!(tracker.outstanding(), Outstanding::Request);
        }
        tracker.upstream(&answer[answer.len() - 1..]);
        assert_eq!(tracker.outstanding(), Outstanding::Nothing);
    }

    #[test]
    fn each_of_several_requests_at_once_needs_its_answer() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.client(&[request(), request()].concat()), Ok(2));
        tracker.upstream(&response());
        assert_eq!(tracker.outstanding(), Outstanding::Request);
        tracker.upstream(&response());
        assert_eq!(tracker.outstanding(), Outstanding::Nothing);
    }

    #[test]
    fn after_a_cancel_only_the_next_request_makes_it_sure_again() {
        let mut tracker = Tracker::default();
        tracker.client(&request()).unwrap();
        tracker.client(&CANCEL).unwrap();
        assert_eq!(tracker.outstanding(), Outstanding::Request);
        tracker.upstream(&response());
        assert_eq!(tracker.outstanding(), Outstanding::Unsure);
        tracker.upstream(&response());
        assert_eq!(tracker.outstanding(), Outstanding::Unsure);
        tracker.client(&request()).unwrap();
        assert_eq!(tracker.outstanding(), Outstanding::Request);
        tracker.upstream(&response());
        assert_eq!(tracker.outstanding(), Outstanding::Nothing);
    }

    #[test]
    fn a_cancel_ends_the_message_that_it_interrupts() {
        let mut tracker = Tracker::default();
        tracker.client(&Header::new(PacketType::BULK, 0, 8).encode()).unwrap();
        assert!(tracker.is_client_mid_message());
        tracker.client(&CANCEL).unwrap();
        assert!(!tracker.is_client_mid_message());
    }

    #[test]
    fn an_event_answers_nothing() {
        let mut tracker = Tracker::default();
        tracker.client(&request()).unwrap();
        tracker.upstream(&Header::new(PacketType::RESPONSE, STATUS_EOM | STATUS_EVENT, 8).encode());
        assert_eq!(tracker.outstanding(), Outstanding::Request);
    }

    #[test]
    fn a_server_that_speaks_first_owes_nothing_later() {
        let mut tracker = Tracker::default();
        tracker.upstream(&response());
        tracker.client(&request()).unwrap();
        assert_eq!(tracker.outstanding(), Outstanding::Request);
    }

    #[test]
    fn refuses_a_client_header_that_is_none() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.client(&[15, 1, 0, 7, 0, 0, 0, 0]), Err(Malformed { length: 7 }));
    }

    #[test]
    fn is_unsure_for_ever_once_the_server_sends_a_header_that_is_none() {
        let mut tracker = Tracker::default();
        tracker.upstream(&[4, 1, 0, 7, 0, 0, 0, 0]);
        assert_eq!(tracker.outstanding(), Outstanding::Unsure);
        tracker.client(&request()).unwrap();
        tracker.upstream(&response());
        assert_eq!(tracker.outstanding(), Outstanding::Unsure);
    }

    /// A message of one direction, as packets with these payload lengths.
    #[derive(Debug, Clone)]
    enum Sent {
        Request(Vec<usize>),
        Cancel,
        Response(Vec<usize>),
        Event(Vec<usize>),
    }

    impl Sent {
        fn is_from_client(&self) -> bool {
            matches!(self, Self::Request(_) | Self::Cancel)
        }

        fn bytes(&self) -> Vec<u8> {
            let (kind, packets, status) = match self {
                Self::Request(packets) => (PacketType::NORMAL, packets, STATUS_EOM),
                Self::Cancel => return CANCEL.to_vec(),
                Self::Response(packets) => (PacketType::RESPONSE, packets, STATUS_EOM),
                Self::Event(packets) => (PacketType::RESPONSE, packets, STATUS_EOM | STATUS_EVENT),
            };
            let mut out = Vec::new();
            for (index, length) in packets.iter().enumerate() {
                let status = if index + 1 == packets.len() { status } else { 0 };
                let length = u16::try_from(HEADER_LEN + length).unwrap();
                out.extend_from_slice(&Header::new(kind, status, length).encode());
                out.resize(out.len() + usize::from(length) - HEADER_LEN, 0x5a);
            }
            out
        }
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let packets = || prop::collection::vec(0_usize..700, 1..4);
        prop_oneof![
            4 => packets().prop_map(Sent::Request),
            1 => Just(Sent::Cancel),
            5 => packets().prop_map(Sent::Response),
            1 => packets().prop_map(Sent::Event),
        ]
    }

    /// What the history of whole messages says, computed from the start each time.
    fn naive(history: &[Sent]) -> Outstanding {
        let since_cancel = history.iter().rposition(|sent| matches!(sent, Sent::Cancel));
        let next_request = since_cancel.and_then(|at| {
            history[at..]
                .iter()
                .position(|sent| matches!(sent, Sent::Request(_)))
                .map(|next| at + next)
        });
        let counted = match (since_cancel, next_request) {
            (Some(at), None) => {
                let answered = history[at..].iter().any(|sent| matches!(sent, Sent::Response(_)));
                return if answered {
                    Outstanding::Unsure
                } else {
                    Outstanding::Request
                };
            }
            (_, Some(from)) => &history[from..],
            (None, None) => history,
        };
        let mut unanswered = 0_usize;
        for sent in counted {
            match sent {
                Sent::Request(_) => unanswered += 1,
                Sent::Response(_) => unanswered = unanswered.saturating_sub(1),
                Sent::Cancel | Sent::Event(_) => {}
            }
        }
        if unanswered == 0 {
            Outstanding::Nothing
        } else {
            Outstanding::Request
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_count_however_the_stream_is_split(
            history in prop::collection::vec(sent(), 1..30),
            cuts in prop::collection::vec(1_usize..300, 1..30),
        ) {
            let mut tracker = Tracker::default();
            let mut cuts = cuts.into_iter().cycle();
            for (index, sent) in history.iter().enumerate() {
                let bytes = sent.bytes();
                let mut rest = bytes.as_slice();
                let mut completed = 0;
                while !rest.is_empty() {
                    let (piece, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                    rest = later;
                    if sent.is_from_client() {
                        completed += tracker.client(piece).unwrap();
                    } else {
                        tracker.upstream(piece);
                    }
                    if !rest.is_empty() {
                        prop_assert_eq!(tracker.outstanding(), Outstanding::Request);
                    }
                }
                prop_assert_eq!(completed, u32::from(sent.is_from_client()));
                prop_assert_eq!(tracker.outstanding(), naive(&history[..=index]));
            }
        }

        #[test]
        fn any_split_of_any_bytes_ends_in_the_same_state(
            client in prop::collection::vec(any::<u8>(), 0..2000),
            upstream in prop::collection::vec(any::<u8>(), 0..2000),
            cut in 1_usize..100,
        ) {
            let mut whole = Tracker::default();
            let mut split = Tracker::default();
            let at_once = whole.client(&client);
            let in_pieces = client.chunks(cut).try_fold(0, |sum, piece| Ok::<_, Malformed>(sum + split.client(piece)?));
            prop_assert_eq!(at_once, in_pieces);
            whole.upstream(&upstream);
            upstream.chunks(cut).for_each(|piece| split.upstream(piece));
            prop_assert_eq!(whole.outstanding(), split.outstanding());
            prop_assert_eq!(whole.upstream_lost, split.upstream_lost);
        }
    }
}
