//! Patchmill's data side: text to shards to plan to batches. Never depends on libtorch.
//!
//! In the order of the data's path:
//! - [`inputs`]: arguments to a sorted list of files.
//! - [`docs`]: files to documents, a stream in bounded memory; [`rows`] does it for Parquet.
//! - [`tokenize`]: a document's text to ids.
//! - [`train_tokenizer`]: a tokenizer for those who have none.
//! - [`publish`]: files that are complete or absent.
//! - [`shard`]: ids to shards.
//! - [`build`]: inputs to a corpus, all of the above together; [`folder`] is where it goes.
//! - [`cli`]: the commands of `patchmill`.

pub mod inputs;

pub mod docs;
mod json;
pub mod rows;

pub mod tokenize;
pub mod train_tokenizer;

pub mod publish;

pub mod shard;

pub mod build;
mod estimate;
pub mod folder;
mod report;
mod series;

pub mod cli;
