//! A document of an input, a line or row that is none, and which columns make one.
//!
//! **Invariant:** a [`Refusal`] names its place and its reason.

use std::borrow::Cow;

/// Bytes of text after which a chunk is complete; one document can exceed it.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of the longest document, unless something else is asked for: encoding takes some 160 bytes
/// of memory a byte.
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
    /// Escaped surrogates without their other half, each of which became U+FFFD, in the text and in
    /// the set name.
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
    /// Key, column or dotted path of the set name, which then must be a string wherever it is
    /// present; `None` is [`DEFAULT_SET_COLUMN`], taken where it is a string.
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
    pub(crate) fn line_bytes_max(&self) -> u64 {
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
