//! `patchmill tokenize`: turns inputs into a corpus.
//!
//! `crew` does the work. This module checks everything before anything is written, decides which
//! files of an interrupted run can stay, and reports the result.
//!
//! **Invariant:** the bytes written are a function of the inputs, the tokenizer and the options;
//! never of threads, tasks, restarts or time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::Instant;

use anyhow::{Context, ensure};
use schemas::build::{BuildRecord, SeriesRecord};
use schemas::manifest::Manifest;
use schemas::shard::{HEADER_BYTES, TokenBytes};

use crate::console::progress::{Progress, notice};
use crate::console::stop::{StopFlag, Stopped};
use crate::console::usage::UsageError;
use crate::disk::atomic::{free_bytes, free_files};
use crate::disk::limits::raise_open_files_limit;
use crate::read::document::Columns;
use crate::read::documents::Docs;
use crate::read::inputs::{self, Format, Input};
use crate::write::folder::{Folder, build_record, check_not_inside, check_outside};
use crate::write::job::{InputPlan, Job};
use crate::write::manifest::{unsealed, write_manifest};
use crate::write::report::Report;
use crate::write::resume::{CompletedWork, Expected};
use crate::write::select::{Select, SelectSpec};
use crate::write::set_column;
use crate::write::spec::{CorpusSpec, OnError};
use crate::write::tasks::Task;
use encoder::{Encoder, SessionStatistics, TokenizeError};

/// Writes the corpus described by `spec`, or a task's share of it.
pub fn build(spec: &CorpusSpec) -> anyhow::Result<Report> {
    let (report, _) = build_until(spec, &StopFlag::default())?;
    Ok(report)
}

/// Like [`build`], but ends with [`Stopped`] when somebody asks to stop.
pub(crate) fn build_until(spec: &CorpusSpec, stop: &StopFlag) -> anyhow::Result<(Report, Encoder)> {
    let started = Instant::now();
    raise_open_files_limit();
    let task = spec.task;
    let encoder = load(spec)?.with_cache_bytes(spec.cache_bytes);
    encoder.followed().iter().for_each(|what| notice(what));
    let inputs = find_inputs(&spec.inputs)?;
    check_outside(&spec.out, &inputs, &encoder)?;
    check_not_inside(&spec.out, &spec.inputs)?;
    check_readable(&inputs, &spec.columns)?;
    set_column::notice_if_unknown(&inputs, &spec.columns)?;
    let select = make_select(&spec.select, &inputs)?;
    let record = build_record(spec.options(&encoder, &select), &inputs, encoder.path())?;
    let folder = Folder::take(&spec.out, &record, spec.force, task)?;
    let cut_off = if task.is_none() { folder.cut_off_in_finishing(&record)? } else { None };
    if let Some(manifest) = cut_off {
        folder.finish(&manifest)?;
        let (kept_series, statistics) =
            (manifest.series.len() as u64, SessionStatistics::default());
        return Ok((
            make_report(&encoder, manifest, started, kept_series, statistics, task),
            encoder,
        ));
    }
    let input_bytes: Vec<u64> = inputs.iter().map(|input| input.bytes).collect();
    let positions = match task {
        Some(task) => task.share(&input_bytes),
        None => (0..inputs.len()).collect(),
    };
    let run = Run {
        spec,
        encoder: &encoder,
        inputs: &inputs,
        select: &select,
        record: &record,
        task,
        positions,
    };
    let kept = run.begin(&folder)?;
    let decides_all = kept.finished.is_empty() && kept.parts.values().all(BTreeMap::is_empty);
    let kept_series = kept.finished.len() as u64;
    let (records, statistics) =
        run.write(&folder, kept, stop).map_err(|err| run.explain(err, folder.path()))?;
    for option in select.unmet_sets().iter().filter(|_| decides_all) {
        notice(&format!("{option}: none of the documents read is of such a set"));
    }
    let manifest = match task {
        Some(_) => unsealed(&encoder, &records, &record.options),
        None => {
            let manifest = write_manifest(folder.path(), &encoder, &records, &record.options)
                .map_err(|err| run.explain(err, folder.path()))?;
            folder.finish(&manifest)?;
            manifest
        }
    };
    set_column::notice_count(&manifest.sets, spec.columns.set.as_deref());
    Ok((make_report(&encoder, manifest, started, kept_series, statistics, task), encoder))
}

fn make_report(
    encoder: &Encoder,
    manifest: Manifest,
    started: Instant,
    kept_series: u64,
    statistics: SessionStatistics,
    task: Option<Task>,
) -> Report {
    let seconds = started.elapsed().as_secs_f64();
    let (encoder, encoder_obstacles) = (encoder.name(), encoder.obstacles().to_vec());
    Report { manifest, encoder, encoder_obstacles, seconds, kept_series, statistics, task }
}

/// Loads the encoder. With more than one thread, building our own encoder may continue after this
/// returns.
fn load(spec: &CorpusSpec) -> Result<Encoder, TokenizeError> {
    match spec.threads {
        1 => Encoder::load(&spec.tokenizer, spec.policy),
        _ => Encoder::load_on_two_threads(&spec.tokenizer, spec.policy),
    }
}

/// The work of one run.
struct Run<'a> {
    spec: &'a CorpusSpec,
    encoder: &'a Encoder,
    inputs: &'a [Input],
    select: &'a Select,
    record: &'a BuildRecord,
    task: Option<Task>,
    /// Positions of this run's inputs among all inputs.
    positions: Vec<usize>,
}

impl Run<'_> {
    /// Makes the folder ready, and returns the work of an interrupted run to keep.
    fn begin(&self, folder: &Folder) -> anyhow::Result<CompletedWork> {
        let options = self.record.options.fingerprint();
        let by_set = self.spec.by_set;
        let expected =
            Expected { inputs: self.inputs, options: &options, by_set, knows_changes: true };
        let kept = if folder.must_clear() {
            CompletedWork::default()
        } else {
            CompletedWork::find(folder, &expected, &self.positions)?
        };
        self.check_space(folder, &kept)?;
        let is_others = |name: &str| {
            let position = expected.position_of(name).and_then(|at| usize::try_from(at).ok());
            self.task.is_some() && position.is_none_or(|at| !self.positions.contains(&at))
        };
        let is_kept = |name: &str| kept.has(name) || is_others(name);
        folder.begin(self.record, self.task, self.encoder.path(), is_kept)?;
        Ok(kept)
    }

    /// Writes the missing series, and returns all records in the order of the inputs.
    fn write(
        &self,
        folder: &Folder,
        kept: CompletedWork,
        stop: &StopFlag,
    ) -> anyhow::Result<(Vec<SeriesRecord>, SessionStatistics)> {
        let CompletedWork { finished, mut parts, .. } = kept;
        let input = |position: u64| &self.inputs[usize::try_from(position).expect("in memory")];
        let bytes = self.positions.iter().map(|&position| self.inputs[position].bytes).sum();
        let kept_bytes = finished.keys().map(|&position| input(position).bytes).sum();
        let progress = Progress::start(bytes, kept_bytes);
        let selection = self.record.options.selection.as_ref();
        let has_holdout = selection.is_some_and(|selection| selection.holdout_rate.is_some());
        let positions = self.positions.iter().map(|&position| position as u64);
        let todo = positions.filter(|position| !finished.contains_key(position)).map(|position| {
            let (input, kept) =
                (input(position).clone(), parts.remove(&position).unwrap_or_default());
            InputPlan { position, input, kept, is_single: !self.spec.by_set && !has_holdout }
        });
        let todo: Vec<InputPlan> = todo.collect();
        let job = Job {
            dir: folder.path(),
            encoder: self.encoder,
            columns: &self.spec.columns,
            lists_skipped: self.spec.on_error == OnError::Skip,
            shard_bytes: self.spec.shard_bytes,
            by_set: self.spec.by_set,
            select: self.select,
            options: self.record.options.fingerprint(),
            progress: &progress,
            stop,
            encoder_is_known: Once::new(),
        };
        let records = Mutex::new(finished);
        let statistics = job.run(self.spec.threads, todo, &|position, record| {
            records.lock().expect("inserting does not panic").insert(position, record);
        })?;
        progress.finish();
        let records = records.into_inner().expect("inserting does not panic");
        if records.len() < self.positions.len() {
            return Err(Stopped.into());
        }
        Ok((records.into_values().collect(), statistics))
    }

    /// Refuses to begin a corpus too large for the disk. The estimate is rough: compressed text
    /// expands 4 times, and a token is 3 bytes of text.
    fn check_space(&self, folder: &Folder, kept: &CompletedWork) -> anyhow::Result<()> {
        if self.record.options.selection.is_some() {
            // Nobody knows how much of the input is selected.
            return Ok(());
        }
        let free_bytes = free_bytes(folder.path())?.saturating_add(folder.clearable_bytes()?);
        let needed_bytes = self.needed_bytes(|position| kept.finished.contains_key(&position));
        ensure!(
            needed_bytes <= free_bytes,
            "the corpus will need about {needed_bytes} bytes; {} has {free_bytes} free",
            folder.path().display()
        );
        Ok(())
    }

    fn needed_bytes(&self, is_done: impl Fn(u64) -> bool) -> u64 {
        let todo = self.positions.iter().filter(|&&position| !is_done(position as u64));
        let inputs = todo.map(|&position| &self.inputs[position]);
        let expansion = |format| if format == Format::JsonLines { 1 } else { 4 };
        let text_bytes = |input: &Input| expansion(input.format) * input.bytes;
        let vocab_size = self.encoder.vocab_size();
        let token_bytes = u64::from(TokenBytes::for_vocabulary(vocab_size).get());
        inputs.map(|input| text_bytes(input) / 3 * token_bytes + HEADER_BYTES).sum()
    }

    /// Adds advice to an error caused by a full disk.
    fn explain(&self, err: anyhow::Error, dir: &Path) -> anyhow::Error {
        use std::io::ErrorKind;
        let is_full = err.chain().any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>();
            io.is_some_and(|io| {
                matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            })
        });
        if !is_full {
            return err;
        }
        let needed_bytes = self.needed_bytes(|position| {
            dir.join(crate::write::folder::record_name(position)).exists()
        });
        let lack = what_is_full(free_bytes(dir).ok(), free_files(dir).ok().flatten(), needed_bytes);
        err.context(format!(
            "{} {lack} and run the same command again, which continues after the last closed shard",
            dir.display()
        ))
    }
}

/// What a full file system lacks, and the remedy. It can have room and still take no more files.
fn what_is_full(free_bytes: Option<u64>, free_files: Option<u64>, needed_bytes: u64) -> String {
    if free_files == Some(0) {
        return "is on a file system without a free inode, so it takes no more files however much \
                room is left; remove files there, or use a file system with more inodes,"
            .to_owned();
    }
    let free = free_bytes.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
    format!(
        "is full: {free} bytes are free, and the rest of the corpus needs about {needed_bytes}; \
         make room"
    )
}

/// Makes the selection, and checks its drop list against the inputs.
pub(crate) fn make_select(spec: &SelectSpec, inputs: &[Input]) -> anyhow::Result<Select> {
    let select = Select::new(spec)?;
    select.check_inputs(inputs.iter().map(|input| (input.name.as_str(), input.bytes)))?;
    Ok(select)
}

/// Finds the inputs, and reports on stderr how many other files were ignored.
pub(crate) fn find_inputs(inputs: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let found = inputs::find_counted(inputs)?;
    if found.ignored_files > 0 {
        let count = found.ignored_files;
        notice(&format!("{count} files of other kinds in the folders of inputs were left out"));
    }
    for path in &found.special_files {
        let path = path.display();
        notice(&format!("{path} is a pipe, a socket or a device and was left out"));
    }
    Ok(found.inputs)
}

/// Opens every input once, so an unusable file is found before anything is written or removed.
fn check_readable(inputs: &[Input], columns: &Columns) -> anyhow::Result<()> {
    for input in inputs {
        let path = &input.path;
        let found = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        if !found.is_file() {
            return Err(UsageError(format!(
                "{} is a pipe or a device, which cannot be read again when a run continues; \
                 write it into a file",
                path.display()
            ))
            .into());
        }
        Docs::open(input, columns)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_system_is_told_by_what_it_lacks() {
        let lack = what_is_full(Some(64_729_088), Some(0), 4130);
        assert!(lack.contains("without a free inode") && !lack.contains("64729088"), "{lack}");
        for free_files in [None, Some(7)] {
            let lack = what_is_full(Some(10), free_files, 4130);
            assert!(lack.contains("10 bytes are free") && lack.contains("4130"), "{lack}");
        }
    }
}
