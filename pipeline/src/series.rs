//! Writes one series: the shards of an input, its document index and what was skipped of it.
//!
//! **Invariant:** a shard closes at the first document boundary at or beyond its target size, so that the files of a series
//! are a function of its documents and the options alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, RecordBatch, StringBuilder, UInt64Builder};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use schemas::build::{SeriesRecord, SkippedDocument};
use schemas::index::CONTENT_HASH_BYTES;
use schemas::manifest::{FileRecord, Series, SetTotals, Shard, Totals};

use crate::docs::Refusal;
use crate::folder;
use crate::inputs::Input;
use crate::publish::{AtomicFile, PublishError, write_atomic};
use crate::shard::{ShardSpec, ShardWriter};

/// Rows of the document index that are compressed together.
const INDEX_GROUP_ROWS: usize = 1 << 16;

/// A document's entry in the index, but for where its tokens come to lie.
pub(crate) struct DocEntry {
    pub(crate) row: u64,
    pub(crate) set_name: Option<String>,
    pub(crate) text_bytes: u64,
    pub(crate) content_hash: [u8; CONTENT_HASH_BYTES],
}

/// What a series' shards have in common.
#[derive(Clone, Copy)]
pub(crate) struct SeriesSpec {
    pub(crate) vocab_size: u64,
    pub(crate) tokenizer: [u8; 32],
    pub(crate) series_index: u64,
    /// Size of ids at which a shard closes.
    pub(crate) shard_bytes: u64,
}

/// A series in the making.
pub(crate) struct SeriesWriter {
    dir: PathBuf,
    spec: SeriesSpec,
    input: Input,
    shard: Option<ShardWriter>,
    index: Option<IndexWriter>,
    skipped: Option<AtomicFile>,
    shards: Vec<Shard>,
    totals: Totals,
    sets: Sets,
}

impl SeriesWriter {
    pub(crate) fn new(dir: &Path, spec: SeriesSpec, input: Input) -> SeriesWriter {
        SeriesWriter {
            dir: dir.to_owned(),
            spec,
            input,
            shard: None,
            index: None,
            skipped: None,
            shards: Vec::new(),
            totals: Totals::default(),
            sets: Sets::default(),
        }
    }

    pub(crate) fn input(&self) -> &Input {
        &self.input
    }

    /// Appends a document with at least one token.
    pub(crate) fn push(&mut self, entry: &DocEntry, ids: &[u32]) -> anyhow::Result<()> {
        let shard_index = self.shards.len() as u64;
        let shard = match &mut self.shard {
            Some(shard) => shard,
            none => {
                let SeriesSpec { vocab_size, tokenizer, series_index, .. } = self.spec;
                let name = folder::shard_name(series_index, shard_index);
                let spec = ShardSpec { vocab_size, tokenizer, series_index, shard_index };
                none.insert(ShardWriter::create(&self.dir, name, spec)?)
            }
        };
        let first_token = shard.push(ids)?;
        let is_full = shard.payload_bytes() >= self.spec.shard_bytes;
        let index = match &mut self.index {
            Some(index) => index,
            none => {
                let name = folder::index_name(self.spec.series_index);
                none.insert(IndexWriter::create(&self.dir, name, self.input.name.clone())?)
            }
        };
        index.push(shard_index, first_token, ids.len() as u64, entry)?;
        self.totals.documents_read += 1;
        self.totals.documents_written += 1;
        self.totals.text_bytes += entry.text_bytes;
        self.totals.tokens += ids.len() as u64;
        self.sets.add(entry.set_name.as_deref(), entry.text_bytes, ids.len() as u64);
        if is_full {
            self.close_shard()?;
        }
        Ok(())
    }

    /// Lists a document that is not written.
    pub(crate) fn skip(&mut self, refusal: &Refusal) -> anyhow::Result<()> {
        let skipped = match &mut self.skipped {
            Some(skipped) => skipped,
            none => {
                let path = self.dir.join(folder::skipped_name(self.spec.series_index));
                none.insert(AtomicFile::create(&path)?)
            }
        };
        let document = SkippedDocument {
            file: self.input.name.clone(),
            row: refusal.row,
            byte_offset: refusal.byte_offset,
            reason: refusal.reason.clone(),
        };
        let mut line = serde_json::to_string(&document).expect("a record is plain data");
        line.push('\n');
        skipped.append(line.as_bytes())?;
        self.totals.documents_read += 1;
        self.totals.documents_skipped += 1;
        Ok(())
    }

    /// Completes the series' files, its record last.
    pub(crate) fn finish(mut self) -> anyhow::Result<SeriesRecord> {
        self.close_shard()?;
        let index = self.index.map(IndexWriter::finish).transpose()?;
        let skipped = self.skipped.map(|mut list| {
            let (bytes, hash) = list.hash()?;
            list.publish()?;
            let path = folder::skipped_name(self.spec.series_index);
            Ok::<_, PublishError>(FileRecord { path, bytes, blake3: hash.to_hex().to_string() })
        });
        let record = SeriesRecord {
            blake3: String::new(),
            options: String::new(),
            input: self.input.name.clone(),
            input_bytes: self.input.bytes,
            modified_nanoseconds: self.input.modified_nanoseconds,
            skipped: skipped.transpose()?,
            series: vec![Series {
                input: self.input.name,
                input_bytes: self.input.bytes,
                totals: self.totals,
                sets: self.sets.into_totals(),
                index,
                shards: self.shards,
                by_set: None,
            }],
            holdout: Vec::new(),
        };
        let (record, text) = record.seal();
        let path = self.dir.join(folder::record_name(self.spec.series_index));
        write_atomic(&path, text.as_bytes())?;
        Ok(record)
    }

    fn close_shard(&mut self) -> anyhow::Result<()> {
        if let Some(shard) = self.shard.take() {
            self.shards.push(shard.finish()?);
        }
        Ok(())
    }
}

/// Sums by set name, in its byte order, documents without one first.
#[derive(Default)]
pub(crate) struct Sets(BTreeMap<Option<String>, SetTotals>);

impl Sets {
    fn add(&mut self, set_name: Option<&str>, text_bytes: u64, tokens: u64) {
        let set_name = set_name.map(str::to_owned);
        self.add_totals(&SetTotals { set_name, documents: 1, text_bytes, tokens });
    }

    /// Adds the sums of a series.
    pub(crate) fn add_totals(&mut self, add: &SetTotals) {
        let set = self.0.entry(add.set_name.clone()).or_insert_with(|| SetTotals {
            set_name: add.set_name.clone(),
            documents: 0,
            text_bytes: 0,
            tokens: 0,
        });
        set.documents += add.documents;
        set.text_bytes += add.text_bytes;
        set.tokens += add.tokens;
    }

    pub(crate) fn into_totals(self) -> Vec<SetTotals> {
        self.0.into_values().collect()
    }
}

/// The document index of a series in the making.
struct IndexWriter {
    writer: ArrowWriter<AtomicFile>,
    name: String,
    input: String,
    documents: u64,
    shard: UInt64Builder,
    document: UInt64Builder,
    first_token: UInt64Builder,
    token_count: UInt64Builder,
    set_name: StringBuilder,
    input_name: StringBuilder,
    row: UInt64Builder,
    text_bytes: UInt64Builder,
    content_hash: FixedSizeBinaryBuilder,
}

impl IndexWriter {
    fn create(dir: &Path, name: String, input: String) -> anyhow::Result<IndexWriter> {
        let file = AtomicFile::create(&dir.join(&name))?;
        // All that could differ between builds of this program is set: equal rows give equal bytes.
        let level = ZstdLevel::try_new(3).expect("a level of zstd");
        let properties = WriterProperties::builder()
            .set_created_by("patchmill".to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(INDEX_GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(file, schemas::index::schema(), Some(properties));
        let hash_bytes = i32::try_from(CONTENT_HASH_BYTES).expect("16 fits");
        Ok(IndexWriter {
            writer: writer.with_context(|| format!("write {name}"))?,
            name,
            input,
            documents: 0,
            shard: UInt64Builder::new(),
            document: UInt64Builder::new(),
            first_token: UInt64Builder::new(),
            token_count: UInt64Builder::new(),
            set_name: StringBuilder::new(),
            input_name: StringBuilder::new(),
            row: UInt64Builder::new(),
            text_bytes: UInt64Builder::new(),
            content_hash: FixedSizeBinaryBuilder::new(hash_bytes),
        })
    }

    fn push(
        &mut self,
        shard_index: u64,
        first_token: u64,
        token_count: u64,
        entry: &DocEntry,
    ) -> anyhow::Result<()> {
        self.shard.append_value(shard_index);
        self.document.append_value(self.documents);
        self.first_token.append_value(first_token);
        self.token_count.append_value(token_count);
        self.set_name.append_option(entry.set_name.as_deref());
        self.input_name.append_value(&self.input);
        self.row.append_value(entry.row);
        self.text_bytes.append_value(entry.text_bytes);
        self.content_hash.append_value(entry.content_hash).expect("the hash has its length");
        self.documents += 1;
        if self.documents.is_multiple_of(INDEX_GROUP_ROWS as u64) {
            self.write_group()
        } else {
            Ok(())
        }
    }

    fn write_group(&mut self) -> anyhow::Result<()> {
        // In the order of the schema.
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.shard.finish()),
            Arc::new(self.document.finish()),
            Arc::new(self.first_token.finish()),
            Arc::new(self.token_count.finish()),
            Arc::new(self.set_name.finish()),
            Arc::new(self.input_name.finish()),
            Arc::new(self.row.finish()),
            Arc::new(self.text_bytes.finish()),
            Arc::new(self.content_hash.finish()),
        ];
        let batch = RecordBatch::try_new(schemas::index::schema(), columns)
            .expect("the columns are those of the schema");
        self.writer.write(&batch).with_context(|| format!("write {}", self.name))
    }

    fn finish(mut self) -> anyhow::Result<FileRecord> {
        self.write_group()?;
        let file = self.writer.into_inner();
        let mut file = file.with_context(|| format!("write {}", self.name))?;
        let (bytes, hash) = file.hash()?;
        file.publish()?;
        Ok(FileRecord { path: self.name, bytes, blake3: hash.to_hex().to_string() })
    }
}
