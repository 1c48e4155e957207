use netlink_packet_core::{DefaultNla, NetlinkHeader, NetlinkSerializable};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily};
use proptest::{prelude::*, sample::Index};

use super::*;

/// An entry as the kernel would send it.
pub(in crate::agent) fn entry(original: Flow, reply: Flow, id: u32, zone: Option<u16>) -> Entry {
    let attributes = attributes(original, reply, Protocol::Tcp, Some(id), zone);
    Entry::decoded(attributes).expect("a complete entry")
}

fn attributes(
    original: Flow,
    reply: Flow,
    protocol: Protocol,
    id: Option<u32>,
    zone: Option<u16>,
) -> Vec<ConntrackAttribute> {
    let tuple = |flow: Flow| {
        let mut tuple = original_tuple(flow.source, flow.destination);
        if let Some(Tuple::Proto(parts)) = tuple.get_mut(1) {
            parts[0] = ProtoTuple::Protocol(protocol);
        }
        tuple
    };
    let other = |kind, value: &[u8]| ConntrackAttribute::Other(DefaultNla::new(kind, value.to_vec()));
    let mut attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(original)),
        ConntrackAttribute::CtaTupleReply(tuple(reply)),
        ConntrackAttribute::CtaTimeout(86_400),
    ];
    attributes.extend(id.map(|id| other(CTA_ID, &id.to_be_bytes())));
    attributes.extend(zone.map(|zone| other(CTA_ZONE, &zone.to_be_bytes())));
    attributes
}

/// A datagram with one message for each set of attributes, all of the same request.
fn datagram(entries: Vec<Vec<ConntrackAttribute>>, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for attributes in entries {
        let message = NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
            ConntrackMessage::New(attributes),
        );
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        header.message_type = message.message_type();
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let begin = bytes.len();
        bytes.resize(begin + message.buffer_len().next_multiple_of(ALIGNMENT), 0);
        let end = begin + message.buffer_len();
        message.serialize(&mut bytes[begin..end]);
    }
    bytes
}

fn entries(bytes: &[u8], sequence: u32) -> Vec<Entry> {
    frames(bytes, sequence)
        .filter_map(|frame| match frame.unwrap() {
            Frame::Entry(entry) => Some(*entry),
            _ => None,
        })
        .collect()
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
    (prop_oneof![v4, v6], any::<u16>(), any::<u16>()).prop_map(|((source, destination), from, to)| Flow {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    })
}

proptest! {
    #[test]
    fn what_the_kernel_sends_is_decoded_and_its_key_names_this_entry_alone(
        original in any_flow(), reply in any_flow(), id: u32, zone: Option<u16>, sequence: u32,
    ) {
        let sent = attributes(original, reply, Protocol::Tcp, Some(id), zone);
        let found = entries(&datagram(vec![sent.clone(), sent], sequence), sequence);
        prop_assert_eq!(found.len(), 2);
        let entry = &found[1];
        prop_assert_eq!((entry.original, entry.reply), (original, reply));
        let key = entry.key();
        prop_assert_eq!(&key[0], &ConntrackAttribute::CtaTupleOrig(original_tuple(original.source, original.destination)));
        let bytes_of = |kind| key.iter().find_map(|attribute| match attribute {
            ConntrackAttribute::Other(other) if other.kind() == kind => {
                let mut value = vec![0; other.value_len()];
                other.emit_value(&mut value);
                Some(value)
            }
            _ => None,
        });
        prop_assert_eq!(bytes_of(CTA_ID), Some(id.to_be_bytes().to_vec()));
        prop_assert_eq!(bytes_of(CTA_ZONE), zone.map(|zone| zone.to_be_bytes().to_vec()));
    }

    #[test]
    fn no_other_protocol_is_ever_an_entry(original in any_flow(), reply in any_flow(), number: u8, id: u32) {
        let protocol = Protocol::from(number);
        prop_assume!(protocol != Protocol::Tcp);
        let sent = attributes(original, reply, protocol, Some(id), None);
        prop_assert_eq!(entries(&datagram(vec![sent], 1), 1), []);
    }

    #[test]
    fn an_entry_without_tuple_or_identity_is_none(original in any_flow(), reply in any_flow(), missing in 0..3_usize) {
        let mut sent = attributes(original, reply, Protocol::Tcp, Some(7), None);
        sent.remove([0, 1, 3][missing]);
        prop_assert_eq!(entries(&datagram(vec![sent], 1), 1), []);
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_left_out(original in any_flow(), sequence: u32) {
        let sent = attributes(original, original, Protocol::Tcp, Some(7), None);
        prop_assert_eq!(entries(&datagram(vec![sent], sequence), sequence.wrapping_add(1)), []);
    }

    #[test]
    fn damaged_bytes_end_and_panic_nothing(original in any_flow(), at: Index, value: u8, cut: Index) {
        let sent = attributes(original, original, Protocol::Tcp, Some(7), Some(1));
        let mut bytes = datagram(vec![sent.clone(), sent], 1);
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes.truncate(cut.index(bytes.len()) + 1);
        prop_assert!(frames(&bytes, 1).count() <= bytes.len());
    }
}

#[test]
fn an_entry_that_cannot_be_decoded_does_not_hide_the_next_one() {
    let address: SocketAddr = "10.0.0.1:1".parse().unwrap();
    let flow = Flow {
        source: address,
        destination: address,
    };
    let sent = attributes(flow, flow, Protocol::Tcp, Some(7), None);
    // The timeout has four bytes.
    let mut broken = sent.clone();
    broken[2] = ConntrackAttribute::Other(DefaultNla::new(7, vec![0; 3]));
    let bytes = datagram(vec![broken, sent], 1);
    let found: Vec<_> = frames(&bytes, 1).map(Result::unwrap).collect();
    assert!(matches!(&found[..], [Frame::Undecodable, Frame::Entry(_)]), "{found:?}");
}
