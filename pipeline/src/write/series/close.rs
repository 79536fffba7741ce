//! Makes written parts durable while writing continues, and joins them into series.
//!
//! With two threads or more, one more thread hashes and syncs closed shards, one at a time: sync,
//! hash and rows of a shard run side by side. Waiting for the disk may take as long as encoding
//! did. At most one part is being closed while the next is written, so a kill costs less than two
//! shards. The last shard of an input is closed together with everything that completes the input.
//! When that input is the last, all other threads wait for it. With one thread, that thread does it
//! all in turn, and a kill costs less than one shard.
//!
//! A shard is hashed by reading it back: BLAKE3 runs from front to back, and the header comes first
//! but is known last. Reading back from the page cache costs little compared with encoding (BLAKE3
//! alone reaches some 1.6 GB/s), so the format stayed as it was.
//!
//! **Invariant:** parts are published in order, a series's record follows all its parts, and the
//! parts' own files are removed after that record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use crossbeam_channel::Sender;
use schemas::build::{PartRecord, SeriesRecord};
use schemas::manifest::{FileRecord, Series, Totals};

use crate::corpus::set_totals::Sets;
use crate::disk::atomic::{AtomicFile, Hands, sync_dir, write_atomic};
use crate::disk::failpoint::failpoint;
use crate::read::inputs::Input;
use crate::write::folder;
use crate::write::series::index::{IndexWriter, copy_rows};
use crate::write::series::{ClosedPart, SeriesSpec, Tail};

/// Receives finished inputs with their positions.
pub(crate) type OnInput<'a> = dyn Fn(u64, SeriesRecord) + Sync + 'a;

/// A part or an input to close.
pub(crate) enum Closing {
    /// A shard and its accompanying files.
    Part(Box<ClosedPart>),
    /// An input to its end, after all parts closed before.
    Input(ClosedInput),
}

/// An input written to its end.
pub(crate) struct ClosedInput {
    pub(crate) position: u64,
    /// The corpus's folder.
    pub(crate) dir: std::path::PathBuf,
    pub(crate) input: Input,
    pub(crate) options: String,
    /// All of them, in manifest order.
    pub(crate) series: Vec<ClosedSeries>,
}

/// A series written to its end.
pub(crate) struct ClosedSeries {
    /// The parts present when the run began.
    pub(crate) kept: Vec<PartRecord>,
    /// The last shard, closed with its input: handed over alone, it would make its input wait for
    /// it.
    pub(crate) last: Option<ClosedPart>,
    pub(crate) tail: Tail,
}

/// Closes in the calling thread, or hands over to a closing thread.
pub(crate) enum Closer<'a> {
    Here(Parts, &'a OnInput<'a>),
    Behind(Sender<Closing>),
}

impl Closer<'_> {
    /// Closes, or hands over. An error of the closing thread is returned where that thread is
    /// joined.
    pub(crate) fn close(&mut self, closing: Closing) -> anyhow::Result<()> {
        match self {
            Closer::Here(parts, on_input) => parts.close(closing, *on_input),
            Closer::Behind(tx) => tx.send(closing).ok().context("closing had failed before"),
        }
    }
}

/// The parts closed by this run, by hold-out and series index.
pub(crate) struct Parts {
    closed: BTreeMap<(bool, u64), Vec<PartRecord>>,
    hands: Hands,
}

impl Parts {
    pub(crate) fn new(hands: Hands) -> Parts {
        Parts { closed: BTreeMap::new(), hands }
    }

    pub(crate) fn close(&mut self, closing: Closing, on_input: &OnInput) -> anyhow::Result<()> {
        match closing {
            Closing::Part(part) => self.publish(*part)?,
            Closing::Input(mut input) => {
                let last = input.series.iter_mut().filter_map(|series| series.last.take());
                last.into_iter().try_for_each(|part| self.publish(part))?;
                let position = input.position;
                on_input(position, self.close_input(input)?);
            }
        }
        Ok(())
    }

    fn publish(&mut self, part: ClosedPart) -> anyhow::Result<()> {
        let spec = Arc::clone(part.spec());
        let record = part.publish(self.hands)?;
        self.closed.entry((spec.is_holdout, spec.series_index)).or_default().push(record);
        Ok(())
    }

    /// Joins the parts of an input into its series.
    pub(crate) fn close_input(&mut self, closed: ClosedInput) -> anyhow::Result<SeriesRecord> {
        let (mut series, mut holdout) = (Vec::new(), Vec::new());
        let mut skipped = Vec::new();
        let mut leftovers = Vec::new();
        for ClosedSeries { kept: mut parts, mut tail, .. } in closed.series {
            let key = (tail.spec.is_holdout, tail.spec.series_index);
            parts.extend(self.closed.remove(&key).unwrap_or_default());
            skipped.extend(parts.iter().filter_map(|part| part.skipped.clone()));
            skipped.extend(tail.publish()?);
            failpoint("series-tail");
            leftovers.extend((0..parts.len() as u64).map(|part| {
                let spec = &tail.spec;
                let name = folder::part_name(spec.series_index, part);
                [name, folder::rows_name(spec.series_index, part)].map(|name| spec.dir.join(name))
            }));
            let made = join(&tail.spec, &parts, tail.totals)?;
            if tail.spec.is_holdout { holdout.push(made) } else { series.push(made) }
        }
        let record = SeriesRecord {
            blake3: String::new(),
            options: closed.options,
            input: closed.input.name,
            input_bytes: closed.input.bytes,
            modified_nanoseconds: closed.input.modified_nanoseconds,
            skipped: join_skipped(&closed.dir, folder::skipped_name(closed.position), &skipped)?,
            series,
            holdout,
        };
        failpoint("series-joined");
        let (record, text) = record.seal();
        let path = closed.dir.join(folder::record_name(closed.position));
        write_atomic(&path, text.as_bytes())?;
        failpoint("series-record");
        let skipped = skipped.iter().map(|file| closed.dir.join(&file.path));
        for path in leftovers.into_iter().flatten().chain(skipped) {
            folder::remove(&path)?;
        }
        Ok(record)
    }
}

/// Joins parts into a series.
fn join(spec: &SeriesSpec, parts: &[PartRecord], tail: Totals) -> anyhow::Result<Series> {
    let mut totals = tail;
    let mut sets = Sets::default();
    for part in parts {
        totals = totals.checked_add(part.totals).expect("fewer than 2^64 bytes were read");
        part.sets.iter().for_each(|set| sets.add_totals(set));
    }
    let index = join_index(spec, parts)?;
    Ok(Series {
        input: spec.input.name.clone(),
        input_bytes: spec.input.bytes,
        totals,
        sets: sets.into_totals(),
        index,
        shards: parts.iter().map(|part| part.shard.clone()).collect(),
        by_set: spec.by_set.clone(),
    })
}

/// The document index of a series; `None` for a series without documents.
fn join_index(spec: &SeriesSpec, parts: &[PartRecord]) -> anyhow::Result<Option<FileRecord>> {
    let name = folder::index_name(spec.series_index);
    let index = match parts {
        [] => return Ok(None),
        [part] => copy_rows(&spec.dir, name, &part.rows)?,
        parts => {
            let mut index = IndexWriter::create(&spec.dir, name, spec.index_schema.clone())?;
            for part in parts {
                index.append(&spec.dir.join(&part.rows.path))?;
            }
            index.place()?
        }
    };
    // In the corpus's own folder the input's record, written next, makes the name durable.
    if spec.is_holdout {
        sync_dir(&spec.dir)?;
    }
    Ok(Some(index))
}

/// Joins lists of skipped documents, one after the other, into the file `name`; `None` when nothing
/// was skipped.
pub(crate) fn join_skipped(
    dir: &Path,
    name: String,
    parts: &[FileRecord],
) -> anyhow::Result<Option<FileRecord>> {
    if parts.is_empty() {
        return Ok(None);
    }
    let path = dir.join(&name);
    let mut joined = AtomicFile::create(&path)?;
    for part in parts {
        let part = dir.join(&part.path);
        let mut copy = || std::io::copy(&mut std::fs::File::open(&part)?, &mut joined);
        copy().with_context(|| format!("copy {} to {}", part.display(), path.display()))?;
    }
    let (bytes, hash) = joined.hash()?;
    joined.publish()?;
    Ok(Some(FileRecord { path: name, bytes, blake3: hash.to_hex().to_string() }))
}
