//! Merging long words: a heap of the merges that can be done, O(n log n) in the number of symbols.
//!
//! **Invariant:** symbols keep their places; one that was merged into another before it is led
//! past.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Merges;

/// Working memory of a model, kept so that it is allocated once.
#[derive(Default)]
pub(crate) struct Work {
    /// The ids.
    pub(crate) symbols: Vec<u32>,
    /// For [`Merges::apply`].
    pub(crate) queue: Queue,
}

/// The symbols of a word in the making; kept so that it is allocated once.
#[derive(Default)]
pub(crate) struct Queue {
    pub(super) numbers: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl Queue {
    /// Takes symbols over.
    pub(super) fn take(&mut self, numbers: impl Iterator<Item = u32>) {
        let Queue { numbers: own, heap, next, previous } = self;
        own.clear();
        own.extend(numbers);
        let len = own.len() as u32;
        heap.clear();
        next.clear();
        next.extend(1..=len);
        previous.clear();
        previous.extend((0..len).map(|at| at.wrapping_sub(1)));
    }

    /// Where symbols are left.
    pub(super) fn places(&self) -> impl Iterator<Item = u32> {
        let len = self.numbers.len() as u32;
        let is_there = move |at: &u32| *at < len;
        std::iter::successors(Some(0).filter(is_there), move |&at| {
            Some(self.next[at as usize]).filter(is_there)
        })
    }

    /// Gives back what one huge word took.
    pub(crate) fn shrink(&mut self, symbols_max: usize) {
        if self.next.capacity() > symbols_max {
            *self = Queue::default();
        }
    }

    /// Applies every merge that can be applied; the rank of the last one, [`Merges::none`] if there
    /// was none.
    pub(super) fn merge(&mut self, merges: &Merges) -> u32 {
        let Queue { numbers, heap, next, previous } = self;
        let len = u32::try_from(numbers.len()).expect("a piece has fewer than 2^32 symbols");
        let entry = |at: u32, left: u32, right: u32| {
            let rank = merges.rank(left, right);
            (rank != merges.none()).then_some(Reverse((rank, at)))
        };
        let mut last_rank = merges.none();
        heap.extend((1..len).filter_map(|right| {
            entry(right - 1, numbers[right as usize - 1], numbers[right as usize])
        }));
        while let Some(Reverse((rank, at))) = heap.pop() {
            let right = next[at as usize];
            // An entry is out of date if either symbol has changed since, or is gone: then the pair
            // has another rank.
            if right >= len || merges.rank(numbers[at as usize], numbers[right as usize]) != rank {
                continue;
            }
            last_rank = rank;
            let number = merges.product(rank);
            numbers[at as usize] = number;
            let after = next[right as usize];
            next[at as usize] = after;
            next[right as usize] = u32::MAX; // gone: nothing is to its right
            if after < len {
                previous[after as usize] = at;
                heap.extend(entry(at, number, numbers[after as usize]));
            }
            let before = previous[at as usize];
            if before < len {
                heap.extend(entry(before, numbers[before as usize], number));
            }
        }
        last_rank
    }
}
