//! The order in which one pass over a stream visits its subset.
//!
//! Each phase that reads any of the pass is a *level*. Level 0 is a permutation of the subset's
//! windows. A phase that begins inside the pass takes the windows the level below has not read,
//! cuts them into its own windows and permutes those; `r` windows of a level lie in one of the
//! level below.
//!
//! **Invariant:** each place of the subset is read once, by one level, except the rest the last
//! level leaves; `find` is the inverse of `subset_offsets`.

use std::ops::Range;

use crate::permutation::Permutation;

/// Offsets looked up together.
const CHUNK: usize = 64;

/// The order of one pass over a stream's subset: its levels, from the first phase's up.
pub(crate) struct EpochOrder {
    pub(crate) epoch: u64,
    levels: Vec<Level>,
}

/// The reads of one phase from a stream, as an order needs them.
pub(crate) struct PhaseReads {
    /// Position of the phase in the plan's list.
    pub(crate) phase_index: usize,
    /// K * T of the phase.
    pub(crate) window_tokens: u64,
    /// Places in the stream of all passes laid end to end.
    pub(crate) positions: Range<u64>,
}

/// The reads of one phase from one epoch.
struct Level {
    phase_index: usize,
    window_tokens: u64,
    /// Tokens of the epoch read before.
    first_offset: u64,
    /// Windows the phase reads of this epoch; `order` permutes all it could read.
    windows: u64,
    order: Permutation,
}

impl EpochOrder {
    /// The order of pass `epoch`, of `epoch_tokens`, over a stream. `phases` are those that read
    /// any of the stream, in order. `permutation` gives a level's permutation from the level, the
    /// number of windows and the tokens of each.
    pub(crate) fn new(
        epoch: u64,
        epoch_tokens: u64,
        phases: impl Iterator<Item = PhaseReads>,
        permutation: impl Fn(u64, u64, u64) -> Permutation,
    ) -> EpochOrder {
        let in_epoch = epoch * epoch_tokens..(epoch + 1) * epoch_tokens;
        let mut levels: Vec<Level> = Vec::new();
        for PhaseReads { phase_index, window_tokens, positions } in phases {
            let first = positions.start.max(in_epoch.start);
            let end = positions.end.min(in_epoch.end);
            if first >= end {
                continue;
            }
            let (first_offset, level) = (first - in_epoch.start, levels.len() as u64);
            let unread_windows = (epoch_tokens - first_offset) / window_tokens;
            levels.push(Level {
                phase_index,
                window_tokens,
                first_offset,
                windows: (end - first) / window_tokens,
                order: permutation(level, unread_windows, window_tokens),
            });
        }
        EpochOrder { epoch, levels }
    }

    /// Replaces each offset in reading order by the place in the subset of the phase's window at
    /// it.
    pub(crate) fn subset_offsets(&self, phase_index: usize, offsets: &mut [u64]) {
        let top = self.levels.iter().position(|level| level.phase_index == phase_index);
        let top = top.expect("the phase reads at these places of the epoch");
        for chunk in offsets.chunks_mut(CHUNK) {
            self.descend(top, chunk);
        }
    }

    fn descend(&self, top: usize, offsets: &mut [u64]) {
        for offset in &mut *offsets {
            *offset = self.levels[top].index_of(*offset);
        }
        let mut in_window = [0; CHUNK];
        for depth in (0..=top).rev() {
            let level = &self.levels[depth];
            level.order.apply_all(offsets);
            let places = offsets.iter_mut().zip(&mut in_window);
            if depth == 0 {
                places.for_each(|(place, within)| *place = *place * level.window_tokens + *within);
                return;
            }
            let below = &self.levels[depth - 1];
            let parts = below.window_tokens / level.window_tokens;
            let first = below.index_of(level.first_offset);
            for (place, within) in places {
                *within += *place % parts * level.window_tokens;
                *place = first + *place / parts;
            }
        }
    }

    /// The phase that reads a place of the subset, and the offset of its window in reading order;
    /// `None` for the unread rest.
    pub(crate) fn find(&self, subset_offset: u64) -> Option<(usize, u64)> {
        let (mut place, mut offset_in_window) = (0, subset_offset);
        let mut below: Option<&Level> = None;
        for level in &self.levels {
            // `place` is a window of the level below, counted from the first one it left unread.
            let parts = below.map_or(0, |below| below.window_tokens / level.window_tokens);
            place = place * parts + offset_in_window / level.window_tokens;
            offset_in_window %= level.window_tokens;
            let index = level.order.invert(place);
            if index < level.windows {
                let epoch_offset = level.first_offset + index * level.window_tokens;
                return Some((level.phase_index, epoch_offset));
            }
            place = index - level.windows;
            below = Some(level);
        }
        None
    }
}

impl Level {
    /// Number of the level's window at `epoch_offset`, from the level's first one.
    fn index_of(&self, epoch_offset: u64) -> u64 {
        (epoch_offset - self.first_offset) / self.window_tokens
    }
}
