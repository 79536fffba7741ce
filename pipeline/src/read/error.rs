//! Why an input cannot be read.
//!
//! **Invariant:** every error names the file.

use std::io;
use std::path::PathBuf;

use crate::read::document::Refusal;

/// Why an input as a whole could not be read, at its beginning or later.
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    /// A file that cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file of 0 bytes.
    #[error("{} is empty (0 bytes); leave it out or get it again", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// A pointer of Git LFS in place of the file.
    #[error("{} {}", path.display(), schemas::git_lfs::ADVICE)]
    LfsPointer {
        /// Which file.
        path: PathBuf,
    },
    /// A file whose content does not match its name.
    #[error(
        "{} begins with {found:02x?}, which is {found_format}; its name promises {expected}: \
         rename it or get it again",
        path.display()
    )]
    Mislabelled {
        /// Which file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
        /// The format they indicate.
        found_format: &'static str,
        /// The format the name indicates.
        expected: &'static str,
    },
    /// A compressed file cut off within its data.
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
        /// Bytes of the file read.
        file_offset: u64,
        /// Bytes of text decoded from them.
        text_offset: u64,
        /// The line where the text stops.
        row: u64,
    },
    /// A file whose remainder cannot be read.
    #[error(
        "cannot read {} beyond byte {file_offset} of the file \
         (byte {text_offset} of the text, line {row})",
        path.display()
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// Bytes of the file read.
        file_offset: u64,
        /// Bytes of text decoded from them.
        text_offset: u64,
        /// The line where the text stops.
        row: u64,
        /// The error of the decoder or the system.
        source: io::Error,
    },
    /// A file with fewer lines or rows than were read of it before.
    #[error(
        "{} has {rows} lines or rows; {} of them were read before: the file changed, begin anew",
        path.display(),
        row - 1
    )]
    Shorter {
        /// Which file.
        path: PathBuf,
        /// Its number of lines or rows.
        rows: u64,
        /// The 1-based line or row to continue from.
        row: u64,
    },
    /// Parquet that cannot be read.
    #[error("cannot read {} as Parquet{}: {reason}", path.display(), after(*row))]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// Rows read before.
        row: u64,
        /// The error of the Parquet reader.
        reason: String,
    },
    /// A column missing from the file.
    #[error(
        "{} has no column {column:?}; its columns of strings: {found}; {hint}",
        path.display()
    )]
    NoColumn {
        /// Which file.
        path: PathBuf,
        /// Which column.
        column: String,
        /// The columns of the file that may be named.
        found: String,
        /// Names the option for the column.
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
    /// A refused document, where a refusal ends the reading.
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
