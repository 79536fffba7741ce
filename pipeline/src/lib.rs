//! Patchmill's data side, in the order of the data's path.
//!
//! Documents become token ids in shards, a corpus of shards is read through a plan that says which
//! windows each optimizer step reads, and a loader delivers those windows as batches.
//!
//! - [`source`]: bytes of a file, memory-mapped or by `pread`.
//! - [`corpus`]: shards of a manifest as one checked stream of tokens.

pub mod source;

pub mod corpus;
