//! Each target for a set number of inputs: those that are kept, then mutations of them and of valid ones. An input that fails is made smaller and
//! written to a file; `make fuzz TARGET=… INPUT=file` runs it again.
//!
//! `FUZZ_SEED` repeats a run, `FUZZ_ITERATIONS` makes it longer or shorter, `FUZZ_INPUT` runs one file alone.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;
use std::time::Instant;

use fastrand::Rng;
use proxypair::tds::client::LOGIN_ANSWER_MAX;
use proxypair_fuzz::Target;
use proxypair_fuzz::codec::memory_of_login;

/// Inputs for each target: a few seconds without optimisation.
const ITERATIONS: u64 = 20_000;

/// Inputs that mutations start from, beside those that are kept.
const POOL: usize = 200;

/// Attempts to make a failing input smaller.
const SMALLER: u32 = 2_000;

#[test]
fn codec() {
    run(Target::Codec);
}

#[test]
fn tracker() {
    run(Target::Tracker);
}

#[test]
fn common_name() {
    run(Target::CommonName);
}

#[test]
fn what_mutations_start_from_can_be_read_to_its_end() {
    let mut rng = Rng::with_seed(1);
    for target in Target::ALL {
        for _ in 0..POOL {
            let input = target.valid(&mut rng);
            assert!(target.check(&input), "{}: {input:02x?}", target.name());
        }
    }
}

/// The smallest tokens that there are, as many as an answer to a login holds.
#[test]
fn an_answer_to_a_login_costs_a_few_times_its_size_however_many_tokens_it_has() {
    const ROW_FORMAT: &[u8] = b"\xee\x0b\0\x01\0\0\x20\0\0\0\0\x26\x04\0";
    const PARAM_FORMAT: &[u8] = b"\xec\x0b\0\x01\0\0\x20\0\0\0\0\x26\x04\0";
    let most = u64::try_from(LOGIN_ANSWER_MAX).unwrap_or(u64::MAX);
    for (format, token) in [
        (ROW_FORMAT, &b"\xd1\0"[..]),
        (PARAM_FORMAT, b"\xd7\0"),
        (b"", b"\xfd\x01\0\0\0\0\0\0\0"),
        (b"", b"\xe3\0\0"),
        (b"\xec\x02\0\0\0", b"\xd7"),
    ] {
        let mut answer = format.to_vec();
        while answer.len() + token.len() <= LOGIN_ANSWER_MAX {
            answer.extend_from_slice(token);
        }
        let used = memory_of_login(&answer);
        assert!(
            used <= 8 * most,
            "{used} bytes for {}, of tokens {token:02x?}",
            answer.len()
        );
    }
}

fn run(target: Target) {
    if let Ok(file) = env::var("FUZZ_INPUT") {
        let input = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let understood = target.check(&input);
        println!("{}: {file} holds; read to its end: {understood}", target.name());
        return;
    }
    let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let iterations = number("FUZZ_ITERATIONS").unwrap_or(ITERATIONS);
    let start = Instant::now();
    let mut rng = Rng::with_seed(seed);
    let mut pool = Vec::new();
    for (path, input) in target
        .kept()
        .unwrap_or_else(|error| panic!("{}: no kept inputs: {error}", target.name()))
    {
        attempt(target, &input, &format!("kept input {}", path.display()));
        pool.push(input);
    }
    let kept = pool.len();
    pool.extend((0..POOL).map(|_| target.valid(&mut rng)));
    for iteration in 0..iterations {
        let mut input = pool[rng.usize(..pool.len())].clone();
        target.mutate(&mut input, &mut rng);
        attempt(target, &input, &format!("FUZZ_SEED={seed}, iteration {iteration}"));
    }
    println!(
        "{}: {kept} kept inputs and {iterations} mutations in {:.1?}; FUZZ_SEED={seed}",
        target.name(),
        start.elapsed()
    );
}

fn attempt(target: Target, input: &[u8], which: &str) {
    if holds(target, input) {
        return;
    }
    let small = smaller(target, input);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target.name());
    let file = directory.join(format!("failed-{:016x}", fingerprint(&small)));
    fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    fs::write(&file, &small).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    eprintln!(
        "{which}: fails; {} of its {} bytes are enough: make fuzz TARGET={} INPUT={}",
        small.len(),
        input.len(),
        target.name(),
        file.display()
    );
    target.check(&small);
    unreachable!("the input fails no more");
}

/// Whether the property holds, quietly.
fn holds(target: Target, input: &[u8]) -> bool {
    thread_local!(static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| target.check(input)));
    QUIET.set(false);
    result.is_ok()
}

/// Takes parts away for as long as it fails without them.
fn smaller(target: Target, input: &[u8]) -> Vec<u8> {
    let mut small = input.to_vec();
    let mut length = small.len() / 2;
    let mut attempts = 0;
    while length > 0 {
        let mut at = 0;
        while at < small.len() && attempts < SMALLER {
            let mut candidate = small.clone();
            candidate.drain(at..(at + length).min(small.len()));
            attempts += 1;
            if holds(target, &candidate) {
                at += length;
            } else {
                small = candidate;
            }
        }
        length /= 2;
    }
    small
}

fn fingerprint(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{variable}={value}: {error}")),
    )
}
