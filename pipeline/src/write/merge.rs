//! Writes the manifest of a corpus made by tasks, identical to the manifest of a single run.
//!
//! **Invariant:** a manifest is written only when all series are present, made from the same inputs
//! and options, and every byte agrees with its record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use schemas::build::{BuildOptions, BuildRecord, SeriesRecord};
use schemas::manifest::Manifest;

use crate::console::usage::UsageError;
use crate::corpus;
use crate::disk::failpoint::failpoint;
use crate::read::inputs::{Format, Input};
use crate::write::folder::{self, Folder, HOLDOUT_FOLDER};
use crate::write::manifest::write_manifest;
use crate::write::report::Report;
use crate::write::resume::{self, Expected};
use crate::write::set_column;
use encoder::{Encoder, Policy, SessionStatistics, TOKENIZER_FILE, TOKENIZER_FOLDER};

/// The error of merging tasks' work into a corpus.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be merged: {}", dir.display(), told(faults))]
pub struct MergeError {
    /// The folder.
    pub dir: PathBuf,
    /// Everything missing or wrong; at least one fault.
    pub faults: Vec<String>,
}

/// Maximum number of faults listed in an error.
const FAULTS_TOLD: usize = 20;

fn told(faults: &[String]) -> String {
    let (told, rest) = faults.split_at(faults.len().min(FAULTS_TOLD));
    let more = if rest.is_empty() { String::new() } else { format!("; and {} more", rest.len()) };
    told.join("; ") + &more
}

/// Writes the manifest of the folder `dir`. A corpus already merged is reported again.
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
    if let Some(manifest) = folder.cut_off_in_finishing(&record)? {
        folder.finish(&manifest)?;
        return Ok(report(manifest, None, started));
    }
    check_tokenizer(dir, &record)?;
    let encoder = load_encoder(dir, &record.options)?;
    let records = find_records(&folder, &record)?;
    let manifest = write_manifest(dir, &encoder, &records, &record.options)?;
    failpoint("merge-manifest");
    remove_strangers(&folder, &records)?;
    folder.finish(&manifest)?;
    set_column::notice_count(&manifest.sets, record.options.set_column.as_deref());
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

/// Refuses copies of the tokenizer's files that are not as the tasks made them.
fn check_tokenizer(dir: &Path, record: &BuildRecord) -> Result<(), MergeError> {
    let files = record.tokenizer_files.iter();
    let faults = files.filter_map(|file| folder::damage(&dir.join(&file.path), file));
    let faults: Vec<String> =
        faults.map(|fault| format!("{fault}; run any task again, which restores it")).collect();
    if faults.is_empty() { Ok(()) } else { Err(MergeError { dir: dir.to_owned(), faults }) }
}

/// Loads the tokenizer used by the tasks; each of them refused any other.
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

/// The records of all inputs, or all faults in them.
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
        match resume::finished(folder.path(), &expected, position)? {
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

/// Removes files left beside the series by interrupted tasks.
fn remove_strangers(folder: &Folder, records: &[SeriesRecord]) -> anyhow::Result<()> {
    let mut files: BTreeMap<String, ()> = BTreeMap::new();
    for record in records {
        files.extend(record.files().map(|file| (file.path.clone(), ())));
        let holdout = record.holdout_files();
        files.extend(holdout.map(|file| (format!("{HOLDOUT_FOLDER}/{}", file.path), ())));
    }
    for name in folder.own_files()? {
        let is_temporary = name.rsplit('/').next().is_some_and(crate::disk::atomic::is_temporary);
        let is_final =
            folder::series_of(&name).is_some_and(|(_, kind)| kind == folder::Kind::Final);
        if is_temporary || is_final && !files.contains_key(&name) {
            folder::remove(&folder.path().join(name))?;
        }
    }
    Ok(())
}
