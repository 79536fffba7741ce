//! Inputs to documents: JSON lines (plain, zstd, gzip) and Parquet, as a stream in bounded memory.
//!
//! [`Docs`] reads *chunks*; only this has to happen in order. Splitting a [`Chunk`] into documents
//! (parsing JSON) needs no state, so any thread can do it.
//!
//! **Invariant:** every nonblank line and every row comes out once, as a [`Doc`] or as a
//! [`Refusal`] with its position and reason.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use schemas::git_lfs;

pub use crate::read::document::{
    CHUNK_BYTES, Columns, DEFAULT_SET_COLUMN, DOCUMENT_BYTES_MAX, Doc, Refusal,
};
pub use crate::read::error::DocsError;
use crate::read::inputs::{Format, Input};
use crate::read::jsonl::{GZIP_MAGIC, LineChunk, Lines};
use crate::read::parquet::rows::RowChunk;
use crate::read::parquet::{ENCRYPTED, Rows};

/// Documents read together.
pub enum Chunk {
    /// Lines of JSON, not yet parsed.
    Lines(LineChunk),
    /// Rows of Parquet.
    Rows(RowChunk),
}

impl Chunk {
    /// Its documents, in order.
    pub fn docs<'a>(
        &'a self,
        columns: &'a Columns,
    ) -> Box<dyn Iterator<Item = Result<Doc<'a>, Refusal>> + 'a> {
        match self {
            Chunk::Lines(chunk) => Box::new(chunk.docs(columns)),
            Chunk::Rows(chunk) => Box::new(chunk.docs(columns)),
        }
    }

    /// Approximate memory of its documents in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Chunk::Lines(chunk) => chunk.text_bytes(),
            Chunk::Rows(chunk) => chunk.text_bytes(),
        }
    }

    /// Where the line of a document begins in the decompressed file; `None` for Parquet.
    pub fn byte_offset(&self, row: u64) -> Option<u64> {
        let Chunk::Lines(chunk) = self else { return None };
        chunk.byte_offset(row)
    }
}

/// An input being read.
pub struct Docs(Reader);

enum Reader {
    Lines(Lines),
    Rows(Rows),
}

impl Docs {
    /// Opens an input, and checks its content against its name.
    pub fn open(input: &Input, columns: &Columns) -> Result<Docs, DocsError> {
        let path = &input.path;
        let mut file =
            File::open(path).map_err(|source| DocsError::Open { path: path.clone(), source })?;
        check_magic(&mut file, path, input.format)?;
        let reader = match input.format {
            Format::Parquet => Reader::Rows(Rows::open(path, columns)?),
            format => Reader::Lines(Lines::open(file, path, format, columns.line_bytes_max())?),
        };
        Ok(Docs(reader))
    }

    /// Skips everything before line or row `row` (1-based) without parsing it; only before the
    /// first chunk.
    ///
    /// Fails if the file has fewer: it was once read past this point, so it has changed.
    pub fn skip_to(&mut self, row: u64) -> Result<(), DocsError> {
        match &mut self.0 {
            Reader::Lines(lines) => lines.skip_to(row),
            Reader::Rows(rows) => rows.skip_to(row),
        }
    }

    /// The next documents; `None` at the end.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, DocsError> {
        match &mut self.0 {
            Reader::Lines(lines) => Ok(lines.next_chunk()?.map(Chunk::Lines)),
            Reader::Rows(rows) => Ok(rows.next_chunk()?.map(Chunk::Rows)),
        }
    }

    /// Bytes of the file read so far; an estimate for Parquet.
    pub fn file_offset(&self) -> u64 {
        match &self.0 {
            Reader::Lines(lines) => lines.file_offset(),
            Reader::Rows(rows) => rows.file_offset(),
        }
    }
}

/// Calls `each` with every document of an input; the first refusal is an error.
pub fn for_each<E: From<DocsError>>(
    input: &Input,
    columns: &Columns,
    mut each: impl FnMut(Doc<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut docs = Docs::open(input, columns)?;
    while let Some(chunk) = docs.next_chunk()? {
        for doc in chunk.docs(columns) {
            let path = input.path.clone();
            each(doc.map_err(|refusal| DocsError::Document { path, refusal })?)?;
        }
    }
    Ok(())
}

/// Compares the first bytes with the format of the name, and rewinds.
fn check_magic(file: &mut File, path: &Path, format: Format) -> Result<(), DocsError> {
    let mut found = Vec::new();
    let read = Read::by_ref(file).take(git_lfs::HEAD_BYTES).read_to_end(&mut found);
    let rewound = read.and_then(|_| io::Seek::rewind(file));
    rewound.map_err(|source| DocsError::Open { path: path.to_owned(), source })?;
    if git_lfs::is_pointer(&found) {
        return Err(DocsError::LfsPointer { path: path.to_owned() });
    }
    found.truncate(4);
    let found_format = match found.as_slice() {
        [] => return Err(DocsError::Empty { path: path.to_owned() }),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Format::JsonLinesZstd),
        found if found.starts_with(&GZIP_MAGIC) => Some(Format::JsonLinesGzip),
        b"PARE" => {
            let reason = ENCRYPTED.to_owned();
            return Err(DocsError::Parquet { path: path.to_owned(), row: 0, reason });
        }
        b"PAR1" => Some(Format::Parquet),
        _ => None,
    };
    let fits = match format {
        Format::JsonLines => found_format.is_none(),
        // Cut off within the magic bytes: the decoder reports it better.
        Format::JsonLinesZstd | Format::JsonLinesGzip if found.len() < 4 => {
            found_format.is_none_or(|f| f == format)
        }
        format => found_format == Some(format),
    };
    if fits {
        return Ok(());
    }
    Err(DocsError::Mislabelled {
        path: path.to_owned(),
        found,
        found_format: found_format.map_or("none of zstd, gzip and Parquet", Format::describe),
        expected: format.describe(),
    })
}
