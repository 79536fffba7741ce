//! The options for writing a corpus.
//!
//! **Invariant:** a corpus depends only on the recorded options, its inputs and its tokenizer.

use std::path::PathBuf;

use schemas::build::BuildOptions;

use crate::read::document::Columns;
use crate::write::select::{Select, SelectSpec};
use crate::write::tasks::Task;
use encoder::{Encoder, PolicyChoice};

/// A corpus to write.
#[derive(Clone, Debug)]
pub struct CorpusSpec {
    /// A tokenizer.json, or the folder that holds it.
    pub tokenizer: PathBuf,
    /// Tokens around each document, and the treatment of special tokens in its text.
    pub policy: PolicyChoice,
    /// The folder to write into.
    pub out: PathBuf,
    /// Files, folders or globs.
    pub inputs: Vec<PathBuf>,
    /// Threads that encode, at least 1. The output is the same for any number.
    pub threads: usize,
    /// Reaction to an invalid line or row.
    pub on_error: OnError,
    /// Bytes of each thread's cache of words. The output is the same for any number.
    pub cache_bytes: usize,
    /// Bytes of ids at which a shard closes, at the next document boundary; at least 1.
    pub shard_bytes: u64,
    /// Columns of text and set name, and the maximum length of a text.
    pub columns: Columns,
    /// A series for each set of an input.
    pub by_set: bool,
    /// The share of the inputs to write; all of them when `None`.
    pub task: Option<Task>,
    /// Replace a corpus in the folder, and write beside unrelated files.
    pub force: bool,
    /// The documents to write.
    pub select: SelectSpec,
}

/// Reaction to an invalid line or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Stop, naming file and line.
    Stop,
    /// List it in skipped.jsonl, count it and continue.
    Skip,
}

impl CorpusSpec {
    pub(crate) fn options(&self, encoder: &Encoder, select: &Select) -> BuildOptions {
        let on_error = match self.on_error {
            OnError::Stop => "stop",
            OnError::Skip => "skip",
        };
        BuildOptions {
            tokenizer: encoder.fingerprint().to_hex().to_string(),
            bos: encoder.bos().cloned(),
            eos: encoder.eos().cloned(),
            special_tokens: encoder.policy().special_tokens,
            shard_bytes: self.shard_bytes,
            text_column: self.columns.text.clone(),
            set_column: self.columns.set.clone(),
            on_error: on_error.to_owned(),
            max_document_bytes: (self.on_error == OnError::Skip)
                .then_some(self.columns.document_bytes_max),
            by_set: self.by_set,
            selection: select.record(),
            imported: None,
            foreign_token_bytes: None,
        }
    }
}
