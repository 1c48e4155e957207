//! Damage that knows nothing of the format, but what often hurts: lengths that lie, bytes that are missing, doubled or at their limits.

use std::ops::Range;

use fastrand::Rng;

const LIMITS_8: [u8; 8] = [0, 1, 7, 8, 0x7f, 0x80, 0xfe, 0xff];
const LIMITS_16: [u16; 8] = [0, 1, 7, 8, 0xff, 0x100, 0x7fff, 0xffff];
const LIMITS_32: [u32; 6] = [0, 1, 0xffff, 0x0100_0000, 0x7fff_ffff, 0xffff_ffff];

/// Damages one place.
pub fn damage(input: &mut Vec<u8>, rng: &mut Rng) {
    if input.is_empty() {
        input.push(rng.u8(..));
        return;
    }
    let at = rng.usize(..input.len());
    match rng.u8(..10) {
        0 => input[at] ^= 1 << rng.u8(..8),
        1 => input[at] = rng.u8(..),
        2 => input[at] = pick(&LIMITS_8, rng),
        3 => input[at] = input[at].wrapping_add(rng.u8(..5)).wrapping_sub(2),
        4 => {
            let value = pick(&LIMITS_16, rng);
            overwrite(input, at, &in_some_order(value.to_le_bytes(), rng));
        }
        5 => {
            let value = pick(&LIMITS_32, rng);
            overwrite(input, at, &in_some_order(value.to_le_bytes(), rng));
        }
        6 => input.insert(at, rng.u8(..)),
        7 => {
            input.drain(range(input, rng));
        }
        8 => {
            let copy = input[range(input, rng)].to_vec();
            input.splice(at..at, copy);
        }
        _ => input.truncate(at),
    }
}

/// Puts a part of `other` into `input`, or in the place of a part.
pub fn splice(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let part = other[range(other, rng)].to_vec();
    let at = rng.usize(..=input.len());
    let end = if rng.bool() {
        at
    } else {
        (at + part.len()).min(input.len())
    };
    input.splice(at..end, part);
}

fn pick<T: Copy>(values: &[T], rng: &mut Rng) -> T {
    values[rng.usize(..values.len())]
}

fn in_some_order<const N: usize>(mut bytes: [u8; N], rng: &mut Rng) -> [u8; N] {
    if rng.bool() {
        bytes.reverse();
    }
    bytes
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in input[at..].iter_mut().zip(bytes) {
        *place = *byte;
    }
}

fn range(bytes: &[u8], rng: &mut Rng) -> Range<usize> {
    let start = rng.usize(..=bytes.len());
    let end = rng.usize(start..=bytes.len());
    // Mostly short ones: one field, one token.
    start..if rng.bool() { end.min(start + 16) } else { end }
}
