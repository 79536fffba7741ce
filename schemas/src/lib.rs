//! On-disk contracts of Patchmill, as types, bytes and JSON Schemas. `README.md` beside this crate
//! is the byte-level specification.
//!
//! This crate does no IO and starts no thread, and it alone derives `Serialize`: a serializable
//! type is a promise.
//!
//! In the order of the data's path:
//! - [`shard`]: token ids of whole documents, memory-mappable.
//! - [`index`]: one row a document, as Parquet.
//! - [`selection`]: which documents of the inputs a corpus holds.
//! - [`drop_list`]: which documents have the text of an earlier one.
//! - [`manifest`]: what a corpus holds; written last.
//! - [`build`]: what a corpus folder says while it is being written, and its list of skipped
//!   documents.
//! - [`run`]: the run file that both binaries read; [`run::data_order`] is its part on the order of
//!   the data, [`schedule`] the one on learning rates.
//! - [`record`]: what a checkpoint says about itself.

pub mod shard;

pub mod index;

pub mod selection;

pub mod drop_list;

pub mod manifest;

pub mod build;

pub mod run;

pub mod checkpoint;
