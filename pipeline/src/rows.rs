//! Rows of Parquet to documents, reading only the columns of text and set name.
//!
//! Parquet is decoded by a large library that was not written for hostile files. Where [`isolate`] names a program, a
//! process of that program decodes them, with limits on memory and on silence, and whatever becomes of it is an error of
//! that file here ([`crate::row_process`]). Elsewhere (a library's user, a test) they are decoded in this process: panics
//! become errors, but an abort or a lack of memory ends the process.
//!
//! **Invariant:** a chunk has one entry a row, and rows come out in the file's order.

use std::borrow::Cow;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::console_panic::panic_text;
use crate::docs::{Columns, Doc, DocsError, Refusal};
use crate::json;
use crate::parquet_rows::ParquetRows;
use crate::row_process::{Isolation, RowProcess};

/// How Parquet files are decoded from now on.
static ISOLATION: OnceLock<Isolation> = OnceLock::new();

/// Decodes Parquet files by processes of a program from now on; the first call counts.
pub fn isolate(isolation: Isolation) {
    let _ = ISOLATION.set(isolation);
}

/// Rows that were read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChunk {
    /// 1-based.
    pub(crate) first_row: u64,
    /// Text and set name of each row.
    pub(crate) rows: Vec<[Cell; 2]>,
    /// The texts and set names, one after the other.
    pub(crate) bytes: Vec<u8>,
    /// Keys of the set name's path that lie inside of strings with JSON.
    pub(crate) json_keys: u32,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    /// The next so many bytes.
    Bytes(u64),
    /// Longer than a document may be, and left out.
    TooLong(u64),
}

impl RowChunk {
    pub(crate) fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn docs<'a>(
        &'a self,
        columns: &'a Columns,
    ) -> impl Iterator<Item = Result<Doc<'a>, Refusal>> + 'a {
        let keys: Vec<&str> = columns.set_path().split('.').collect();
        let json_path = keys[keys.len().saturating_sub(self.json_keys as usize)..].to_vec();
        let mut at = 0;
        (self.first_row..).zip(&self.rows).map(move |(row, cells)| {
            let [text, set] = cells.map(|cell| match cell {
                Cell::Bytes(bytes) => {
                    let start = at;
                    at += bytes as usize;
                    Some(&self.bytes[start..at])
                }
                _ => None,
            });
            let refusal = |reason| Refusal { row, byte_offset: None, reason };
            if let Cell::TooLong(bytes) = cells[0] {
                columns.check_length(bytes).map_err(refusal)?;
            }
            let Some(text) = text else {
                return Err(refusal("the text is null; expected a string".to_owned()));
            };
            let text = utf8(text).map_err(|reason| refusal(format!("the text {reason}")))?;
            columns.check_length(text.len() as u64).map_err(refusal)?;
            let (set_name, surrogates_replaced) = match set.map(utf8).transpose() {
                Ok(Some(name)) if json_path.is_empty() => (Some(Cow::Borrowed(name)), 0),
                Ok(Some(json)) => match json::string_at(json, &json_path) {
                    Some((name, replaced)) => (Some(name), replaced),
                    None => (None, 0),
                },
                Err(reason) if columns.set.is_some() => {
                    return Err(refusal(format!("the set name {reason}")));
                }
                _ => (None, 0),
            };
            Ok(Doc { text: Cow::Borrowed(text), set_name, row, surrogates_replaced })
        })
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    simdutf8::compat::from_utf8(bytes).map_err(|err| {
        let at = err.valid_up_to();
        format!("is no UTF-8 from its byte {at} ({:#04x}) on", bytes[at])
    })
}

/// A Parquet file that is being read.
pub(crate) struct Rows {
    path: PathBuf,
    columns: Columns,
    source: Source,
    file_bytes: u64,
    rows_read: u64,
}

enum Source {
    Here(Box<ParquetRows>),
    Process(Box<RowProcess>),
}

impl Source {
    fn open(path: &Path, columns: &Columns, first_row: u64) -> Result<Source, DocsError> {
        Ok(match ISOLATION.get() {
            Some(isolation) => {
                Source::Process(Box::new(RowProcess::start(isolation, path, columns, first_row)?))
            }
            None => Source::Here(Box::new(ParquetRows::open(path, columns, first_row)?)),
        })
    }

    fn row_count(&self) -> u64 {
        match self {
            Source::Here(rows) => rows.row_count(),
            Source::Process(rows) => rows.row_count(),
        }
    }
}

impl Rows {
    pub(crate) fn open(path: &Path, columns: &Columns) -> Result<Rows, DocsError> {
        let source = Source::open(path, columns, 1)?;
        let file = File::open(path).and_then(|file| file.metadata());
        let file_bytes = file.map_or(0, |metadata| metadata.len());
        Ok(Rows {
            path: path.to_owned(),
            columns: columns.clone(),
            source,
            file_bytes,
            rows_read: 0,
        })
    }

    pub(crate) fn skip_to(&mut self, row: u64) -> Result<(), DocsError> {
        let rows = self.source.row_count();
        if row > rows + 1 {
            return Err(DocsError::Shorter { path: self.path.clone(), rows, row });
        }
        if row > 1 {
            self.source = Source::open(&self.path, &self.columns, row)?;
            self.rows_read = row - 1;
        }
        Ok(())
    }

    pub(crate) fn next_chunk(&mut self) -> Result<Option<RowChunk>, DocsError> {
        let chunk = match &mut self.source {
            Source::Here(rows) => rows.next_chunk(),
            Source::Process(rows) => rows.next_chunk(),
        }?;
        self.rows_read += chunk.as_ref().map_or(0, |chunk| chunk.rows.len() as u64);
        Ok(chunk)
    }

    pub(crate) fn file_offset(&self) -> u64 {
        let share = self.rows_read as f64 / self.source.row_count().max(1) as f64;
        (self.file_bytes as f64 * share.min(1.0)) as u64
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
