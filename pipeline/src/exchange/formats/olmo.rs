//! The token files of OLMo-core (ai2-olmo-core 3.0.0, `olmo_core.data`) and dolma (1.2.1,
//! `dolma.tokenizer`). `NAME.npy` is not a file of `numpy.save` but raw little-endian ids, `uint16`
//! where the vocabulary has up to 65,536 entries and `uint32` above. `NAME.csv.gz` beside it has a
//! line a document, `start,end` in tokens and any further columns of its writer.
//!
//! OLMo-core looks for EOS ids in the array where it is local, and reads the csv otherwise or when
//! configured to (`use_array_if_local=False`).
//!
//! **Invariant:** the documents read from a csv follow each other and fill the array.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::disk::atomic::{AtomicFile, PublishError, SealedFile};
use crate::disk::source::open_file;
use crate::exchange::error::{ForeignError, refuse_pointer};

/// End of the name of a file of ids.
pub(crate) const IDS_END: &str = ".npy";
/// End of the name of a file of document borders.
pub(crate) const CSV_END: &str = ".csv.gz";
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
/// Maximum bytes of a line: two numbers and any further columns, such as the path of a source.
const LINE_BYTES_MAX: u64 = 1 << 16;

/// The csv of a file of ids, by the rule of OLMo-core.
pub(crate) fn csv_path(ids: &Path) -> PathBuf {
    let name = ids.file_name().unwrap_or_default().to_string_lossy();
    ids.with_file_name(format!("{}{CSV_END}", name.strip_suffix(IDS_END).unwrap_or(&name)))
}

/// A file of document borders being built.
pub(crate) struct CsvWriter {
    gzip: GzEncoder<AtomicFile>,
    path: PathBuf,
}

impl CsvWriter {
    pub(crate) fn create(path: &Path) -> Result<CsvWriter, PublishError> {
        // No name and no time in the header: equal borders give equal bytes.
        let gzip = GzEncoder::new(AtomicFile::create(path)?, Compression::default());
        Ok(CsvWriter { gzip, path: path.to_owned() })
    }

    /// Adds a document.
    pub(crate) fn push(&mut self, first_token: u64, end_token: u64) -> Result<(), PublishError> {
        writeln!(self.gzip, "{first_token},{end_token}").map_err(|source| self.error(source))
    }

    pub(crate) fn seal(self) -> Result<SealedFile, PublishError> {
        let path = self.path.clone();
        let file = self.gzip.finish();
        file.map_err(|source| PublishError { action: "write", path, source })?.seal()
    }

    fn error(&self, source: std::io::Error) -> PublishError {
        PublishError { action: "write", path: self.path.clone(), source }
    }
}

/// The documents of a csv, from front to back.
pub(crate) struct DocumentEnds {
    path: PathBuf,
    lines: BufReader<MultiGzDecoder<BufReader<File>>>,
    line: u64,
    token: u64,
    token_count: u64,
}

impl DocumentEnds {
    /// Opens the csv of an array of `token_count` ids.
    pub(crate) fn open(path: &Path, token_count: u64) -> Result<DocumentEnds, ForeignError> {
        let io = |source| ForeignError::Io { action: "open", path: path.to_owned(), source };
        let file = open_file(path).map_err(io)?;
        refuse_pointer(&file, path)?;
        let mut bytes = BufReader::new(file);
        let head = bytes.fill_buf().map_err(io)?;
        if !head.starts_with(GZIP_MAGIC) {
            return Err(ForeignError::Field {
                path: path.to_owned(),
                offset: 0,
                what: "the beginning".to_owned(),
                found: format!("\"{}\"", head[..head.len().min(8)].escape_ascii()),
                expected: format!("\"{}\", that of a gzip file", GZIP_MAGIC.escape_ascii()),
            });
        }
        let lines = BufReader::new(MultiGzDecoder::new(bytes));
        Ok(DocumentEnds { path: path.to_owned(), lines, line: 0, token: 0, token_count })
    }

    /// The token after the next document.
    pub(crate) fn next_end(&mut self) -> Result<Option<u64>, ForeignError> {
        let mut text = Vec::new();
        let read = Read::by_ref(&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
        let read = read.map_err(|source| ForeignError::Io {
            action: "read",
            path: self.path.clone(),
            source,
        })?;
        self.line += 1;
        if read == 0 {
            if self.token == self.token_count {
                return Ok(None);
            }
            let found = format!("the end of the file, at token {}", self.token);
            let expected =
                format!("documents up to token {}, the last of the ids", self.token_count);
            return Err(self.error("what stands", found, expected));
        }
        if !text.ends_with(b"\n") && text.len() as u64 == LINE_BYTES_MAX {
            let found = format!("longer than {LINE_BYTES_MAX} bytes");
            return Err(self.error(
                "the text",
                found,
                "two numbers such as 0,128 at its beginning".to_owned(),
            ));
        }
        let line = String::from_utf8_lossy(&text);
        let line = line.trim_end_matches(['\n', '\r']);
        let mut fields = line.split(',').map(|field| field.parse::<u64>());
        let (Some(Ok(start)), Some(Ok(end))) = (fields.next(), fields.next()) else {
            let found: String = line.chars().take(80).collect();
            let expected = "two numbers such as 0,128, and perhaps more".to_owned();
            return Err(self.error("the text", format!("{found:?}"), expected));
        };
        if start != self.token {
            let expected = format!("{}, where the document before ends", self.token);
            return Err(self.error("start", start.to_string(), expected));
        }
        if end < start || self.token_count < end {
            let expected = format!("{start} to {}, the number of ids", self.token_count);
            return Err(self.error("end", end.to_string(), expected));
        }
        self.token = end;
        Ok(Some(end))
    }

    fn error(&self, what: &'static str, found: String, expected: String) -> ForeignError {
        ForeignError::Line { path: self.path.clone(), line: self.line, what, found, expected }
    }
}
