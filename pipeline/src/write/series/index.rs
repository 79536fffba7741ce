//! Writes document indexes, and joins the parts of one.
//!
//! **Invariant:** equal rows in equal parts give equal bytes, in every build of this program;
//! joining a single part gives the bytes of the part.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use schemas::index::CONTENT_HASH_BYTES;
use schemas::manifest::FileRecord;

use crate::disk::atomic::AtomicFile;
use crate::write::series::entry::DocEntry;

/// Rows of the document index compressed together.
const INDEX_GROUP_ROWS: usize = 1 << 16;
/// Rows copied at a time when parts are joined.
const JOIN_ROWS: usize = 1 << 13;

/// A document index, or a part of one, being built.
pub(crate) struct IndexWriter {
    writer: ArrowWriter<AtomicFile>,
    schema: SchemaRef,
    name: String,
    rows: u64,
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
    /// Begins the index `name` with the columns of `schema`, one of the schemas in
    /// `schemas::index`.
    pub(crate) fn create(
        dir: &Path,
        name: String,
        schema: SchemaRef,
    ) -> anyhow::Result<IndexWriter> {
        let file = AtomicFile::create(&dir.join(&name))?;
        // Every property that could differ between builds of this program is set: equal rows give
        // equal bytes.
        let level = ZstdLevel::try_new(3).expect("a level of zstd");
        let properties = WriterProperties::builder()
            .set_created_by("patchmill".to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(INDEX_GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
        let hash_bytes = i32::try_from(CONTENT_HASH_BYTES).expect("16 fits");
        Ok(IndexWriter {
            writer: writer.with_context(|| format!("write {name}"))?,
            schema,
            name,
            rows: 0,
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

    pub(crate) fn push(
        &mut self,
        input: &str,
        shard_index: u64,
        document: u64,
        first_token: u64,
        token_count: u64,
        entry: &DocEntry,
    ) -> anyhow::Result<()> {
        self.shard.append_value(shard_index);
        self.document.append_value(document);
        self.first_token.append_value(first_token);
        self.token_count.append_value(token_count);
        self.set_name.append_option(entry.set_name.as_deref());
        self.input_name.append_value(input);
        self.row.append_value(entry.row);
        match entry.content_hash {
            Some(hash) => {
                self.text_bytes.append_value(entry.text_bytes);
                self.content_hash.append_value(hash).expect("the hash has its length");
            }
            None => {
                self.text_bytes.append_null();
                self.content_hash.append_null();
            }
        }
        self.rows += 1;
        if self.rows.is_multiple_of(INDEX_GROUP_ROWS as u64) { self.write_group() } else { Ok(()) }
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
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .expect("the columns are those of the schema");
        self.writer.write(&batch).with_context(|| format!("write {}", self.name))
    }

    /// Completes the file and gives it its name, which is durable after the next sync of the
    /// folder.
    pub(crate) fn place(mut self) -> anyhow::Result<FileRecord> {
        self.write_group()?;
        let file = self.writer.into_inner();
        let mut file = file.with_context(|| format!("write {}", self.name))?;
        let (bytes, hash) = file.hash()?;
        file.place()?;
        Ok(FileRecord { path: self.name, bytes, blake3: hash.to_hex().to_string() })
    }

    /// Appends the rows of a part.
    pub(crate) fn append(&mut self, part: &Path) -> anyhow::Result<()> {
        let context = || format!("read {}", part.display());
        let file = std::fs::File::open(part).with_context(context)?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).with_context(context)?;
        for batch in reader.with_batch_size(JOIN_ROWS).build().with_context(context)? {
            let batch = batch.with_context(context)?;
            self.writer.write(&batch).with_context(|| format!("write {}", self.name))?;
        }
        Ok(())
    }
}

/// The index `name` of a series with all its rows in one part. Joining would write that part a
/// second time, byte for byte.
pub(crate) fn copy_rows(dir: &Path, name: String, rows: &FileRecord) -> anyhow::Result<FileRecord> {
    let source = dir.join(&rows.path);
    let mut copy = AtomicFile::create(&dir.join(&name))?;
    let copied = std::fs::File::open(&source).and_then(|mut rows| io::copy(&mut rows, &mut copy));
    let bytes = copied.with_context(|| format!("copy {} to {name}", source.display()))?;
    ensure!(
        bytes == rows.bytes,
        "{} is {bytes} bytes; it was written with {}",
        source.display(),
        rows.bytes
    );
    copy.place()?;
    Ok(FileRecord { path: name, ..rows.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of several groups, the last one not full.
    fn write_rows(dir: &Path, name: &str) -> FileRecord {
        let schema = schemas::index::schema();
        let mut rows = IndexWriter::create(dir, name.to_owned(), schema).unwrap();
        for row in 0..3 * INDEX_GROUP_ROWS as u64 - 12_345 {
            let hash = blake3::hash(&row.to_le_bytes());
            let entry = DocEntry {
                row: row + row / 7,
                set_name: (!row.is_multiple_of(5)).then(|| format!("set {}", row % 23)),
                text_bytes: row * row % 4096,
                content_hash: hash.as_bytes().first_chunk().copied(),
                surrogates_replaced: 0,
                is_last: true,
            };
            rows.push("a.jsonl", 0, row, row * 100, 100 + row % 3, &entry).unwrap();
        }
        rows.place().unwrap()
    }

    #[test]
    fn joining_one_part_copies_it() {
        let dir = tempfile::tempdir().unwrap();
        let rows = write_rows(dir.path(), "00000-00000.rows.parquet");
        let mut joined =
            IndexWriter::create(dir.path(), "joined".to_owned(), schemas::index::schema()).unwrap();
        joined.append(&dir.path().join(&rows.path)).unwrap();
        let joined = joined.place().unwrap();
        let copied = copy_rows(dir.path(), "copied".to_owned(), &rows).unwrap();
        assert_eq!((joined.bytes, &joined.blake3), (copied.bytes, &copied.blake3));
        let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert!(bytes("joined") == bytes("copied"), "the copy has the bytes of its record");
    }
}
