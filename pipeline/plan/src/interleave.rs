//! Several streams as one, in an exact proportion: which stream each slot of a sequence takes from.
//!
//! Streams are split in two halves, each half again, and so on. Among the first `n` slots of a part
//! of the streams with weight `t`, `floor(n * a / t)` go to its first half, of weight `a`. So each
//! stream gets exactly its weight in every `W` slots, where `W` is the sum of the weights, and is
//! never further from its share than the number of splits above it. A slot is found from a stream,
//! and a stream from a slot, without looking at any other slot.
//!
//! **Invariant:** the slots from `m * W` to `(m + 1) * W` hold `weight` slots of each stream, for
//! every `m`; [`Interleave::slot_of`] is the inverse of [`Interleave::locate`].

/// The proportion, as sums of the weights up to each stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interleave {
    /// One more than the number of streams; the first is 0.
    sums: Vec<u64>,
}

impl Interleave {
    /// One weight a stream; a stream of weight 0 gets no slot.
    ///
    /// # Panics
    /// If all weights are 0, or their sum exceeds `u64`.
    pub fn new(weights: &[u64]) -> Interleave {
        let mut sums = vec![0u64];
        for &weight in weights {
            let sum = sums[sums.len() - 1].checked_add(weight);
            sums.push(sum.expect("the sum of the weights is a number of blocks"));
        }
        assert!(sums[sums.len() - 1] > 0, "no stream has any weight");
        Interleave { sums }
    }

    /// W: slots after which every stream has had exactly its weight.
    pub fn period(&self) -> u64 {
        self.sums[self.sums.len() - 1]
    }

    /// The stream `slot` takes from, and how many slots the stream had before.
    pub fn locate(&self, slot: u64) -> (usize, u64) {
        let (mut first, mut end, mut slot) = (0, self.sums.len() - 1, slot);
        while end - first > 1 {
            let split = Split::new(self, first, end);
            let before = split.first_half_before(slot);
            if split.first_half_before(slot + 1) > before {
                (end, slot) = (split.middle, before);
            } else {
                (first, slot) = (split.middle, slot - before);
            }
        }
        (first, slot)
    }

    /// How many of the slots before `slot` take from `stream`.
    ///
    /// # Panics
    /// If there is no such stream.
    pub fn count_before(&self, stream: usize, slot: u64) -> u64 {
        let (mut first, mut end, mut slot) = (0, self.sums.len() - 1, slot);
        assert!(stream < end, "stream {stream} of {end}");
        while end - first > 1 {
            let split = Split::new(self, first, end);
            let before = split.first_half_before(slot);
            if stream < split.middle {
                (end, slot) = (split.middle, before);
            } else {
                (first, slot) = (split.middle, slot - before);
            }
        }
        slot
    }

    /// The slot that takes item `rank` of `stream`.
    ///
    /// # Panics
    /// If there is no such stream, or it has no weight.
    pub fn slot_of(&self, stream: usize, rank: u64) -> u64 {
        assert!(self.sums[stream] < self.sums[stream + 1], "stream {stream} has no slots");
        self.slot_within(0, self.sums.len() - 1, stream, rank)
    }

    fn slot_within(&self, first: usize, end: usize, stream: usize, rank: u64) -> u64 {
        if end - first == 1 {
            return rank;
        }
        let split = Split::new(self, first, end);
        if stream < split.middle {
            split.slot_in_first(self.slot_within(first, split.middle, stream, rank))
        } else {
            split.slot_in_second(self.slot_within(split.middle, end, stream, rank))
        }
    }
}

/// Two halves of a part of the streams.
struct Split {
    middle: usize,
    /// Weight of the first half.
    weight: u128,
    /// Weight of both.
    total: u128,
}

impl Split {
    fn new(of: &Interleave, first: usize, end: usize) -> Split {
        let middle = first + (end - first) / 2;
        let weight = of.sums[middle] - of.sums[first];
        // A part without weight is never reached.
        let total = (of.sums[end] - of.sums[first]).max(1);
        Split { middle, weight: weight.into(), total: total.into() }
    }

    /// How many of the first `slots` go to the first half.
    fn first_half_before(&self, slots: u64) -> u64 {
        narrow(u128::from(slots) * self.weight / self.total)
    }

    fn slot_in_first(&self, rank: u64) -> u64 {
        narrow(((u128::from(rank) + 1) * self.total).div_ceil(self.weight) - 1)
    }

    fn slot_in_second(&self, rank: u64) -> u64 {
        narrow(u128::from(rank) * self.total / (self.total - self.weight))
    }
}

fn narrow(number: u128) -> u64 {
    u64::try_from(number).expect("a slot of a run of at most 2^62 tokens")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_period_holds_each_stream_in_its_proportion(
            weights in prop::collection::vec(0u64..40, 1..12)
                .prop_filter("weight", |w| w.iter().any(|&w| w > 0)),
            far in 0u64..1 << 40,
        ) {
            let interleave = Interleave::new(&weights);
            let period = interleave.period();
            let first = far * period;
            let streams = 0..weights.len();
            let mut counts: Vec<u64> =
                streams.map(|stream| interleave.count_before(stream, first)).collect();
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, far * weight);
            }
            let splits = weights.len().next_power_of_two().ilog2();
            for slot in first..first + period {
                let (stream, rank) = interleave.locate(slot);
                prop_assert_eq!(rank, counts[stream]);
                prop_assert_eq!(interleave.slot_of(stream, rank), slot);
                counts[stream] += 1;
                for (stream, (count, weight)) in counts.iter().zip(&weights).enumerate() {
                    prop_assert_eq!(*count, interleave.count_before(stream, slot + 1));
                    let share = (slot + 1 - first) as f64 * *weight as f64 / period as f64;
                    let so_far = (count - far * weight) as f64;
                    let most = f64::from(splits).max(1e-9);
                    prop_assert!((so_far - share).abs() <= most, "{so_far} of {share}");
                }
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, (far + 1) * weight);
            }
        }
    }
}
