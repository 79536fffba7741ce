//! Rows of Parquet to documents, reading only the columns of text and set name.
//!
//! **Invariant:** a chunk's columns have one entry a row.

use std::borrow::Cow;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow::array::{
    Array, ArrayRef, AsArray, LargeStringArray, RecordBatch, RecordBatchReader, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::docs::{CHUNK_BYTES, Columns, DEFAULT_SET_COLUMN, Doc, DocsError, Refusal};
use crate::tokenize::panic_text;

/// Rows of one batch at most, however short.
const BATCH_ROWS_MAX: u64 = 8192;

/// Rows that were read together.
pub struct RowChunk {
    texts: LargeStringArray,
    set_names: Option<LargeStringArray>,
    /// 1-based.
    first_row: u64,
}

impl RowChunk {
    pub(crate) fn text_bytes(&self) -> usize {
        self.texts.values().len()
    }

    pub(crate) fn docs<'a>(
        &'a self,
        columns: &'a Columns,
    ) -> impl Iterator<Item = Result<Doc<'a>, Refusal>> + 'a {
        (0..self.texts.len()).map(move |at| {
            let row = self.first_row + at as u64;
            let refusal = |reason| Refusal { row, byte_offset: None, reason };
            if self.texts.is_null(at) {
                return Err(refusal("the text is null; expected a string".to_owned()));
            }
            columns.check_length(self.texts.value(at)).map_err(refusal)?;
            let set_name = self.set_names.as_ref().filter(|names| names.is_valid(at));
            let set_name = set_name.map(|names| Cow::Borrowed(names.value(at)));
            Ok(Doc { text: Cow::Borrowed(self.texts.value(at)), set_name, row })
        })
    }
}

/// A Parquet file that is being read.
pub(crate) struct Rows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    text: String,
    set_path: Option<Vec<String>>,
    rows_read: u64,
    rows: u64,
    batch_rows: u64,
    /// Of each row group, the number of its last row.
    group_ends: Vec<u64>,
    file_bytes: u64,
}

impl Rows {
    pub(crate) fn open(file: File, path: &Path, columns: &Columns) -> Result<Rows, DocsError> {
        let error = |reason| DocsError::Parquet { path: path.to_owned(), row: 0, reason };
        let file_bytes = file.metadata().map_err(|err| error(err.to_string()))?.len();
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new(file)).map_err(error)?;
        let schema = builder.parquet_schema();
        let find =
            |column: &str| schema.columns().iter().position(|leaf| leaf.path().string() == column);
        let missing = |column: &str, hint| DocsError::NoColumn {
            path: path.to_owned(),
            column: column.to_owned(),
            found: schema
                .columns()
                .iter()
                .map(|leaf| leaf.path().string())
                .collect::<Vec<_>>()
                .join(", "),
            hint,
        };
        let text = find(&columns.text)
            .ok_or_else(|| missing(&columns.text, "--text-column names the one with the text"))?;
        let set = match &columns.set {
            Some(column) => {
                let hint = "--set-column names the one with the set name";
                Some(find(column).ok_or_else(|| missing(column, hint))?)
            }
            None => find(DEFAULT_SET_COLUMN),
        };
        let set_path = set.map(|leaf| schema.column(leaf).path().parts().to_vec());
        let mask = ProjectionMask::leaves(schema, [text].into_iter().chain(set));
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let groups = builder.metadata().row_groups();
        let batch_rows = batch_rows(groups);
        let group_ends = groups.iter().scan(0, |end, group| {
            *end += u64::try_from(group.num_rows()).unwrap_or(0);
            Some(*end)
        });
        let group_ends = group_ends.collect();
        let builder = builder
            .with_projection(mask)
            .with_batch_size(usize::try_from(batch_rows).expect("at most 8192"));
        let reader = guarded(|| builder.build()).map_err(error)?;
        let (path, text) = (path.to_owned(), columns.text.clone());
        let rows_read = 0;
        let rows = Rows {
            path,
            reader,
            text,
            set_path,
            rows_read,
            rows,
            batch_rows,
            group_ends,
            file_bytes,
        };
        rows.check_types(columns.set.is_some())
    }

    /// The types of the projected columns must be strings. A default set column of another type holds no set names.
    fn check_types(mut self, set_was_asked_for: bool) -> Result<Rows, DocsError> {
        let empty = RecordBatch::new_empty(self.reader.schema());
        let text = [self.text.clone()];
        strings(&empty, &text).map_err(|found| self.type_error(&text, found))?;
        if let Some(set_path) = self.set_path.take() {
            match strings(&empty, &set_path) {
                Ok(_) => self.set_path = Some(set_path),
                Err(found) if set_was_asked_for => return Err(self.type_error(&set_path, found)),
                Err(_) => {}
            }
        }
        Ok(self)
    }

    fn type_error(&self, column: &[String], found: String) -> DocsError {
        DocsError::ColumnType { path: self.path.clone(), column: column.join("."), found }
    }

    pub(crate) fn next_chunk(&mut self) -> Result<Option<RowChunk>, DocsError> {
        let row = self.rows_read;
        let error = |reason| DocsError::Parquet { path: self.path.clone(), row, reason };
        let batch = guarded(|| self.reader.next().transpose());
        let batch = batch.map_err(|reason| error(format!("{}: {reason}", self.next_groups())))?;
        let Some(batch) = batch else {
            if self.rows_read == self.rows {
                return Ok(None);
            }
            return Err(error(format!("it ends there; its footer promises {} rows", self.rows)));
        };
        let texts = strings(&batch, std::slice::from_ref(&self.text)).map_err(error)?;
        let set_names = self.set_path.as_deref().map(|path| strings(&batch, path));
        let set_names = set_names.transpose().map_err(error)?;
        self.rows_read += batch.num_rows() as u64;
        Ok(Some(RowChunk { texts, set_names, first_row: row + 1 }))
    }

    /// The row groups that the next batch reads, counted from 0.
    fn next_groups(&self) -> String {
        let group_of = |row| self.group_ends.partition_point(|&end| end < row);
        let last_row = (self.rows_read + self.batch_rows).min(self.rows);
        let (first, last) = (group_of(self.rows_read + 1), group_of(last_row));
        if first >= last {
            format!("row group {first}")
        } else {
            format!("row groups {first} to {last}")
        }
    }

    pub(crate) fn file_offset(&self) -> u64 {
        let share = self.rows_read as f64 / self.rows.max(1) as f64;
        (self.file_bytes as f64 * share) as u64
    }
}

/// The reader's panics on crafted files become errors.
pub(crate) fn guarded<T, E: std::fmt::Display>(
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|panic| panic_text(&*panic))?
        .map_err(|err| err.to_string())
}

/// As many rows as make a chunk, by the mean size of the row group with the largest rows.
fn batch_rows(groups: &[parquet::file::metadata::RowGroupMetaData]) -> u64 {
    let row_bytes = |group: &parquet::file::metadata::RowGroupMetaData| {
        let bytes = u64::try_from(group.total_byte_size()).unwrap_or(0);
        bytes / u64::try_from(group.num_rows()).unwrap_or(1).max(1)
    };
    let row_bytes = groups.iter().map(row_bytes).max().unwrap_or(1).max(1);
    (CHUNK_BYTES as u64 / row_bytes).clamp(1, BATCH_ROWS_MAX)
}

/// The column at a path of a batch as strings, null where a struct on the way is; or the type that is no string.
fn strings(batch: &RecordBatch, path: &[String]) -> Result<LargeStringArray, String> {
    let (first, rest) = path.split_first().expect("a path has a column");
    let mut array: ArrayRef =
        batch.column_by_name(first).ok_or_else(|| format!("without {first:?}"))?.clone();
    let mut nulls = array.logical_nulls();
    for part in rest {
        let parent: &StructArray =
            array.as_struct_opt().ok_or_else(|| format!("{} at {part:?}", array.data_type()))?;
        let child = parent.column_by_name(part).ok_or_else(|| format!("without {part:?}"))?.clone();
        array = child;
        nulls = arrow::buffer::NullBuffer::union(nulls.as_ref(), array.logical_nulls().as_ref());
    }
    if !is_string(array.data_type()) {
        return Err(array.data_type().to_string());
    }
    let strings = cast(&array, &DataType::LargeUtf8).map_err(|err| err.to_string())?;
    let strings: &LargeStringArray = strings.as_string();
    let (offsets, values, own_nulls) = strings.clone().into_parts();
    let nulls = arrow::buffer::NullBuffer::union(nulls.as_ref(), own_nulls.as_ref());
    Ok(LargeStringArray::new(offsets, values, nulls))
}

fn is_string(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_string(values),
        _ => false,
    }
}
