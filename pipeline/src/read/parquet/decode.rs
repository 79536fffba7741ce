//! Columns of a Parquet file to [`RowChunk`]s, in this process.
//!
//! **Invariant:** exactly the number of rows promised by the footer comes out, or an error.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchReader, StructArray};
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::schema::types::{BasicTypeInfo, ColumnDescPtr, SchemaDescriptor, Type};

use crate::read::document::{CHUNK_BYTES, Columns};
use crate::read::error::DocsError;
use crate::read::parquet::guard::guarded;
use crate::read::parquet::rows::{Cell, RowChunk};

/// Maximum rows of a batch, however short: a page's dictionary can make them longer than the file.
const BATCH_ROWS_MAX: u64 = 1024;

/// A Parquet file being read.
pub(crate) struct ParquetRows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    /// Path of the text's column.
    text: Vec<String>,
    /// Column of the set name, and the number of keys of its path inside the column's JSON.
    set: Option<(Vec<String>, u32)>,
    rows_read: u64,
    rows: u64,
    batch_rows: u64,
    /// For each row group, the number of its last row.
    group_ends: Vec<u64>,
    /// Decoded but not yet returned.
    ready: VecDeque<RowChunk>,
    document_bytes_max: u64,
}

impl ParquetRows {
    /// Opens a file and begins at a row, 1-based.
    pub(crate) fn open(
        path: &Path,
        columns: &Columns,
        first_row: u64,
    ) -> Result<ParquetRows, DocsError> {
        let error = |reason| DocsError::Parquet { path: path.to_owned(), row: 0, reason };
        let open = |source| DocsError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(open)?;
        let schema = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&file));
        let schema = schema.map_err(explain).map_err(error)?.file_metadata().schema_descr_ptr();
        let Found { text_leaf, set_leaf, set } = find(&schema, path, columns)?;
        let leaves = || [text_leaf].into_iter().chain(set_leaf);
        let metadata = guarded(|| {
            let schema = strings_as_bytes(&schema, leaves())?;
            // The writer's Arrow types would make strings of them again.
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            ArrowReaderMetadata::load(&file, options.with_parquet_schema(Arc::new(schema)))
        });
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.map_err(error)?);
        let mask = ProjectionMask::leaves(builder.parquet_schema(), leaves());
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let groups = builder.metadata().row_groups();
        let batch_rows = batch_rows(groups);
        let group_ends: Vec<u64> = groups
            .iter()
            .scan(0u64, |end, group| {
                *end = end.saturating_add(u64::try_from(group.num_rows()).unwrap_or(0));
                Some(*end)
            })
            .collect();
        let first_group = group_ends.partition_point(|&end| end < first_row);
        let before = first_group.checked_sub(1).map_or(0, |last| group_ends[last]);
        let skipped =
            usize::try_from(first_row - 1 - before.min(first_row - 1)).unwrap_or(usize::MAX);
        let builder = builder
            .with_projection(mask)
            .with_row_groups((first_group..group_ends.len()).collect())
            .with_offset(skipped)
            .with_batch_size(usize::try_from(batch_rows).expect("at most 1024"));
        let reader = guarded(|| builder.build()).map_err(error)?;
        let rows = ParquetRows {
            path: path.to_owned(),
            reader,
            text: schema.column(text_leaf).path().parts().to_vec(),
            set,
            rows_read: first_row - 1,
            rows,
            batch_rows,
            group_ends,
            ready: VecDeque::new(),
            document_bytes_max: columns.document_bytes_max,
        };
        rows.check_types(columns.set.is_some())
    }

    /// The projected columns must be strings. A default set column of another type holds no set
    /// names.
    fn check_types(mut self, set_was_asked_for: bool) -> Result<ParquetRows, DocsError> {
        let empty = RecordBatch::new_empty(self.reader.schema());
        Column::of(&empty, &self.text).map_err(|found| self.type_error(&self.text, found))?;
        if let Some(set) = self.set.take() {
            match Column::of(&empty, &set.0) {
                Ok(_) => self.set = Some(set),
                Err(found) if set_was_asked_for => return Err(self.type_error(&set.0, found)),
                Err(_) => {}
            }
        }
        Ok(self)
    }

    fn type_error(&self, column: &[String], found: String) -> DocsError {
        DocsError::ColumnType { path: self.path.clone(), column: column.join("."), found }
    }

    /// Rows of the file, by its footer.
    pub(crate) fn row_count(&self) -> u64 {
        self.rows
    }

    pub(crate) fn next_chunk(&mut self) -> Result<Option<RowChunk>, DocsError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            let row = self.rows_read;
            let error = |reason| DocsError::Parquet { path: self.path.clone(), row, reason };
            let batch = guarded(|| self.reader.next().transpose());
            let batch = batch
                .map_err(|reason| error(format!("{}: {}", self.next_groups(), explain(reason))))?;
            let Some(batch) = batch else {
                if self.rows_read == self.rows {
                    return Ok(None);
                }
                return Err(error(format!(
                    "it ends there; its footer promises {} rows",
                    self.rows
                )));
            };
            let text = Column::of(&batch, &self.text).map_err(error)?;
            let set = self.set.as_ref().map(|(path, _)| Column::of(&batch, path));
            let set = set.transpose().map_err(error)?;
            let json_keys = self.set.as_ref().map_or(0, |set| set.1);
            let rows = batch.num_rows();
            self.ready = guarded(|| {
                Ok::<_, String>(chunks(
                    &text,
                    set.as_ref(),
                    rows,
                    row + 1,
                    json_keys,
                    self.document_bytes_max,
                ))
            })
            .map_err(error)?;
            self.rows_read += rows as u64;
        }
    }

    /// The row groups in the next batch, counted from 0.
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
}

/// Explains an unreadable column, whose metadata or pages a writer may have encrypted.
fn explain(reason: String) -> String {
    let signs = ["Required field type_ is missing", "Unexpected struct field type"];
    if !signs.iter().any(|sign| reason.contains(sign)) {
        return reason;
    }
    format!(
        "a column cannot be read, as in a file with encrypted columns; if it is one, write it \
         again without encryption ({reason})"
    )
}

/// Position of text and set name in a file.
struct Found {
    text_leaf: usize,
    set_leaf: Option<usize>,
    /// Column of the set name, and the number of keys of its path inside the column's JSON.
    set: Option<(Vec<String>, u32)>,
}

fn find(schema: &SchemaDescriptor, path: &Path, columns: &Columns) -> Result<Found, DocsError> {
    let find = |column: &str| leaf_of(schema, path, column);
    let missing = |column: &str, hint| missing_column(schema, path, column, hint);
    let text_leaf = find(&columns.text)?.ok_or_else(|| missing(&columns.text, TEXT_HINT))?;
    // The column itself, or one above it with JSON in its strings.
    let set_path = columns.set_path();
    let dots = set_path.rmatch_indices('.').map(|(at, _)| at);
    let mut set = None;
    for (keys, end) in (0u32..).zip([set_path.len()].into_iter().chain(dots)) {
        if let Some(leaf) = find(&set_path[..end])? {
            set = Some((leaf, keys));
            break;
        }
    }
    if columns.set.is_some() && set.is_none() {
        return Err(missing(set_path, SET_HINT));
    }
    let set_parts = set.map(|(leaf, keys)| (schema.column(leaf).path().parts().to_vec(), keys));
    Ok(Found { text_leaf, set_leaf: set.map(|(leaf, _)| leaf), set: set_parts })
}

/// The leaf of this name; a field of a struct is named by its dotted path.
fn leaf_of(
    schema: &SchemaDescriptor,
    path: &Path,
    column: &str,
) -> Result<Option<usize>, DocsError> {
    let leaves = schema.columns().iter().enumerate();
    let mut named = leaves.filter(|(_, leaf)| leaf.path().string() == column);
    let found = named.next().map(|(leaf, _)| leaf);
    if named.next().is_some() {
        return Err(DocsError::Parquet {
            path: path.to_owned(),
            row: 0,
            reason: format!("more than one column is named {column:?}; write it with one of them"),
        });
    }
    Ok(found)
}

/// Why a file has no usable column of this name.
fn missing_column(
    schema: &SchemaDescriptor,
    path: &Path,
    column: &str,
    hint: &'static str,
) -> DocsError {
    let (path, column) = (path.to_owned(), column.to_owned());
    let names = |leaves: &[&ColumnDescPtr]| {
        leaves.iter().map(|leaf| leaf.path().string()).collect::<Vec<_>>().join(", ")
    };
    let leaves = schema.columns().iter();
    let strings: Vec<_> = leaves.filter(|leaf| may_be_string(leaf)).collect();
    let is_inside = |leaf: &ColumnDescPtr| {
        leaf.path().string().strip_prefix(&column).is_some_and(|rest| rest.starts_with('.'))
    };
    let fields: Vec<_> = strings.iter().copied().filter(|leaf| is_inside(leaf)).collect();
    if !fields.is_empty() {
        let found = format!("a struct with {}, and {hint}", names(&fields));
        return DocsError::ColumnType { path, column, found };
    }
    if schema.columns().iter().any(is_inside) {
        let found = "a list, a map, or a struct without strings".to_owned();
        return DocsError::ColumnType { path, column, found };
    }
    let found = match strings.is_empty() {
        true => "none".to_owned(),
        false => names(&strings),
    };
    DocsError::NoColumn { path, column, found, hint }
}

/// Whether a leaf has one string a row.
fn may_be_string(leaf: &ColumnDescPtr) -> bool {
    leaf.max_rep_level() == 0
        && leaf.physical_type() == PhysicalType::BYTE_ARRAY
        && leaf.converted_type() != parquet::basic::ConvertedType::DECIMAL
}

/// The schema with bytes in place of strings in some leaves: for one string of invalid UTF-8 the
/// decoder refuses a whole batch; we refuse one row.
fn strings_as_bytes(
    schema: &SchemaDescriptor,
    leaves: impl Iterator<Item = usize>,
) -> Result<SchemaDescriptor, ParquetError> {
    let mut root = schema.root_schema().clone();
    for leaf in leaves {
        root = string_as_bytes(&root, schema.column(leaf).path().parts())?;
    }
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

/// The same for the leaf at a path below a node.
fn string_as_bytes(node: &Type, path: &[String]) -> Result<Type, ParquetError> {
    let info = node.get_basic_info();
    let id = info.has_id().then(|| info.id());
    match (node, path.split_first()) {
        (Type::PrimitiveType { physical_type: PhysicalType::BYTE_ARRAY, .. }, None)
            if is_string(info) =>
        {
            let builder = Type::primitive_type_builder(info.name(), PhysicalType::BYTE_ARRAY);
            builder.with_repetition(info.repetition()).with_id(id).build()
        }
        (Type::GroupType { fields, .. }, Some((first, rest))) => {
            let field = |field: &Arc<Type>| {
                let is_on_path = field.name() == first;
                if is_on_path {
                    string_as_bytes(field, rest).map(Arc::new)
                } else {
                    Ok(field.clone())
                }
            };
            let mut builder = Type::group_type_builder(info.name())
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_fields(fields.iter().map(field).collect::<Result<_, _>>()?)
                .with_id(id);
            if info.has_repetition() {
                builder = builder.with_repetition(info.repetition());
            }
            builder.build()
        }
        _ => Ok(node.clone()),
    }
}

fn is_string(info: &BasicTypeInfo) -> bool {
    use parquet::basic::{ConvertedType, LogicalType};
    matches!(info.converted_type(), ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM)
        || matches!(
            info.logical_type_ref(),
            Some(LogicalType::String | LogicalType::Json | LogicalType::Enum)
        )
}

/// How to fix a missing text column.
pub(crate) const TEXT_HINT: &str = "--text-column names the one with the text";
/// How to fix a missing column of the set name.
pub(crate) const SET_HINT: &str = "--set-column names the one with the set name";

/// Rows in a chunk, by the mean size of the row group with the largest rows.
fn batch_rows(groups: &[RowGroupMetaData]) -> u64 {
    let row_bytes = |group: &RowGroupMetaData| {
        let bytes = u64::try_from(group.total_byte_size()).unwrap_or(0);
        bytes / u64::try_from(group.num_rows()).unwrap_or(1).max(1)
    };
    let row_bytes = groups.iter().map(row_bytes).max().unwrap_or(1).max(1);
    (CHUNK_BYTES as u64 / row_bytes).clamp(1, BATCH_ROWS_MAX)
}

/// Splits the values of a batch into chunks of about [`CHUNK_BYTES`], or one row.
fn chunks(
    text: &Column,
    set: Option<&Column>,
    rows: usize,
    first_row: u64,
    json_keys: u32,
    document_bytes_max: u64,
) -> VecDeque<RowChunk> {
    let mut chunks = VecDeque::new();
    let new = |at: usize| RowChunk {
        first_row: first_row + at as u64,
        rows: Vec::new(),
        bytes: Vec::new(),
        json_keys,
    };
    let mut chunk = new(0);
    for at in 0..rows {
        let mut cell = |value: Option<&[u8]>| match value {
            None => Cell::Null,
            Some(value) if value.len() as u64 > document_bytes_max => {
                Cell::TooLong(value.len() as u64)
            }
            Some(value) => {
                chunk.bytes.extend_from_slice(value);
                Cell::Bytes(value.len() as u64)
            }
        };
        let cells = [cell(text.value(at)), cell(set.and_then(|set| set.value(at)))];
        chunk.rows.push(cells);
        if chunk.bytes.len() >= CHUNK_BYTES {
            chunks.push_back(std::mem::replace(&mut chunk, new(at + 1)));
        }
    }
    if !chunk.rows.is_empty() {
        chunks.push_back(chunk);
    }
    chunks
}

/// A column of bytes; null wherever a struct on its path is null.
struct Column {
    array: ArrayRef,
    nulls: Option<arrow::buffer::NullBuffer>,
}

impl Column {
    /// The column at a path of a batch, or its type if not bytes; strings are read as bytes.
    fn of(batch: &RecordBatch, path: &[String]) -> Result<Column, String> {
        let (first, rest) = path.split_first().expect("a path has a column");
        let mut array: ArrayRef =
            batch.column_by_name(first).ok_or_else(|| format!("without {first:?}"))?.clone();
        let mut nulls = array.logical_nulls();
        for part in rest {
            let parent: &StructArray = array
                .as_struct_opt()
                .ok_or_else(|| format!("{} at {part:?}", array.data_type()))?;
            let child =
                parent.column_by_name(part).ok_or_else(|| format!("without {part:?}"))?.clone();
            array = child;
            nulls =
                arrow::buffer::NullBuffer::union(nulls.as_ref(), array.logical_nulls().as_ref());
        }
        match array.data_type() {
            DataType::Binary | DataType::FixedSizeBinary(_) => Ok(Column { array, nulls }),
            found => Err(found.to_string()),
        }
    }

    /// The bytes of a row; `None` for null.
    fn value(&self, row: usize) -> Option<&[u8]> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        Some(match self.array.data_type() {
            DataType::Binary => self.array.as_binary::<i32>().value(row),
            DataType::FixedSizeBinary(_) => self.array.as_fixed_size_binary().value(row),
            other => unreachable!("{other} was refused"),
        })
    }
}
