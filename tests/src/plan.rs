//! The plan: the window read by each slot.
//!
//! Property tests cover phases, epochs, subsets, shuffles and mixtures, and 1,000 schedules of
//! kills and world sizes.

mod mixture;
mod permutation;
mod proof;
mod windows;
