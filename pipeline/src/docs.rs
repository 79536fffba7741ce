//! Inputs to documents: JSON lines (plain, zstd, gzip) and Parquet, as a stream in bounded memory.
//!
//! [`Docs`] reads *chunks*, which is all that has to happen in order; taking a [`Chunk`] apart into documents
//! (parsing JSON) needs no state, so that any thread can do it.
//!
//! **Invariant:** every line that is not blank and every row comes out once, as a [`Doc`] or as a [`Refusal`] that says
//! where it stands and why.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::inputs::{Format, Input};
use crate::lines::{GZIP_MAGIC, LineChunk, Lines};
use crate::rows::{RowChunk, Rows};

/// Bytes of text after which a chunk is complete; one document can exceed it.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of the longest document, unless something else is asked for: encoding takes some 160 bytes of memory a byte.
pub const DOCUMENT_BYTES_MAX: u64 = 32 << 20;
/// Bytes of JSON that a byte of text takes at most: `\u0001`.
const ESCAPED_BYTES: u64 = 6;
/// What a line may hold beside its text.
const LINE_REST_BYTES: u64 = 1 << 20;

/// A document of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc<'a> {
    /// Its text.
    pub text: Cow<'a, str>,
    /// The Pile's `pile_set_name`, or what the set column holds.
    pub set_name: Option<Cow<'a, str>>,
    /// 1-based line of JSON lines, 1-based row of Parquet.
    pub row: u64,
    /// Escaped surrogates without their other half, each of which became U+FFFD, in the text and in the set name.
    pub surrogates_replaced: u64,
}

/// A line or row that is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// 1-based line of JSON lines, 1-based row of Parquet.
    pub row: u64,
    /// Where the line begins in the decompressed file; `None` for Parquet.
    pub byte_offset: Option<u64>,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.byte_offset {
            Some(offset) => {
                write!(f, "line {} (from byte {offset} of the text): {}", self.row, self.reason)
            }
            None => write!(f, "row {}: {}", self.row, self.reason),
        }
    }
}

/// Where text and set name stand, and how long a text may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Key or column of the text.
    pub text: String,
    /// Key, column or dotted path of the set name, which then must be a string wherever it is present;
    /// `None` is [`DEFAULT_SET_COLUMN`], taken where it is a string.
    pub set: Option<String>,
    /// Bytes of the longest text in UTF-8; a longer one is refused.
    pub document_bytes_max: u64,
}

impl Columns {
    /// What a text of this length is refused for.
    pub(crate) fn check_length(&self, bytes: u64) -> Result<(), String> {
        let max = self.document_bytes_max;
        if bytes <= max {
            return Ok(());
        }
        Err(format!("the text is {bytes} bytes; a document may have {max} (--max-document-bytes)"))
    }

    /// Dotted path of the set name.
    pub(crate) fn set_path(&self) -> &str {
        self.set.as_deref().unwrap_or(DEFAULT_SET_COLUMN)
    }

    /// Bytes of the longest line that can hold a text that is not refused.
    fn line_bytes_max(&self) -> u64 {
        self.document_bytes_max.saturating_mul(ESCAPED_BYTES).saturating_add(LINE_REST_BYTES)
    }
}

/// Where the Pile has the set name.
pub const DEFAULT_SET_COLUMN: &str = "meta.pile_set_name";

impl Default for Columns {
    /// Those of the Pile.
    fn default() -> Columns {
        Columns { text: "text".to_owned(), set: None, document_bytes_max: DOCUMENT_BYTES_MAX }
    }
}

/// Why an input as a whole could not be read (on).
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    /// A file that cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of 0 bytes.
    #[error("{} is empty (0 bytes); leave it out or get it again", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// A file whose content is not what its name says.
    #[error(
        "{} begins with {found:02x?}, which is {found_format}; its name promises {expected}: rename it or get it again",
        path.display()
    )]
    Mislabelled {
        /// Which file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
        /// What they mean.
        found_format: &'static str,
        /// What the name means.
        expected: &'static str,
    },
    /// A compressed file that stops too early.
    #[error(
        "{} ends at byte {file_offset} in the middle of its {format} data \
         (after {text_offset} bytes of text, line {row}): it was cut off; get it again",
        path.display()
    )]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// Its compression.
        format: &'static str,
        /// Bytes of the file that were read.
        file_offset: u64,
        /// Bytes of text that came out of them.
        text_offset: u64,
        /// The line at which the text stops.
        row: u64,
    },
    /// A file that cannot be read on.
    #[error(
        "cannot read {} beyond byte {file_offset} of the file (byte {text_offset} of the text, line {row})",
        path.display()
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// Bytes of the file that were read.
        file_offset: u64,
        /// Bytes of text that came out of them.
        text_offset: u64,
        /// The line at which the text stops.
        row: u64,
        /// What the decoder or the system said.
        source: io::Error,
    },
    /// A file with fewer lines or rows than were read of it before.
    #[error("{} has {rows} lines or rows; {} of them were read before: the file changed, begin anew", path.display(), row - 1)]
    Shorter {
        /// Which file.
        path: PathBuf,
        /// Lines or rows that it has.
        rows: u64,
        /// The 1-based line or row to go on from.
        row: u64,
    },
    /// Parquet that cannot be read.
    #[error("cannot read {} as Parquet{}: {reason}", path.display(), after(*row))]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// Rows read before.
        row: u64,
        /// What the Parquet reader said.
        reason: String,
    },
    /// A column that the file does not have.
    #[error("{} has no column {column:?}; it has {found}: {hint}", path.display())]
    NoColumn {
        /// Which file.
        path: PathBuf,
        /// Which column.
        column: String,
        /// The columns that there are.
        found: String,
        /// Which option names the column.
        hint: &'static str,
    },
    /// A column that holds no strings.
    #[error("column {column:?} of {} is {found}; expected strings", path.display())]
    ColumnType {
        /// Which file.
        path: PathBuf,
        /// Which column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A document that was refused, where that stops the reading.
    #[error("{}: {refusal}", path.display())]
    Document {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        refusal: Refusal,
    },
}

fn after(row: u64) -> String {
    if row == 0 { String::new() } else { format!(" after row {row}") }
}

/// Documents that were read together.
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

    /// Bytes of memory that its documents take, about.
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

/// An input that is being read.
pub struct Docs(Reader);

enum Reader {
    Lines(Lines),
    Rows(Rows),
}

impl Docs {
    /// Opens an input, and checks that its content is what its name says.
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

    /// Passes over all before line or row `row` (1-based) without parsing it; only before the first chunk.
    ///
    /// It is an error if the file has fewer: it was read further before, so it changed.
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

    /// Bytes of the file that were read so far; an estimate for Parquet.
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

/// Compares the first bytes with what the name promises, and rewinds.
fn check_magic(file: &mut File, path: &Path, format: Format) -> Result<(), DocsError> {
    let mut found = Vec::new();
    let read = Read::by_ref(file).take(4).read_to_end(&mut found);
    let rewound = read.and_then(|_| io::Seek::rewind(file));
    rewound.map_err(|source| DocsError::Open { path: path.to_owned(), source })?;
    let found_format = match found.as_slice() {
        [] => return Err(DocsError::Empty { path: path.to_owned() }),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Format::JsonLinesZstd),
        found if found.starts_with(&GZIP_MAGIC) => Some(Format::JsonLinesGzip),
        b"PAR1" => Some(Format::Parquet),
        _ => None,
    };
    let fits = match format {
        Format::JsonLines => found_format.is_none(),
        // Cut off within the magic bytes: the decoder says so better.
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
