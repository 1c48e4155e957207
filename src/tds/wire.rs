//! Integers and counted text inside messages, in the byte order that the client chose.

use super::Error;

/// The order in which a client's messages, and the answers to them, hold integers.
///
/// The client announces it in its login record (FreeTDS, jTDS and the Go clients use little-endian, jConnect big-endian) and the server
/// converts. Packet headers do not follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// Reads from the front of a byte slice and never past its end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8], order: ByteOrder) -> Self {
        Self { bytes, order }
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that have not been read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Takes `count` bytes, naming the field as `what` if they are not there.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when fewer are left. So are all other reads of this type.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            return Err(Error::Truncated {
                what,
                wanted: count,
                left: self.bytes.len(),
            });
        };
        self.bytes = rest;
        Ok(taken)
    }

    /// Takes `N` bytes as an array, in the order in which they came.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, what)?);
        Ok(array)
    }

    /// Takes one byte.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        let [byte] = self.array(what)?;
        Ok(byte)
    }

    /// Takes two bytes as an unsigned integer.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        let bytes = self.array(what)?;
        Ok(match self.order {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        })
    }

    /// Takes four bytes as an unsigned integer.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        let bytes = self.array(what)?;
        Ok(match self.order {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        })
    }

    /// Takes eight bytes as an unsigned integer.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        let bytes = self.array(what)?;
        Ok(match self.order {
            ByteOrder::Little => u64::from_le_bytes(bytes),
            ByteOrder::Big => u64::from_be_bytes(bytes),
        })
    }

    /// Takes a length byte and that many bytes after it.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn counted8(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let count = self.u8(what)?;
        self.bytes(count.into(), what)
    }

    /// Takes a two-byte length and that many bytes after it.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn counted16(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let count = self.u16(what)?;
        self.bytes(count.into(), what)
    }

    /// Takes a four-byte length and that many bytes after it.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn counted32(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let count = self.u32(what)?;
        self.bytes(usize::try_from(count).unwrap_or(usize::MAX), what)
    }

    /// A reader of `bytes` in the same order.
    #[must_use]
    pub const fn over<'b>(&self, bytes: &'b [u8]) -> Reader<'b> {
        Reader::new(bytes, self.order)
    }

    /// A reader of the next token's content, whose length is in front of it: two bytes, or four when `wide`.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    pub fn content(&mut self, wide: bool, what: &'static str) -> Result<Self, Error> {
        let bytes = if wide {
            self.counted32(what)?
        } else {
            self.counted16(what)?
        };
        Ok(self.over(bytes))
    }

    /// Takes everything that is left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes;
        self.bytes = &[];
        rest
    }

    /// Makes sure that everything has been read.
    ///
    /// # Errors
    ///
    /// [`Error::Surplus`] when something is left.
    pub const fn finish(&self, what: &'static str) -> Result<(), Error> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(Error::Surplus { what, left }),
        }
    }
}

/// Text as it is in names and messages: UTF-8, with whatever is not replaced, because servers may answer in another character set.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Appends to a byte vector.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    order: ByteOrder,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    #[must_use]
    pub const fn new(out: &'a mut Vec<u8>, order: ByteOrder) -> Self {
        Self { out, order }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        });
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        });
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        });
    }

    /// Appends a length byte and the bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] above 255 bytes.
    pub fn counted8(&mut self, bytes: &[u8], what: &'static str) -> Result<(), Error> {
        self.u8(length(bytes, u8::MAX, what)?);
        self.bytes(bytes);
        Ok(())
    }

    /// Appends a two-byte length and the bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] above 65,535 bytes.
    pub fn counted16(&mut self, bytes: &[u8], what: &'static str) -> Result<(), Error> {
        self.u16(length(bytes, u16::MAX, what)?);
        self.bytes(bytes);
        Ok(())
    }

    /// Appends a four-byte length and the bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] above 4 GiB.
    pub fn counted32(&mut self, bytes: &[u8], what: &'static str) -> Result<(), Error> {
        self.u32(length(bytes, u32::MAX, what)?);
        self.bytes(bytes);
        Ok(())
    }

    /// Appends what `write` writes, with its length in front of it: two bytes, or four when `wide`.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] when the content does not fit its length field, and the errors of `write`.
    pub fn content(
        &mut self,
        wide: bool,
        what: &'static str,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut content = Vec::new();
        write(&mut Writer::new(&mut content, self.order))?;
        if wide {
            self.counted32(&content, what)
        } else {
            self.counted16(&content, what)
        }
    }
}

fn length<T: TryFrom<usize> + Into<u32>>(bytes: &[u8], limit: T, what: &'static str) -> Result<T, Error> {
    T::try_from(bytes.len()).map_err(|_| Error::TooLong {
        what,
        length: bytes.len(),
        limit: usize::try_from(limit.into()).unwrap_or(usize::MAX),
    })
}
