//! Writes one series: the shards of an input (or of one set of it), its document index and its list
//! of skipped documents.
//!
//! A killed run does not redo its finished *parts*. A part is a shard, its rows of the document
//! index, the documents skipped since the shard before, and a record with their hashes, written
//! last. An interrupted run continues after the last part with a record. The index of a series is
//! always joined from the rows of its parts (with one part, a copy), so interrupted and
//! uninterrupted runs write the same bytes by the same path. `close` joins
//! the parts.
//!
//! At most one part of a process is between its first name and its record, so a kill costs at most
//! one complete shard. `just faults` counts such shards.
//!
//! **Invariant:** a shard closes at the first document boundary at or beyond its target size, so
//! the files of a series are a function of its documents and the options alone.

pub(crate) mod close;
pub(crate) mod entry;
pub(crate) mod index;
pub mod shard;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use schemas::build::{PartRecord, SkippedDocument};
use schemas::manifest::{BySet, FileRecord, Totals};
use schemas::selection::DropReason;

use crate::corpus::set_totals::Sets;
use crate::disk::atomic::{AtomicFile, Hands, PublishError, write_atomic};
use crate::disk::failpoint::failpoint;
use crate::read::document::Refusal;
use crate::read::inputs::Input;
use crate::write::folder;
use crate::write::series::entry::DocEntry;
use crate::write::series::index::IndexWriter;
use crate::write::series::shard::{SealedShard, ShardSpec, ShardWriter};
use encoder::TokenId;

/// Values common to the parts of a series.
pub(crate) struct SeriesSpec {
    /// The corpus, or its hold-out.
    pub(crate) dir: PathBuf,
    /// Whether the series is the hold-out's.
    pub(crate) is_holdout: bool,
    pub(crate) vocab_size: u64,
    pub(crate) tokenizer: [u8; 32],
    /// The series index in its shards' headers and its files' names.
    pub(crate) series_index: u64,
    pub(crate) by_set: Option<BySet>,
    /// Bytes of ids at which a shard closes.
    pub(crate) shard_bytes: u64,
    pub(crate) input: Input,
    /// Fingerprint of the options.
    pub(crate) options: String,
    /// Columns of its document index.
    pub(crate) index_schema: SchemaRef,
}

/// A series being built.
pub(crate) struct SeriesWriter {
    spec: Arc<SeriesSpec>,
    part_index: u64,
    /// Documents of earlier parts.
    documents: u64,
    /// Rows up to here are in closed parts.
    closed_row: u64,
    last_row: u64,
    /// The row of the last counted document, written or not.
    seen_row: u64,
    shard: Option<(ShardWriter, IndexWriter)>,
    skipped: Option<AtomicFile>,
    totals: Totals,
    sets: Sets,
}

impl SeriesWriter {
    /// Continues after the existing parts.
    pub(crate) fn new(spec: SeriesSpec, kept: &[PartRecord]) -> SeriesWriter {
        SeriesWriter {
            spec: Arc::new(spec),
            part_index: kept.len() as u64,
            documents: kept.iter().map(|part| part.shard.document_count).sum(),
            closed_row: kept.last().map_or(0, |part| part.last_row),
            last_row: 0,
            seen_row: 0,
            shard: None,
            skipped: None,
            totals: Totals::default(),
            sets: Sets::default(),
        }
    }

    /// Appends a document with at least one token; returns the part it completed.
    pub(crate) fn push<I: TokenId>(
        &mut self,
        entry: &DocEntry,
        ids: &[I],
    ) -> anyhow::Result<Option<ClosedPart>> {
        self.append(entry.row, ids)?;
        self.end_document(entry)
    }

    /// Appends ids of the document of `row`, to be ended by [`SeriesWriter::end_document`]: for
    /// documents that may be longer than memory.
    pub(crate) fn append<I: TokenId>(&mut self, row: u64, ids: &[I]) -> anyhow::Result<()> {
        if row <= self.closed_row {
            return Ok(());
        }
        let spec = &self.spec;
        let (shard, _) = match &mut self.shard {
            Some(open) => open,
            none => {
                let (series_index, shard_index) = (spec.series_index, self.part_index);
                let name = folder::shard_name(series_index, shard_index);
                let SeriesSpec { vocab_size, tokenizer, .. } = **spec;
                let shard_spec = ShardSpec { vocab_size, tokenizer, series_index, shard_index };
                let shard = ShardWriter::create(&spec.dir, name, shard_spec)?;
                let name = folder::rows_name(series_index, shard_index);
                let rows = IndexWriter::create(&spec.dir, name, spec.index_schema.clone())?;
                none.insert((shard, rows))
            }
        };
        Ok(shard.append(ids)?)
    }

    /// Ends the appended document; returns the part it completed.
    pub(crate) fn end_document(&mut self, entry: &DocEntry) -> anyhow::Result<Option<ClosedPart>> {
        if entry.row <= self.closed_row {
            return Ok(None);
        }
        let spec = &self.spec;
        let (shard, rows) = self.shard.as_mut().expect("its ids were appended");
        let document = self.documents;
        let (first_token, tokens) = shard.end_document();
        rows.push(&spec.input.name, self.part_index, document, first_token, tokens, entry)?;
        let is_full = entry.is_last && shard.payload_bytes() >= spec.shard_bytes;
        self.documents += 1;
        if entry.row == self.last_row {
            self.totals.parts_added += 1;
        } else {
            self.totals.documents_read += 1;
            self.totals.documents_written += 1;
        }
        self.last_row = entry.row;
        self.seen_row = entry.row;
        self.totals.text_bytes += entry.text_bytes;
        self.totals.tokens += tokens;
        self.totals.surrogates_replaced += entry.surrogates_replaced;
        self.sets.add(entry.set_name.as_deref(), entry.text_bytes, tokens);
        if is_full { self.close_part() } else { Ok(None) }
    }

    /// Lists a document that cannot be written.
    pub(crate) fn skip(&mut self, refusal: &Refusal) -> anyhow::Result<()> {
        if refusal.row <= self.closed_row {
            return Ok(());
        }
        let skipped = match &mut self.skipped {
            Some(skipped) => skipped,
            none => {
                let name = folder::part_skipped_name(self.spec.series_index, self.part_index);
                none.insert(AtomicFile::create(&self.spec.dir.join(&name))?)
            }
        };
        let document = SkippedDocument {
            file: self.spec.input.name.clone(),
            row: refusal.row,
            byte_offset: refusal.byte_offset,
            reason: refusal.reason.clone(),
        };
        let mut line = serde_json::to_string(&document).expect("a record is plain data");
        line.push('\n');
        skipped.append(line.as_bytes())?;
        self.seen_row = refusal.row;
        self.totals.documents_read += 1;
        self.totals.documents_skipped += 1;
        Ok(())
    }

    /// Counts an unselected document.
    pub(crate) fn drop_document(&mut self, row: u64, reason: DropReason) {
        if row > self.closed_row {
            self.seen_row = row;
            self.totals.documents_read += 1;
            self.totals.dropped.add(reason);
        }
    }

    /// Counts a document of the hold-out.
    pub(crate) fn hold_out(&mut self, row: u64) {
        if row > self.closed_row {
            self.seen_row = row;
            self.totals.documents_read += 1;
            self.totals.documents_held_out += 1;
        }
    }

    /// Returns the last shard, if any, and the rest of the series.
    pub(crate) fn finish(mut self) -> anyhow::Result<(Option<ClosedPart>, Tail)> {
        let part = self.close_part()?;
        let SeriesWriter { spec, part_index, skipped, totals, .. } = self;
        Ok((part, Tail { spec, part_index, skipped, totals }))
    }

    fn close_part(&mut self) -> anyhow::Result<Option<ClosedPart>> {
        let Some((shard, rows)) = self.shard.take() else { return Ok(None) };
        let part = ClosedPart {
            spec: Arc::clone(&self.spec),
            part_index: self.part_index,
            shard: shard.seal()?,
            rows,
            skipped: self.skipped.take(),
            totals: std::mem::take(&mut self.totals),
            sets: std::mem::take(&mut self.sets),
            // The last shard of all also covers the rows after its last document.
            last_row: self.seen_row,
        };
        self.part_index += 1;
        Ok(Some(part))
    }
}

/// A part whose bytes are complete, not yet under its names.
pub(crate) struct ClosedPart {
    spec: Arc<SeriesSpec>,
    part_index: u64,
    shard: SealedShard,
    rows: IndexWriter,
    skipped: Option<AtomicFile>,
    totals: Totals,
    sets: Sets,
    last_row: u64,
}

impl ClosedPart {
    /// The series of the part.
    pub(crate) fn spec(&self) -> &Arc<SeriesSpec> {
        &self.spec
    }

    /// Makes the part's files durable. The record is last: its sync of the folder makes all names
    /// durable.
    pub(crate) fn publish(self, hands: Hands) -> anyhow::Result<PartRecord> {
        let SeriesSpec { series_index, dir, .. } = &*self.spec;
        failpoint("part-begin");
        let place_shard = || {
            let shard = self.shard.place(hands)?;
            failpoint("part-shard");
            Ok::<_, PublishError>(shard)
        };
        let (shard, rows) = hands.both(place_shard, || self.rows.place());
        let (shard, rows) = (shard?, rows?);
        failpoint("part-rows");
        let skipped = publish_skipped(self.skipped, *series_index, self.part_index)?;
        let record = PartRecord {
            blake3: String::new(),
            options: self.spec.options.clone(),
            input: self.spec.input.name.clone(),
            input_bytes: self.spec.input.bytes,
            modified_nanoseconds: self.spec.input.modified_nanoseconds,
            by_set: self.spec.by_set.clone(),
            shard,
            rows,
            skipped,
            totals: self.totals,
            sets: self.sets.into_totals(),
            last_row: self.last_row,
        };
        let (record, text) = record.seal();
        let path = dir.join(folder::part_name(*series_index, self.part_index));
        write_atomic(&path, text.as_bytes())?;
        failpoint("part-record");
        Ok(record)
    }
}

/// The rest of a series after its last shard.
pub(crate) struct Tail {
    pub(crate) spec: Arc<SeriesSpec>,
    part_index: u64,
    skipped: Option<AtomicFile>,
    pub(crate) totals: Totals,
}

impl Tail {
    /// Makes the list of skipped documents durable.
    pub(crate) fn publish(&mut self) -> anyhow::Result<Option<FileRecord>> {
        publish_skipped(self.skipped.take(), self.spec.series_index, self.part_index)
    }
}

fn publish_skipped(
    skipped: Option<AtomicFile>,
    series_index: u64,
    part_index: u64,
) -> anyhow::Result<Option<FileRecord>> {
    let Some(mut skipped) = skipped else { return Ok(None) };
    let (bytes, hash) = skipped.hash()?;
    skipped.publish()?;
    let path = folder::part_skipped_name(series_index, part_index);
    Ok(Some(FileRecord { path, bytes, blake3: hash.to_hex().to_string() }))
}
