//! Byte-pair merges over symbols that are ids of the vocabulary; what a symbol stands for, a character or a byte, is the caller's.
//!
//! The order is that of the `tokenizers` crate: of all neighbours that a merge is known for, the one of the lowest rank
//! first, of equal ranks the leftmost. Its queue also holds entries whose symbols have changed since, and it drops one
//! only if the merge that is now possible at the place has another product. Nothing depends on that difference: a
//! symbol only grows, so the text under a product begins at the place and ends where it did, and once the left symbol
//! of a pair or its right one has grown, no other pair at this place covers just that text.
//!
//! # Merges that never happen
//!
//! Vocabularies that were made for another program list every pair of entries whose texts together are an entry; most of
//! these merges never happen. *A merge (l, r) that ever happens is the last one when the text of l and r is merged
//! alone.* For no merge before it crossed an end of that text, or l and r would not be there; and each one within was
//! the first in order of all, so of those within too, and the text alone takes the same steps. Then l and r are all that
//! is left of it. So [`Merges::live`] merges the text of every product alone and keeps the last merge. Of LLaMA-2's 61,249
//! merges 29,612 stay, of Llama-3's 280,147 127,033, whose smaller table made encoding 8 % faster.
//!
//! **Invariant:** [`Merges::apply`] gives the same symbols whichever of its two ways it takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pieces::Work;
use super::table::prefetch;

/// Up to this many symbols the lowest rank is searched for from end to end, which is faster than a heap. A bit of a
/// word for each.
const SCAN_SYMBOLS_MAX: usize = 64;
/// Bits of a symbol's place below its rank.
const PLACE_BITS: u32 = SCAN_SYMBOLS_MAX.ilog2();
/// No merge, where a rank is expected; a rank above a place is smaller too.
const NONE: u32 = i32::MAX as u32;
/// No merge, where a slot is expected: above all of them.
const EMPTY: u64 = u64::MAX;
/// Bits of the filter for each merge.
const FILTER_BITS_PER_MERGE: usize = 16;

/// All merges of a tokenizer: an open-addressed table, half full, behind a filter.
///
/// Most pairs that are asked for have no merge. A bit for each hash says so for nearly all of them, from a small part
/// of the table's memory, which stays closer to a core.
pub(crate) struct Merges {
    /// Left, right and rank in one number, `EMPTY` where there is none.
    slots: Vec<u64>,
    id_bits: u32,
    rank_bits: u32,
    filter: Vec<u64>,
    /// By rank.
    products: Vec<u32>,
}

/// The symbols that bytes become, and the ranks of their pairs: of the merges of a piece most are looked up for these.
pub(crate) struct Alphabet {
    ids: Box<[u32; 256]>,
    ranks: Box<[u32]>,
}

impl Alphabet {
    /// The symbol of a byte.
    pub(crate) fn id(&self, byte: u8) -> u32 {
        self.ids[usize::from(byte)]
    }
}

impl Merges {
    /// Whether so many merges of ids up to `largest_id` fit; 2^21 of each do.
    pub(crate) fn fit(count: usize, largest_id: u32) -> bool {
        let rank_bits = bits(count as u64);
        rank_bits + PLACE_BITS < 31 && 2 * bits(u64::from(largest_id)) + rank_bits < 64
    }

    /// Takes `(left, right, product)` in the order of their ranks. Of two for the same pair the later one counts.
    ///
    /// # Panics
    /// If they do not [`fit`](Merges::fit).
    pub(crate) fn new(list: &[(u32, u32, u32)]) -> Merges {
        let largest_id = list.iter().map(|&(left, right, _)| left.max(right)).max().unwrap_or(0);
        assert!(Merges::fit(list.len(), largest_id), "{} merges, ids to {largest_id}", list.len());
        let filter_words = (list.len() * FILTER_BITS_PER_MERGE).div_ceil(64).max(1);
        let mut merges = Merges {
            slots: vec![EMPTY; (list.len() * 2).max(1)],
            id_bits: bits(u64::from(largest_id)),
            rank_bits: bits(list.len() as u64),
            filter: vec![0; filter_words],
            products: list.iter().map(|&(_, _, id)| id).collect(),
        };
        for (rank, &(left, right, _)) in (0u64..).zip(list) {
            let hash = hash(left, right);
            let (at, _) = merges.look_up(left, right, hash);
            merges.slots[at] = merges.key(left, right) << merges.rank_bits | rank;
            let bit = merges.filter_bit(hash);
            merges.filter[bit / 64] |= 1 << (bit % 64);
        }
        merges
    }

    /// The merges of `list` that ever happen, and perhaps some more, in their order. `first_symbols` appends the symbols
    /// that a product's text begins as; `false` if it is not known what they are.
    pub(crate) fn live(
        list: &[(u32, u32, u32)],
        first_symbols: impl Fn(u32, &mut Vec<u32>) -> bool,
    ) -> Vec<bool> {
        let merges = Merges::new(list);
        let largest_id = list.iter().map(|&(_, _, id)| id).max().unwrap_or(0);
        let mut is_tried = vec![false; largest_id as usize + 1];
        let mut is_live = vec![false; list.len()];
        let (mut is_kept, mut symbols) = (vec![false; largest_id as usize + 1], Vec::new());
        for &(_, _, id) in list {
            if std::mem::replace(&mut is_tried[id as usize], true) {
                continue;
            }
            symbols.clear();
            if !first_symbols(id, &mut symbols) || symbols.len() > SCAN_SYMBOLS_MAX {
                is_kept[id as usize] = true;
                continue;
            }
            let mut scan = merges.scan(&symbols);
            let (alive, last_rank) =
                merges.merge_first::<SCAN_SYMBOLS_MAX>(&mut scan, symbols.len());
            if alive == 1 && last_rank != NONE {
                is_live[last_rank as usize] = true;
            }
        }
        let kept = list.iter().map(|&(_, _, id)| is_kept[id as usize]);
        is_live.iter().zip(kept).map(|(is_live, is_kept)| is_live | is_kept).collect()
    }

    /// The symbols of bytes with the ranks of their pairs. A symbol that is in no merge has none.
    pub(crate) fn alphabet(&self, ids: Box<[u32; 256]>) -> Alphabet {
        let pairs = ids.iter().flat_map(|&left| ids.iter().map(move |&right| (left, right)));
        let ranks = pairs.map(|(left, right)| self.rank(left, right)).collect();
        Alphabet { ids, ranks }
    }

    #[inline]
    fn key(&self, left: u32, right: u32) -> u64 {
        u64::from(left) << self.id_bits | u64::from(right)
    }

    #[inline]
    fn filter_bit(&self, hash: u64) -> usize {
        scaled(hash, self.filter.len() * 64)
    }

    /// The slot of the pair, or the empty one where it would stand, and its rank.
    #[inline(always)]
    fn look_up(&self, left: u32, right: u32, hash: u64) -> (usize, u32) {
        let key = self.key(left, right);
        let mut at = scaled(hash, self.slots.len());
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return (at, NONE);
            }
            if slot >> self.rank_bits == key {
                return (at, (slot - (key << self.rank_bits)) as u32);
            }
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
    }

    /// The rank of the merge of two neighbours, `NONE` where there is none.
    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> u32 {
        let hash = hash(left, right);
        let bit = self.filter_bit(hash);
        // Both are looked at more often than not, and neither is close by: 1 to 2 % of encoding.
        prefetch(&self.slots[scaled(hash, self.slots.len())]);
        // A symbol that no merge knows may have more bits than a key has room for.
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 || (left | right) >> self.id_bits != 0 {
            return NONE;
        }
        self.look_up(left, right, hash).1
    }

    /// Applies every merge that can be applied to `work.symbols`. O(n log n) in the number of symbols.
    ///
    /// # Panics
    /// At 2^32 symbols or more.
    pub(crate) fn apply(&self, work: &mut Work) {
        let Work { symbols, queue } = work;
        let len = symbols.len();
        if len > SCAN_SYMBOLS_MAX {
            return self.apply_queueing(symbols, queue);
        }
        let mut scan = self.scan(symbols);
        symbols.clear();
        self.apply_scanning(&mut scan, len, symbols);
    }

    /// At most [`SCAN_SYMBOLS_MAX`] symbols with the ranks of their pairs.
    fn scan(&self, symbols: &[u32]) -> Scan {
        let mut scan = Scan::empty();
        scan.symbols[..symbols.len()].copy_from_slice(symbols);
        for (at, pair) in symbols.windows(2).enumerate() {
            scan.ranks[at] = placed(self.rank(pair[0], pair[1]), at);
        }
        scan
    }

    /// Leaves in `work.symbols` what becomes of bytes, each of which has a symbol.
    pub(crate) fn apply_to_bytes(&self, alphabet: &Alphabet, bytes: &[u8], work: &mut Work) {
        let Work { symbols, queue } = work;
        symbols.clear();
        if bytes.len() > SCAN_SYMBOLS_MAX {
            symbols.extend(bytes.iter().map(|&byte| alphabet.id(byte)));
            return self.apply_queueing(symbols, queue);
        }
        let mut scan = Scan::empty();
        for (symbol, &byte) in scan.symbols.iter_mut().zip(bytes) {
            *symbol = alphabet.id(byte);
        }
        for (at, pair) in bytes.windows(2).enumerate() {
            let pair = usize::from(pair[0]) << 8 | usize::from(pair[1]);
            scan.ranks[at] = placed(alphabet.ranks[pair], at);
        }
        self.apply_scanning(&mut scan, bytes.len(), symbols);
    }

    /// Merges the first `len` symbols of `scan` and appends what is left of them to `symbols`.
    #[inline(always)]
    fn apply_scanning(&self, scan: &mut Scan, len: usize, symbols: &mut Vec<u32>) {
        // Short pieces are the most frequent by far, and the search is over all that may be.
        let (alive, _) = match len {
            0 => return,
            1..=16 => self.merge_first::<16>(scan, len),
            17..=32 => self.merge_first::<32>(scan, len),
            _ => self.merge_first::<SCAN_SYMBOLS_MAX>(scan, len),
        };
        let mut rest = alive;
        while rest != 0 {
            symbols.push(scan.symbols[rest.trailing_zeros() as usize]);
            rest &= rest - 1;
        }
    }

    /// Merges within the first `len` symbols, at most `MAX` and not none. Bit i is set if one is left at i; and the rank of
    /// the last merge.
    ///
    /// A symbol that was merged into the one before stays where it is, dead and with no rank: leaving it there costs
    /// less than moving all behind it.
    #[inline(never)]
    fn merge_first<const MAX: usize>(&self, scan: &mut Scan, len: usize) -> (u64, u32) {
        let ranks = scan.ranks.first_chunk_mut::<MAX>().expect("MAX is at most all");
        let symbols = &mut scan.symbols;
        let mut alive = u64::MAX >> (SCAN_SYMBOLS_MAX - len);
        let mut last_rank = NONE;
        loop {
            let best = ranks.iter().fold(NONE as i32, |best, &rank| best.min(rank as i32)) as u32;
            if best == NONE {
                return (alive, last_rank);
            }
            let at = best as usize % SCAN_SYMBOLS_MAX;
            last_rank = best >> PLACE_BITS;
            let symbol = self.products[last_rank as usize];
            symbols[at] = symbol;
            let behind = u64::MAX << at << 1;
            let gone = (alive & behind).trailing_zeros() as usize;
            alive &= !(1 << gone);
            ranks[gone] = NONE;
            let after = alive & behind;
            ranks[at] = match after {
                0 => NONE,
                _ => placed(self.rank(symbol, symbols[after.trailing_zeros() as usize]), at),
            };
            let before = alive & !behind & !(1 << at);
            if before != 0 {
                let before = before.ilog2() as usize;
                ranks[before] = placed(self.rank(symbols[before], symbol), before);
            }
        }
    }

    fn apply_queueing(&self, symbols: &mut Vec<u32>, queue: &mut Queue) {
        let len = u32::try_from(symbols.len()).expect("a piece has fewer than 2^32 symbols");
        let Queue { heap, next, previous } = queue;
        heap.clear();
        next.clear();
        next.extend(1..=len);
        previous.clear();
        previous.extend((0..len).map(|at| at.wrapping_sub(1)));
        let entry = |at: u32, left: u32, right: u32| {
            let rank = self.rank(left, right);
            (rank != NONE).then_some(Reverse((rank, at)))
        };
        heap.extend((1..len).filter_map(|right| {
            entry(right - 1, symbols[right as usize - 1], symbols[right as usize])
        }));
        while let Some(Reverse((rank, at))) = heap.pop() {
            let right = next[at as usize];
            // An entry is out of date if either symbol has changed since, or is gone: then the pair has another rank.
            if right >= len || self.rank(symbols[at as usize], symbols[right as usize]) != rank {
                continue;
            }
            let id = self.products[rank as usize];
            symbols[at as usize] = id;
            let after = next[right as usize];
            next[at as usize] = after;
            next[right as usize] = u32::MAX; // gone: nothing is to its right
            if after < len {
                previous[after as usize] = at;
                heap.extend(entry(at, id, symbols[after as usize]));
            }
            let before = previous[at as usize];
            if before < len {
                heap.extend(entry(before, symbols[before as usize], id));
            }
        }
        let (mut at, mut kept) = (0, 0);
        while at < len {
            symbols[kept] = symbols[at as usize];
            kept += 1;
            at = next[at as usize];
        }
        symbols.truncate(kept);
    }
}

/// What [`Merges::apply`] works with on long words; kept so that it is allocated once.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<(u32, u32)>>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

/// The same for short ones: symbols, and of each the rank of its pair with the next one, above its place.
struct Scan {
    ranks: [u32; SCAN_SYMBOLS_MAX],
    symbols: [u32; SCAN_SYMBOLS_MAX],
}

impl Scan {
    fn empty() -> Scan {
        Scan { ranks: [NONE; SCAN_SYMBOLS_MAX], symbols: [0; SCAN_SYMBOLS_MAX] }
    }
}

impl Queue {
    /// Gives back what one huge word took.
    pub(crate) fn shrink(&mut self, symbols_max: usize) {
        if self.next.capacity() > symbols_max {
            *self = Queue::default();
        }
    }
}

/// A rank above a place, so that the lowest is the merge to do; `NONE` stays what it is.
#[inline(always)]
fn placed(rank: u32, at: usize) -> u32 {
    if rank == NONE { NONE } else { rank << PLACE_BITS | at as u32 }
}

/// Bits that numbers up to this one have.
fn bits(number: u64) -> u32 {
    u64::BITS - number.leading_zeros()
}

/// A hash as a place among `count`.
#[inline(always)]
fn scaled(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

/// Every bit of the pair reaches the upper bits.
#[inline]
fn hash(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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

    proptest! {
        /// Scanning, queueing and the definition agree, whatever the merges: products are new symbols, as they are
        /// where symbols stand for texts.
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
            let mut queued = symbols;
            merges.apply_queueing(&mut queued, &mut Queue::default());
            prop_assert_eq!(queued, expected);
        }
    }

    proptest! {
        /// A vocabulary of texts with every pair that makes one of them, in any order.
        #[test]
        fn without_the_merges_that_never_happen_all_is_the_same(
            texts in proptest::collection::btree_set(proptest::collection::vec(0u32..3, 2..7), 0..30),
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
            list.sort_by_key(|&(left, right, _)| hash(left, right) ^ order.rotate_left(left));
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
