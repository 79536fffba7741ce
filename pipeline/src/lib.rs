//! Patchmill's data side: text to shards to plan to batches. Never depends on libtorch.
//!
//! In the order of the data's path:
//! - [`inputs`]: arguments to a sorted list of files.
//! - [`docs`]: files to documents, a stream in bounded memory; [`json`] takes a line apart, [`rows`] reads Parquet,
//!   in another process ([`row_process`]) where the commands run.
//! - [`tokenize`]: a document's text to ids; [`encode`] is how, where we do it ourselves.
//! - [`train_tokenizer`]: a tokenizer for those who have none.
//! - [`publish`]: files that are complete or absent.
//! - [`shard`]: ids to shards.
//! - `stage`: reading, encoding and writing, overlapped: `feed` reads, `chunk` makes ids of a chunk (`split` with all threads of
//!   a long document), [`select`] says which documents, `write` and `series` bring them into shards and
//!   `index_writer` into the index, `closing` makes them durable.
//! - [`build`]: inputs to a corpus, all of the above together; [`folder`] is where it goes, `lock` who may write there, `kept`
//!   what of a run before can stay, [`report`] what is said about it, [`stop`] how it is stopped.
//! - [`tasks`] and [`merge`]: the same by several machines.
//! - [`source`]: bytes of a file, memory-mapped or by `pread`; [`lost_pages`] says what a mapped file lost.
//! - [`corpus`]: shards of a manifest as one checked stream of tokens, which [`widen`] makes the reader's; [`set_streams`] says
//!   which belong to a set.
//! - [`index`]: which document a row of the document index describes.
//! - [`verify`] and [`inspect`]: what a corpus is worth, and what it holds; [`duplicates`]: what it holds twice.
//! - [`export`] and [`import`]: a corpus to and from the files of other projects; [`exchange`] has their formats, `documents`
//!   finds where documents of foreign ids end.
//! - [`permute`]: keyed permutations of `0..n` that are computed and never stored.
//! - [`plan`]: which window each slot of each step reads; made of a [`plan_spec`], `mixture` and
//!   `plan_sizes` compute its sizes, `interleave` and `epoch_order` its order.
//! - [`plan_walk`] proves that a plan reads everything once; [`plan_diff`] says how far two plans are the same.
//! - [`run_file`]: run files from disk.
//! - [`loader`]: the plan's windows as batches, read ahead by threads.
//! - [`printable`]: what comes from data, made fit for a terminal.
//! - [`cli`]: the commands of `patchmill`; [`plan_command`], [`stream`], [`init`] and [`shell`] are some
//!   of them; [`plan_lookup`] is what `plan` says about steps and documents.

pub mod inputs;

pub mod docs;
pub mod docs_error;
pub mod document;
mod frames;
pub mod json;
#[cfg(test)]
#[path = "../../fuzz/json_law.rs"]
mod json_law;
mod lines;
mod parquet_guard;
mod parquet_rows;
pub mod row_chunk;
pub mod row_process;
pub mod rows;

pub mod encode;
pub mod tokenize;
pub mod train_tokenizer;

pub mod publish;

pub mod shard;

mod chunk;
mod closing;
mod console_panic;
mod console_progress;
pub mod corpus_spec;
mod feed;
mod index_writer;
mod job;
pub mod select;
mod series;
mod series_entry;
mod set_totals;
mod split;
mod stage;
mod stage_start;
mod write;

pub mod build;
mod disk_limits;
mod estimate;
mod failpoint;
pub mod folder;
mod kept;
mod lock;
mod manifest;
pub mod merge;
pub mod report;
pub mod stop;
pub mod tasks;
pub mod usage;

pub mod lost_pages;
pub mod source;
mod upcoming;

pub mod corpus;
pub mod duplicates;
pub mod index;
pub mod inspect;
mod inspect_tokenizer;
mod rate;
pub mod set_streams;
pub mod verify;
pub mod widen;

mod documents;
pub mod exchange;
pub mod export;
pub mod import;

pub mod permute;

mod epoch_order;
pub mod interleave;
mod mixture;
pub mod plan;
pub mod plan_error;
mod plan_sizes;
pub mod plan_spec;
pub mod plan_stream;
pub mod plan_window;

pub mod plan_diff;
pub mod plan_walk;

pub mod run_file;

pub mod loader;

pub mod cli;
pub mod commands_exit;
pub mod commands_export;
pub mod commands_import;
pub mod commands_merge;
pub mod commands_read_parquet;
pub mod commands_tokenize;
mod commands_tokenize_report;
pub mod commands_verify;
pub mod init;
pub mod numbers;
pub mod plan_command;
pub mod plan_lookup;
pub mod printable;
pub mod shell;
pub mod stream;
pub mod values;
