//! Writes documents and their ids to a corpus folder.
//!
//! An input file becomes one series of shards, or with `--by-set` one series for each set of the
//! input: first the documents without a set, then the sets in order of first appearance. The shards
//! of input i then have series 1000 · i + n. Inputs are independent, so tasks on many machines
//! each write their own, and `merge` has only the manifest left to write.
//!
//! **Invariant:** equal inputs and options give equal bytes, for any number of threads, tasks and
//! restarts.

pub mod corpus;
pub(crate) mod crew;
pub mod folder;
pub(crate) mod job;
pub(crate) mod manifest;
pub mod merge;
pub mod report;
pub(crate) mod resume;
pub mod select;
pub mod series;
pub(crate) mod set_column;
pub mod spec;
pub mod tasks;
