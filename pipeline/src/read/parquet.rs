//! Rows of Parquet to documents, reading only the columns of text and set name.
//!
//! Parquet is decoded by a large library not written for hostile files. When the commands run, a
//! child process decodes it ([`isolate`], called by `cli::run`), with limits on memory and on
//! silence. However the child fails, the result is an error of that file
//! ([`crate::read::parquet::process`]). A user of the library, who may not have the program,
//! decodes in the own process; so does a test. There panics become errors, but an abort or a lack
//! of memory ends the process.
//!
//! A `meta` column of strings is parsed as JSON. A string that is not JSON has no set name.
//!
//! **Invariant:** a chunk has one entry a row, and rows come out in the file's order.

pub(crate) mod decode;
pub(crate) mod guard;
pub mod process;
pub mod rows;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::read::document::Columns;
use crate::read::error::DocsError;
use crate::read::parquet::decode::ParquetRows;
use crate::read::parquet::process::{Isolation, RowProcess};
use crate::read::parquet::rows::RowChunk;

/// The reason for refusing an encrypted file.
pub(crate) const ENCRYPTED: &str = "it is encrypted; write it again without encryption";

/// How Parquet files are decoded from now on.
static ISOLATION: OnceLock<Isolation> = OnceLock::new();

/// Decodes Parquet files in child processes of a program from now on; only the first call counts.
pub fn isolate(isolation: Isolation) {
    let _ = ISOLATION.set(isolation);
}

/// A Parquet file being read.
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
