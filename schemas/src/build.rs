//! What a corpus folder says while it is being written, so that an interrupted run goes on, and the list of what
//! was skipped, which stays.
//!
//! The first two records are removed when the manifest is in place: a finished corpus has no trace of how it came about.
//!
//! **Invariant:** a [`SeriesRecord`] exists only beside the complete files that it names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::{FileRecord, Series, SpecialToken, SpecialTokens};

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
    /// Bytes of the longest document; null where a longer one stops the run, so that it decides no byte.
    pub max_document_bytes: Option<u64>,
}

/// A finished series of a corpus that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeriesRecord {
    /// BLAKE3 in hex of this record as compact JSON with this field empty.
    pub blake3: String,
    /// Time of the input's last change in nanoseconds since 1970; with its length, what tells that it is the same.
    pub modified_nanoseconds: u64,
    /// The series' list of skipped documents, when there are any.
    pub skipped: Option<FileRecord>,
    /// What the manifest will say.
    pub series: Series,
}

/// Why a series' record was refused.
#[derive(Debug, thiserror::Error)]
pub enum SeriesRecordError {
    /// Not JSON, or not of the record's form.
    #[error("not a series' record: {0}")]
    Form(#[from] serde_json::Error),
    /// Changed since it was written.
    #[error("BLAKE3 of the content is {found}; the record says {expected}")]
    Changed {
        /// Of the content as it is.
        found: String,
        /// As written.
        expected: String,
    },
}

impl SeriesRecord {
    /// Reads a record and compares it with its hash.
    pub fn parse(text: &[u8]) -> Result<SeriesRecord, SeriesRecordError> {
        let record: SeriesRecord = serde_json::from_slice(text)?;
        let found = record.compute_hash();
        if record.blake3 != found {
            return Err(SeriesRecordError::Changed { found, expected: record.blake3 });
        }
        Ok(record)
    }

    /// The record with its hash set, and its text.
    pub fn seal(mut self) -> (SeriesRecord, String) {
        self.blake3 = self.compute_hash();
        let text = serde_json::to_string(&self).expect("a record is plain data");
        (self, text)
    }

    /// Every file of the series, the record excepted.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        let shards = self.series.shards.iter().map(|shard| &shard.file);
        shards.chain(&self.series.index).chain(&self.skipped)
    }

    fn compute_hash(&self) -> String {
        let bare = SeriesRecord { blake3: String::new(), ..self.clone() };
        let text = serde_json::to_string(&bare).expect("a record is plain data");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
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
