//! Byte-pair merges over symbols that are ids of the vocabulary; what a symbol stands for, a character or a byte, is the caller's.
//!
//! The order is that of the `tokenizers` crate: of all neighbours that a merge is known for, the one of the lowest rank
//! first, of equal ranks the leftmost. Its queue also holds entries whose symbols have changed since, and it drops one
//! only if the merge that is now possible at the place has another product. Nothing depends on that difference: a
//! symbol only grows, so the text under a product begins at the place and ends where it did, and once the left symbol
//! of a pair or its right one has grown, no other pair at this place covers just that text.
//!
//! **Invariant:** [`Merges::apply`] gives the same symbols whichever of its two ways it takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to this many symbols the lowest rank is searched for from end to end, which is faster than a heap.
const SCAN_SYMBOLS_MAX: usize = 48;
/// No merge, where a rank is expected.
const NONE: u32 = u32::MAX;
/// No merge, where a rank and its product are: above all of them.
const NO_PAIR: u64 = u64::MAX;
/// Bits of the filter for each slot.
const FILTER_BITS_PER_SLOT: usize = 8;

/// All merges of a tokenizer: an open-addressed table, at most half full, behind a filter.
///
/// Most pairs that are asked for have no merge. A bit for each hash says so for nearly all of them, from a small part
/// of the table's memory, which stays closer to a core.
pub(crate) struct Merges {
    slots: Slots,
    /// Of the slots' number.
    shift: u32,
    filter: Vec<u64>,
}

/// Which pair, and what it becomes.
enum Slots {
    /// Where ids and ranks fit 16 bits: left, right, rank and product in one number, `NO_PAIR` where there is none.
    Narrow(Vec<u64>),
    /// Pair, and rank above product; `NO_PAIR` there where there is none.
    Wide(Vec<(u64, u64)>),
}

impl Merges {
    /// Takes `(left, right, product)` in the order of their ranks. Of two for the same pair the later one counts.
    ///
    /// # Panics
    /// If there are 2^32 - 1 merges or more.
    pub(crate) fn new(list: &[(u32, u32, u32)]) -> Merges {
        assert!(list.len() < NONE as usize, "{} merges", list.len());
        let bits = (list.len() * 2).next_power_of_two().trailing_zeros().max(4);
        let largest_id = list.iter().flat_map(|&(left, right, id)| [left, right, id]).max();
        // The last rank is left out: `NO_PAIR` must not be a merge.
        let is_narrow = list.len() < 0xffff && largest_id.is_none_or(|id| id <= 0xffff);
        let slots = match is_narrow {
            true => Slots::Narrow(vec![NO_PAIR; 1 << bits]),
            false => Slots::Wide(vec![(0, NO_PAIR); 1 << bits]),
        };
        let filter = vec![0; (FILTER_BITS_PER_SLOT << bits) / 64];
        let mut merges = Merges { slots, shift: 64 - bits, filter };
        for (rank, &(left, right, id)) in (0u64..).zip(list) {
            let hash = hash(left, right);
            let (at, _) = merges.look_up(left, right, hash);
            match &mut merges.slots {
                Slots::Narrow(slots) => {
                    slots[at] = u64::from(left << 16 | right) << 32 | rank << 16 | u64::from(id);
                }
                Slots::Wide(slots) => {
                    slots[at] = (joined(left, right), rank << 32 | u64::from(id));
                }
            }
            let bit = merges.filter_bit(hash);
            merges.filter[bit / 64] |= 1 << (bit % 64);
        }
        merges
    }

    #[inline]
    fn filter_bit(&self, hash: u64) -> usize {
        (hash >> (self.shift - FILTER_BITS_PER_SLOT.ilog2())) as usize
    }

    /// The slot of the pair, or the empty one where it would stand, and its rank above its product.
    #[inline(always)]
    fn look_up(&self, left: u32, right: u32, hash: u64) -> (usize, u64) {
        let mut at = (hash >> self.shift) as usize;
        match &self.slots {
            Slots::Narrow(slots) => {
                if left > 0xffff || right > 0xffff {
                    return (at, NO_PAIR); // a symbol that no merge knows
                }
                let key = u64::from(left << 16 | right);
                loop {
                    let slot = slots[at];
                    if slot == NO_PAIR {
                        return (at, NO_PAIR);
                    }
                    if slot >> 32 == key {
                        return (at, (slot & 0xffff_0000) << 16 | (slot & 0xffff));
                    }
                    at = (at + 1) & (slots.len() - 1);
                }
            }
            Slots::Wide(slots) => {
                let key = joined(left, right);
                loop {
                    let (found, pair) = slots[at];
                    if pair == NO_PAIR || found == key {
                        return (at, pair);
                    }
                    at = (at + 1) & (slots.len() - 1);
                }
            }
        }
    }

    /// What `left` and `right` become as neighbours: rank above product, so that the lowest number is the merge to do.
    #[inline(always)]
    fn pair(&self, left: u32, right: u32) -> u64 {
        let hash = hash(left, right);
        let bit = self.filter_bit(hash);
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return NO_PAIR;
        }
        self.look_up(left, right, hash).1
    }

    /// Applies every merge that can be applied. O(n log n) in the number of symbols.
    ///
    /// # Panics
    /// At 2^32 symbols or more.
    pub(crate) fn apply(&self, symbols: &mut Vec<u32>, queue: &mut Queue) {
        if symbols.len() <= SCAN_SYMBOLS_MAX {
            let len = self.apply_scanning(symbols, &mut queue.scan);
            symbols.truncate(len);
        } else {
            self.apply_queueing(symbols, queue);
        }
    }

    /// Merges within `symbols` and returns how many are left of them.
    ///
    /// A symbol that was merged into the one before stays where it is, with no pair and in no chain: leaving it
    /// there costs less than moving all behind it.
    fn apply_scanning(&self, symbols: &mut [u32], scan: &mut Scan) -> usize {
        let len = symbols.len();
        if len < 2 {
            return len;
        }
        let Scan { pairs, next, previous } = scan;
        for at in 1..len {
            pairs[at - 1] = self.pair(symbols[at - 1], symbols[at]);
            next[at - 1] = at as u8;
            previous[at] = (at - 1) as u8;
        }
        (pairs[len - 1], next[len - 1]) = (NO_PAIR, len as u8);
        loop {
            let (mut best, mut best_at) = (NO_PAIR, 0);
            for (at, &pair) in pairs[..len].iter().enumerate() {
                if pair < best {
                    (best, best_at) = (pair, at);
                }
            }
            if best == NO_PAIR {
                break;
            }
            let gone = usize::from(next[best_at]);
            let after = usize::from(next[gone]);
            symbols[best_at] = best as u32;
            next[best_at] = after as u8;
            pairs[gone] = NO_PAIR;
            pairs[best_at] = NO_PAIR;
            if after < len {
                previous[after] = best_at as u8;
                pairs[best_at] = self.pair(symbols[best_at], symbols[after]);
            }
            if best_at > 0 {
                let before = usize::from(previous[best_at]);
                pairs[before] = self.pair(symbols[before], symbols[best_at]);
            }
        }
        let (mut at, mut kept) = (0, 0);
        while at < len {
            symbols[kept] = symbols[at];
            kept += 1;
            at = usize::from(next[at]);
        }
        kept
    }

    fn apply_queueing(&self, symbols: &mut Vec<u32>, queue: &mut Queue) {
        let len = u32::try_from(symbols.len()).expect("a piece has fewer than 2^32 symbols");
        let Queue { heap, next, previous, .. } = queue;
        heap.clear();
        next.clear();
        next.extend(1..=len);
        previous.clear();
        previous.extend((0..len).map(|at| at.wrapping_sub(1)));
        let entry = |at: u32, left: u32, right: u32| {
            let pair = self.pair(left, right);
            (pair != NO_PAIR).then_some(Reverse((pair >> 32, at, pair as u32)))
        };
        heap.extend((1..len).filter_map(|right| {
            entry(right - 1, symbols[right as usize - 1], symbols[right as usize])
        }));
        while let Some(Reverse((rank, at, id))) = heap.pop() {
            let right = next[at as usize];
            // An entry is out of date if either symbol has changed since, or is gone: then the pair has another rank.
            if right >= len
                || self.pair(symbols[at as usize], symbols[right as usize])
                    != rank << 32 | u64::from(id)
            {
                continue;
            }
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
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
    next: Vec<u32>,
    previous: Vec<u32>,
    scan: Scan,
}

/// The same for short ones: of each symbol its pair with the next one, and its neighbours.
struct Scan {
    pairs: [u64; SCAN_SYMBOLS_MAX],
    next: [u8; SCAN_SYMBOLS_MAX],
    previous: [u8; SCAN_SYMBOLS_MAX],
}

impl Default for Scan {
    fn default() -> Scan {
        Scan {
            pairs: [NO_PAIR; SCAN_SYMBOLS_MAX],
            next: [0; SCAN_SYMBOLS_MAX],
            previous: [0; SCAN_SYMBOLS_MAX],
        }
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

/// Every bit of the pair reaches the upper bits.
#[inline]
fn hash(left: u32, right: u32) -> u64 {
    joined(left, right).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline]
fn joined(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
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
            let mut scanned = symbols.clone();
            let len = merges.apply_scanning(&mut scanned, &mut Scan::default());
            prop_assert_eq!(&scanned[..len], &expected[..]);
            let mut queued = symbols;
            merges.apply_queueing(&mut queued, &mut Queue::default());
            prop_assert_eq!(queued, expected);
        }
    }

    #[test]
    fn a_million_equal_symbols_are_merged_in_a_moment() {
        let list: Vec<(u32, u32, u32)> = (0..10).map(|id| (id, id, id + 1)).collect();
        let mut symbols = vec![0; 1_000_000];
        Merges::new(&list).apply(&mut symbols, &mut Queue::default());
        assert_eq!(symbols.iter().map(|&id| 1u64 << id).sum::<u64>(), 1_000_000);
        assert_eq!(symbols[..976], [10; 976]);
    }
}
