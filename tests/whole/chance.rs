//! All chance of a history comes from its seed: that of the plan, and that which the standard library asks of the kernel. From the latter hash
//! maps take their order, and tokio's `select!` the branch that it looks at first.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(1);

/// Begins anew, for one history in this process.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// SplitMix64, by Sebastiano Vigna.
fn next() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = STATE.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Answers in the kernel's place, for libc and all that is linked with it.
///
/// # Safety
///
/// `buffer` is valid for `length` bytes, as for the kernel's.
#[allow(unsafe_code, reason = "the standard library has no other way to be given its chance")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for at in 0..length {
        let byte = next().to_le_bytes()[0];
        // SAFETY: the caller's buffer has `length` bytes.
        unsafe { buffer.add(at).write(byte) };
    }
    length.cast_signed()
}
