//! What a corpus folder says while it is being written, so that an interrupted run goes on, and the list of what
//! was skipped, which stays.
//!
//! The first two records are removed when the manifest is in place: a finished corpus has no trace of how it came about.
//!
//! **Invariant:** a [`SeriesRecord`] exists only beside the complete files that it names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::{Series, SpecialToken, SpecialTokens};

/// Name of the [`BuildRecord`], present from the first write until the manifest is in place.
pub const BUILD_FILE: &str = "build.json";
/// What [`BuildRecord::format`] says.
pub const BUILD_FORMAT: &str = "patchmill-build";
/// Name of the list of skipped documents, one [`SkippedDocument`] a line.
pub const SKIPPED_FILE: &str = "skipped.jsonl";

/// The options of a run that is writing a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildRecord {
    /// [`BUILD_FORMAT`].
    pub format: String,
    /// Version of the manifest that the run will write.
    pub version: u32,
    /// All that decides the bytes of a series, given its input.
    pub options: BuildOptions,
}

/// All that decides the bytes of a series, given its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildOptions {
    /// BLAKE3 in hex of tokenizer.json.
    pub tokenizer: String,
    /// Put before each document.
    pub bos: Option<SpecialToken>,
    /// Put after each document.
    pub eos: Option<SpecialToken>,
    /// What special tokens written out in a text are.
    pub special_tokens: SpecialTokens,
    /// Size of ids at which a shard closes.
    pub shard_bytes: u64,
    /// Column or key of the text.
    pub text_column: String,
    /// Column or dotted path of the set name; null is `meta.pile_set_name`, where present.
    pub set_column: Option<String>,
    /// What a document that cannot be read does: "stop" or "skip".
    pub on_error: String,
}

/// A finished series of a corpus that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeriesRecord {
    /// Time of the input's last change in nanoseconds since 1970; with its length, what tells that it is the same.
    pub modified_nanoseconds: u64,
    /// Whether the series has a list of skipped documents.
    pub has_skipped: bool,
    /// What the manifest will say.
    pub series: Series,
}

/// A document that was read and not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkippedDocument {
    /// Input file, relative to the root it was given with.
    pub file: String,
    /// 1-based line of JSON lines, 1-based row of Parquet.
    pub row: u64,
    /// Where the line begins in the decompressed file; null for Parquet.
    pub byte_offset: Option<u64>,
    /// Why.
    pub reason: String,
}
