//! Headers and messages, whole, cut and broken.

use super::*;
use proptest::prelude::*;

#[test]
fn decodes_the_header_of_a_captured_login() {
    let header = Header::decode([2, 0, 2, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(header, Header::new(PacketType::LOGIN, 0, 512));
    assert!(!header.ends_message());
    assert_eq!(header.encode(), [2, 0, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn refuses_a_packet_smaller_than_its_header() {
    assert_eq!(
        Header::decode([4, 1, 0, 7, 0, 0, 0, 0]),
        Err(Error::PacketTooShort { length: 7 })
    );
}

#[test]
fn a_tls_hello_and_a_tds_7_prelogin_are_not_known_types() {
    assert!(!PacketType(0x16).is_known());
    assert!(!PacketType(0x12).is_known());
    assert!(!PacketType(0).is_known());
    assert!(PacketType::NORMAL.is_known());
}

#[test]
fn an_empty_message_is_one_header() {
    let mut out = Vec::new();
    write_message(PacketType::ATTENTION, &[], 512, &mut out);
    assert_eq!(out, [6, 1, 0, 8, 0, 0, 0, 0]);
}

#[test]
fn refuses_a_packet_of_another_type_inside_a_message() {
    let mut assembler = Assembler::new(100);
    let mut input: &[u8] = &[4, 0, 0, 9, 0, 0, 0, 0, 1, 15, 1, 0, 8, 0, 0, 0, 0];
    assert_eq!(
        assembler.feed(&mut input),
        Err(Error::MixedMessage { wanted: 4, found: 15 })
    );
}

#[test]
fn refuses_a_long_message_from_its_header_alone() {
    let mut assembler = Assembler::new(100);
    let mut input: &[u8] = &[4, 0, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(assembler.feed(&mut input), Err(Error::MessageTooLong { limit: 100 }));
}

proptest! {
    #[test]
    fn any_split_of_a_stream_gives_the_same_messages(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..5),
        packet_size in 0_u16..700,
        cuts in prop::collection::vec(1_usize..200, 1..50),
    ) {
        let mut stream = Vec::new();
        for payload in &payloads {
            write_message(PacketType::NORMAL, payload, packet_size, &mut stream);
        }
        let mut assembler = Assembler::new(600);
        let mut seen = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (mut piece, later) = rest.split_at((*cut).min(rest.len()));
            rest = later;
            while let Some(message) = assembler.feed(&mut piece).unwrap() {
                prop_assert_eq!(message.kind, PacketType::NORMAL);
                seen.push(message.payload);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, payloads);
        prop_assert!(assembler.is_between_messages());
    }

    #[test]
    fn any_bytes_neither_panic_nor_grow_beyond_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let mut assembler = Assembler::new(256);
        let mut input = bytes.as_slice();
        while let Ok(Some(message)) = assembler.feed(&mut input) {
            prop_assert!(message.payload.len() <= 256);
        }
        prop_assert!(assembler.payload.len() <= 256);
    }
}
