//! Capabilities: bit masks in which a client declares which requests it may send and which answers it does not accept.
//!
//! Masks are big-endian bit strings whatever the client's byte order: bit `n` is in byte `len - 1 - n / 8`. A server answers with masks of the
//! client's lengths, because jTDS accepts no other. Sources: FreeTDS `include/freetds/enum_cap.h`, captured logins.

use super::Error;
use super::wire::{Reader, Writer};

/// Request bit: result formats may come as ROWFMT2. SAP's go-dblib sets it and understands no other.
pub const WIDE_TABLES: usize = 59;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// The CAPABILITY token's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capability {
    /// What the client may ask; at most 255 bytes.
    pub request: Vec<u8>,
    /// What the client does not want in answers; at most 255 bytes.
    pub response: Vec<u8>,
}

impl Capability {
    /// The smallest masks with which two independent servers accepted a client.
    #[must_use]
    pub fn minimal() -> Self {
        Self {
            request: vec![0x00, 0x00, 0x60, 0x81, 0x0f, 0x6d, 0xff, 0xff, 0xff],
            response: vec![0; 9],
        }
    }

    /// Whether the request mask has bit `bit`.
    #[must_use]
    pub fn requests(&self, bit: usize) -> bool {
        let Some(from_front) = self.request.len().checked_sub(1 + bit / 8) else {
            return false;
        };
        self.request
            .get(from_front)
            .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    /// Reads the content after the token byte. Masks of other types than request and response are skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when a length points outside its container.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut content = reader.content(false, "CAPABILITY")?;
        let mut capability = Self::default();
        while !content.is_empty() {
            let kind = content.u8("capability type")?;
            let mask = content.counted8("capability mask")?;
            match kind {
                REQUEST => capability.request = mask.to_vec(),
                RESPONSE => capability.response = mask.to_vec(),
                _ => {}
            }
        }
        Ok(capability)
    }

    /// Writes the content after the token byte.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] for a mask above 255 bytes.
    pub fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        writer.content(false, "CAPABILITY", |content| {
            for (kind, mask) in [(REQUEST, &self.request), (RESPONSE, &self.response)] {
                content.u8(kind);
                content.counted8(mask, "capability mask")?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tds::wire::ByteOrder;

    const TSQL: [u8; 34] = [
        0x20, 0x00, 0x01, 0x0e, 0x00, 0x00, 0x60, 0x08, 0x81, 0x81, 0xe8, 0x0f, 0x6d, 0x7f, 0xff, 0xff, 0xff, 0xfe,
        0x02, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x68, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn tsql_asks_for_wide_tables() {
        let capability = Capability::decode(&mut Reader::new(&TSQL, ByteOrder::Little)).unwrap();
        assert_eq!((capability.request.len(), capability.response.len()), (14, 14));
        assert!(capability.requests(WIDE_TABLES));
        assert!(capability.requests(1));
        assert!(!capability.requests(0));
        assert!(!capability.requests(14 * 8));
        let mut out = Vec::new();
        capability
            .encode(&mut Writer::new(&mut out, ByteOrder::Little))
            .unwrap();
        assert_eq!(out, TSQL);
    }

    #[test]
    fn the_minimal_masks_are_content_with_narrow_tables() {
        assert!(!Capability::minimal().requests(WIDE_TABLES));
        assert!(Capability::minimal().requests(1));
    }

    #[test]
    fn refuses_a_mask_longer_than_its_token() {
        let error = Capability::decode(&mut Reader::new(&[3, 0, 1, 14, 0], ByteOrder::Little)).unwrap_err();
        assert_eq!(
            error,
            Error::Truncated {
                what: "capability mask",
                wanted: 14,
                left: 1
            }
        );
    }
}
