//! What passes through a session: TDS, whose messages are known, or a probe's own TLS, of which only record headers can be read.
//!
//! Records tell less than packets (RFC 8446, 5.1; the same in TLS 1.2):
//!
//! - Who spoke last is known, and TDS is half duplex: after bytes of the client an answer is due. After bytes of the server the answer may
//!   or may not be complete, so a drain waits for a quiet moment ([`Outstanding::Unsure`]).
//! - The first record of application data counts as the login. In TLS 1.3 that is the end of the handshake already.

use super::metrics::Refusal;
use super::tracker::{Malformed, Outstanding, Tracker};
use crate::tds::packet::{HEADER_LEN, Header, PacketType};

/// The major version that all versions of TLS show.
const MAJOR: u8 = 3;

/// Length of a record's header in bytes.
const RECORD_HEADER: usize = 5;

/// Longest record in bytes, without its header: that of TLS 1.2.
const LONGEST_RECORD: u16 = (1 << 14) + 2048;

/// What a probe may speak, after the TLS that the gate itself ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// TDS.
    Tds,
    /// TLS, because the server behind speaks it.
    Tls,
    /// Either, as the server behind likes it.
    Either,
}

/// What one session carries.
#[derive(Debug)]
pub enum Passing {
    /// TDS.
    Tds(Tracker),
    /// TLS that passes through.
    Tls(Records),
}

/// Bytes that are not what the session carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
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

impl Passing {
    /// Tells by a client's first bytes what it speaks. None as long as more are needed.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn begin(first: &[u8], accepts: Accepts) -> Result<Option<Self>, Refusal> {
        if first.starts_with(&[HANDSHAKE, MAJOR]) {
            return match accepts {
                Accepts::Tds => Err(Refusal::Tls),
                Accepts::Tls | Accepts::Either => Ok(Some(Self::Tls(Records::default()))),
            };
        }
        let Some(header) = first.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        match (Header::decode(*header), accepts) {
            (Ok(header), Accepts::Tls) if header.kind == PacketType::LOGIN => Err(Refusal::Plain),
            (Ok(header), _) if header.kind == PacketType::LOGIN => Ok(Some(Self::Tds(Tracker::default()))),
            _ => Err(Refusal::NotLogin),
        }
    }

    /// Takes bytes that the client sent. Returns how many messages they completed.
    ///
    /// # Errors
    ///
    /// [`Broken`]: the stream has no boundaries any more, drop the session.
    pub fn client(&mut self, bytes: &[u8]) -> Result<u32, Broken> {
        match self {
            Self::Tds(tracker) => Ok(tracker.client(bytes)?),
            Self::Tls(records) => Ok(records.client(bytes)?),
        }
    }

    /// Takes bytes that the server sent; `is_first` when it has sent none before.
    ///
    /// # Errors
    ///
    /// [`Broken::Server`].
    pub fn upstream(&mut self, bytes: &[u8], is_first: bool) -> Result<(), Broken> {
        match self {
            // No response begins like this: its first byte would be 4. The first piece of a stream may be one byte long, and is let pass then.
            Self::Tds(_) if is_first && matches!(bytes, [ALERT | HANDSHAKE, MAJOR, ..]) => Err(Broken::Server),
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

/// A header that is none of a TLS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a TLS record of type {kind}, version {major}, with {length} bytes")]
pub struct NotARecord {
    /// Its type.
    pub kind: u8,
    /// Its major version.
    pub major: u8,
    /// Its length in bytes.
    pub length: u16,
}

/// The records of a client.
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
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut out = vec![kind, 3, 3, high, low];
        out.resize(out.len() + usize::from(length), 0xab);
        out
    }

    fn tls() -> Passing {
        Passing::begin(&[22, 3, 1], Accepts::Either).unwrap().unwrap()
    }

    #[test]
    fn tells_by_the_first_bytes_what_a_probe_speaks() {
        let login = [2, 0, 2, 0, 0, 0, 0, 0];
        let hello = [22, 3, 1];
        let refused = |first: &[u8], accepts| Passing::begin(first, accepts).unwrap_err();
        assert_eq!(refused(&hello, Accepts::Tds), Refusal::Tls);
        assert_eq!(refused(&login, Accepts::Tls), Refusal::Plain);
        for accepts in [Accepts::Tds, Accepts::Tls, Accepts::Either] {
            assert_eq!(refused(b"GET / HTTP/1.1\r\n", accepts), Refusal::NotLogin);
            assert!(Passing::begin(&login[..7], accepts).unwrap().is_none());
            assert!(Passing::begin(&hello[..1], accepts).unwrap().is_none());
        }
        assert!(matches!(
            Passing::begin(&login, Accepts::Either),
            Ok(Some(Passing::Tds(_)))
        ));
        assert!(matches!(
            Passing::begin(&login, Accepts::Tds),
            Ok(Some(Passing::Tds(_)))
        ));
        assert!(matches!(
            Passing::begin(&hello, Accepts::Tls),
            Ok(Some(Passing::Tls(_)))
        ));
    }

    #[test]
    fn an_answer_is_due_after_each_word_of_the_client_and_complete_after_a_quiet_moment_at_best() {
        let mut passing = tls();
        assert_eq!(passing.client(&record(22, 300)), Ok(0));
        assert_eq!(passing.outstanding(), Outstanding::Request);
        passing.upstream(&record(22, 900), true).unwrap();
        assert_eq!(passing.outstanding(), Outstanding::Unsure);
        assert_eq!(passing.client(&record(23, 40)[..6]), Ok(0));
        assert!(passing.is_client_mid_message());
        assert_eq!(passing.outstanding(), Outstanding::Request);
        assert_eq!(passing.client(&record(23, 40)[6..]), Ok(1));
        assert_eq!(passing.outstanding(), Outstanding::Request);
        passing.upstream(&[23], false).unwrap();
        assert_eq!(passing.outstanding(), Outstanding::Unsure);
        // A close notification asks for nothing.
        passing.client(&record(21, 2)).unwrap();
        assert_eq!(passing.outstanding(), Outstanding::Unsure);
    }

    #[test]
    fn a_server_that_answers_plain_tds_with_tls_is_told_at_its_first_bytes() {
        let plain = || Passing::Tds(Tracker::default());
        assert_eq!(plain().upstream(&record(21, 2), true), Err(Broken::Server));
        assert_eq!(plain().upstream(&record(21, 2), false), Ok(()));
        assert_eq!(plain().upstream(&[4, 1, 0, 8, 0, 0, 0, 0], true), Ok(()));
        assert_eq!(tls().upstream(&record(22, 2), true), Ok(()));
    }

    #[test]
    fn what_is_no_record_ends_the_session() {
        for header in [[2, 3, 3, 0, 1], [25, 3, 3, 0, 1], [23, 2, 3, 0, 1], [23, 3, 3, 0x48, 1]] {
            let mut passing = tls();
            assert!(matches!(passing.client(&header), Err(Broken::Tls(_))), "{header:?}");
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
            let mut passing = tls();
            let mut left = &bytes[..];
            let mut completed = 0;
            for cut in cuts.iter().cycle() {
                let (now, later) = left.split_at((*cut).min(left.len()));
                completed += passing.client(now).unwrap();
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            let expected = records.iter().filter(|(kind, _)| *kind == APPLICATION_DATA).count();
            prop_assert_eq!(completed as usize, expected);
            prop_assert!(!passing.is_client_mid_message());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _read = tls().client(&bytes);
            let _begun = Passing::begin(&bytes, Accepts::Either);
        }
    }
}
