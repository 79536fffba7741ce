//! Inputs to documents: JSON lines (plain, zstd, gzip) and Parquet, as a stream in bounded memory.
//!
//! [`Docs`] reads *chunks*, which is all that has to happen in order; taking a [`Chunk`] apart into documents
//! (parsing JSON) needs no state, so that any thread can do it.
//!
//! **Invariant:** every line that is not blank and every row comes out once, as a [`Doc`] or as a [`Refusal`] that says
//! where it stands and why.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use crate::inputs::{Format, Input};
use crate::json;
use crate::rows::{RowChunk, Rows};

/// Bytes of text after which a chunk is complete; one document can exceed it.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of the longest document, unless something else is asked for: encoding takes some 160 bytes of memory a byte.
pub const DOCUMENT_BYTES_MAX: u64 = 32 << 20;
/// Bytes of JSON that a byte of text takes at most: `\u0001`.
const ESCAPED_BYTES: u64 = 6;
/// What a line may hold beside its text.
const LINE_REST_BYTES: u64 = 1 << 20;
/// The first bytes of a gzip member.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The log of the largest zstd window, 2 GiB, as `zstd --long=31` writes.
const WINDOW_LOG_MAX: u32 = 31;

/// A document of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc<'a> {
    /// Its text.
    pub text: Cow<'a, str>,
    /// The Pile's `pile_set_name`, or what the set column holds.
    pub set_name: Option<Cow<'a, str>>,
    /// 1-based line of JSON lines, 1-based row of Parquet.
    pub row: u64,
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
    pub(crate) fn check_length(&self, text: &str) -> Result<(), String> {
        let (bytes, max) = (text.len() as u64, self.document_bytes_max);
        if bytes <= max {
            return Ok(());
        }
        Err(format!("the text is {bytes} bytes; a document may have {max} (--max-document-bytes)"))
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
            Chunk::Lines(chunk) => chunk.bytes.len(),
            Chunk::Rows(chunk) => chunk.text_bytes(),
        }
    }

    /// Where the line of a document begins in the decompressed file; `None` for Parquet.
    pub fn byte_offset(&self, row: u64) -> Option<u64> {
        let Chunk::Lines(chunk) = self else { return None };
        let line = chunk.lines.binary_search_by_key(&row, |line| line.row).ok()?;
        Some(chunk.lines[line].text_offset)
    }
}

/// Lines that are not blank.
pub struct LineChunk {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

struct Line {
    row: u64,
    text_offset: u64,
    start: usize,
    end: usize,
    /// Length of a line that was too long to be kept.
    dropped_bytes: Option<u64>,
}

impl LineChunk {
    fn docs<'a>(
        &'a self,
        columns: &'a Columns,
    ) -> impl Iterator<Item = Result<Doc<'a>, Refusal>> + 'a {
        let parser = json::Parser::new(columns);
        self.lines.iter().map(move |line| {
            let refusal =
                |reason| Refusal { row: line.row, byte_offset: Some(line.text_offset), reason };
            if let Some(bytes) = line.dropped_bytes {
                let max = columns.document_bytes_max;
                return Err(refusal(format!(
                    "the line is {bytes} bytes, too long for a document of {max} (--max-document-bytes)"
                )));
            }
            let parsed = parser.parse(&self.bytes[line.start..line.end]);
            let (text, set_name) = parsed.map_err(refusal)?;
            columns.check_length(&text).map_err(refusal)?;
            Ok(Doc { text, set_name, row: line.row })
        })
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
            Format::Parquet => Reader::Rows(Rows::open(file, path, columns)?),
            format => Reader::Lines(Lines::open(file, path, format, columns.line_bytes_max())?),
        };
        Ok(Docs(reader))
    }

    /// The next documents; `None` at the end.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, DocsError> {
        match &mut self.0 {
            Reader::Lines(lines) => Ok(lines.next_chunk()?.map(Chunk::Lines)),
            Reader::Rows(rows) => Ok(rows.next_chunk()?.map(Chunk::Rows)),
        }
    }

    /// Passes over the first `rows` lines without looking into them; rows of Parquet still come.
    pub(crate) fn skip_rows(&mut self, rows: u64) -> Result<(), DocsError> {
        match &mut self.0 {
            Reader::Lines(lines) => (0..rows).try_for_each(|_| lines.skip_line()),
            Reader::Rows(_) => Ok(()),
        }
    }

    /// Bytes of the file that were read so far; an estimate for Parquet.
    pub fn file_offset(&self) -> u64 {
        match &self.0 {
            Reader::Lines(lines) => lines.file_offset.load(Ordering::Relaxed),
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

/// Counts what passes.
struct Counted {
    file: File,
    /// Relaxed: only the thread that reads looks at it.
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The members of a gzip file, one after the other; `None` only within a call.
///
/// Unlike flate2's decoder of several members it tells bytes that are no member from a member that was cut off.
struct GzipMembers<R: BufRead>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let member = self.0.as_mut().expect("each call leaves a member");
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let next = member.get_mut().fill_buf()?;
            if next.is_empty() {
                return Ok(0);
            }
            if !GZIP_MAGIC.starts_with(&next[..next.len().min(GZIP_MAGIC.len())]) {
                let what = "its gzip data have ended, and what follows is no gzip member";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner()));
        }
    }
}

struct Lines {
    path: PathBuf,
    format: Format,
    reader: Box<dyn BufRead + Send>,
    file_offset: Arc<AtomicU64>,
    /// A longer line is not held in memory.
    line_bytes_max: u64,
    /// Bytes of text before the next line.
    text_offset: u64,
    /// Lines before the next one.
    row: u64,
}

impl Lines {
    fn open(
        file: File,
        path: &Path,
        format: Format,
        line_bytes_max: u64,
    ) -> Result<Lines, DocsError> {
        let file_offset = Arc::new(AtomicU64::new(0));
        let counted = Counted { file, count: Arc::clone(&file_offset) };
        let compressed = BufReader::with_capacity(1 << 17, counted);
        let reader: Box<dyn BufRead + Send> = match format {
            Format::JsonLinesZstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(compressed);
                let decoder = decoder.and_then(|mut decoder| {
                    decoder.window_log_max(WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                let open = |source| DocsError::Open { path: path.to_owned(), source };
                Box::new(BufReader::with_capacity(1 << 17, decoder.map_err(open)?))
            }
            Format::JsonLinesGzip => {
                let decoder = GzipMembers(Some(GzDecoder::new(compressed)));
                Box::new(BufReader::with_capacity(1 << 17, decoder))
            }
            Format::JsonLines => Box::new(compressed),
            Format::Parquet => unreachable!("rows are read by `Rows`"),
        };
        let (path, text_offset, row) = (path.to_owned(), 0, 0);
        Ok(Lines { path, format, reader, file_offset, line_bytes_max, text_offset, row })
    }

    fn skip_line(&mut self) -> Result<(), DocsError> {
        let count = self.reader.skip_until(b'\n').map_err(|source| self.read_error(source))?;
        self.row += 1;
        self.text_offset += count as u64;
        Ok(())
    }

    fn next_chunk(&mut self) -> Result<Option<LineChunk>, DocsError> {
        let mut chunk = LineChunk { bytes: Vec::with_capacity(CHUNK_BYTES), lines: Vec::new() };
        while chunk.bytes.len() < CHUNK_BYTES {
            let start = chunk.bytes.len();
            let limit = self.line_bytes_max.saturating_add(1);
            let count = Read::take(&mut self.reader, limit).read_until(b'\n', &mut chunk.bytes);
            let mut count = count.map_err(|source| self.read_error(source))? as u64;
            if count == 0 {
                break;
            }
            let (row, text_offset) = (self.row + 1, self.text_offset);
            let mut dropped_bytes = None;
            if count > self.line_bytes_max {
                if chunk.bytes.last() != Some(&b'\n') {
                    let skipped = self.reader.skip_until(b'\n');
                    count += skipped.map_err(|source| self.read_error(source))? as u64;
                }
                chunk.bytes.truncate(start);
                chunk.bytes.shrink_to(CHUNK_BYTES);
                dropped_bytes = Some(count);
            }
            self.row = row;
            self.text_offset += count;
            let bom = if row == 1 && chunk.bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            // Without its end: the parser would count a newline as the beginning of another line.
            let line_bytes = chunk.bytes[start + bom..].trim_ascii_end().len();
            if line_bytes == 0 && dropped_bytes.is_none() {
                chunk.bytes.truncate(start);
                continue;
            }
            let start = start + bom;
            let end = start + line_bytes;
            chunk.lines.push(Line { row, text_offset, start, end, dropped_bytes });
        }
        Ok((!chunk.lines.is_empty()).then_some(chunk))
    }

    fn read_error(&self, source: io::Error) -> DocsError {
        let path = self.path.clone();
        let file_offset = self.file_offset.load(Ordering::Relaxed);
        let (text_offset, row) = (self.text_offset, self.row + 1);
        let format = self.format.describe();
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return DocsError::Truncated { path, format, file_offset, text_offset, row };
        }
        DocsError::Read { path, file_offset, text_offset, row, source }
    }
}
