//! On-disk contracts of Patchmill, as types, bytes and JSON Schemas. `README.md` next to this crate
//! is the byte-level specification.
//!
//! Every format carries a version. A changed byte is a changed version.
//!
//! This crate does no IO and starts no thread, and only it derives `Serialize`: a serializable type
//! is a promise.
//!
//! In the order in which data flows:
//! - [`shard`]: token ids of whole documents, memory-mappable.
//! - [`index`]: one row a document, as Parquet.
//! - [`selection`]: which documents of the inputs a corpus holds.
//! - [`drop_list`]: which documents repeat the text of an earlier one.
//! - [`manifest`]: the contents of a corpus; written last.
//! - [`build`]: the state of a corpus folder while it is being written, and its list of skipped
//!   documents.
//! - [`run`]: the run file both binaries read; [`run::data_order`] is its part on the order of the
//!   data, [`run::schedule`] the one on learning rates.
//! - [`checkpoint`]: the metadata of a checkpoint.
//! - [`git_lfs`]: pointers in place of files.

pub mod shard;

pub mod index;

pub mod selection;

pub mod drop_list;

pub mod manifest;

pub mod build;

pub mod run;

pub mod checkpoint;

pub mod git_lfs;
