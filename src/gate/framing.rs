//! Message boundaries in a session: those of TDS, or of a probe's own TLS, of which only record headers can be read.
//!
//! TLS records contain less information than TDS packets (RFC 8446, 5.1; the same in TLS 1.2):
//!
//! - They show which end sent last, and TDS is half duplex: after bytes of the client an answer is due. After bytes of the server the answer
//!   may or may not be complete, so a drain waits until the session was quiet for a while ([`Outstanding::Unsure`]).
//! - The first record of application data counts as the login. In TLS 1.3 that is already the end of the handshake.

use super::{
    metrics::RefusalReason,
    tracker::{Malformed, Outstanding, Tracker},
};
use crate::tds::packet::{HEADER_LEN, Header, PacketType};

/// The major version in the records of every version of TLS.
const MAJOR: u8 = 3;

/// Length of a record's header in bytes.
const RECORD_HEADER: usize = 5;

/// Longest record in bytes, without its header: the limit of TLS 1.2, which is above that of 1.3.
const LONGEST_RECORD: u16 = (1 << 14) + 2048;

/// The protocols that a probe may speak, inside TLS if the gate ends TLS itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// TDS.
    Tds,
    /// TLS only, because the ObjectServer speaks it.
    Tls,
    /// Either. The ObjectServer decides.
    Either,
}

/// The message boundaries of one session.
#[derive(Debug)]
pub enum Framing {
    /// The session carries TDS.
    Tds(Tracker),
    /// The session carries TLS that passes through.
    Tls(Records),
}

/// Bytes of a protocol other than the session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Not TDS.
    #[error(transparent)]
    Tds(#[from] Malformed),
    /// Not TLS.
    #[error(transparent)]
    Tls(#[from] NotARecord),
    /// The server answers plain TDS with TLS.
    #[error("the server speaks TLS")]
    Server,
}

impl Framing {
    /// Detects the protocol from the first bytes of a client. `None` while more bytes are needed.
    ///
    /// # Errors
    ///
    /// Why the client is refused.
    pub fn detect(first: &[u8], accepts: Accepts) -> Result<Option<Self>, RefusalReason> {
        if first.starts_with(&[HANDSHAKE, MAJOR]) {
            return match accepts {
                Accepts::Tds => Err(RefusalReason::Tls),
                Accepts::Tls | Accepts::Either => Ok(Some(Self::Tls(Records::default()))),
            };
        }
        let Some(header) = first.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        match (Header::decode(*header), accepts) {
            (Ok(header), Accepts::Tls) if header.kind == PacketType::LOGIN => Err(RefusalReason::Plain),
            (Ok(header), _) if header.kind == PacketType::LOGIN => Ok(Some(Self::Tds(Tracker::default()))),
            _ => Err(RefusalReason::NotLogin),
        }
    }

    /// Reads bytes that the client sent. Returns how many messages they completed.
    ///
    /// # Errors
    ///
    /// [`FramingError`]: the boundaries are lost, so the session must be closed.
    pub fn client(&mut self, bytes: &[u8]) -> Result<u32, FramingError> {
        match self {
            Self::Tds(tracker) => Ok(tracker.client(bytes)?),
            Self::Tls(records) => Ok(records.client(bytes)?),
        }
    }

    /// Reads bytes that the server sent; `is_first` if it has sent none before.
    ///
    /// # Errors
    ///
    /// [`FramingError::Server`].
    pub fn upstream(&mut self, bytes: &[u8], is_first: bool) -> Result<(), FramingError> {
        match self {
            // The first byte of a TDS response is 4. If the first read returns a single byte, TLS goes undetected.
            Self::Tds(_) if is_first && matches!(bytes, [ALERT | HANDSHAKE, MAJOR, ..]) => Err(FramingError::Server),
            Self::Tds(tracker) => {
                tracker.upstream(bytes);
                Ok(())
            }
            Self::Tls(records) => {
                records.is_answer_due = false;
                Ok(())
            }
        }
    }

    /// Whether the session could be closed now.
    #[must_use]
    pub fn outstanding(&self) -> Outstanding {
        match self {
            Self::Tds(tracker) => tracker.outstanding(),
            Self::Tls(records) if records.is_answer_due || records.is_mid_record() => Outstanding::Request,
            Self::Tls(_) => Outstanding::Unsure,
        }
    }

    /// Whether the client has begun a message, or a record, and not ended it.
    #[must_use]
    pub fn is_client_mid_message(&self) -> bool {
        match self {
            Self::Tds(tracker) => tracker.is_client_mid_message(),
            Self::Tls(records) => records.is_mid_record(),
        }
    }
}

/// A header that is not that of a TLS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a TLS record of type {kind}, version {major}, with {length} bytes")]
pub struct NotARecord {
    /// Record type.
    pub kind: u8,
    /// Major version.
    pub major: u8,
    /// Length in bytes, without the header.
    pub length: u16,
}

/// The TLS records of a client.
#[derive(Debug, Default)]
pub struct Records {
    header: [u8; RECORD_HEADER],
    header_filled: usize,
    missing: usize,
    is_answer_due: bool,
}

/// Types of records (RFC 8446, B.1), and heartbeat (RFC 6520).
const KNOWN: std::ops::RangeInclusive<u8> = 20..=24;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

impl Records {
    fn client(&mut self, mut bytes: &[u8]) -> Result<u32, NotARecord> {
        let mut completed = 0_u32;
        loop {
            let taken = self.missing.min(bytes.len());
            bytes = &bytes[taken..];
            self.missing -= taken;
            if self.missing > 0 {
                return Ok(completed);
            }
            if self.header_filled == RECORD_HEADER {
                self.header_filled = 0;
                self.is_answer_due |= self.header[0] != ALERT;
                completed = completed.saturating_add(u32::from(self.header[0] == APPLICATION_DATA));
            }
            if bytes.is_empty() {
                return Ok(completed);
            }
            let room = &mut self.header[self.header_filled..];
            let taken = room.len().min(bytes.len());
            room[..taken].copy_from_slice(&bytes[..taken]);
            self.header_filled += taken;
            bytes = &bytes[taken..];
            if self.header_filled < RECORD_HEADER {
                return Ok(completed);
            }
            let [kind, major, _, high, low] = self.header;
            let length = u16::from_be_bytes([high, low]);
            if !KNOWN.contains(&kind) || major != MAJOR || length > LONGEST_RECORD {
                return Err(NotARecord { kind, major, length });
            }
            self.missing = usize::from(length);
        }
    }

    const fn is_mid_record(&self) -> bool {
        self.header_filled > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut out = vec![kind, 3, 3, high, low];
        out.resize(out.len() + usize::from(length), 0xab);
        out
    }

    fn tls() -> Framing {
        Framing::detect(&[22, 3, 1], Accepts::Either).unwrap().unwrap()
    }

    #[test]
    fn detects_the_protocol_from_the_first_bytes() {
        let login = [2, 0, 2, 0, 0, 0, 0, 0];
        let hello = [22, 3, 1];
        let refused = |first: &[u8], accepts| Framing::detect(first, accepts).unwrap_err();
        assert_eq!(refused(&hello, Accepts::Tds), RefusalReason::Tls);
        assert_eq!(refused(&login, Accepts::Tls), RefusalReason::Plain);
        for accepts in [Accepts::Tds, Accepts::Tls, Accepts::Either] {
            assert_eq!(refused(b"GET / HTTP/1.1\r\n", accepts), RefusalReason::NotLogin);
            assert!(Framing::detect(&login[..7], accepts).unwrap().is_none());
            assert!(Framing::detect(&hello[..1], accepts).unwrap().is_none());
        }
        assert!(matches!(
            Framing::detect(&login, Accepts::Either),
            Ok(Some(Framing::Tds(_)))
        ));
        assert!(matches!(
            Framing::detect(&login, Accepts::Tds),
            Ok(Some(Framing::Tds(_)))
        ));
        assert!(matches!(
            Framing::detect(&hello, Accepts::Tls),
            Ok(Some(Framing::Tls(_)))
        ));
    }

    #[test]
    fn an_answer_is_due_after_each_record_of_the_client_and_never_surely_complete() {
        let mut framing = tls();
        assert_eq!(framing.client(&record(22, 300)), Ok(0));
        assert_eq!(framing.outstanding(), Outstanding::Request);
        framing.upstream(&record(22, 900), true).unwrap();
        assert_eq!(framing.outstanding(), Outstanding::Unsure);
        assert_eq!(framing.client(&record(23, 40)[..6]), Ok(0));
        assert!(framing.is_client_mid_message());
        assert_eq!(framing.outstanding(), Outstanding::Request);
        assert_eq!(framing.client(&record(23, 40)[6..]), Ok(1));
        assert_eq!(framing.outstanding(), Outstanding::Request);
        framing.upstream(&[23], false).unwrap();
        assert_eq!(framing.outstanding(), Outstanding::Unsure);
        // A close notification asks for nothing.
        framing.client(&record(21, 2)).unwrap();
        assert_eq!(framing.outstanding(), Outstanding::Unsure);
    }

    #[test]
    fn a_server_that_answers_plain_tds_with_tls_is_detected_at_its_first_bytes() {
        let plain = || Framing::Tds(Tracker::default());
        assert_eq!(plain().upstream(&record(21, 2), true), Err(FramingError::Server));
        assert_eq!(plain().upstream(&record(21, 2), false), Ok(()));
        assert_eq!(plain().upstream(&[4, 1, 0, 8, 0, 0, 0, 0], true), Ok(()));
        assert_eq!(tls().upstream(&record(22, 2), true), Ok(()));
    }

    #[test]
    fn bytes_that_are_no_record_end_the_session() {
        for header in [[2, 3, 3, 0, 1], [25, 3, 3, 0, 1], [23, 2, 3, 0, 1], [23, 3, 3, 0x48, 1]] {
            let mut framing = tls();
            assert!(
                matches!(framing.client(&header), Err(FramingError::Tls(_))),
                "{header:?}"
            );
        }
        assert_eq!(tls().client(&record(23, LONGEST_RECORD)), Ok(1));
        assert_eq!(tls().client(&record(23, 0)), Ok(1));
    }

    proptest! {
        #[test]
        fn records_are_the_same_however_they_are_cut(
            records in prop::collection::vec((20_u8..=24, 0_u16..400), 1..20),
            cuts in prop::collection::vec(1_usize..50, 1..40),
        ) {
            let bytes: Vec<_> = records.iter().flat_map(|(kind, length)| record(*kind, *length)).collect();
            let mut framing = tls();
            let mut left = &bytes[..];
            let mut completed = 0;
            for cut in cuts.iter().cycle() {
                let (now, later) = left.split_at((*cut).min(left.len()));
                completed += framing.client(now).unwrap();
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            let expected = records.iter().filter(|(kind, _)| *kind == APPLICATION_DATA).count();
            prop_assert_eq!(completed as usize, expected);
            prop_assert!(!framing.is_client_mid_message());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _read = tls().client(&bytes);
            let _begun = Framing::detect(&bytes, Accepts::Either);
        }
    }
}
