//! Reads document indexes: rows with all their columns, or some columns in batches where there are
//! many rows.
//!
//! **Invariant:** every row has all columns of `schemas::index`, with their types.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use schemas::index::{self, CONTENT_HASH_BYTES};
use schemas::manifest::FileRecord;

use crate::disk::atomic::hash_file;
use crate::disk::source::open_file;
use crate::read::parquet::guard::guarded;

/// Rows in a batch of [`read_columns`].
const BATCH_ROWS: usize = 1 << 14;

/// A document's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// Shard within the series.
    pub shard: u64,
    /// Document within the series.
    pub document: u64,
    /// First token, within the shard.
    pub first_token: u64,
    /// Tokens, BOS and EOS included.
    pub token_count: u64,
    /// The set's name.
    pub set_name: Option<String>,
    /// Input file.
    pub input: String,
    /// 1-based line or row of the input.
    pub row: u64,
    /// Bytes of the text in UTF-8; `None` where ids were imported.
    pub text_bytes: Option<u64>,
    /// First bytes of the text's BLAKE3; `None` where ids were imported.
    pub content_hash: Option<[u8; CONTENT_HASH_BYTES]>,
}

/// Why an index was refused.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file that cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not Parquet, or damaged.
    #[error("{}: not a readable index: {reason}", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// The error of the Parquet reader.
        reason: String,
    },
    /// Changed since it was written.
    #[error("{} has BLAKE3 {found}; the manifest says {expected}", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
        /// Of the file as it is.
        found: String,
        /// As written.
        expected: String,
    },
    /// Parquet with other columns.
    #[error("{}: columns are {found}; an index has {expected}", path.display())]
    Schema {
        /// Which file.
        path: PathBuf,
        /// As it is.
        found: String,
        /// As written.
        expected: String,
    },
}

impl IndexError {
    /// Whether data differ from their description; otherwise the system is at fault.
    pub fn is_mismatch(&self) -> bool {
        !matches!(self, IndexError::Open { .. })
    }
}

/// The rows of an index from `first_document` (within the series) on, at most `document_count_max`.
pub fn read(
    path: &Path,
    first_document: u64,
    document_count_max: u64,
) -> Result<impl Iterator<Item = Result<IndexRow, IndexError>> + use<>, IndexError> {
    let builder = open(path)?
        .with_offset(usize::try_from(first_document).unwrap_or(usize::MAX))
        .with_limit(usize::try_from(document_count_max).unwrap_or(usize::MAX));
    let form = |reason| IndexError::Form { path: path.to_owned(), reason };
    let reader = guarded(|| builder.build()).map_err(form)?;
    Ok(Rows { path: path.to_owned(), reader, batch: None, next: 0 })
}

/// The columns `names` of an index, in batches of rows, in order. Other columns are not decoded.
pub fn read_columns(
    path: &Path,
    names: &[&str],
) -> Result<impl Iterator<Item = Result<RecordBatch, IndexError>> + use<>, IndexError> {
    let builder = open(path)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
    let path = path.to_owned();
    let form = move |reason| IndexError::Form { path: path.clone(), reason };
    let mut reader = guarded(|| builder.build()).map_err(&form)?;
    let next = move || guarded(|| reader.next().transpose()).map_err(&form).transpose();
    Ok(std::iter::from_fn(next))
}

/// Checks the file of an index against its record in the manifest.
pub fn check_file(dir: &Path, record: &FileRecord) -> anyhow::Result<()> {
    let path = dir.join(&record.path);
    let found = hash_file(&path)?.1.to_hex();
    if found.as_str() != record.blake3 {
        let (found, expected) = (found.to_string(), record.blake3.clone());
        return Err(IndexError::Changed { path, found, expected }.into());
    }
    Ok(())
}

/// Opens an index and checks its columns.
fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, IndexError> {
    let file =
        open_file(path).map_err(|source| IndexError::Open { path: path.to_owned(), source })?;
    let form = |reason| IndexError::Form { path: path.to_owned(), reason };
    let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new(file)).map_err(form)?;
    let (found, expected) = (builder.schema().fields(), index::schema());
    if found != expected.fields() && found != index::imported_schema().fields() {
        let names = |fields: &arrow::datatypes::Fields| {
            let named =
                fields.iter().map(|field| format!("{}: {}", field.name(), field.data_type()));
            named.collect::<Vec<_>>().join(", ")
        };
        let (found, expected) = (names(found), names(expected.fields()));
        return Err(IndexError::Schema { path: path.to_owned(), found, expected });
    }
    Ok(builder)
}

/// The key of a document look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// 1-based line or row of the input.
    Row(u64),
    /// First bytes of the text's BLAKE3.
    ContentHash([u8; CONTENT_HASH_BYTES]),
}

/// The documents (within the series) with `wanted` in an index; reads one column of it.
pub fn documents(path: &Path, wanted: Wanted) -> Result<Vec<u64>, IndexError> {
    let column = match wanted {
        Wanted::Row(_) => index::ROW,
        Wanted::ContentHash(_) => index::CONTENT_HASH,
    };
    let (mut found, mut document) = (Vec::new(), 0);
    for batch in read_columns(path, &[column])? {
        let batch = batch?;
        let values = batch.column(0);
        for at in 0..batch.num_rows() {
            let hit = match wanted {
                Wanted::Row(row) => values.as_primitive::<UInt64Type>().value(at) == row,
                Wanted::ContentHash(hash) => {
                    values.is_valid(at) && values.as_fixed_size_binary().value(at) == hash
                }
            };
            if hit {
                found.push(document);
            }
            document += 1;
        }
    }
    Ok(found)
}

struct Rows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    batch: Option<RecordBatch>,
    next: usize,
}

impl Iterator for Rows {
    type Item = Result<IndexRow, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.batch.as_ref().is_none_or(|batch| self.next == batch.num_rows()) {
            self.next = 0;
            match guarded(|| self.reader.next().transpose()) {
                Ok(Some(batch)) => self.batch = Some(batch),
                Ok(None) => return None,
                Err(reason) => {
                    return Some(Err(IndexError::Form { path: self.path.clone(), reason }));
                }
            }
        }
        let batch = self.batch.as_ref().expect("the loop left a batch with rows");
        self.next += 1;
        Some(Ok(row(batch, self.next - 1)))
    }
}

/// The columns' names, types and nullability were checked when the file was opened.
fn row(batch: &RecordBatch, at: usize) -> IndexRow {
    let column = |name: &str| batch.column_by_name(name).expect("the schema was checked");
    let number = |name: &str| column(name).as_primitive::<UInt64Type>().value(at);
    let set_names = column(index::SET_NAME).as_string::<i32>();
    let hashes = column(index::CONTENT_HASH).as_fixed_size_binary();
    IndexRow {
        shard: number(index::SHARD),
        document: number(index::DOCUMENT),
        first_token: number(index::FIRST_TOKEN),
        token_count: number(index::TOKEN_COUNT),
        set_name: set_names.is_valid(at).then(|| set_names.value(at).to_owned()),
        input: column(index::INPUT).as_string::<i32>().value(at).to_owned(),
        row: number(index::ROW),
        text_bytes: column(index::TEXT_BYTES).is_valid(at).then(|| number(index::TEXT_BYTES)),
        content_hash: hashes
            .is_valid(at)
            .then(|| hashes.value(at).try_into().expect("the schema was checked")),
    }
}
