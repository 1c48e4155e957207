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
    /// A message has more packets than its reader accepts bytes: most of them are empty.
    #[error("message of more than {limit} packets")]
    TooManyPackets {
        /// The limit.
        limit: usize,
    },
    /// Fewer bytes are left than a field needs, or than it announced.
    #[error("{what} needs {wanted} bytes and {left} are left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes it needs.
        wanted: usize,
        /// Bytes its container still has.
        left: usize,
    },
    /// A length byte is larger than the fixed field that it describes, or a text is too long for its field.
    #[error("{what} is {length} bytes long, its field holds {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// The length announced or wanted, in bytes.
        length: usize,
        /// Bytes that the field holds.
        limit: usize,
    },
    /// A token's content ends before the token's announced length, so the two disagree about what follows.
    #[error("{what} has {left} bytes more than its content")]
    Surplus {
        /// The token.
        what: &'static str,
        /// Bytes left over.
        left: usize,
    },
    /// A field has a value that TDS 5.0 does not define.
    #[error("{what} cannot be {found:#04x}")]
    Undefined {
        /// The field.
        what: &'static str,
        /// The value found.
        found: u32,
    },
    /// A row or a parameter list came without a format before it.
    #[error("{what} without a format before it")]
    NoFormat {
        /// The token.
        what: &'static str,
    },
    /// A format declares no columns: its rows would be tokens of one byte each, so a small answer would hold very many.
    #[error("{what} without columns")]
    NoColumns {
        /// The format.
        what: &'static str,
    },
    /// The answer to a login has more tokens than any login needs.
    #[error("more than {limit} tokens in the answer to a login")]
    TooManyTokens {
        /// The limit.
        limit: usize,
    },
    /// The server sent more than a session receives unasked.
    #[error("more than {limit} bytes that were not asked for")]
    Unasked {
        /// The limit in bytes.
        limit: usize,
    },
    /// An answer has no final DONE, so it may be incomplete.
    #[error("answer without an end")]
    Unfinished,
    /// A row has another number of values than its format has columns.
    #[error("{found} values for {wanted} columns")]
    ColumnCount {
        /// Columns in the format.
        wanted: usize,
        /// Values given.
        found: usize,
    },
    /// A value does not fit the type of its column.
    #[error("{value} does not fit a column of type {data_type:#04x}")]
    WrongType {
        /// The kind of value.
        value: &'static str,
        /// Type byte of the column.
        data_type: u8,
    },
}
