//! One target, guided by coverage, with libFuzzer: `make fuzz TARGET=tracker`.

#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls in from C")]

use std::env;
use std::sync::LazyLock;

use fastrand::Rng;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use proxypair_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    name.parse().unwrap_or_else(|error| panic!("FUZZ_TARGET: {error}"))
});

fuzz_target!(|input: &[u8]| {
    let _ = TARGET.check(input);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = Rng::with_seed(u64::from(seed));
    // libFuzzer's own mutations use the comparisons that it has seen.
    if rng.bool() {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut input = data[..size].to_vec();
    TARGET.mutate(&mut input, &mut rng);
    let size = input.len().min(max_size);
    data[..size].copy_from_slice(&input[..size]);
    size
});
