//! Patchmill's data side: text to shards to plan to batches. Never depends on libtorch.
//!
//! In the order of the data's path:
//! - [`inputs`]: arguments to a sorted list of files.
//! - [`docs`]: files to documents, a stream in bounded memory; [`rows`] does it for Parquet.
//! - [`tokenize`]: a document's text to ids; [`encode`] is how it does so fast.
//! - [`train_tokenizer`]: a tokenizer for those who have none.
//! - [`publish`]: files that are complete or absent.
//! - [`shard`]: ids to shards.
//! - [`build`]: inputs to a corpus, all of the above together; [`folder`] is where it goes, [`report`]
//!   what is said about it.
//! - [`source`]: bytes of a file, memory-mapped or by `pread`.
//! - [`corpus`]: shards of a manifest as one checked stream of tokens.
//! - [`index`]: which document a row of the document index describes.
//! - [`verify`] and [`inspect`]: what a corpus is worth, and what it holds.
//! - [`permute`]: keyed permutations of `0..n` that are computed and never stored.
//! - [`plan`]: which window each slot of each step reads.
//! - [`run_file`]: run files from disk.
//! - [`loader`]: the plan's windows as batches, read ahead by threads.
//! - [`cli`]: the commands of `patchmill`; [`plan_command`], [`stream`], [`init`] and [`shell`] are some of them.

pub mod inputs;

pub mod docs;
mod json;
pub mod rows;

pub mod encode;
pub mod tokenize;
pub mod train_tokenizer;

pub mod publish;

pub mod shard;

pub mod build;
mod estimate;
pub mod folder;
pub mod report;
mod series;

pub mod source;

pub mod corpus;
pub mod index;
pub mod inspect;
mod inspect_tokenizer;
pub mod verify;

pub mod permute;

pub mod plan;

pub mod run_file;

pub mod loader;

pub mod cli;
pub mod init;
pub mod numbers;
pub mod plan_command;
pub mod shell;
pub mod stream;
