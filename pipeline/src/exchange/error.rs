//! Why a file of another project was refused, and a reader whose errors name the file.
//!
//! **Invariant:** every error names the file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use schemas::git_lfs;

use crate::disk::source::open_file;

/// Why a file of another project was refused.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The action, such as "open".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A pointer of Git LFS in place of the file.
    #[error("{} {}", path.display(), git_lfs::ADVICE)]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file of another kind.
    #[error("{} begins like {found}, not like raw ids; {advice}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The kind its first bytes indicate.
        found: &'static str,
        /// How to import it.
        advice: String,
    },
    /// An impossible length.
    #[error("{} is {found_bytes} bytes; expected {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The expected length, in words and numbers.
        expected: String,
    },
    /// Impossible bytes.
    #[error("{}: {what} (at byte {offset}) is {found}; expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Offset of the bytes.
        offset: u64,
        /// The field.
        what: String,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// An impossible line of text.
    #[error("{}: {what} in line {line} is {found}; expected {expected}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// The field.
        what: &'static str,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// A file changed by somebody else.
    #[error(
        "{} changed while it was imported: {what}; import it again when nobody writes to it",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The change.
        what: String,
    },
    /// A document with another beginning or end than the option names.
    #[error(
        "{}: document {document} {does} with id {found} (at byte {offset}); {option} says \
         {expected}",
        path.display()
    )]
    Policy {
        /// The file.
        path: PathBuf,
        /// From 1.
        document: u64,
        /// "begins" or "ends".
        does: &'static str,
        /// The id.
        found: u32,
        /// Offset of the id.
        offset: u64,
        /// "--bos" or "--eos".
        option: &'static str,
        /// The token, with its id.
        expected: String,
    },
}

impl ForeignError {
    /// Whether the data are wrong; otherwise the system is at fault.
    pub fn is_mismatch(&self) -> bool {
        match self {
            // A file that ended before the length found earlier.
            ForeignError::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
            ),
            _ => true,
        }
    }
}

/// A file read from front to back, with errors naming it.
pub(crate) struct Reading {
    path: PathBuf,
    reader: BufReader<File>,
}

impl Reading {
    /// Opens `path` at `offset`.
    pub(crate) fn open(path: &Path, offset: u64) -> Result<Reading, ForeignError> {
        let io = |source| ForeignError::Io { action: "open", path: path.to_owned(), source };
        let mut file = open_file(path).map_err(io)?;
        refuse_pointer(&file, path)?;
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        Ok(Reading { path: path.to_owned(), reader: BufReader::with_capacity(1 << 18, file) })
    }

    /// Fills `out`. The caller knows the file was long enough; a file cut short since then is an
    /// error.
    pub(crate) fn fill(&mut self, out: &mut [u8]) -> Result<(), ForeignError> {
        self.reader.read_exact(out).map_err(|source| ForeignError::Io {
            action: "read",
            path: self.path.clone(),
            source,
        })
    }

    /// The next bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ForeignError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a pointer of Git LFS, and leaves the position in the file as it is.
pub(crate) fn refuse_pointer(file: &File, path: &Path) -> Result<(), ForeignError> {
    let mut head = [0; git_lfs::HEAD_BYTES as usize];
    // What cannot be read is reported by whoever reads the file.
    if file.read_exact_at(&mut head, 0).is_ok() && git_lfs::is_pointer(&head) {
        return Err(ForeignError::LfsPointer { path: path.to_owned() });
    }
    Ok(())
}

/// Length of a regular file: a pipe cannot be read twice.
pub(crate) fn file_bytes(path: &Path) -> Result<u64, ForeignError> {
    let io = |source| ForeignError::Io { action: "read", path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if metadata.is_file() {
        Ok(metadata.len())
    } else {
        Err(io(io::Error::other("it is a folder, a pipe or a device; expected a file")))
    }
}
