//! A document, a refused line or row, and the columns documents are made of.
//!
//! **Invariant:** a [`Refusal`] names its position and its reason.

use std::borrow::Cow;

/// Bytes of text after which a chunk is complete; one document can exceed it.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Default maximum document length in bytes: encoding takes about 160 bytes of memory a byte.
pub const DOCUMENT_BYTES_MAX: u64 = 32 << 20;
/// Maximum bytes of JSON for a byte of text: `\u0001`.
const ESCAPED_BYTES: u64 = 6;
/// Bytes a line may have besides its text.
const LINE_REST_BYTES: u64 = 1 << 20;

/// A document of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc<'a> {
    /// Its text.
    pub text: Cow<'a, str>,
    /// The Pile's `pile_set_name`, or the value of the set column.
    pub set_name: Option<Cow<'a, str>>,
    /// 1-based line of JSON lines, or 1-based row of Parquet.
    pub row: u64,
    /// Unpaired surrogate escapes in the text and the set name, each replaced by U+FFFD.
    pub surrogates_replaced: u64,
}

/// A line or row refused as a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// 1-based line of JSON lines, or 1-based row of Parquet.
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

/// Where to find the text and the set name, and how long a text may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Key or column of the text.
    pub text: String,
    /// Key, column or dotted path of the set name, which must then be a string wherever present.
    /// `None` means [`DEFAULT_SET_COLUMN`], used only where it is a string.
    pub set: Option<String>,
    /// Maximum bytes of a text in UTF-8; a longer one is refused.
    pub document_bytes_max: u64,
}

impl Columns {
    /// Refuses a text longer than the maximum, with the reason.
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

    /// Maximum bytes of a line whose text is short enough.
    pub(crate) fn line_bytes_max(&self) -> u64 {
        self.document_bytes_max.saturating_mul(ESCAPED_BYTES).saturating_add(LINE_REST_BYTES)
    }
}

/// Where the Pile has the set name.
pub const DEFAULT_SET_COLUMN: &str = "meta.pile_set_name";

impl Default for Columns {
    /// The Pile's columns.
    fn default() -> Columns {
        Columns { text: "text".to_owned(), set: None, document_bytes_max: DOCUMENT_BYTES_MAX }
    }
}
