//! Byte-pair merges over symbols that are ids of the vocabulary. Whether a symbol is a
//! character or a byte is up to the caller.
//!
//! The order is that of the `tokenizers` crate: of all neighbours that a merge is known for, the
//! one of the lowest rank first, of equal ranks the leftmost. Its queue also holds entries whose
//! symbols have changed since, and it drops one only if the merge that is now possible at the place
//! has another product. Nothing depends on that difference: a symbol only grows, so the text under
//! a product begins at the place and ends where it did, and once the left symbol of a pair or its
//! right one has grown, no other pair at this place covers just that text.
//!
//! # Merges that never happen
//!
//! Vocabularies that were made for another program list every pair of entries whose texts together
//! are an entry; most of these merges never happen. *A merge (l, r) that ever happens is the last
//! one when the text of l and r is merged alone.* For no merge before it crossed an end of that
//! text, or l and r would not be there; and each one within was the first in order of all, so of
//! those within too, and the text alone takes the same steps. Then l and r are all that is left of
//! it. So [`Merges::live`] merges the text of every product alone and keeps the last merge. Of
//! LLaMA-2's 61,249 merges and of Llama-3's 280,147 fewer than half stay, whose smaller table made
//! encoding 8 % faster.
//!
//! **Invariant:** [`Merges::apply`] gives the same symbols whichever of its two ways it takes.

mod avx512;
mod pairs;
mod queue;

#[cfg(target_arch = "x86_64")]
use std::collections::{HashMap, HashSet};

use super::piece::Short;
use crate::fast::merges::pairs::Pairs;
use crate::fast::merges::queue::Queue;
pub(crate) use crate::fast::merges::queue::Work;

/// Up to this many symbols the lowest rank is searched for from end to end, which is faster than a
/// heap. A bit of a word for each.
const SCAN_SYMBOLS_MAX: usize = 64;
/// Bits of a symbol's place below its rank.
const PLACE_BITS: u32 = SCAN_SYMBOLS_MAX.ilog2();
/// Number of every symbol that is in no merge.
const OUTSIDE: u32 = 0;
/// Bits that ranks have at most, so that with a place they are not negative as an `i32`.
const RANK_BITS_MAX: u32 = 24;
/// Above every rank with its place.
const NO_RANK: u32 = i32::MAX as u32;

/// All merges of a tokenizer.
///
/// Symbols have numbers of their own here, so that of a merge's rank the product's number follows
/// without a look into memory, which would be far away.
pub(crate) struct Merges {
    /// Left and right numbers, by rank.
    pairs: Pairs,
    /// Numbers of ids.
    numbers: HashMap<u32, u32>,
    /// Ids by number; 0 for `OUTSIDE`.
    ids: Vec<u32>,
    /// The product of rank r has the number `first_product + r`, ...
    first_product: u32,
    /// ... unless several merges have the same product: then it is listed here.
    products: Vec<u32>,
}

/// The symbols that bytes become, and the ranks of their pairs: of the merges of a piece most are
/// looked up for these.
pub(crate) struct Alphabet {
    ids: Box<[u32; 256]>,
    numbers: Box<[u32; 256]>,
    ranks: Box<[u32]>,
}

impl Alphabet {
    /// The symbol of a byte.
    pub(crate) fn id(&self, byte: u8) -> u32 {
        self.ids[usize::from(byte)]
    }

    /// The rank of two bytes.
    #[inline(always)]
    fn rank(&self, pair: &[u8]) -> u32 {
        self.ranks[usize::from(pair[0]) << 8 | usize::from(pair[1])]
    }
}

impl Merges {
    /// Whether so many merges of so many ids fit; a million of each do.
    pub(crate) fn fit(count: usize, ids_count: usize) -> bool {
        count < 1 << RANK_BITS_MAX && Pairs::fit(count, count + ids_count)
    }

    /// Takes `(left, right, product)` in the order of their ranks. Of two for the same pair the
    /// later one counts.
    ///
    /// # Panics
    /// If they do not [`fit`](Merges::fit).
    pub(crate) fn new(list: &[(u32, u32, u32)]) -> Merges {
        let is_product: HashSet<u32> = list.iter().map(|&(_, _, id)| id).collect();
        let (mut numbers, mut ids) = (HashMap::new(), vec![0]);
        for id in list.iter().flat_map(|&(left, right, _)| [left, right]) {
            if !is_product.contains(&id) {
                numbers.entry(id).or_insert_with(|| {
                    ids.push(id);
                    ids.len() as u32 - 1
                });
            }
        }
        let first_product = ids.len() as u32;
        ids.extend(list.iter().map(|&(_, _, id)| id));
        let products: Vec<u32> = (first_product..)
            .zip(list)
            .map(|(number, &(_, _, id))| *numbers.entry(id).or_insert(number))
            .collect();
        let pairs = list.iter().map(|(left, right, _)| (numbers[left], numbers[right]));
        let pairs = Pairs::new(&pairs.collect::<Vec<_>>(), ids.len());
        let is_plain = is_product.len() == list.len();
        let products = if is_plain { Vec::new() } else { products };
        Merges { pairs, numbers, ids, first_product, products }
    }

    /// The merges of `list` that ever happen, and perhaps some more, in their order.
    /// `first_symbols` appends the symbols that a product's text begins as; `false` if it is not
    /// known what they are.
    pub(crate) fn live(
        list: &[(u32, u32, u32)],
        first_symbols: impl Fn(u32, &mut Vec<u32>) -> bool,
    ) -> Vec<bool> {
        let merges = Merges::new(list);
        let (mut is_tried, mut is_kept) =
            (vec![false; merges.ids.len()], vec![false; merges.ids.len()]);
        let mut is_live = vec![false; list.len()];
        let (mut symbols, mut queue) = (Vec::new(), Queue::default());
        for &(_, _, id) in list {
            let number = merges.number(id) as usize;
            if std::mem::replace(&mut is_tried[number], true) {
                continue;
            }
            symbols.clear();
            if !first_symbols(id, &mut symbols) {
                is_kept[number] = true;
                continue;
            }
            let (count, last_rank) = merges.merge_alone(&symbols, &mut queue);
            if count == 1 && last_rank != merges.none() {
                is_live[last_rank as usize] = true;
            }
        }
        let kept = list.iter().map(|&(_, _, id)| is_kept[merges.number(id) as usize]);
        is_live.iter().zip(kept).map(|(is_live, is_kept)| is_live | is_kept).collect()
    }

    /// The symbols of bytes with the ranks of their pairs. A symbol that is in no merge has none.
    pub(crate) fn alphabet(&self, ids: Box<[u32; 256]>) -> Alphabet {
        let numbers = Box::new(ids.map(|id| self.number(id)));
        let pairs = numbers.iter().flat_map(|&left| numbers.map(|right| (left, right)));
        let ranks = pairs.map(|(left, right)| self.rank(left, right)).collect();
        Alphabet { ids, numbers, ranks }
    }

    /// Where a rank is expected: no merge. It is above all ranks.
    #[inline(always)]
    fn none(&self) -> u32 {
        self.pairs.count()
    }

    fn number(&self, id: u32) -> u32 {
        self.numbers.get(&id).copied().unwrap_or(OUTSIDE)
    }

    /// The number of a merge's product.
    #[inline(always)]
    fn product(&self, rank: u32) -> u32 {
        if self.products.is_empty() {
            self.first_product + rank
        } else {
            self.products[rank as usize]
        }
    }

    /// The rank of the merge of two neighbours.
    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.place(left, right)
    }

    /// How many are left of symbols, and the rank of the last merge, [`Merges::none`] if there was
    /// none.
    fn merge_alone(&self, symbols: &[u32], queue: &mut Queue) -> (u32, u32) {
        if symbols.len() <= SCAN_SYMBOLS_MAX {
            let (alive, last_rank) = self.merge_scanning(&mut self.scan(symbols), symbols.len());
            return (alive.count_ones(), last_rank);
        }
        queue.take(symbols.iter().map(|&id| self.number(id)));
        let last_rank = queue.merge(self);
        (queue.places().count() as u32, last_rank)
    }

    /// Applies every merge that can be applied to `work.symbols`. O(n log n) in the number of
    /// symbols.
    ///
    /// # Panics
    /// At 2^32 symbols or more.
    pub(crate) fn apply(&self, work: &mut Work) {
        let Work { symbols, queue } = work;
        if symbols.len() > SCAN_SYMBOLS_MAX {
            return self.apply_queueing(symbols, queue);
        }
        let mut scan = self.scan(symbols);
        let (mut rest, _) = self.merge_scanning(&mut scan, symbols.len());
        let mut kept = 0;
        while rest != 0 {
            let at = rest.trailing_zeros() as usize;
            symbols[kept] = self.id(scan.numbers[at + 1], symbols[at]);
            kept += 1;
            rest &= rest - 1;
        }
        symbols.truncate(kept);
    }

    fn apply_queueing(&self, symbols: &mut Vec<u32>, queue: &mut Queue) {
        queue.take(symbols.iter().map(|&id| self.number(id)));
        queue.merge(self);
        let mut kept = 0;
        for at in queue.places() {
            symbols[kept] = self.id(queue.numbers[at as usize], symbols[at as usize]);
            kept += 1;
        }
        symbols.truncate(kept);
    }

    /// The id of a number, or the original symbol if it is in no merge.
    #[inline(always)]
    fn id(&self, number: u32, symbol: u32) -> u32 {
        if number == OUTSIDE { symbol } else { self.ids[number as usize] }
    }

    /// At most [`SCAN_SYMBOLS_MAX`] symbols with the ranks of their pairs.
    fn scan(&self, symbols: &[u32]) -> Scan {
        let mut scan = Scan::empty();
        for (number, &symbol) in scan.numbers[1..].iter_mut().zip(symbols) {
            *number = self.number(symbol);
        }
        for at in 1..symbols.len() {
            scan.ranks[at - 1] = placed(self.rank(scan.numbers[at], scan.numbers[at + 1]), at - 1);
        }
        scan
    }

    /// Leaves in `work.symbols` what becomes of bytes, each of which has a symbol.
    pub(crate) fn apply_to_bytes(&self, alphabet: &Alphabet, bytes: &[u8], work: &mut Work) {
        let Work { symbols, queue } = work;
        symbols.clear();
        if bytes.len() > SCAN_SYMBOLS_MAX {
            queue.take(bytes.iter().map(|&byte| alphabet.numbers[usize::from(byte)]));
            queue.merge(self);
            let id = |at: u32| self.id(queue.numbers[at as usize], alphabet.id(bytes[at as usize]));
            return symbols.extend(queue.places().map(id));
        }
        let mut scan = Scan::empty();
        for (number, &byte) in scan.numbers[1..].iter_mut().zip(bytes) {
            *number = alphabet.numbers[usize::from(byte)];
        }
        for (at, pair) in bytes.windows(2).enumerate() {
            scan.ranks[at] = placed(alphabet.rank(pair), at);
        }
        let (mut rest, _) = self.merge_scanning(&mut scan, bytes.len());
        while rest != 0 {
            let at = rest.trailing_zeros() as usize;
            symbols.push(self.id(scan.numbers[at + 1], alphabet.id(bytes[at])));
            rest &= rest - 1;
        }
    }

    /// Calls `take` with the number of each piece, of at most 16 bytes, and what becomes of it, in
    /// any order.
    pub(crate) fn apply_to_all(
        &self,
        alphabet: &Alphabet,
        text: &[u8],
        pieces: &[Short],
        work: &mut Work,
        mut take: impl FnMut(usize, &[u32]),
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::detect() {
            return avx512::apply_to_all(avx512, self, alphabet, text, pieces, take);
        }
        for (index, piece) in pieces.iter().enumerate() {
            self.apply_to_bytes(alphabet, piece.of(text), work);
            take(index, &work.symbols);
        }
    }

    /// Merges the first `len` symbols of `scan`. Bit i is set if one is left at i; and the rank of
    /// the last merge, [`Merges::none`] if there was none.
    #[inline(always)]
    fn merge_scanning(&self, scan: &mut Scan, len: usize) -> (u64, u32) {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::detect() {
            return avx512::merge(avx512, self, scan, len);
        }
        self.merge_plainly(scan, len)
    }

    #[inline(always)]
    fn merge_plainly(&self, scan: &mut Scan, len: usize) -> (u64, u32) {
        // Short pieces are the most frequent by far, and the search is over all that may be.
        match len {
            0..=16 => self.merge_first::<16>(scan, len),
            17..=32 => self.merge_first::<32>(scan, len),
            _ => self.merge_first::<SCAN_SYMBOLS_MAX>(scan, len),
        }
    }

    /// Merges within the first `len` symbols, at most `MAX`, as [`Merges::merge_scanning`].
    ///
    /// A symbol that was merged into the one before stays where it is, dead and with no rank:
    /// leaving it there costs less than moving all symbols after it.
    #[inline(never)]
    fn merge_first<const MAX: usize>(&self, scan: &mut Scan, len: usize) -> (u64, u32) {
        let Scan { ranks, numbers } = scan;
        let ranks = ranks.first_chunk_mut::<MAX>().expect("MAX is at most all");
        let mut alive = first_bits(len);
        let mut last_rank = self.none();
        loop {
            // As `i32`, of which SSE2 finds the lower one faster.
            let best = ranks.iter().fold(i32::MAX, |best, &rank| best.min(rank as i32)) as u32;
            if best >> PLACE_BITS >= self.none() {
                return (alive, last_rank);
            }
            last_rank = best >> PLACE_BITS;
            let step = Step::new(alive, best);
            alive &= !(1 << step.gone);
            let number = self.product(last_rank);
            numbers[step.at + 1] = number;
            ranks[step.gone] = NO_RANK;
            ranks[step.at] = placed(self.rank(number, numbers[step.after + 1]), step.at);
            if let Some(before) = step.before.checked_sub(1) {
                ranks[before] = placed(self.rank(numbers[before + 1], number), before);
            }
        }
    }
}

/// A short word in the making: symbols, and of each the rank of its pair with the next one, above
/// its place.
struct Scan {
    ranks: [u32; SCAN_SYMBOLS_MAX],
    /// With one that is in no merge before the first and after the last.
    numbers: [u32; SCAN_SYMBOLS_MAX + 2],
}

impl Scan {
    fn empty() -> Scan {
        Scan { ranks: [NO_RANK; SCAN_SYMBOLS_MAX], numbers: [OUTSIDE; SCAN_SYMBOLS_MAX + 2] }
    }
}

/// The changes one merge of a [`Scan`] makes.
#[derive(Clone, Copy)]
struct Step {
    /// The symbol that grows.
    at: usize,
    /// The one that becomes part of it.
    gone: usize,
    /// The one after both, or [`SCAN_SYMBOLS_MAX`].
    after: usize,
    /// One more than the one before both, or 0.
    before: usize,
}

impl Step {
    /// The merge of the lowest rank, of symbols of which those in `alive` are left.
    #[inline(always)]
    fn new(alive: u64, placed_rank: u32) -> Step {
        let at = placed_rank as usize % SCAN_SYMBOLS_MAX;
        let behind = alive & u64::MAX << at << 1;
        let before = alive & ((1 << at) - 1);
        Step {
            at,
            gone: behind.trailing_zeros() as usize % SCAN_SYMBOLS_MAX,
            after: (behind & behind.wrapping_sub(1)).trailing_zeros() as usize,
            before: (u64::BITS - before.leading_zeros()) as usize,
        }
    }
}

/// The lowest `len` bits, at most 64.
#[inline(always)]
fn first_bits(len: usize) -> u64 {
    if len == 0 { 0 } else { u64::MAX >> (SCAN_SYMBOLS_MAX - len) }
}

/// A rank above a place, so that the lowest is the merge to do.
#[inline(always)]
fn placed(rank: u32, at: usize) -> u32 {
    rank << PLACE_BITS | at as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the lowest rank, then the leftmost, one merge at a time.
    fn defined(list: &[(u32, u32, u32)], mut symbols: Vec<u32>) -> Vec<u32> {
        loop {
            let rank = |left, right| list.iter().rposition(|&(l, r, _)| (l, r) == (left, right));
            let ranked = |at: usize| rank(symbols[at - 1], symbols[at]).map(|rank| (rank, at));
            let Some((rank, at)) = (1..symbols.len()).filter_map(ranked).min() else {
                return symbols;
            };
            symbols[at - 1] = list[rank].2;
            symbols.remove(at);
        }
    }

    impl Merges {
        /// Of parts of 16 bytes, in order.
        fn apply_together(&self, alphabet: &Alphabet, bytes: &[u8]) -> Vec<u32> {
            let ends = (0..bytes.len()).step_by(16);
            let pieces: Vec<Short> =
                ends.map(|at| Short::new(at, bytes.len().min(at + 16) - at)).collect();
            let mut found = vec![Vec::new(); pieces.len()];
            self.apply_to_all(alphabet, bytes, &pieces, &mut Work::default(), |index, ids| {
                found[index] = ids.to_vec();
            });
            found.concat()
        }
    }

    proptest! {
        /// Scanning, queueing and the definition agree, whatever the merges: products are new
        /// symbols, as they are if symbols represent texts.
        #[test]
        fn both_ways_give_what_the_definition_gives(
            pairs in proptest::collection::vec((0u32..12, 0u32..12), 0..24),
            symbols in proptest::collection::vec(0u32..4, 0..=SCAN_SYMBOLS_MAX),
        ) {
            let mut list: Vec<(u32, u32, u32)> = Vec::new();
            for (rank, (left, right)) in (0u32..).zip(pairs) {
                let same = list.iter().find(|&&(l, r, _)| (l, r) == (left, right));
                let id = same.map_or(4 + rank, |&(_, _, id)| id);
                list.push((left, right, id));
            }
            let merges = Merges::new(&list);
            let expected = defined(&list, symbols.clone());
            let mut scanned = Work { symbols: symbols.clone(), ..Work::default() };
            merges.apply(&mut scanned);
            prop_assert_eq!(&scanned.symbols, &expected);
            let alphabet = merges.alphabet(Box::new(std::array::from_fn(|byte| byte as u32)));
            let bytes: Vec<u8> = symbols.iter().map(|&symbol| symbol as u8).collect();
            merges.apply_to_bytes(&alphabet, &bytes, &mut scanned);
            prop_assert_eq!(&scanned.symbols, &expected);
            let all = merges.apply_together(&alphabet, &bytes);
            let one_by_one: Vec<_> = bytes.chunks(16).flat_map(|piece| {
                merges.apply_to_bytes(&alphabet, piece, &mut scanned);
                scanned.symbols.clone()
            }).collect();
            prop_assert_eq!(all, one_by_one);
            let mut scan = merges.scan(&symbols);
            let (alive, _) = merges.merge_plainly(&mut scan, symbols.len());
            let left = (0..symbols.len()).filter(|at| alive >> at & 1 != 0);
            let plain: Vec<u32> =
                left.map(|at| merges.id(scan.numbers[at + 1], symbols[at])).collect();
            prop_assert_eq!(&plain, &expected);
            let mut queued = symbols;
            merges.apply_queueing(&mut queued, &mut Queue::default());
            prop_assert_eq!(queued, expected);
        }
    }

    proptest! {
        /// A vocabulary of texts with every pair that makes one of them, in any order.
        #[test]
        fn without_the_merges_that_never_happen_all_is_the_same(
            texts in prop::collection::btree_set(prop::collection::vec(0u32..3, 2..7), 0..30),
            order in any::<u64>(),
            symbols in proptest::collection::vec(0u32..3, 0..40),
        ) {
            let texts: Vec<Vec<u32>> = (0..3).map(|symbol| vec![symbol]).chain(texts).collect();
            let id = |text: &[u32]| texts.iter().position(|other| other == text);
            let mut list: Vec<(u32, u32, u32)> = Vec::new();
            for (product, text) in (0u32..).zip(&texts) {
                for at in 1..text.len() {
                    if let (Some(left), Some(right)) = (id(&text[..at]), id(&text[at..])) {
                        list.push((left as u32, right as u32, product));
                    }
                }
            }
            list.sort_by_key(|&(left, right, _)| {
                let pair = u64::from(left) << 32 | u64::from(right);
                pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ order.rotate_left(left)
            });
            let is_live = Merges::live(&list, |id, text| {
                text.extend(&texts[id as usize]);
                true
            });
            let live = list.iter().zip(&is_live).filter(|(_, is_live)| **is_live);
            let live: Vec<_> = live.map(|(&merge, _)| merge).collect();
            prop_assert_eq!(defined(&live, symbols.clone()), defined(&list, symbols));
            prop_assert!(live.len() <= texts.len());
        }
    }

    #[test]
    fn a_million_equal_symbols_are_merged_in_a_moment() {
        let list: Vec<(u32, u32, u32)> = (0..10).map(|id| (id, id, id + 1)).collect();
        let mut work = Work { symbols: vec![0; 1_000_000], ..Work::default() };
        Merges::new(&list).apply(&mut work);
        let symbols = work.symbols;
        assert_eq!(symbols.iter().map(|&id| 1u64 << id).sum::<u64>(), 1_000_000);
        assert_eq!(symbols[..976], [10; 976]);
    }
}
