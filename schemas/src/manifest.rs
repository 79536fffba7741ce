//! `manifest.json`: the contents of a corpus, written last, so that a folder with a manifest is
//! complete.
//!
//! It has no times, hosts or absolute paths: equal inputs and options give equal bytes on every
//! machine.
//!
//! BLAKE3 covers whole files, for copies and identity. A corpus's fingerprint is the hash of its
//! manifest without that field.
//!
//! A manifest is written in the lowest version that has its fields. Version 3 exists for imported
//! ids; corpora of texts keep their bytes and their readers.
//!
//! **Invariant:** [`Manifest::parse`] accepts only a manifest whose totals add up, whose paths stay
//! inside the corpus folder and whose fingerprint is that of the rest.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selection::{Dropped, Selection};

/// The file's name.
pub const FILE_NAME: &str = "manifest.json";
/// The value of `format`.
pub const FORMAT: &str = "patchmill-corpus";
/// The version this build writes for corpora made from texts.
///
/// Version 1, which it also reads, has none of the fields that may be absent: `selection`, a
/// series' `by_set`, and of the totals `documents_held_out`, `dropped`, `parts_added` and
/// `surrogates_replaced`.
pub const VERSION: u32 = 2;
/// The version this build writes for corpora made from another project's ids: it has `imported`.
pub const VERSION_IMPORTED: u32 = 3;
/// The oldest version this build reads.
pub const VERSION_MIN: u32 = 1;

/// A whole corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// BLAKE3 in hex of this manifest as compact JSON with this field empty: the identity of the
    /// data.
    pub fingerprint: String,
    /// The tokenizer that made the ids.
    pub tokenizer: TokenizerRecord,
    /// Bytes of one id, 2 or 4.
    pub token_bytes: u32,
    /// Sums over all series.
    pub totals: Totals,
    /// Sums by set name, in byte order of the name; documents without a set come first, as null.
    pub sets: Vec<SetTotals>,
    /// One series an input file (or one a set of it), in corpus order.
    pub series: Vec<Series>,
    /// The list of skipped documents, if any.
    pub skipped: Option<FileRecord>,
    /// Which documents of the inputs were written; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// Source of the ids, if not texts: then no text is known, and `text_bytes` is 0 everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
}

/// Source of ids made by another project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// The project whose files they were.
    pub format: ForeignFormat,
    /// How the end of a document was found.
    pub borders: Borders,
}

/// A project whose files of ids can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForeignFormat {
    /// Megatron-core's `.bin` and `.idx`.
    Megatron,
    /// OLMo-core's and dolma's `.npy` of raw ids.
    Olmo,
    /// nanoGPT's `train.bin` and `val.bin`.
    Nanogpt,
}

impl ForeignFormat {
    /// The project's name.
    pub fn name(self) -> &'static str {
        match self {
            ForeignFormat::Megatron => "Megatron-core",
            ForeignFormat::Olmo => "OLMo-core",
            ForeignFormat::Nanogpt => "nanoGPT",
        }
    }
}

/// How the end of a document of imported ids is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Borders {
    /// By an index next to the ids.
    Index,
    /// Each EOS id ends one.
    Eos,
    /// Each BOS id begins one.
    Bos,
    /// An EOS id followed by a BOS id.
    EosBos,
    /// Nothing: a file is one document.
    File,
}

impl Borders {
    /// A description in words.
    pub fn describe(self) -> &'static str {
        match self {
            Borders::Index => "the index beside the ids",
            Borders::Eos => "EOS at their ends",
            Borders::Bos => "BOS at their beginnings",
            Borders::EosBos => "EOS at their ends and BOS at their beginnings",
            Borders::File => "file: each is one document",
        }
    }
}

/// The tokenizer that made the ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecord {
    /// BLAKE3 in hex of tokenizer.json.
    pub fingerprint: String,
    /// Every id is below it.
    pub vocab_size: u64,
    /// Put before each document.
    pub bos: Option<SpecialToken>,
    /// Put after each document.
    pub eos: Option<SpecialToken>,
    /// How special tokens spelled out in a text are read; for imported ids, as declared.
    pub special_tokens: SpecialTokens,
    /// Copies of the tokenizer's files in the corpus folder, tokenizer.json first.
    pub files: Vec<FileRecord>,
}

/// A token with its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpecialToken {
    /// As in the vocabulary, such as `<s>`.
    pub token: String,
    /// Its id.
    pub id: u32,
}

/// How special tokens spelled out in a text are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// Text like any other.
    Text,
    /// Control ids, as Hugging Face's default makes them.
    Hf,
}

/// A file of the corpus, by its path inside the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// With `/` between the parts.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// BLAKE3 in hex.
    pub blake3: String,
}

/// Documents and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Documents found in the input: written, skipped, held out and dropped.
    pub documents_read: u64,
    /// Documents whose text is in shards.
    pub documents_written: u64,
    /// Documents listed as skipped.
    pub documents_skipped: u64,
    /// Bytes of the written documents' texts in UTF-8.
    pub text_bytes: u64,
    /// Tokens, BOS and EOS included.
    pub tokens: u64,
    /// Documents that went into the corpus of the hold-out; absent when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub documents_held_out: u64,
    /// Documents not selected; absent when 0.
    #[serde(default, skip_serializing_if = "Dropped::is_none")]
    pub dropped: Dropped,
    /// Documents in shards beyond one for each written one, where long ones were cut into several;
    /// absent when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parts_added: u64,
    /// Lone surrogates in the written documents' JSON, each of which became U+FFFD; absent when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub surrogates_replaced: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Totals {
    /// Documents in shards; `None` on overflow.
    pub fn shard_documents(self) -> Option<u64> {
        self.documents_written.checked_add(self.parts_added)
    }

    /// Adds `other`; `None` on overflow.
    pub fn checked_add(self, other: Totals) -> Option<Totals> {
        Some(Totals {
            documents_read: self.documents_read.checked_add(other.documents_read)?,
            documents_written: self.documents_written.checked_add(other.documents_written)?,
            documents_skipped: self.documents_skipped.checked_add(other.documents_skipped)?,
            text_bytes: self.text_bytes.checked_add(other.text_bytes)?,
            tokens: self.tokens.checked_add(other.tokens)?,
            documents_held_out: self.documents_held_out.checked_add(other.documents_held_out)?,
            dropped: self.dropped.checked_add(other.dropped)?,
            parts_added: self.parts_added.checked_add(other.parts_added)?,
            surrogates_replaced: self.surrogates_replaced.checked_add(other.surrogates_replaced)?,
        })
    }
}

/// Written documents of one set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTotals {
    /// `pile_set_name`, null for documents without one.
    pub set_name: Option<String>,
    /// Documents in shards.
    pub documents: u64,
    /// Bytes of their texts in UTF-8.
    pub text_bytes: u64,
    /// Their tokens, BOS and EOS included.
    pub tokens: u64,
}

/// The shards of one input file, or of one set of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Path of the input, relative to the root it was given with.
    pub input: String,
    /// Length of the input.
    pub input_bytes: u64,
    /// Sums over this series.
    pub totals: Totals,
    /// The series' sums by set name, ordered as in [`Manifest::sets`].
    pub sets: Vec<SetTotals>,
    /// The document index; absent when nothing was written.
    pub index: Option<FileRecord>,
    /// In token order; empty when nothing was written.
    pub shards: Vec<Shard>,
    /// Which documents of the input these are; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_set: Option<BySet>,
}

/// The set of a series that has the documents of one set alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BySet {
    /// The set; null for documents without one. Their series also counts the skipped documents.
    pub set_name: Option<String>,
    /// The series index in the series' shards, which with sets is not the position in the manifest.
    pub series_index: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its place and hash.
    #[serde(flatten)]
    pub file: FileRecord,
    /// Its tokens.
    pub token_count: u64,
    /// Its documents.
    pub document_count: u64,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not in the manifest's form.
    #[error("not a corpus manifest: {0}")]
    Form(#[from] serde_json::Error),
    /// Another format.
    #[error("format is {found:?}; expected {FORMAT:?}")]
    Format {
        /// The format found.
        found: String,
    },
    /// Another version.
    #[error(
        "manifest version {found} is not supported; \
         this build reads versions {VERSION_MIN} to {VERSION_IMPORTED}"
    )]
    Version {
        /// The version found.
        found: u64,
    },
    /// A field the version does not have.
    #[error("{field} is in a manifest of version {version}, which does not have it")]
    NotOfVersion {
        /// Which field.
        field: &'static str,
        /// The manifest's version.
        version: u32,
    },
    /// Changed since it was written.
    #[error(
        "fingerprint of the content is {found}; the manifest says {expected}: \
         it was changed after it was written"
    )]
    Fingerprint {
        /// Of the actual content.
        found: String,
        /// As written.
        expected: String,
    },
    /// A size of texts that are unknown.
    #[error(
        "{what} is {found} in a manifest of imported ids, whose texts are not known; expected 0"
    )]
    TextOfIds {
        /// Which sum.
        what: &'static str,
        /// As written.
        found: u64,
    },
    /// A path out of the folder.
    #[error("path {found:?} leaves the corpus folder")]
    Path {
        /// As written.
        found: String,
    },
    /// Sums that do not add up.
    #[error("{what} is {found}; the parts come to {expected}")]
    Sum {
        /// Which sum.
        what: String,
        /// As written.
        found: u64,
        /// Of the parts.
        expected: u64,
    },
}

/// The version this build writes for a corpus.
pub fn version_of(imported: Option<&Imported>) -> u32 {
    if imported.is_some() { VERSION_IMPORTED } else { VERSION }
}

impl Manifest {
    /// Reads a manifest and checks its version, fingerprint, paths and sums.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let head: serde_json::Value = serde_json::from_str(text)?;
        let format = head.get("format").and_then(|format| format.as_str()).unwrap_or_default();
        if format != FORMAT {
            return Err(ManifestError::Format { found: format.to_owned() });
        }
        let version = head.get("version").and_then(|version| version.as_u64()).unwrap_or(0);
        if !(u64::from(VERSION_MIN)..=u64::from(VERSION_IMPORTED)).contains(&version) {
            return Err(ManifestError::Version { found: version });
        }
        let manifest: Manifest = serde_json::from_str(text)?;
        let expected = manifest.compute_fingerprint();
        if manifest.fingerprint != expected {
            let (found, expected) = (expected, manifest.fingerprint);
            return Err(ManifestError::Fingerprint { found, expected });
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest's text, with its fingerprint set.
    ///
    /// # Panics
    /// If [`Manifest::parse`] would refuse it, which is the writer's fault.
    pub fn seal(mut self) -> (Manifest, String) {
        self.fingerprint = self.compute_fingerprint();
        if let Err(err) = self.check() {
            panic!("manifest that is about to be written: {err}");
        }
        let mut text = serde_json::to_string_pretty(&self).expect("a manifest is plain data");
        text.push('\n');
        (self, text)
    }

    fn compute_fingerprint(&self) -> String {
        let bare = Manifest { fingerprint: String::new(), ..self.clone() };
        let text = serde_json::to_string(&bare).expect("a manifest is plain data");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// All shards, in the order of the corpus's token stream.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.series.iter().flat_map(|series| &series.shards)
    }

    /// Every file the manifest promises, except itself.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        let series = self.series.iter();
        let parts = series.flat_map(Series::files);
        self.tokenizer.files.iter().chain(parts).chain(&self.skipped)
    }

    fn check(&self) -> Result<(), ManifestError> {
        self.check_version()?;
        for file in self.files() {
            check_path(&file.path)?;
        }
        let mut totals = Totals::default();
        for series in &self.series {
            series.check()?;
            totals = totals.checked_add(series.totals).ok_or_else(|| overflow("totals"))?;
        }
        check_totals("totals", self.totals, totals)?;
        check_sets("sets", self.totals, &self.sets)?;
        // All other sums are parts of it.
        match (&self.imported, self.totals.text_bytes) {
            (Some(_), found @ 1..) => Err(ManifestError::TextOfIds { what: "text_bytes", found }),
            _ => Ok(()),
        }
    }

    /// A field introduced by a later version must be absent from an earlier one, whose readers do
    /// not know it.
    fn check_version(&self) -> Result<(), ManifestError> {
        let version = self.version;
        let totals =
            || self.series.iter().map(|series| series.totals).chain(std::iter::once(self.totals));
        for (first_version, field, stands) in [
            (2, "selection", self.selection.is_some()),
            (2, "by_set", self.series.iter().any(|series| series.by_set.is_some())),
            (2, "documents_held_out", totals().any(|totals| totals.documents_held_out > 0)),
            (2, "dropped", totals().any(|totals| !totals.dropped.is_none())),
            (2, "parts_added", totals().any(|totals| totals.parts_added > 0)),
            (2, "surrogates_replaced", totals().any(|totals| totals.surrogates_replaced > 0)),
            (3, "imported", self.imported.is_some()),
        ] {
            if stands && version < first_version {
                return Err(ManifestError::NotOfVersion { field, version });
            }
        }
        Ok(())
    }
}

impl Series {
    /// The series index in the series' shards; `position` is the series' place in the manifest.
    pub fn series_index(&self, position: u64) -> u64 {
        self.by_set.as_ref().map_or(position, |by_set| by_set.series_index)
    }

    /// Every file of the series, its index first.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        self.index.iter().chain(self.shards.iter().map(|shard| &shard.file))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let of = |what: &str| format!("{what} of series {}", self.input);
        let Totals { documents_written, documents_skipped, documents_held_out, dropped, .. } =
            self.totals;
        let parts = [documents_skipped, documents_held_out].into_iter();
        let read = parts.chain(dropped.checked_sum()).try_fold(documents_written, u64::checked_add);
        let read = read.filter(|_| dropped.checked_sum().is_some());
        check_sum(&of("documents_read"), self.totals.documents_read, read)?;
        let tokens = sum(self.shards.iter().map(|shard| shard.token_count));
        check_sum(&of("tokens"), self.totals.tokens, tokens)?;
        let documents = sum(self.shards.iter().map(|shard| shard.document_count));
        let documents = documents.and_then(|count| count.checked_sub(self.totals.parts_added));
        check_sum(&of("documents_written"), self.totals.documents_written, documents)?;
        check_sets(&of("sets"), self.totals, &self.sets)
    }
}

fn check_sets(what: &str, totals: Totals, sets: &[SetTotals]) -> Result<(), ManifestError> {
    let documents = sum(sets.iter().map(|set| set.documents));
    let documents = documents.and_then(|count| count.checked_sub(totals.parts_added));
    check_sum(&format!("documents_written ({what})"), totals.documents_written, documents)?;
    let tokens = sum(sets.iter().map(|set| set.tokens));
    check_sum(&format!("tokens ({what})"), totals.tokens, tokens)?;
    let text_bytes = sum(sets.iter().map(|set| set.text_bytes));
    check_sum(&format!("text_bytes ({what})"), totals.text_bytes, text_bytes)
}

fn check_totals(what: &str, found: Totals, parts: Totals) -> Result<(), ManifestError> {
    for (field, found, expected) in [
        ("documents_read", found.documents_read, parts.documents_read),
        ("documents_written", found.documents_written, parts.documents_written),
        ("documents_skipped", found.documents_skipped, parts.documents_skipped),
        ("text_bytes", found.text_bytes, parts.text_bytes),
        ("tokens", found.tokens, parts.tokens),
        ("documents_held_out", found.documents_held_out, parts.documents_held_out),
        ("dropped.too_short", found.dropped.too_short, parts.dropped.too_short),
        ("dropped.too_long", found.dropped.too_long, parts.dropped.too_long),
        ("dropped.set", found.dropped.set, parts.dropped.set),
        ("dropped.duplicate", found.dropped.duplicate, parts.dropped.duplicate),
        ("dropped.sample", found.dropped.sample, parts.dropped.sample),
        ("parts_added", found.parts_added, parts.parts_added),
        ("surrogates_replaced", found.surrogates_replaced, parts.surrogates_replaced),
    ] {
        check_sum(&format!("{what}.{field}"), found, Some(expected))?;
    }
    Ok(())
}

fn sum(mut parts: impl Iterator<Item = u64>) -> Option<u64> {
    parts.try_fold(0u64, |sum, part| sum.checked_add(part))
}

fn check_sum(what: &str, found: u64, parts: Option<u64>) -> Result<(), ManifestError> {
    match parts {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(ManifestError::Sum { what: what.to_owned(), found, expected }),
        None => Err(overflow(what)),
    }
}

fn overflow(what: &str) -> ManifestError {
    ManifestError::Sum { what: format!("{what} (overflow)"), found: 0, expected: u64::MAX }
}

/// The JSON Schema of a manifest, pretty-printed, with a final newline.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(Manifest);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// Checks that a path is relative, with no part that leads out of the folder.
pub fn check_path(path: &str) -> Result<(), ManifestError> {
    let inside = !path.is_empty()
        && !path.contains('\\')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if inside { Ok(()) } else { Err(ManifestError::Path { found: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> FileRecord {
        FileRecord { path: path.to_owned(), bytes: 3, blake3: "00".to_owned() }
    }

    fn manifest() -> Manifest {
        let totals = Totals {
            documents_read: 3,
            documents_written: 2,
            documents_skipped: 1,
            text_bytes: 50,
            tokens: 9,
            ..Totals::default()
        };
        let sets = vec![
            SetTotals { set_name: None, documents: 1, text_bytes: 20, tokens: 4 },
            SetTotals {
                set_name: Some("Github".to_owned()),
                documents: 1,
                text_bytes: 30,
                tokens: 5,
            },
        ];
        let series = Series {
            input: "00.jsonl.zst".to_owned(),
            input_bytes: 100,
            totals,
            sets: sets.clone(),
            index: Some(file("00000.index.parquet")),
            shards: vec![Shard {
                file: file("00000-00000.tok"),
                token_count: 9,
                document_count: 2,
            }],
            by_set: None,
        };
        Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            fingerprint: String::new(),
            tokenizer: TokenizerRecord {
                fingerprint: "ab".to_owned(),
                vocab_size: 4096,
                bos: Some(SpecialToken { token: "<s>".to_owned(), id: 1 }),
                eos: None,
                special_tokens: SpecialTokens::Text,
                files: vec![file("tokenizer/tokenizer.json")],
            },
            token_bytes: 2,
            totals,
            sets,
            series: vec![series],
            skipped: None,
            selection: None,
            imported: None,
        }
    }

    #[test]
    fn a_sealed_manifest_is_read_back() {
        let (sealed, text) = manifest().seal();
        assert_eq!(Manifest::parse(&text).unwrap(), sealed);
        assert_eq!(sealed.fingerprint.len(), 64);
    }

    /// Every change to the text is refused or leaves the content unchanged (white space).
    #[test]
    fn every_flipped_bit_and_every_shorter_text_is_found() {
        let (sealed, text) = manifest().seal();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(changed) = String::from_utf8(bytes)
                && let Ok(found) = Manifest::parse(&changed)
            {
                assert_eq!(found, sealed, "bit {bit}");
            }
        }
        for length in 0..text.trim_end().len() {
            Manifest::parse(&text[..length]).unwrap_err();
        }
    }

    fn check(change: impl FnOnce(&mut Manifest), expected: &str) {
        let mut manifest = manifest();
        change(&mut manifest);
        manifest.fingerprint = manifest.compute_fingerprint();
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(Manifest::parse(&text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        check(
            |m| m.format = "other".to_owned(),
            "format is \"other\"; expected \"patchmill-corpus\"",
        );
        check(
            |m| m.version = 4,
            "manifest version 4 is not supported; this build reads versions 1 to 3",
        );
        check(|m| m.totals.tokens = 10, "totals.tokens is 10; the parts come to 9");
        check(
            |m| m.series[0].shards[0].token_count = 8,
            "tokens of series 00.jsonl.zst is 9; the parts come to 8",
        );
        check(
            |m| m.series[0].totals.documents_skipped = 2,
            "documents_read of series 00.jsonl.zst is 3; the parts come to 4",
        );
        check(|m| m.sets[1].tokens = 6, "tokens (sets) is 9; the parts come to 10");
        for path in ["../x.tok", "/etc/passwd", "", "a/../../b", "."] {
            check(
                |m| m.series[0].shards[0].file.path = path.to_owned(),
                &format!("path {path:?} leaves the corpus folder"),
            );
        }
    }

    /// The text written by the first version of this program, byte for byte.
    #[test]
    fn a_manifest_of_version_1_is_read_and_has_no_later_fields() {
        let mut old = manifest();
        old.version = 1;
        let (sealed, text) = old.clone().seal();
        assert_eq!(text, include_str!("manifest.v1.json"));
        assert_eq!(Manifest::parse(&text).unwrap(), sealed);
        let refused = |change: fn(&mut Manifest), field: &str| {
            let change = |m: &mut Manifest| {
                m.version = 1;
                change(m);
            };
            let message = format!("{field} is in a manifest of version 1, which does not have it");
            check(change, &message);
        };
        refused(|m| m.selection = Some(Selection::default()), "selection");
        refused(|m| m.totals.documents_held_out = 1, "documents_held_out");
        refused(|m| m.series[0].totals.dropped.sample = 1, "dropped");
        refused(|m| m.totals.parts_added = 1, "parts_added");
        refused(|m| m.series[0].by_set = Some(BySet { set_name: None, series_index: 7 }), "by_set");
    }

    /// Corpora of texts are written as before imported ones existed.
    #[test]
    fn a_manifest_of_version_2_is_read_and_written_byte_for_byte() {
        let mut selected = manifest();
        selected.series[0].by_set = Some(BySet { set_name: None, series_index: 7 });
        for totals in [&mut selected.totals, &mut selected.series[0].totals] {
            totals.documents_read += 3;
            totals.documents_held_out = 1;
            totals.surrogates_replaced = 2;
            totals.dropped = Dropped { too_short: 1, sample: 1, ..Dropped::default() };
        }
        selected.selection = Some(Selection { min_bytes: Some(9), ..Selection::default() });
        let (sealed, text) = selected.seal();
        assert_eq!(text, include_str!("manifest.v2.json"));
        assert_eq!(Manifest::parse(&text).unwrap(), sealed);
    }

    fn imported() -> Manifest {
        let mut imported = manifest();
        imported.version = VERSION_IMPORTED;
        imported.imported =
            Some(Imported { format: ForeignFormat::Megatron, borders: Borders::Index });
        let series = &mut imported.series[0];
        (imported.totals.text_bytes, series.totals.text_bytes) = (0, 0);
        imported.sets.iter_mut().chain(&mut series.sets).for_each(|set| set.text_bytes = 0);
        imported
    }

    #[test]
    fn a_manifest_of_imported_ids_is_of_version_3_and_knows_no_texts() {
        let (sealed, text) = imported().seal();
        assert_eq!(text, include_str!("manifest.v3.json"));
        assert_eq!(Manifest::parse(&text).unwrap(), sealed);
        let with_imported = |change: fn(&mut Manifest)| {
            move |m: &mut Manifest| {
                *m = imported();
                change(m);
            }
        };
        check(
            with_imported(|m| m.version = 2),
            "imported is in a manifest of version 2, which does not have it",
        );
        check(
            with_imported(|m| {
                m.totals.text_bytes = 5;
                m.sets[0].text_bytes = 5;
                m.series[0].totals.text_bytes = 5;
                m.series[0].sets[0].text_bytes = 5;
            }),
            "text_bytes is 5 in a manifest of imported ids, whose texts are not known; expected 0",
        );
    }

    #[test]
    fn what_was_not_selected_is_a_part_of_what_was_read() {
        let mut selected = manifest();
        for totals in [&mut selected.totals, &mut selected.series[0].totals] {
            totals.documents_read += 3;
            totals.documents_held_out = 1;
            totals.dropped = Dropped { too_short: 1, sample: 1, ..Dropped::default() };
        }
        selected.selection = Some(Selection { min_bytes: Some(9), ..Selection::default() });
        let (sealed, text) = selected.seal();
        assert_eq!(Manifest::parse(&text).unwrap(), sealed);
        let change = |m: &mut Manifest| m.series[0].totals.dropped.set = 1;
        check(change, "documents_read of series 00.jsonl.zst is 3; the parts come to 4");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let (_, text) = manifest().seal();
        let text = text.replacen("\"version\": 2,", "\"version\": 2, \"extra\": 1,", 1);
        let found = Manifest::parse(&text).unwrap_err().to_string();
        assert!(found.starts_with("not a corpus manifest: unknown field `extra`"), "{found}");
    }
}
