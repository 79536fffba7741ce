//! Makes the manifest of a corpus from the records of its series.
//!
//! **Invariant:** the manifest is written last, so a corpus without one is incomplete.

use std::path::Path;

use anyhow::Context;
use schemas::build::{BuildOptions, SKIPPED_FILE, SeriesRecord};
use schemas::manifest::{self, FileRecord, Manifest, Series, TokenizerRecord, Totals};
use schemas::selection::SelectionPart;
use schemas::shard::TokenBytes;

use crate::console::usage::UsageError;
use crate::corpus::set_totals::Sets;
use crate::disk::atomic::write_atomic;
use crate::disk::failpoint::failpoint;
use crate::write::folder::HOLDOUT_FOLDER;
use crate::write::series::close::join_skipped;
use encoder::{Encoder, TOKENIZER_FILES, TOKENIZER_FOLDER};

/// Joins the lists of skipped documents and writes the manifest last. A hold-out's manifest is
/// written before it.
pub(crate) fn write_manifest(
    dir: &Path,
    encoder: &Encoder,
    records: &[SeriesRecord],
    options: &BuildOptions,
) -> anyhow::Result<Manifest> {
    let mut main = unsealed(encoder, records, options);
    let skipped: Vec<FileRecord> =
        records.iter().filter_map(|record| record.skipped.clone()).collect();
    main.skipped = join_skipped(dir, SKIPPED_FILE.to_owned(), &skipped)?;
    if main.totals.documents_written == 0 {
        let list = main.skipped.map(|list| dir.join(list.path));
        let list =
            list.map(|list| format!("; {} lists the reasons", list.display())).unwrap_or_default();
        return Err(UsageError(format!("{}{list}", no_document(main.totals))).into());
    }
    main.tokenizer.files = tokenizer_files(dir)?;
    let selection = options.selection.clone();
    let has_holdout = selection.as_ref().is_some_and(|selection| selection.holdout_rate.is_some());
    if has_holdout {
        let holdout_dir = dir.join(HOLDOUT_FOLDER);
        let series = records.iter().flat_map(|record| &record.holdout).cloned().collect();
        let mut holdout = manifest_of(encoder, series, options, Some(SelectionPart::Holdout));
        holdout.tokenizer.files = main.tokenizer.files.clone();
        let tokenizer_dir = holdout_dir.join(TOKENIZER_FOLDER);
        std::fs::create_dir_all(&tokenizer_dir)
            .with_context(|| format!("create {}", tokenizer_dir.display()))?;
        for file in &holdout.tokenizer.files {
            let bytes = std::fs::read(dir.join(&file.path))
                .with_context(|| format!("read {}", dir.join(&file.path).display()))?;
            write_atomic(&holdout_dir.join(&file.path), &bytes)?;
        }
        let (_, text) = holdout.seal();
        write_atomic(&holdout_dir.join(manifest::FILE_NAME), text.as_bytes())?;
    }
    let (manifest, text) = main.seal();
    failpoint("manifest");
    write_atomic(&dir.join(manifest::FILE_NAME), text.as_bytes())?;
    Ok(manifest)
}

/// Why a corpus would be empty.
fn no_document(totals: Totals) -> String {
    let Totals { documents_read, documents_skipped, documents_held_out, dropped, .. } = totals;
    let dropped = dropped.checked_sum().unwrap_or(u64::MAX);
    let mut text = format!(
        "the inputs hold no document to write ({documents_read} read, {documents_skipped} skipped"
    );
    for (count, what) in [(documents_held_out, "held out"), (dropped, "not selected")] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text + ")"
}

/// The manifest of these inputs, without the files it lists besides series, and without a
/// fingerprint.
pub(crate) fn unsealed(
    encoder: &Encoder,
    records: &[SeriesRecord],
    options: &BuildOptions,
) -> Manifest {
    let series = records.iter().flat_map(|record| &record.series).cloned().collect();
    let holdout_rate = options.selection.as_ref().and_then(|s| s.holdout_rate.as_ref());
    manifest_of(encoder, series, options, holdout_rate.map(|_| SelectionPart::Main))
}

fn manifest_of(
    encoder: &Encoder,
    series: Vec<Series>,
    options: &BuildOptions,
    part: Option<SelectionPart>,
) -> Manifest {
    let mut totals = Totals::default();
    let mut sets = Sets::default();
    for series in &series {
        totals = totals.checked_add(series.totals).expect("fewer than 2^64 bytes were read");
        series.sets.iter().for_each(|set| sets.add_totals(set));
    }
    let mut selection = options.selection.clone();
    if let Some(selection) = &mut selection {
        selection.part = part;
    }
    Manifest {
        format: manifest::FORMAT.to_owned(),
        version: manifest::version_of(options.imported.as_ref()),
        fingerprint: String::new(),
        tokenizer: TokenizerRecord {
            fingerprint: encoder.fingerprint().to_hex().to_string(),
            vocab_size: encoder.vocab_size(),
            bos: encoder.bos().cloned(),
            eos: encoder.eos().cloned(),
            special_tokens: encoder.policy().special_tokens,
            files: Vec::new(),
        },
        token_bytes: TokenBytes::for_vocabulary(encoder.vocab_size()).get(),
        totals,
        sets: sets.into_totals(),
        series,
        skipped: None,
        selection,
        imported: options.imported.clone(),
    }
}

/// The copies of the tokenizer's files in the folder.
fn tokenizer_files(dir: &Path) -> anyhow::Result<Vec<FileRecord>> {
    let mut files = Vec::new();
    for name in TOKENIZER_FILES {
        let path = format!("{TOKENIZER_FOLDER}/{name}");
        let file = dir.join(&path);
        if !file.exists() {
            continue;
        }
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        files.push(FileRecord { path, bytes: bytes.len() as u64, blake3 });
    }
    Ok(files)
}
