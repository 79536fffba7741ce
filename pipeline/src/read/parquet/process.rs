//! Rows of Parquet, decoded by another process, so a hostile file can end only that one.
//!
//! The child runs this program with the hidden command `read-parquet`. It limits its own address
//! space, decodes, and writes frames to a pipe; it ends when the parent is gone. A crash, an abort,
//! a lack of memory or two minutes of silence becomes an error of that file. It names the file and
//! the last row received. The parent checks every length the child sends before it allocates memory
//! for it.
//!
//! Each frame begins with a letter. Numbers are little-endian:
//! - `H`: rows of the file `u64`.
//! - `C`: first row `u64`, JSON keys `u32`, row count `u32`, bytes `u64`; two cells `u64` for each
//!   row; the bytes.
//! - `E`: nothing; the last frame.
//! - `X`: error type `u8`, row `u64`, two texts, each its length `u32` and UTF-8; the last frame.
//!
//! A cell is the length of its bytes; 2^64 - 1 is null; with bit 63 set, it is the length of a
//! value left out.
//!
//! **Invariant:** every frame accepted by `decode_chunk` re-encodes to the same bytes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::read::document::{CHUNK_BYTES, Columns};
use crate::read::error::DocsError;
use crate::read::parquet::decode::{ParquetRows, SET_HINT, TEXT_HINT};
use crate::read::parquet::rows::{Cell, RowChunk};

/// Silence after which the child is killed: a minute for a disk to wake up, and as much again.
const STALL: Duration = Duration::from_secs(120);
/// Address space of a child, apart from documents.
const MEMORY_BYTES: u64 = 2 << 30;
/// Additional address space of a child for each byte of the maximum document length.
const MEMORY_BYTES_PER_DOCUMENT_BYTE: u64 = 16;
/// Maximum rows of a frame.
const ROWS_MAX: u32 = 1 << 16;
/// Maximum bytes of a text in an error.
const TEXT_BYTES_MAX: u32 = 1 << 16;
/// Maximum bytes shown of a child's stderr.
const SAID_BYTES_MAX: usize = 300;
const NULL: u64 = u64::MAX;
const TOO_LONG: u64 = 1 << 63;

/// The program used to decode Parquet files, and how long it may be silent.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
    /// Time without a byte after which it is killed.
    pub stall: Duration,
}

impl Isolation {
    /// This program's `read-parquet`; only for programs with this command.
    pub fn this_program() -> Isolation {
        Isolation {
            // Stays right when the file is replaced while the program runs.
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["read-parquet".into()],
            stall: STALL,
        }
    }
}

/// The child: writes the rows of a file to stdout.
pub(crate) fn serve(path: &Path, columns: &Columns, first_row: u64) -> anyhow::Result<()> {
    let limit = Some(memory_bytes(columns));
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).context("limit memory")?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context("no core")?;
    std::panic::set_hook(Box::new(|_| {})); // a panic becomes an error
    std::thread::spawn(|| {
        // Stdin carries no data; it ends when the parent does.
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    // Not through std's buffer, which looks for lines.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    match write_rows(&mut out, path, columns, first_row) {
        Ok(()) => out.write_all(b"E")?,
        Err(Ended::Rows(err)) => out.write_all(&encode_error(&err))?,
        Err(Ended::Pipe(err)) => return Err(err.into()),
    }
    Ok(())
}

fn memory_bytes(columns: &Columns) -> u64 {
    let documents = columns.document_bytes_max.saturating_mul(MEMORY_BYTES_PER_DOCUMENT_BYTE);
    documents.saturating_add(MEMORY_BYTES)
}

enum Ended {
    Rows(DocsError),
    Pipe(io::Error),
}

fn write_rows(
    out: &mut impl Write,
    path: &Path,
    columns: &Columns,
    first_row: u64,
) -> Result<(), Ended> {
    let mut rows = ParquetRows::open(path, columns, first_row).map_err(Ended::Rows)?;
    let mut head = b"H".to_vec();
    head.extend_from_slice(&rows.row_count().to_le_bytes());
    out.write_all(&head).map_err(Ended::Pipe)?;
    while let Some(chunk) = rows.next_chunk().map_err(Ended::Rows)? {
        encode_chunk(out, &chunk).map_err(Ended::Pipe)?;
    }
    Ok(())
}

/// Writes a frame `C`.
pub(crate) fn encode_chunk(out: &mut impl Write, chunk: &RowChunk) -> io::Result<()> {
    let mut head = b"C".to_vec();
    head.extend_from_slice(&chunk.first_row.to_le_bytes());
    head.extend_from_slice(&chunk.json_keys.to_le_bytes());
    let rows = u32::try_from(chunk.rows.len()).expect("a batch has few rows");
    head.extend_from_slice(&rows.to_le_bytes());
    head.extend_from_slice(&(chunk.bytes.len() as u64).to_le_bytes());
    for cell in chunk.rows.iter().flatten() {
        let code = match *cell {
            Cell::Null => NULL,
            Cell::Bytes(bytes) => bytes,
            Cell::TooLong(bytes) => bytes | TOO_LONG,
        };
        head.extend_from_slice(&code.to_le_bytes());
    }
    out.write_all(&head)?;
    out.write_all(&chunk.bytes)
}

/// Reads the rest of a frame after its `C`; no text is longer than `document_bytes_max`.
pub(crate) fn decode_chunk(
    source: &mut impl Read,
    document_bytes_max: u64,
) -> io::Result<RowChunk> {
    let first_row = u64::from_le_bytes(array(source)?);
    let json_keys = u32::from_le_bytes(array(source)?);
    let row_count = u32::from_le_bytes(array(source)?);
    let bytes = u64::from_le_bytes(array(source)?);
    let bytes_max = (CHUNK_BYTES as u64).saturating_add(document_bytes_max.saturating_mul(2));
    if !(1..=ROWS_MAX).contains(&row_count) || bytes > bytes_max {
        return Err(broken(format!("a frame of {row_count} rows and {bytes} bytes")));
    }
    let mut rows = Vec::with_capacity(row_count as usize);
    let mut sum = 0u64;
    for _ in 0..row_count {
        let mut cells = [Cell::Null; 2];
        for cell in &mut cells {
            *cell = match u64::from_le_bytes(array(source)?) {
                NULL => Cell::Null,
                code if code & TOO_LONG != 0 => Cell::TooLong(code & !TOO_LONG),
                code => {
                    sum = sum.saturating_add(code);
                    Cell::Bytes(code)
                }
            };
            if matches!(*cell, Cell::TooLong(bytes) if bytes <= document_bytes_max) {
                return Err(broken("a value that is left out but not too long".to_owned()));
            }
        }
        rows.push(cells);
    }
    if sum != bytes {
        return Err(broken(format!("cells of {sum} bytes in a frame of {bytes}")));
    }
    // Grows with the data received, so a promised length alone takes no memory.
    let mut text = Vec::new();
    if source.take(bytes).read_to_end(&mut text)? as u64 != bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(RowChunk { first_row, rows, bytes: text, json_keys })
}

fn array<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn broken(found: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it sent {found}"))
}

fn encode_error(err: &DocsError) -> Vec<u8> {
    let other = err.to_string();
    let (kind, row, texts) = match err {
        DocsError::Parquet { row, reason, .. } => (0u8, *row, [reason.as_str(), ""]),
        DocsError::NoColumn { column, found, hint, .. } => {
            (if *hint == TEXT_HINT { 1 } else { 2 }, 0, [column.as_str(), found.as_str()])
        }
        DocsError::ColumnType { column, found, .. } => (3, 0, [column.as_str(), found.as_str()]),
        _ => (0, 0, [other.as_str(), ""]),
    };
    let mut frame = vec![b'X', kind];
    frame.extend_from_slice(&row.to_le_bytes());
    for text in texts {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX as usize);
        frame.extend_from_slice(&(end as u32).to_le_bytes());
        frame.extend_from_slice(&text.as_bytes()[..end]);
    }
    frame
}

/// Reads the rest of a frame after its `X`.
fn decode_error(source: &mut impl Read, path: &Path) -> io::Result<DocsError> {
    let [kind] = array(source)?;
    let row = u64::from_le_bytes(array(source)?);
    let mut text = || {
        let bytes = u32::from_le_bytes(array(source)?);
        if bytes > TEXT_BYTES_MAX {
            return Err(broken(format!("a text of {bytes} bytes")));
        }
        let mut text = vec![0; bytes as usize];
        source.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let (first, second) = (text()?, text()?);
    let path = path.to_owned();
    Ok(match kind {
        0 => DocsError::Parquet { path, row, reason: first },
        1 => DocsError::NoColumn { path, column: first, found: second, hint: TEXT_HINT },
        2 => DocsError::NoColumn { path, column: first, found: second, hint: SET_HINT },
        3 => DocsError::ColumnType { path, column: first, found: second },
        _ => return Err(broken(format!("an error of kind {kind}"))),
    })
}

/// A child decoding a file; it ends when this value is dropped.
pub(crate) struct RowProcess {
    path: PathBuf,
    child: Child,
    /// Closing it signals to the child that we are gone.
    _stdin: Option<ChildStdin>,
    pipe: Pipe,
    rows: u64,
    rows_read: u64,
    document_bytes_max: u64,
    memory_bytes: u64,
    ended: bool,
}

impl RowProcess {
    pub(crate) fn start(
        isolation: &Isolation,
        path: &Path,
        columns: &Columns,
        first_row: u64,
    ) -> Result<RowProcess, DocsError> {
        let mut command = Command::new(&isolation.program);
        command.args(&isolation.arguments).arg("--text-column").arg(&columns.text);
        if let Some(set) = &columns.set {
            command.arg("--set-column").arg(set);
        }
        command.arg("--max-document-bytes").arg(columns.document_bytes_max.to_string());
        command.arg("--first-row").arg(first_row.to_string()).arg("--").arg(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C then reaches only us.
        command.process_group(0);
        let error = |reason: String| DocsError::Parquet { path: path.to_owned(), row: 0, reason };
        let mut child = command.spawn().map_err(|err| {
            error(format!("cannot start {} to decode it: {err}", isolation.program.display()))
        })?;
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let pipe = Pipe { stdout, stall: isolation.stall, stalled: false };
        let mut rows = RowProcess {
            path: path.to_owned(),
            _stdin: child.stdin.take(),
            child,
            pipe,
            rows: 0,
            rows_read: first_row - 1,
            document_bytes_max: columns.document_bytes_max,
            memory_bytes: memory_bytes(columns),
            ended: false,
        };
        rows.read_head()?;
        Ok(rows)
    }

    fn read_head(&mut self) -> Result<(), DocsError> {
        let head = array(&mut self.pipe).and_then(|[kind]| match kind {
            b'H' => Ok(Ok(u64::from_le_bytes(array(&mut self.pipe)?))),
            b'X' => decode_error(&mut self.pipe, &self.path).map(Err),
            other => Err(broken(format!("{other:#04x} instead of a head"))),
        });
        self.rows = head.map_err(|err| self.broken_off(&err))??;
        Ok(())
    }

    /// Rows of the file, by its footer.
    pub(crate) fn row_count(&self) -> u64 {
        self.rows
    }

    pub(crate) fn next_chunk(&mut self) -> Result<Option<RowChunk>, DocsError> {
        if self.ended {
            return Ok(None);
        }
        let max = self.document_bytes_max;
        let frame = array(&mut self.pipe).and_then(|[kind]| match kind {
            b'C' => decode_chunk(&mut self.pipe, max).map(|chunk| Ok(Some(chunk))),
            b'E' => Ok(Ok(None)),
            b'X' => decode_error(&mut self.pipe, &self.path).map(Err),
            other => Err(broken(format!("{other:#04x} instead of a frame"))),
        });
        let chunk = match frame {
            Ok(chunk) => chunk,
            Err(err) => return Err(self.broken_off(&err)),
        };
        self.ended = !matches!(chunk, Ok(Some(_)));
        let Some(chunk) = chunk? else {
            if self.rows_read == self.rows {
                return Ok(None);
            }
            return Err(
                self.error(format!("it ends there; its footer promises {} rows", self.rows))
            );
        };
        if chunk.first_row != self.rows_read + 1 {
            let (found, expected) = (chunk.first_row, self.rows_read + 1);
            return Err(self.error(format!("row {found} came; expected {expected}")));
        }
        self.rows_read += chunk.rows.len() as u64;
        Ok(Some(chunk))
    }

    fn error(&self, reason: String) -> DocsError {
        DocsError::Parquet { path: self.path.clone(), row: self.rows_read, reason }
    }

    /// The child's fate when its pipe held no complete frame.
    fn broken_off(&mut self, err: &io::Error) -> DocsError {
        self.ended = true;
        if self.pipe.stalled {
            let seconds = self.pipe.stall.as_secs_f64();
            return self.error(format!(
                "the process that decodes it gave nothing for {seconds} s; it was ended"
            ));
        }
        if err.kind() != io::ErrorKind::UnexpectedEof {
            return self.error(format!("the process that decodes it cannot be understood: {err}"));
        }
        let status = self.wait();
        let _ = self.child.kill(); // so its stderr ends
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(SAID_BYTES_MAX as u64).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().lines().next().unwrap_or("nothing");
        self.error(format!(
            "the process that decodes it ended with {status} and said {said:?}; \
             it may use {} bytes of memory",
            self.memory_bytes
        ))
    }

    /// How the child ended after it closed its pipe; reports a closed pipe if it keeps running.
    fn wait(&mut self) -> String {
        let deadline = Instant::now() + self.pipe.stall;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                Ok(None) => return "a closed pipe".to_owned(),
                Err(err) => return err.to_string(),
            }
        }
    }
}

impl Drop for RowProcess {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's stdout, with a limit on silence.
struct Pipe {
    stdout: ChildStdout,
    stall: Duration,
    stalled: bool,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = Timespec::try_from(self.stall).map_err(io::Error::other)?;
        loop {
            let mut fds = [PollFd::new(&self.stdout, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => {
                    self.stalled = true;
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(_) => return self.stdout.read(buffer),
                Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> RowChunk {
        RowChunk {
            first_row: 5,
            rows: vec![
                [Cell::Bytes(3), Cell::Null],
                [Cell::TooLong(1 << 40), Cell::Bytes(1)],
                [Cell::Bytes(0), Cell::Bytes(2)],
            ],
            bytes: b"abcdef".to_vec(),
            json_keys: 1,
        }
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_chunk(&mut bytes, &chunk()).unwrap();
        bytes
    }

    #[test]
    fn a_chunk_comes_through_the_pipe_as_it_was() {
        let bytes = encoded();
        let decoded = decode_chunk(&mut &bytes[1..], 100).unwrap();
        assert_eq!(decoded, chunk());
    }

    #[test]
    fn what_a_damaged_frame_is_decoded_to_encodes_to_the_same_bytes() {
        let bytes = encoded();
        for length in 1..bytes.len() {
            assert!(decode_chunk(&mut &bytes[1..length], 100).is_err(), "{length}");
        }
        for bit in 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = decode_chunk(&mut &damaged[1..], 100) {
                let mut again = Vec::new();
                encode_chunk(&mut again, &decoded).unwrap();
                assert_eq!(again, damaged, "bit {bit}");
            }
        }
    }

    /// The error if the child is this shell script.
    fn child_error(script: &str) -> String {
        let isolation = Isolation {
            program: PathBuf::from("sh"),
            arguments: vec!["-c".into(), script.into(), "sh".into()],
            stall: Duration::from_millis(300),
        };
        let start = RowProcess::start(&isolation, Path::new("x.parquet"), &Columns::default(), 1);
        let read = start.and_then(|mut rows| {
            while rows.next_chunk()?.is_some() {}
            Ok(())
        });
        read.unwrap_err().to_string()
    }

    #[test]
    fn whatever_becomes_of_the_child_is_an_error_that_names_the_file() {
        let head = r"printf 'H\5\0\0\0\0\0\0\0'; ";
        let frame = concat!(
            r"printf 'C\1\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0",
            r"\1\0\0\0\0\0\0\0\377\377\377\377\377\377\377\377a'; "
        );
        for (script, said) in [
            (
                "exec sleep 600".to_owned(),
                "x.parquet as Parquet: the process that decodes it gave nothing for 0.3 s",
            ),
            (format!("{head}exec sleep 600"), "gave nothing for 0.3 s; it was ended"),
            ("kill -SEGV $$".to_owned(), "ended with signal: 11"),
            (
                format!("{head}{frame}kill -ABRT $$"),
                "after row 1: the process that decodes it ended with signal: 6",
            ),
            ("echo no memory >&2; exit 3".to_owned(), "exit status: 3 and said \"no memory\""),
            ("exec >&-; exec sleep 600".to_owned(), "ended with a closed pipe"),
            ("echo hello".to_owned(), "cannot be understood: it sent 0x68 instead of a head"),
            (format!("{head}echo hello"), "cannot be understood: it sent 0x68 instead of a frame"),
            (format!("{head}printf E"), "it ends there; its footer promises 5 rows"),
            (format!("{head}{frame}{frame}"), "after row 1: row 1 came; expected 2"),
            (
                format!(r"{head}printf 'C\1\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\1'"),
                "a frame of 1 rows and 72057594037927936 bytes",
            ),
        ] {
            let error = child_error(&script);
            assert!(error.contains(said) && error.contains("x.parquet"), "{script}: {error}");
        }
    }
}
