//! Which pairs of numbers there are, and where in their list: a perfect hash table.
//!
//! Every pair has a slot of its own, so that a question looks at one slot, whatever the answer.
//! Pairs that share a bucket of a first hash find theirs together: the bucket's factor is one that
//! leads all of them to slots still free (Belazzougui, Botelho and Dietzfelbinger, 2009).
//!
//! **Invariant:** a pair is found at its last place in the list, and no other pair is found.

/// Pairs that share a bucket on the average.
const BUCKET_PAIRS: usize = 4;
/// No pair, where a slot is expected: above all of them.
const EMPTY: u64 = u64::MAX;

/// A list of pairs.
pub(super) struct Pairs {
    /// Factors of buckets, odd.
    factors: Vec<u16>,
    /// Pairs, and their places below them; `EMPTY` for a free slot.
    slots: Vec<u64>,
    count: u32,
    place_bits: u32,
    number_bits: u32,
    seed: u64,
}

impl Pairs {
    /// Whether so many pairs of numbers below `numbers` fit; a million of each do.
    pub(super) fn fit(count: usize, numbers: usize) -> bool {
        bits(count) + 2 * bits(numbers) < u64::BITS
    }

    /// The table of a list of pairs of numbers below `numbers`.
    pub(super) fn new(list: &[(u32, u32)], numbers: usize) -> Pairs {
        assert!(Pairs::fit(list.len(), numbers), "{} pairs of {numbers} numbers", list.len());
        let (place_bits, number_bits) = (bits(list.len()), bits(numbers));
        let key = |(left, right)| u64::from(left) << number_bits | u64::from(right);
        let mut keys: Vec<(u64, u32)> = list.iter().map(|&pair| key(pair)).zip(0..).collect();
        keys.sort_unstable();
        // Of equal pairs the last one stays.
        keys.reverse();
        keys.dedup_by_key(|(key, _)| *key);
        let mut pairs = Pairs {
            factors: vec![1; keys.len() / BUCKET_PAIRS + 1],
            slots: Vec::new(),
            count: list.len() as u32,
            place_bits,
            number_bits,
            seed: 0x9e37_79b9_7f4a_7c15,
        };
        let mut slot_count = keys.len() * 5 / 4 + 1;
        while !pairs.fill(&keys, slot_count) {
            pairs.seed = pairs.seed.wrapping_mul(0xd134_2543_de82_ef95);
            slot_count += slot_count / 16 + 1;
        }
        pairs
    }

    /// Gives each of the keys a slot; `false` if a bucket finds none.
    fn fill(&mut self, keys: &[(u64, u32)], slot_count: usize) -> bool {
        let bucket_of = |hash| scaled((hash >> 32) as u32, self.factors.len());
        let mut hashed: Vec<(usize, u64, u64)> = Vec::with_capacity(keys.len());
        for &(key, place) in keys {
            let hash = hash(key, self.seed);
            hashed.push((bucket_of(hash), hash, key << self.place_bits | u64::from(place)));
        }
        hashed.sort_unstable();
        let mut buckets: Vec<_> = hashed.chunk_by(|one, other| one.0 == other.0).collect();
        buckets.sort_by_key(|bucket| std::cmp::Reverse(bucket.len()));
        let mut slots = vec![EMPTY; slot_count];
        let mut factors = vec![1; self.factors.len()];
        let mut taken = Vec::new();
        for bucket in buckets {
            let found = (1..=u16::MAX).step_by(2).find(|&factor| {
                taken.clear();
                bucket.iter().all(|&(_, hash, _)| {
                    let slot = slot(hash, factor, slot_count);
                    let is_free = slots[slot] == EMPTY && !taken.contains(&slot);
                    taken.push(slot);
                    is_free
                })
            });
            let Some(factor) = found else { return false };
            factors[bucket[0].0] = factor;
            for (&slot, &(_, _, entry)) in taken.iter().zip(bucket) {
                slots[slot] = entry;
            }
        }
        (self.factors, self.slots) = (factors, slots);
        true
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The place of a pair in the list, the list's length if it is not there.
    #[inline(always)]
    pub(super) fn place(&self, left: u32, right: u32) -> u32 {
        let key = u64::from(left) << self.number_bits | u64::from(right);
        let hash = hash(key, self.seed);
        let factor = self.factors[scaled((hash >> 32) as u32, self.factors.len())];
        let slot = self.slots[slot(hash, factor, self.slots.len())];
        let place = (slot & ((1 << self.place_bits) - 1)) as u32;
        // Whether there is one cannot be foretold, and others wait for the answer.
        std::hint::select_unpredictable(slot >> self.place_bits == key, place, self.count)
    }
}

/// Bits that numbers up to this one have.
fn bits(number: usize) -> u32 {
    usize::BITS - number.leading_zeros()
}

/// Every bit of the key reaches every bit.
#[inline(always)]
fn hash(key: u64, seed: u64) -> u64 {
    let product = u128::from(key ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(seed);
    product as u64 ^ (product >> 64) as u64
}

/// Where the factor of its bucket leads a hash.
#[inline(always)]
fn slot(hash: u64, factor: u16, count: usize) -> usize {
    scaled((hash as u32).wrapping_mul(u32::from(factor)), count)
}

/// A hash as a place among `count`.
#[inline(always)]
fn scaled(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_pair_is_where_it_last_stands_and_no_other_is_found(
            list in proptest::collection::vec((0u32..40, 0u32..40), 0..400),
        ) {
            let pairs = Pairs::new(&list, 40);
            for left in 0..40 {
                for right in 0..40 {
                    let place = list.iter().rposition(|&pair| pair == (left, right));
                    let expected = place.unwrap_or(list.len()) as u32;
                    prop_assert_eq!(pairs.place(left, right), expected);
                }
            }
        }
    }
}
