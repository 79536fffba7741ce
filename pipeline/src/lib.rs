//! Patchmill's data side, in the order of the data's path.
//!
//! Documents become token ids in shards, a corpus of shards is read through a [`plan`] that says which
//! windows each optimizer step reads, and a loader delivers those windows as batches.
//!
//! - [`source`]: bytes of a file, memory-mapped or by `pread`.
//! - [`corpus`]: shards of a manifest as one checked stream of tokens.
//! - [`permute`]: keyed permutations of `0..n` that are computed and never stored.
//! - [`plan`]: which window each slot of each step reads.
//! - [`run_file`]: run files from disk.

pub mod source;

pub mod corpus;

pub mod permute;

pub mod plan;

pub mod run_file;
