//! The state of a corpus folder while it is being written, with which an interrupted run continues,
//! and the list of skipped documents, which stays.
//!
//! Everything but the list is removed once the manifest is in place: a finished corpus has no trace
//! of how it was made.
//!
//! **Invariant:** a [`PartRecord`] or a [`SeriesRecord`] exists only next to the complete files it
//! names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::{
    BySet, FileRecord, Imported, Series, SetTotals, Shard, SpecialToken, SpecialTokens, Totals,
};
use crate::selection::Selection;

/// Name of the [`BuildRecord`], present from the first write until the manifest is in place.
pub const BUILD_FILE: &str = "build.json";
/// Name of the folder, inside a finished corpus, in which its replacement is written.
pub const NEXT_FOLDER: &str = ".next";
/// The value of [`BuildRecord::format`].
pub const BUILD_FORMAT: &str = "patchmill-build";
/// Name of the list of skipped documents, one [`SkippedDocument`] a line.
pub const SKIPPED_FILE: &str = "skipped.jsonl";

/// The corpus that a run, or the tasks sharing a folder, are writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildRecord {
    /// [`BUILD_FORMAT`].
    pub format: String,
    /// Version of the manifest the run will write.
    pub version: u32,
    /// Everything that decides the bytes of a series, given its input.
    pub options: BuildOptions,
    /// All inputs, in corpus order.
    pub inputs: Vec<BuildInput>,
    /// The copies of the tokenizer's files; absent in records of earlier builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokenizer_files: Vec<FileRecord>,
}

impl BuildRecord {
    /// Whether a run of this record may continue the work begun by another: same options, same
    /// tokenizer's files.
    pub fn continues(&self, begun: &BuildRecord) -> bool {
        let has_same_tokenizer =
            begun.tokenizer_files.is_empty() || begun.tokenizer_files == self.tokenizer_files;
        self.options == begun.options && has_same_tokenizer
    }
}

/// An input of an unfinished corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildInput {
    /// Relative to the root it was given with.
    pub name: String,
    /// Length.
    pub bytes: u64,
}

/// Everything that decides the bytes of a series, given its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildOptions {
    /// BLAKE3 in hex of tokenizer.json.
    pub tokenizer: String,
    /// Put before each document.
    pub bos: Option<SpecialToken>,
    /// Put after each document.
    pub eos: Option<SpecialToken>,
    /// How special tokens spelled out in a text are read.
    pub special_tokens: SpecialTokens,
    /// Size of ids at which a shard closes.
    pub shard_bytes: u64,
    /// Column or key of the text.
    pub text_column: String,
    /// Column or dotted path of the set name; null is `meta.pile_set_name`, where present.
    pub set_column: Option<String>,
    /// The action on a document that cannot be read: "stop" or "skip".
    pub on_error: String,
    /// Bytes of the longest document; null where a longer one stops the run and so decides no byte.
    pub max_document_bytes: Option<u64>,
    /// Whether each set of an input has its own series.
    #[serde(default, skip_serializing_if = "is_false")]
    pub by_set: bool,
    /// Which documents are written; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// Source of the ids; absent for those made from texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// Bytes of an id in files that do not record it themselves; absent for texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_token_bytes: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl BuildOptions {
    /// BLAKE3 in hex of the options as compact JSON.
    pub fn fingerprint(&self) -> String {
        hash_of(self)
    }
}

/// A closed shard of an unfinished input: a run continues after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartRecord {
    /// BLAKE3 in hex of this record as compact JSON with this field empty.
    pub blake3: String,
    /// [`BuildOptions::fingerprint`] of the options it was made with.
    pub options: String,
    /// The input, by its name.
    pub input: String,
    /// Length of the input.
    pub input_bytes: u64,
    /// Time of the input's last change in nanoseconds since 1970.
    pub modified_nanoseconds: u64,
    /// The set of the series, where each set has its own.
    pub by_set: Option<BySet>,
    /// The shard.
    pub shard: Shard,
    /// The shard's rows of the document index.
    pub rows: FileRecord,
    /// Documents skipped since the shard before, if any.
    pub skipped: Option<FileRecord>,
    /// Sums since the shard before.
    pub totals: Totals,
    /// The shard's sums by set name.
    pub sets: Vec<SetTotals>,
    /// The 1-based line or row up to which all documents of the series are in this part and earlier
    /// ones.
    pub last_row: u64,
}

/// A finished input of an unfinished corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeriesRecord {
    /// BLAKE3 in hex of this record as compact JSON with this field empty.
    pub blake3: String,
    /// [`BuildOptions::fingerprint`] of the options it was made with.
    pub options: String,
    /// The input, by its name.
    pub input: String,
    /// Length of the input.
    pub input_bytes: u64,
    /// Time of the input's last change in nanoseconds since 1970; together with the length, it
    /// shows whether the input is the same.
    pub modified_nanoseconds: u64,
    /// The input's list of skipped documents, if any.
    pub skipped: Option<FileRecord>,
    /// The manifest's entries for it: one series, or one a set.
    pub series: Vec<Series>,
    /// The same for the hold-out; empty without one. Paths are relative to its folder.
    pub holdout: Vec<Series>,
}

/// Why a record was refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not in the record's form.
    #[error("not a record of an unfinished corpus: {0}")]
    Form(#[from] serde_json::Error),
    /// Changed since it was written.
    #[error("BLAKE3 of the content is {found}; the record says {expected}")]
    Changed {
        /// Of the actual content.
        found: String,
        /// As written.
        expected: String,
    },
}

impl SeriesRecord {
    /// Reads a record and compares it with its hash.
    pub fn parse(text: &[u8]) -> Result<SeriesRecord, RecordError> {
        let record: SeriesRecord = serde_json::from_slice(text)?;
        check(&record.blake3, record.compute_hash())?;
        Ok(record)
    }

    /// The record with its hash set, and its text.
    pub fn seal(mut self) -> (SeriesRecord, String) {
        self.blake3 = self.compute_hash();
        let text = serde_json::to_string(&self).expect("a record is plain data");
        (self, text)
    }

    /// Every file of the input in the corpus itself, except the record.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        self.series.iter().flat_map(Series::files).chain(&self.skipped)
    }

    /// Every file of the input in the hold-out.
    pub fn holdout_files(&self) -> impl Iterator<Item = &FileRecord> {
        self.holdout.iter().flat_map(Series::files)
    }

    fn compute_hash(&self) -> String {
        hash_of(&SeriesRecord { blake3: String::new(), ..self.clone() })
    }
}

impl PartRecord {
    /// Reads a record and compares it with its hash.
    pub fn parse(text: &[u8]) -> Result<PartRecord, RecordError> {
        let record: PartRecord = serde_json::from_slice(text)?;
        check(&record.blake3, record.compute_hash())?;
        Ok(record)
    }

    /// The record with its hash set, and its text.
    pub fn seal(mut self) -> (PartRecord, String) {
        self.blake3 = self.compute_hash();
        let text = serde_json::to_string(&self).expect("a record is plain data");
        (self, text)
    }

    /// Every file of the part, except the record.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        [&self.shard.file, &self.rows].into_iter().chain(&self.skipped)
    }

    fn compute_hash(&self) -> String {
        hash_of(&PartRecord { blake3: String::new(), ..self.clone() })
    }
}

fn hash_of(record: &impl Serialize) -> String {
    let text = serde_json::to_string(record).expect("a record is plain data");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn check(expected: &str, found: String) -> Result<(), RecordError> {
    if expected == found {
        return Ok(());
    }
    Err(RecordError::Changed { found, expected: expected.to_owned() })
}

/// A document that was read but not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkippedDocument {
    /// Input file, relative to the root it was given with.
    pub file: String,
    /// 1-based line of JSON lines, 1-based row of Parquet.
    pub row: u64,
    /// Offset of the line in the decompressed file; null for Parquet.
    pub byte_offset: Option<u64>,
    /// The reason.
    pub reason: String,
}
