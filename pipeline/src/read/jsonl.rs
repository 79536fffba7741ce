//! Lines of a plain or compressed file, in chunks any thread can parse.
//!
//! **Invariant:** every nonblank line is in exactly one chunk, in order, with its number and its
//! offset in the text.

pub mod json;
#[cfg(test)]
#[path = "../../../fuzz/json_law.rs"]
mod json_law;
pub(crate) mod zstd;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use crate::read::document::{CHUNK_BYTES, Columns, Doc, Refusal};
use crate::read::error::DocsError;
use crate::read::inputs::Format;
use crate::read::jsonl::zstd::Frames;

/// Bytes of text read at once.
const READ_BYTES: usize = 1 << 18;
/// Compressed bytes read at once.
const BUFFER_BYTES: usize = 1 << 17;
/// Maximum lines in a chunk, however short: each may become an error longer than itself.
const CHUNK_LINES_MAX: usize = 1 << 14;
/// The first bytes of a gzip member.
pub(crate) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The byte order mark some programs put before UTF-8; `cat` can leave it in the middle.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Nonblank lines.
pub struct LineChunk {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

struct Line {
    row: u64,
    text_offset: u64,
    start: usize,
    end: usize,
    /// Length of a line too long to keep.
    dropped_bytes: Option<u64>,
}

impl LineChunk {
    /// Bytes of its lines.
    pub(crate) fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn docs<'a>(
        &'a self,
        columns: &'a Columns,
    ) -> impl Iterator<Item = Result<Doc<'a>, Refusal>> + 'a {
        let set = columns.set_path();
        let parser = json::Parser::new(&columns.text, set, columns.set.is_some());
        self.lines.iter().map(move |line| {
            let refusal =
                |reason| Refusal { row: line.row, byte_offset: Some(line.text_offset), reason };
            if let Some(bytes) = line.dropped_bytes {
                let max = columns.document_bytes_max;
                return Err(refusal(format!(
                    "the line is {bytes} bytes, too long for a document of {max} \
                     (--max-document-bytes)"
                )));
            }
            let found = parser.parse(&self.bytes[line.start..line.end]).map_err(refusal)?;
            columns.check_length(found.text.len() as u64).map_err(refusal)?;
            let json::Found { text, set_name, surrogates_replaced } = found;
            Ok(Doc { text, set_name, row: line.row, surrogates_replaced })
        })
    }

    pub(crate) fn byte_offset(&self, row: u64) -> Option<u64> {
        let line = self.lines.binary_search_by_key(&row, |line| line.row).ok()?;
        Some(self.lines[line].text_offset)
    }
}

/// A file being read line by line.
pub(crate) struct Lines {
    path: PathBuf,
    format: Format,
    reader: Box<dyn Read + Send>,
    /// Bytes of the file decoded. Relaxed: only the reading thread uses it.
    file_offset: Arc<AtomicU64>,
    /// A longer line is not held in memory.
    line_bytes_max: u64,
    /// Text read but not yet returned; it begins with a line.
    pending: Vec<u8>,
    /// Bytes of text before `pending`.
    text_offset: u64,
    /// Lines before `pending`.
    row: u64,
    ended: bool,
    /// The error to return once everything before it has been returned.
    failed: Option<io::Error>,
}

impl Lines {
    pub(crate) fn open(
        file: File,
        path: &Path,
        format: Format,
        line_bytes_max: u64,
    ) -> Result<Lines, DocsError> {
        let file_offset = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&file_offset);
        let reader: Box<dyn Read + Send> = match format {
            Format::JsonLinesZstd => {
                let frames = Frames::new(file, path.display().to_string(), count);
                let open = |source| DocsError::Open { path: path.to_owned(), source };
                Box::new(frames.map_err(open)?)
            }
            Format::JsonLinesGzip => {
                let reader = BufReader::with_capacity(BUFFER_BYTES, file);
                Box::new(GzipMembers(Some(GzDecoder::new(Counted { reader, count }))))
            }
            Format::JsonLines => {
                let reader = BufReader::with_capacity(BUFFER_BYTES, file);
                Box::new(Counted { reader, count })
            }
            Format::Parquet => unreachable!("rows are read by `Rows`"),
            Format::Ids => unreachable!("ids are read by `import`"),
        };
        Ok(Lines {
            path: path.to_owned(),
            format,
            reader,
            file_offset,
            line_bytes_max,
            pending: Vec::new(),
            text_offset: 0,
            row: 0,
            ended: false,
            failed: None,
        })
    }

    pub(crate) fn file_offset(&self) -> u64 {
        self.file_offset.load(Ordering::Relaxed)
    }

    pub(crate) fn next_chunk(&mut self) -> Result<Option<LineChunk>, DocsError> {
        loop {
            self.fill(CHUNK_BYTES);
            let whole_bytes = match memchr::memrchr(b'\n', &self.pending) {
                Some(last) => last + 1,
                // The last line needs no newline, unless it may have been cut off.
                None if self.ended && self.failed.is_none() => self.pending.len(),
                None if self.ended => 0,
                None => {
                    if let Some(chunk) = self.long_line()? {
                        return Ok(Some(chunk));
                    }
                    continue;
                }
            };
            if whole_bytes == 0 {
                return self.end().map(|()| None);
            }
            let chunk = self.take_lines(whole_bytes);
            if !chunk.lines.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Skips the lines before `row` (1-based) without parsing them; only before the first chunk.
    ///
    /// Fails if the file has fewer lines.
    pub(crate) fn skip_to(&mut self, row: u64) -> Result<(), DocsError> {
        let mut is_within_line = false;
        while self.row + 1 < row {
            self.fill(1);
            let ends = memchr::memchr_iter(b'\n', &self.pending);
            let last_end = ends.zip(self.row + 1..row).last();
            is_within_line |= !self.pending.is_empty();
            let passed = match last_end {
                Some((at, number)) => {
                    self.row = number;
                    is_within_line = false;
                    at + 1
                }
                None if self.ended && self.failed.is_none() && is_within_line => {
                    self.row += 1;
                    is_within_line = false;
                    self.pending.len()
                }
                None if self.ended => {
                    self.end()?;
                    let (path, rows) = (self.path.clone(), self.row);
                    return Err(DocsError::Shorter { path, rows, row });
                }
                None => self.pending.len(),
            };
            self.pending.drain(..passed);
            self.text_offset += passed as u64;
        }
        Ok(())
    }

    /// Reads until at least `bytes` are pending; records what ends the text earlier.
    fn fill(&mut self, bytes: usize) {
        while self.pending.len() < bytes && !self.ended {
            self.read_more();
        }
    }

    fn read_more(&mut self) {
        let start = self.pending.len();
        self.pending.resize(start + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.pending[start..]) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let count = *read.as_ref().unwrap_or(&0);
        self.pending.truncate(start + count);
        self.ended = count == 0;
        self.failed = read.err();
    }

    /// Reads the rest of the unfinished pending line; returns it only if it is too long.
    fn long_line(&mut self) -> Result<Option<LineChunk>, DocsError> {
        let mut searched = self.pending.len();
        let mut dropped_bytes = 0;
        while !self.ended {
            if self.pending.len() as u64 > self.line_bytes_max || dropped_bytes > 0 {
                dropped_bytes += self.pending.len() as u64;
                self.pending = Vec::new();
                searched = 0;
            }
            self.read_more();
            if let Some(at) = memchr::memchr(b'\n', &self.pending[searched..]) {
                if dropped_bytes > 0 {
                    let rest = searched + at + 1;
                    self.pending.drain(..rest);
                    dropped_bytes += rest as u64;
                }
                break;
            }
            searched = self.pending.len();
        }
        if dropped_bytes == 0 {
            return Ok(None);
        }
        if self.ended {
            dropped_bytes += self.pending.len() as u64;
            self.pending.clear();
            self.end()?;
        }
        self.row += 1;
        let (row, text_offset) = (self.row, self.text_offset);
        self.text_offset += dropped_bytes;
        let line = Line { row, text_offset, start: 0, end: 0, dropped_bytes: Some(dropped_bytes) };
        Ok(Some(LineChunk { bytes: Vec::new(), lines: vec![line] }))
    }

    /// Makes a chunk of the complete pending lines.
    fn take_lines(&mut self, whole_bytes: usize) -> LineChunk {
        let mut lines = Vec::new();
        let mut start = 0;
        let ends = memchr::memchr_iter(b'\n', &self.pending[..whole_bytes]).map(|at| at + 1);
        for end in ends.chain([whole_bytes]) {
            if start == end || lines.len() == CHUNK_LINES_MAX {
                break;
            }
            self.row += 1;
            let bytes = &self.pending[start..end];
            let mark_bytes =
                if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            let line_start = start + mark_bytes;
            let line_end = line_start + self.pending[line_start..end].trim_ascii_end().len();
            if line_start < line_end {
                let text_offset = self.text_offset + line_start as u64;
                let dropped_bytes =
                    ((end - start) as u64 > self.line_bytes_max).then_some((end - start) as u64);
                let row = self.row;
                lines.push(Line {
                    row,
                    text_offset,
                    start: line_start,
                    end: line_end,
                    dropped_bytes,
                });
            }
            start = end;
        }
        let rest = self.pending[start..].to_vec();
        let mut bytes = std::mem::replace(&mut self.pending, rest);
        bytes.truncate(start);
        self.text_offset += start as u64;
        LineChunk { bytes, lines }
    }

    /// The end of the file, or the error met instead.
    fn end(&mut self) -> Result<(), DocsError> {
        let Some(source) = self.failed.take() else { return Ok(()) };
        let (path, file_offset, row) = (self.path.clone(), self.file_offset(), self.row + 1);
        let text_offset = self.text_offset + self.pending.len() as u64;
        self.pending.clear(); // a partial line is never returned
        let format = self.format.describe();
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Err(DocsError::Truncated { path, format, file_offset, text_offset, row });
        }
        Err(DocsError::Read { path, file_offset, text_offset, row, source })
    }
}

/// Counts the bytes consumed from a buffered reader.
struct Counted<R> {
    reader: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
        self.count.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

/// Reads to the first byte that is not zero.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let found = reader.fill_buf()?;
        let zeros = found.iter().take_while(|&&byte| byte == 0).count();
        if zeros == 0 {
            return Ok(());
        }
        reader.consume(zeros);
    }
}

/// The members of a gzip file, one after the other; `None` only within a call.
///
/// Unlike flate2's decoder of several members, it distinguishes bytes outside any member from a
/// truncated member.
struct GzipMembers<R: BufRead>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let member = self.0.as_mut().expect("each call leaves a member");
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut next = member.get_mut().fill_buf()?;
            // Tapes and some writers pad the last member with zeros, which gzip ignores as well.
            if next.first() == Some(&0) {
                skip_zeros(member.get_mut())?;
                next = member.get_mut().fill_buf()?;
                if !next.is_empty() {
                    let what = "its gzip data have ended, and zeros and other bytes follow";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
            if next.is_empty() {
                return Ok(0);
            }
            if !GZIP_MAGIC.starts_with(&next[..next.len().min(GZIP_MAGIC.len())]) {
                let what = "its gzip data have ended, and the next bytes are not a gzip member";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner()));
        }
    }
}
