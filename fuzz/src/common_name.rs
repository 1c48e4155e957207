//! The Common Name of a certificate: whatever is read agrees with a second reader that knows only the strict form of DER, a byte behind the
//! certificate makes it none, and so does one that is missing.
//!
//! A wrong answer here lets a stranger pass for an ObjectServer, so the second reader is not the library's.

use fastrand::Rng;
use proxypair::tls::certificate::{CommonNameError, common_name_of, expires};

use crate::within_memory;

/// Bytes of memory that reading one byte may cost: a name of one attribute, a list of extensions.
const BYTES_PER_BYTE: u64 = 128;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const VISIBLE_STRING: u8 = 0x1a;
const UNIVERSAL_STRING: u8 = 0x1c;
const BMP_STRING: u8 = 0x1e;
const VERSION: u8 = 0xa0;

/// 2.5.4.3, and 2.5.4.10 for what is no Common Name.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
/// ecdsa-with-SHA256, id-ecPublicKey, and the curve P-256.
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Whether the input is a certificate. Panics if what is read from it is wrong.
pub fn check(input: &[u8]) -> bool {
    within_memory(input, BYTES_PER_BYTE, || {
        drop(common_name_of(input));
        let _ = expires(input);
    });
    let found = common_name_of(input);
    if let Err(CommonNameError::Unreadable(_)) = found {
        return false;
    }
    let longer = [input, &[0]].concat();
    for changed in [&longer[..], &input[..input.len() - 1]] {
        let answer = common_name_of(changed);
        assert!(
            matches!(answer, Err(CommonNameError::Unreadable(_))),
            "{} bytes give {found:?}, {} give {answer:?}",
            input.len(),
            changed.len()
        );
    }
    let second = subject(input).and_then(common_names);
    match (&found, second.as_deref()) {
        (Ok(name), Some([Some(second)])) => assert_eq!(name, second),
        (Err(CommonNameError::NotText), Some([None])) | (Err(CommonNameError::Missing), Some([])) => {}
        (Err(CommonNameError::Several(count)), Some(names)) => assert_eq!(*count, names.len()),
        // No name is no danger, whatever the second reader makes of a certificate that is not in the strict form.
        (Err(_), None) => {}
        _ => panic!("read: {found:?}; by the second reader: {second:?}"),
    }
    true
}

/// The first value and what is behind it; lengths in one of the forms that have an end.
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, first, rest @ ..] = bytes else { return None };
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn value_of(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = value(bytes)?;
    (found == tag).then_some((content, rest))
}

/// The content of the next value and what is behind it, by the number of its tag alone: outside the subject the chain's verification is the one
/// that is strict.
fn numbered(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    const NUMBER: u8 = 0x1f;
    let (found, content, rest) = value(bytes)?;
    (found & NUMBER == tag & NUMBER).then_some((content, rest))
}

/// The subject of a certificate: behind version, serial number, algorithm, issuer and validity.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = numbered(SEQUENCE, certificate)?;
    let (mut rest, _) = numbered(SEQUENCE, certificate)?;
    const CONSTRUCTED: u8 = 0x20;
    if rest.first().is_some_and(|tag| tag | CONSTRUCTED == VERSION) {
        (_, _, rest) = value(rest)?;
    }
    (_, rest) = numbered(INTEGER, rest)?;
    for _ in ["algorithm", "issuer", "validity"] {
        (_, rest) = numbered(SEQUENCE, rest)?;
    }
    Some(numbered(SEQUENCE, rest)?.0)
}

/// Its Common Names, `None` for one that is no text.
fn common_names(mut subject: &[u8]) -> Option<Vec<Option<String>>> {
    let mut names = Vec::new();
    while !subject.is_empty() {
        let (mut set, later) = value_of(SET, subject)?;
        subject = later;
        while !set.is_empty() {
            let (attribute, more) = value_of(SEQUENCE, set)?;
            set = more;
            let (oid, rest) = value_of(OID, attribute)?;
            let (tag, content, _) = value(rest)?;
            if oid == COMMON_NAME {
                names.push(text(tag, content));
            }
        }
    }
    Some(names)
}

fn text(tag: u8, content: &[u8]) -> Option<String> {
    let units = |width: usize| {
        content
            .chunks(width)
            .map(|unit| unit.iter().fold(0, |unit, byte| unit << 8 | u32::from(*byte)))
    };
    match tag {
        T61_STRING | VISIBLE_STRING if !content.is_ascii() => None,
        UTF8_STRING | PRINTABLE_STRING | NUMERIC_STRING | IA5_STRING | T61_STRING | VISIBLE_STRING => {
            std::str::from_utf8(content).ok().map(str::to_owned)
        }
        BMP_STRING if content.len().is_multiple_of(2) => {
            let units: Vec<_> = units(2).filter_map(|unit| u16::try_from(unit).ok()).collect();
            String::from_utf16(&units).ok()
        }
        UNIVERSAL_STRING if content.len().is_multiple_of(4) => units(4).map(char::from_u32).collect(),
        _ => None,
    }
}

/// A certificate whose subject has names of all kinds. Nobody has signed it: the signature is the chain's business.
pub fn certificate(rng: &mut Rng) -> Vec<u8> {
    let algorithm = der(SEQUENCE, &[&der(OID, &[ECDSA_WITH_SHA256])]);
    let validity = der(
        SEQUENCE,
        &[&der(UTC_TIME, &[b"260101000000Z"]), &der(UTC_TIME, &[b"360101000000Z"])],
    );
    let key_type = der(SEQUENCE, &[&der(OID, &[EC_PUBLIC_KEY]), &der(OID, &[P256])]);
    let point = [4; 65];
    let key = der(SEQUENCE, &[&key_type, &der(BIT_STRING, &[&[0], &point])]);
    let version = der(VERSION, &[&der(INTEGER, &[&[2]])]);
    let serial = der(INTEGER, &[&[rng.u8(1..0x80)]]);
    let issuer = der(SEQUENCE, &[&attribute(COMMON_NAME, UTF8_STRING, b"Netcool CA")]);
    let subject: Vec<_> = (0..rng.u8(..4)).flat_map(|_| random_attribute(rng)).collect();
    let signed = der(
        SEQUENCE,
        &[
            &version,
            &serial,
            &algorithm,
            &issuer,
            &validity,
            &der(SEQUENCE, &[&subject]),
            &key,
        ],
    );
    der(SEQUENCE, &[&signed, &algorithm, &der(BIT_STRING, &[&[0; 9]])])
}

fn random_attribute(rng: &mut Rng) -> Vec<u8> {
    const NAMES: [&str; 6] = ["AGG_P", "AGG_B", "AGG_P\0.example", "agg_p", "ÄGG_P", ""];
    let name = NAMES[rng.usize(..NAMES.len())];
    let oid = if rng.u8(..3) == 0 { ORGANISATION } else { COMMON_NAME };
    match rng.u8(..8) {
        0 => attribute(
            oid,
            BMP_STRING,
            &name.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>(),
        ),
        1 => attribute(
            oid,
            UNIVERSAL_STRING,
            &name
                .chars()
                .flat_map(|c| u32::from(c).to_be_bytes())
                .collect::<Vec<_>>(),
        ),
        2 => attribute(oid, T61_STRING, name.as_bytes()),
        3 => attribute(oid, VISIBLE_STRING, b"AGG_P"),
        4 => attribute(oid, NUMERIC_STRING, b"4100"),
        5 => attribute(oid, PRINTABLE_STRING, b"AGG_P"),
        6 => attribute(oid, IA5_STRING, b"AGG_P"),
        _ => attribute(oid, UTF8_STRING, name.as_bytes()),
    }
}

fn attribute(oid: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
    der(SET, &[&der(SEQUENCE, &[&der(OID, &[oid]), &der(tag, &[text])])])
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [.., high, low] = content.len().to_be_bytes();
    let length = match (high, low) {
        (0, 0..=0x7f) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], length.as_slice(), &content].concat()
}
