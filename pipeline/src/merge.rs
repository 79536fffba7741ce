//! `patchmill merge`: the manifest of a corpus that tasks have written, the same as a single run writes.
//!
//! **Invariant:** a manifest is written only over series that are all there, of the same inputs and options, with every
//! byte as its record says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use schemas::build::{BuildOptions, BuildRecord, SKIPPED_FILE, SeriesRecord};
use schemas::manifest::{self, FileRecord, Manifest, Series, TokenizerRecord, Totals};
use schemas::selection::SelectionPart;
use schemas::shard::TokenBytes;

use crate::closing::join_skipped;
use crate::corpus;
use crate::failpoint::failpoint;
use crate::folder::{self, Folder, HOLDOUT_FOLDER};
use crate::inputs::{Format, Input};
use crate::kept::{self, Expected};
use crate::publish::write_atomic;
use crate::report::Report;
use crate::set_totals::Sets;
use crate::tokenize::{
    Encoder, Policy, SessionStatistics, TOKENIZER_FILE, TOKENIZER_FILES, TOKENIZER_FOLDER,
};
use crate::usage::UsageError;

/// Options of `patchmill merge`.
#[derive(clap::Args, Clone, Debug)]
pub struct MergeArgs {
    /// The folder that tasks have written into.
    pub dir: PathBuf,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

/// Tasks' work that does not make a corpus.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be merged: {}", dir.display(), told(faults))]
pub struct MergeError {
    /// The folder.
    pub dir: PathBuf,
    /// All that is missing or wrong; at least one.
    pub faults: Vec<String>,
}

/// Faults that an error tells.
const FAULTS_TOLD: usize = 20;

fn told(faults: &[String]) -> String {
    let (told, rest) = faults.split_at(faults.len().min(FAULTS_TOLD));
    let more = if rest.is_empty() { String::new() } else { format!("; and {} more", rest.len()) };
    told.join("; ") + &more
}

/// Runs `patchmill merge`.
pub fn run(args: &MergeArgs) -> anyhow::Result<()> {
    merge(&args.dir)?.print(args.json)
}

/// Writes the manifest of the folder `dir`. What is merged already is reported again.
pub fn merge(dir: &Path) -> anyhow::Result<Report> {
    let started = Instant::now();
    let folder = Folder::take_for_merge(dir)?;
    let has_manifest = folder.has_own_manifest()?;
    let Some(record) = folder.build_record()? else {
        if has_manifest {
            let manifest = corpus::read_manifest(dir)?;
            return Ok(report(manifest, None, started));
        }
        let what = "holds no corpus that tasks have begun (patchmill tokenize --task)";
        return Err(UsageError(format!("{} {what}", dir.display())).into());
    };
    if folder.is_cut_off_in_finishing(&record)? {
        let manifest = corpus::read_manifest(dir)?;
        folder.finish(&manifest)?;
        return Ok(report(manifest, None, started));
    }
    let encoder = load_encoder(dir, &record.options)?;
    let records = find_records(&folder, &record)?;
    let manifest = write_manifest(dir, &encoder, &records, &record.options)?;
    failpoint("merge-manifest");
    remove_strangers(&folder, &records)?;
    folder.finish(&manifest)?;
    Ok(report(manifest, Some(&encoder), started))
}

fn report(manifest: Manifest, encoder: Option<&Encoder>, started: Instant) -> Report {
    Report {
        kept_series: manifest.series.len() as u64,
        manifest,
        encoder: encoder.map_or("none", Encoder::name),
        encoder_obstacles: encoder.map_or_else(Vec::new, |encoder| encoder.obstacles().to_vec()),
        seconds: started.elapsed().as_secs_f64(),
        statistics: SessionStatistics::default(),
        task: None,
    }
}

/// The tokenizer that the tasks used; each of them refused another one.
fn load_encoder(dir: &Path, options: &BuildOptions) -> anyhow::Result<Encoder> {
    let policy = Policy {
        bos: options.bos.is_some(),
        eos: options.eos.is_some(),
        special_tokens: options.special_tokens,
    };
    let encoder = Encoder::load(&dir.join(TOKENIZER_FOLDER), policy)?;
    let found = encoder.fingerprint().to_hex();
    ensure!(
        found.as_str() == options.tokenizer,
        MergeError {
            dir: dir.to_owned(),
            faults: vec![format!(
                "{TOKENIZER_FOLDER}/{TOKENIZER_FILE} has BLAKE3 {found}; the tasks used {}",
                options.tokenizer
            )],
        }
    );
    Ok(encoder)
}

/// The records of all inputs, or all that is wrong with them.
fn find_records(folder: &Folder, record: &BuildRecord) -> anyhow::Result<Vec<SeriesRecord>> {
    let inputs: Vec<Input> = record
        .inputs
        .iter()
        .map(|input| Input {
            path: PathBuf::from(&input.name),
            name: input.name.clone(),
            bytes: input.bytes,
            modified_nanoseconds: 0,
            format: Format::of(&input.name).unwrap_or(Format::JsonLines),
        })
        .collect();
    let options = record.options.fingerprint();
    let by_set = record.options.by_set;
    let expected = Expected { inputs: &inputs, options: &options, by_set, knows_changes: false };
    let names = folder.own_files()?;
    let (mut records, mut faults) = (Vec::new(), Vec::new());
    for (position, input) in (0u64..).zip(&inputs) {
        let name = folder::record_name(position);
        if !names.contains(&name) {
            faults.push(format!("series {position} ({}) is missing", input.name));
            continue;
        }
        match kept::finished(folder.path(), &expected, position)? {
            Ok(record) => records.push(record),
            Err(what) => faults.push(format!("{name} {what}")),
        }
    }
    if faults.is_empty() {
        return Ok(records);
    }
    let dir = folder.path().to_owned();
    if faults.iter().any(|fault| fault.ends_with("is missing")) {
        faults.insert(0, "run the tasks that have them to their end".to_owned());
    }
    Err(MergeError { dir, faults }.into())
}

/// Removes what tasks that were cut off have left beside the series.
fn remove_strangers(folder: &Folder, records: &[SeriesRecord]) -> anyhow::Result<()> {
    let mut files: BTreeMap<String, ()> = BTreeMap::new();
    for record in records {
        files.extend(record.files().map(|file| (file.path.clone(), ())));
        let holdout = record.holdout_files();
        files.extend(holdout.map(|file| (format!("{HOLDOUT_FOLDER}/{}", file.path), ())));
    }
    for name in folder.own_files()? {
        let is_temporary = name.rsplit('/').next().is_some_and(crate::publish::is_temporary);
        let is_final =
            folder::series_of(&name).is_some_and(|(_, kind)| kind == folder::Kind::Final);
        if is_temporary || is_final && !files.contains_key(&name) {
            folder::remove(&folder.path().join(name))?;
        }
    }
    Ok(())
}

/// Joins the lists of skipped documents and writes the manifest last; that of the hold-out, where there is one, before.
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
        let list = list.map(|list| format!("; {} says why", list.display())).unwrap_or_default();
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

/// What the manifest of these inputs would say, without the files that it lists beside series, and without a fingerprint.
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

/// The copies of the tokenizer's files that lie in the folder.
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
