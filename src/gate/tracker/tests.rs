//! Message boundaries of whole, cut and cancelled streams.

use proptest::prelude::*;

use super::*;
use crate::tds::packet::{STATUS_EOM, write_message};

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
fn a_message_that_the_server_sends_first_is_no_answer() {
    let mut tracker = Tracker::default();
    tracker.upstream(&response());
    tracker.client(&request()).unwrap();
    assert_eq!(tracker.outstanding(), Outstanding::Request);
}

#[test]
fn rejects_an_invalid_header_of_a_client() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.client(&[15, 1, 0, 7, 0, 0, 0, 0]), Err(Malformed { length: 7 }));
}

#[test]
fn is_unsure_for_ever_once_the_server_sends_an_invalid_header() {
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

/// The expected result after a history of complete messages, computed from the start each time.
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
