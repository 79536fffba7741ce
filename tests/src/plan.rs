//! The plan: which window each slot reads.

mod mixture;
mod permutation;
mod proof;
mod windows;
