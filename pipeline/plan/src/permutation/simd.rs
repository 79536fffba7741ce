//! The rounds of a Feistel network for several indexes at once.
//!
//! A permutation is a chain of dependent hashes. A round is a SipHash-1-3 of one word (Aumasson and
//! Bernstein, 2012), whose operations depend on each other, so a processor with nothing else to do
//! waits for most of them. Sixteen chains side by side are vector operations, of 512 or 256 bits
//! where the processor has them, two or four of these at a time. A network of up to 19 bits keeps
//! its rounds in a table of at most 64 KiB instead (`permutation`). Results equal those of looking
//! up one window at a time.
//!
//! **Invariant:** every lane holds the value the `siphasher` crate gives for its word.

/// Indexes turned together.
pub(super) const LANES: usize = 16;

type Lanes = [u64; LANES];

/// The state of the hash before its first word.
#[derive(Clone, Debug)]
pub(super) struct Keys([u64; 4]);

impl Keys {
    pub(super) fn new(first: u64, second: u64) -> Keys {
        Keys([
            first ^ 0x736f_6d65_7073_6575,
            second ^ 0x646f_7261_6e64_6f6d,
            first ^ 0x6c79_6765_6e65_7261,
            second ^ 0x7465_6462_7974_6573,
        ])
    }
}

/// All rounds. The left halves change in the even ones and the right halves in the odd ones, each
/// by the hash of the other half and the round's number, of which the bits of `mask` count.
pub(super) fn turn(keys: &Keys, rounds: u32, left: (&mut Lanes, u64), right: (&mut Lanes, u64)) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            #[expect(
                unsafe_code,
                reason = "a part of the time of one by one; just bench kernels"
            )]
            // SAFETY: the processor has the feature the function was compiled for.
            return unsafe { turn_avx512(keys, rounds, left, right) };
        }
        if is_x86_feature_detected!("avx2") {
            #[expect(
                unsafe_code,
                reason = "a part of the time of one by one; just bench kernels"
            )]
            // SAFETY: the processor has the feature the function was compiled for.
            return unsafe { turn_avx2(keys, rounds, left, right) };
        }
    }
    turn_plain(keys, rounds, left, right);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn turn_avx512(keys: &Keys, rounds: u32, left: (&mut Lanes, u64), right: (&mut Lanes, u64)) {
    turn_plain(keys, rounds, left, right);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn turn_avx2(keys: &Keys, rounds: u32, left: (&mut Lanes, u64), right: (&mut Lanes, u64)) {
    turn_plain(keys, rounds, left, right);
}

#[inline(always)]
fn turn_plain(
    keys: &Keys,
    rounds: u32,
    (left, left_mask): (&mut Lanes, u64),
    (right, right_mask): (&mut Lanes, u64),
) {
    for round in 0..rounds {
        let number = u64::from(round) << 32;
        if round.is_multiple_of(2) {
            change(keys, number, left, right, left_mask);
        } else {
            change(keys, number, right, left, right_mask);
        }
    }
}

#[inline(always)]
fn change(keys: &Keys, number: u64, changed: &mut Lanes, hashed: &Lanes, mask: u64) {
    let hashes = hash(keys, map(hashed, |half| number | half));
    for (half, hash) in changed.iter_mut().zip(hashes) {
        *half ^= hash & mask;
    }
}

/// SipHash-1-3 of a message of one word, little-endian.
#[inline(always)]
fn hash(keys: &Keys, words: Lanes) -> Lanes {
    /// A message ends with a word that holds its length, 8 bytes, in the highest byte.
    const END: u64 = 8 << 56;
    let mut state = keys.0.map(|word| [word; LANES]);
    state[3] = zip(&state[3], &words, |word, message| word ^ message);
    sip_round(&mut state);
    state[0] = zip(&state[0], &words, |word, message| word ^ message);
    state[3] = map(&state[3], |word| word ^ END);
    sip_round(&mut state);
    state[0] = map(&state[0], |word| word ^ END);
    state[2] = map(&state[2], |word| word ^ 0xff);
    sip_round(&mut state);
    sip_round(&mut state);
    sip_round(&mut state);
    let [a, b, c, d] = state;
    zip(&zip(&a, &b, |x, y| x ^ y), &zip(&c, &d, |x, y| x ^ y), |x, y| x ^ y)
}

#[inline(always)]
fn sip_round([a, b, c, d]: &mut [Lanes; 4]) {
    *a = zip(a, b, u64::wrapping_add);
    *b = map(b, |word| word.rotate_left(13));
    *b = zip(b, a, |x, y| x ^ y);
    *a = map(a, |word| word.rotate_left(32));
    *c = zip(c, d, u64::wrapping_add);
    *d = map(d, |word| word.rotate_left(16));
    *d = zip(d, c, |x, y| x ^ y);
    *a = zip(a, d, u64::wrapping_add);
    *d = map(d, |word| word.rotate_left(21));
    *d = zip(d, a, |x, y| x ^ y);
    *c = zip(c, b, u64::wrapping_add);
    *b = map(b, |word| word.rotate_left(17));
    *b = zip(b, c, |x, y| x ^ y);
    *c = map(c, |word| word.rotate_left(32));
}

#[inline(always)]
fn map(lanes: &Lanes, change: impl Fn(u64) -> u64) -> Lanes {
    let mut changed = [0; LANES];
    for (to, &from) in changed.iter_mut().zip(lanes) {
        *to = change(from);
    }
    changed
}

#[inline(always)]
fn zip(one: &Lanes, other: &Lanes, join: impl Fn(u64, u64) -> u64) -> Lanes {
    let mut joined = [0; LANES];
    for (to, (&x, &y)) in joined.iter_mut().zip(one.iter().zip(other)) {
        *to = join(x, y);
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    type Turn = fn(&Keys, u32, (&mut Lanes, u64), (&mut Lanes, u64));

    proptest! {
        /// Plain, 256 and 512 bits wide, against the crate.
        #[test]
        fn every_lane_is_turned_as_the_crate_hashes(
            first: u64, second: u64, rounds in 0u32..33,
            left_bits in 1u32..32, right_bits in 1u32..32,
            lefts: Lanes, rights: Lanes,
        ) {
            let (left_mask, right_mask) = ((1u64 << left_bits) - 1, (1u64 << right_bits) - 1);
            let lefts = lefts.map(|half| half & left_mask);
            let rights = rights.map(|half| half & right_mask);
            let hasher = SipHasher13::new_with_keys(first, second);
            let (mut expected_left, mut expected_right) = (lefts, rights);
            for round in 0..rounds {
                let hash = |half: u64| hasher.hash(&(u64::from(round) << 32 | half).to_le_bytes());
                for (left, right) in expected_left.iter_mut().zip(&mut expected_right) {
                    if round % 2 == 0 {
                        *left ^= hash(*right) & left_mask;
                    } else {
                        *right ^= hash(*left) & right_mask;
                    }
                }
            }
            for turn in [turn as Turn, turn_plain] {
                let (mut left, mut right) = (lefts, rights);
                let keys = Keys::new(first, second);
                turn(&keys, rounds, (&mut left, left_mask), (&mut right, right_mask));
                prop_assert_eq!((left, right), (expected_left, expected_right));
            }
        }
    }
}
