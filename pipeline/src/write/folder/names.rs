//! Names of the files in a corpus's folder, and their meaning.
//!
//! **Invariant:** each name denotes one kind of file, one series and one part; a file with any
//! other name is not ours.

use schemas::build::{BUILD_FILE, SKIPPED_FILE};
use schemas::manifest;

use crate::disk::atomic;
use encoder::{TOKENIZER_FILES, TOKENIZER_FOLDER};

const RECORD_END: &str = ".series.json";
const PART_END: &str = ".part.json";
const ROWS_END: &str = ".rows.parquet";
const SKIPPED_END: &str = ".skipped.jsonl";
const INDEX_END: &str = ".index.parquet";
const SHARD_END: &str = ".tok";

/// Name of a shard.
pub(crate) fn shard_name(series_index: u64, shard_index: u64) -> String {
    format!("{series_index:05}-{shard_index:05}{SHARD_END}")
}

/// Name of a shard's rows of the index, until its series is complete.
pub(crate) fn rows_name(series_index: u64, part_index: u64) -> String {
    format!("{series_index:05}-{part_index:05}{ROWS_END}")
}

/// Name of the list of documents skipped since the shard before, until its series is complete.
pub(crate) fn part_skipped_name(series_index: u64, part_index: u64) -> String {
    format!("{series_index:05}-{part_index:05}{SKIPPED_END}")
}

/// Name of a part's record, until its series is complete.
pub(crate) fn part_name(series_index: u64, part_index: u64) -> String {
    format!("{series_index:05}-{part_index:05}{PART_END}")
}

/// Name of a series's document index.
pub(crate) fn index_name(series_index: u64) -> String {
    format!("{series_index:05}{INDEX_END}")
}

/// Name of an input's list of skipped documents, until the manifest is in place.
pub(crate) fn skipped_name(position: u64) -> String {
    format!("{position:05}{SKIPPED_END}")
}

/// Name of an input's record, until the manifest is in place.
pub(crate) fn record_name(position: u64) -> String {
    format!("{position:05}{RECORD_END}")
}

/// The kind of a series file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file of a finished corpus.
    Final,
    /// A record or a list of an input, by its position among the inputs.
    Input,
    /// A file of a part other than the shard.
    Part,
}

/// The series of a file in a corpus's folder (for [`Kind::Input`] the position of its input), and
/// its kind.
pub(crate) fn series_of(name: &str) -> Option<(u64, Kind)> {
    let name = name.strip_prefix("holdout/").unwrap_or(name);
    let name = match name.strip_prefix('.') {
        Some(temporary) => temporary.strip_suffix(".tmp")?,
        None => name,
    };
    let number = |digits: &str| {
        let is_number = digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { digits.parse::<u64>().ok() } else { None }
    };
    let (stem, end) = name.split_once('.')?;
    let end = format!(".{end}");
    if let Some((series, part)) = stem.split_once('-') {
        let kind = match end.as_str() {
            SHARD_END => Kind::Final,
            ROWS_END | SKIPPED_END | PART_END => Kind::Part,
            _ => return None,
        };
        return number(part).and(Some((number(series)?, kind)));
    }
    let kind = match end.as_str() {
        INDEX_END => Kind::Final,
        RECORD_END | SKIPPED_END => Kind::Input,
        _ => return None,
    };
    Some((number(stem)?, kind))
}

/// Series and part of a part's record.
pub(crate) fn part_of(name: &str) -> Option<(u64, u64)> {
    let (series, part) = name.strip_suffix(PART_END)?.split_once('-')?;
    Some((series.parse().ok()?, part.parse().ok()?))
}

/// Whether corpora use this name (relative to the folder).
pub(super) fn is_own(name: &str) -> bool {
    let name = name.strip_prefix("holdout/").unwrap_or(name);
    if let Some(file) = name.strip_prefix(&format!("{TOKENIZER_FOLDER}/")) {
        return TOKENIZER_FILES.contains(&atomic::final_name(file));
    }
    let name = atomic::final_name(name);
    series_of(name).is_some() || [manifest::FILE_NAME, BUILD_FILE, SKIPPED_FILE].contains(&name)
}

/// Whether a run cut off before recording its corpus may leave a file of this name.
pub(super) fn is_left_over(name: &str) -> bool {
    name.starts_with(TOKENIZER_FOLDER) || name.rsplit('/').next().is_some_and(atomic::is_temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_corpus_are_its_own() {
        for name in [
            "manifest.json",
            "build.json",
            "skipped.jsonl",
            "00000-00000.tok",
            "123456-00001.tok",
            "00001.index.parquet",
            "00001.series.json",
            "00001.skipped.jsonl",
            "00001-00000.rows.parquet",
            "00001-00000.part.json",
            "00001-00000.skipped.jsonl",
            "holdout/00001-00000.tok",
            "holdout/tokenizer/tokenizer.json",
            ".00001-00000.tok.tmp",
            "tokenizer/tokenizer.json",
        ] {
            assert!(is_own(name), "{name}");
        }
        for name in
            ["thesis.tex", "0-0.tok", "a.tok", "00000.tok", "tokenizer/notes", "x.tmp", "holdout/x"]
        {
            assert!(!is_own(name), "{name}");
        }
    }
}
