//! The one error type of the codec: what was being read or written, what it wanted and what it found.

use super::packet::HEADER_LEN;

/// Why bytes are not TDS 5.0, or why a value cannot be written as TDS 5.0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A packet header announces a packet that is smaller than the header.
    #[error("packet of {length} bytes is smaller than its header of {HEADER_LEN} bytes")]
    PacketTooShort {
        /// The announced length in bytes, header included.
        length: u16,
    },
    /// A packet of another type came before the end of a message.
    #[error("packet of type {found:#04x} inside a message of type {wanted:#04x}")]
    MixedMessage {
        /// Type of the message's first packet.
        wanted: u8,
        /// Type of the packet that does not belong to it.
        found: u8,
    },
    /// A message grew beyond the limit that its reader set.
    #[error("message is longer than {limit} bytes")]
    MessageTooLong {
        /// The limit in bytes of payload.
        limit: usize,
    },
}
