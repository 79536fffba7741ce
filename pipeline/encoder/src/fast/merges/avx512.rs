//! [`Merges::merge_first`] with AVX-512: the ranks of sixteen pairs are one register.
//!
//! The lowest of the ranks that a merge leaves alone is found while those it changes are looked up.
//! The look-up takes longer, so the search costs next to nothing. [`apply_to_all`] merges several
//! pieces in turns, one merge each, so that while one waits for memory the others proceed: a third
//! of the time of one after the other.
//!
//! **Invariant:** the same as in plain Rust, which a test compares.

use std::arch::x86_64::{
    _mm512_loadu_si512, _mm512_mask_set1_epi32, _mm512_min_epu32, _mm512_reduce_min_epu32,
    _mm512_set1_epi32, _mm512_storeu_si512,
};

use super::{
    Alphabet, Merges, NO_RANK, OUTSIDE, PLACE_BITS, SCAN_SYMBOLS_MAX, Scan, Step, first_bits,
    placed,
};
use crate::fast::piece::Short;

/// Ranks in a register.
const LANES: usize = 16;
/// Pieces that take turns; with eight it was no faster.
const TURNS: usize = 4;

/// Shows that the processor has AVX-512 and what else the functions here are compiled for.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// It, where that is so.
    #[inline]
    pub(super) fn detect() -> Option<Avx512> {
        let is_there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt");
        is_there.then_some(Avx512(()))
    }
}

/// [`Merges::merge_scanning`].
#[inline(always)]
pub(super) fn merge(_: Avx512, merges: &Merges, scan: &mut Scan, len: usize) -> (u64, u32) {
    #[expect(unsafe_code, reason = "two thirds of the time of plain Rust; just bench tokenize")]
    // SAFETY: the processor has what the functions are compiled for, as the argument shows.
    unsafe {
        match len {
            0..=16 => merge_in::<1>(merges, scan, len),
            17..=32 => merge_in::<2>(merges, scan, len),
            _ => merge_in::<4>(merges, scan, len),
        }
    }
}

/// [`Merges::apply_to_all`].
pub(super) fn apply_to_all(
    _: Avx512,
    merges: &Merges,
    alphabet: &Alphabet,
    text: &[u8],
    pieces: &[Short],
    take: impl FnMut(usize, &[u32]),
) {
    #[expect(unsafe_code, reason = "a quarter of the time of plain Rust; just bench tokenize")]
    // SAFETY: the processor has what the function is compiled for, as the argument shows.
    unsafe {
        apply_in_turns(merges, alphabet, text, pieces, take);
    }
}

/// Merges within the first `len` symbols, at most `N` registers of them.
#[target_feature(enable = "avx512f,bmi1,bmi2,lzcnt")]
fn merge_in<const N: usize>(merges: &Merges, scan: &mut Scan, len: usize) -> (u64, u32) {
    let Scan { ranks, numbers } = scan;
    let ranks = ranks.as_chunks_mut::<LANES>().0.first_chunk_mut().expect("N is at most all");
    let mut alive = first_bits(len);
    let (mut best, mut last_rank) = (lowest::<N>(ranks), merges.none());
    while best >> PLACE_BITS < merges.none() {
        last_rank = best >> PLACE_BITS;
        best = step(merges, ranks, numbers, &mut alive, best);
    }
    (alive, last_rank)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn lowest<const N: usize>(ranks: &[[u32; LANES]; N]) -> u32 {
    let mut lowest = _mm512_set1_epi32(NO_RANK as i32);
    for part in ranks {
        // SAFETY: it has as many ranks as a register.
        #[expect(unsafe_code, reason = "the way to load a register")]
        let part = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
        lowest = _mm512_min_epu32(lowest, part);
    }
    _mm512_reduce_min_epu32(lowest)
}

/// Does the merge of the lowest rank, and returns what is the lowest now. Numbers are those of
/// [`Scan`].
#[target_feature(enable = "avx512f,bmi1,bmi2,lzcnt")]
#[inline]
fn step<const N: usize, const NUMBERS: usize>(
    merges: &Merges,
    ranks: &mut [[u32; LANES]; N],
    numbers: &mut [u32; NUMBERS],
    alive: &mut u64,
    best: u32,
) -> u32 {
    let step = Step::new(*alive, best);
    *alive &= !(1 << step.gone);
    let number = merges.product(best >> PLACE_BITS);
    numbers[step.at + 1] = number;
    let at = 1u64 << step.at;
    let before = (1u64 << (step.before % SCAN_SYMBOLS_MAX)) >> 1;
    let changed = at | before | 1 << step.gone;
    let right = placed(merges.rank(number, numbers[(step.after + 1).min(NUMBERS - 1)]), step.at);
    let left = merges.rank(numbers[step.before], number);
    let left = placed(left, step.before.wrapping_sub(1) % SCAN_SYMBOLS_MAX);
    let mut lowest = _mm512_set1_epi32(NO_RANK as i32);
    for (index, lanes) in ranks.iter_mut().enumerate() {
        let part = |places: u64| (places >> (LANES * index)) as u16;
        // SAFETY: it has as many ranks as a register.
        #[expect(unsafe_code, reason = "the way to load a register")]
        let ranks = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
        let rest = _mm512_mask_set1_epi32(ranks, part(changed), NO_RANK as i32);
        lowest = _mm512_min_epu32(lowest, rest);
        let ranks = _mm512_mask_set1_epi32(rest, part(at), right as i32);
        let ranks = _mm512_mask_set1_epi32(ranks, part(before), left as i32);
        // SAFETY: it has as many ranks as a register.
        #[expect(unsafe_code, reason = "the way to store a register")]
        unsafe {
            _mm512_storeu_si512(lanes.as_mut_ptr().cast(), ranks);
        }
    }
    _mm512_reduce_min_epu32(lowest).min(right).min(left)
}

/// A piece of at most [`LANES`] bytes in the making.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lane {
    ranks: [[u32; LANES]; 1],
    /// As in [`Scan`].
    numbers: [u32; LANES + 2],
    alive: u64,
    best: u32,
    /// Which one it is.
    index: usize,
}

impl Lane {
    const EMPTY: Lane = Lane {
        ranks: [[NO_RANK; LANES]],
        numbers: [OUTSIDE; LANES + 2],
        alive: 0,
        best: NO_RANK,
        index: 0,
    };

    #[inline]
    fn start(&mut self, alphabet: &Alphabet, index: usize, bytes: &[u8]) {
        *self = Lane { alive: first_bits(bytes.len()), index, ..Lane::EMPTY };
        for (number, &byte) in self.numbers[1..].iter_mut().zip(bytes) {
            *number = alphabet.numbers[usize::from(byte)];
        }
        for ((at, pair), rank) in bytes.windows(2).enumerate().zip(&mut self.ranks[0]) {
            *rank = placed(alphabet.rank(pair), at);
            self.best = self.best.min(*rank);
        }
    }
}

#[target_feature(enable = "avx512f,bmi1,bmi2,lzcnt")]
fn apply_in_turns(
    merges: &Merges,
    alphabet: &Alphabet,
    text: &[u8],
    pieces: &[Short],
    mut take: impl FnMut(usize, &[u32]),
) {
    let mut rest = pieces.iter().map(|piece| piece.of(text)).enumerate();
    let mut lanes = [Lane::EMPTY; TURNS];
    let mut count = 0;
    while count < TURNS
        && let Some((index, piece)) = rest.next()
    {
        lanes[count].start(alphabet, index, piece);
        count += 1;
    }
    while count > 0 {
        let mut turn = 0;
        while turn < count {
            let Lane { ranks, numbers, alive, best, index } = &mut lanes[turn];
            if *best >> PLACE_BITS < merges.none() {
                *best = step(merges, ranks, numbers, alive, *best);
                turn += 1;
                continue;
            }
            let (mut ids, mut ids_count, mut left) = ([0; LANES], 0, *alive);
            let bytes = pieces[*index].of(text);
            while left != 0 {
                let at = left.trailing_zeros() as usize % LANES;
                ids[ids_count] = merges.id(numbers[at + 1], alphabet.id(bytes[at]));
                ids_count += 1;
                left &= left - 1;
            }
            take(*index, &ids[..ids_count]);
            if let Some((index, piece)) = rest.next() {
                lanes[turn].start(alphabet, index, piece);
            } else {
                count -= 1;
                lanes[turn] = lanes[count];
            }
        }
    }
}
