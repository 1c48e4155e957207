//! What ProxyPair reads from strangers, under fuzzing: the TDS codec, the gate's message tracker, and certificates.
//!
//! A target is an input of bytes, a property that panics when it does not hold, and a mutation that knows what valid inputs look like.
//! `tests/fuzz.rs` runs each for a set number of inputs; `tests/guided.rs` runs one for as long as it is left alone, guided by coverage.

pub mod codec;
pub mod common_name;
mod generate;
mod havoc;
pub mod tracker;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fastrand::Rng;

/// Longest input in bytes that is made.
pub const LONGEST: usize = 4096;

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The TDS codec: packets, logins, requests and answers.
    Codec,
    /// The gate's message tracker.
    Tracker,
    /// What is read from a certificate to compare its Common Name.
    CommonName,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 3] = [Self::Codec, Self::Tracker, Self::CommonName];

    /// Its name on a command line and among the kept inputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Codec => "codec",
            Self::Tracker => "tracker",
            Self::CommonName => "common_name",
        }
    }

    /// Whether the input could be read to its end. Panics if the property does not hold for it.
    pub fn check(self, input: &[u8]) -> bool {
        match self {
            Self::Codec => codec::check(input),
            Self::Tracker => tracker::check(input),
            Self::CommonName => common_name::check(input),
        }
    }

    /// A valid input.
    #[must_use]
    pub fn valid(self, rng: &mut Rng) -> Vec<u8> {
        match self {
            Self::Codec => generate::codec_input(rng),
            Self::Tracker => generate::tracker_input(rng),
            Self::CommonName => common_name::certificate(rng),
        }
    }

    /// Makes an input out of another: something valid in its place, a part of something valid in it, or damage.
    pub fn mutate(self, input: &mut Vec<u8>, rng: &mut Rng) {
        match rng.u8(..8) {
            0 => *input = self.valid(rng),
            1 | 2 => {
                let other = self.valid(rng);
                havoc::splice(input, &other, rng);
            }
            _ => {}
        }
        for _ in 0..rng.u8(..6) {
            havoc::damage(input, rng);
        }
        input.truncate(LONGEST);
    }

    /// The inputs in the repository that once led to new code.
    ///
    /// # Errors
    ///
    /// Those of reading the directory.
    pub fn kept(self) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name());
        let mut kept = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let input = fs::read(&path)?;
            kept.push((path, input));
        }
        kept.sort();
        Ok(kept)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|target| target.name() == name);
        found.ok_or_else(|| format!("no target {name:?}, but {:?}", Self::ALL.map(Self::name)))
    }
}

/// Panics if `read` holds more memory at a time than inputs of this length may cost: so many bytes for each of theirs, and a few more.
fn within_memory(input: &[u8], bytes_per_byte: u64, read: impl FnOnce()) {
    within_memory_beside(4096, input, bytes_per_byte, read);
}

/// The same, beside `fixed` bytes that it costs whatever the input is.
fn within_memory_beside(fixed: u64, input: &[u8], bytes_per_byte: u64, read: impl FnOnce()) {
    let used = allocation_counter::measure(read);
    let limit = bytes_per_byte * u64::try_from(input.len()).unwrap_or(u64::MAX) + fixed;
    assert!(
        used.bytes_max <= limit,
        "{} bytes of memory for {} bytes of input",
        used.bytes_max,
        input.len()
    );
}
