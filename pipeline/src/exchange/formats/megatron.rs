//! Megatron-core's `NAME.bin` and `NAME.idx`, as `megatron.core.datasets.indexed_dataset` of
//! megatron-core 0.16.1 reads them: ids without a header, and an index of the sequences and
//! documents in them.
//!
//! | bytes of `NAME.idx` | field             | encoding                                          |
//! |---------------------|-------------------|---------------------------------------------------|
//! | 0..9                | magic             | `MMIDIDX\0\0`                                     |
//! | 9..17               | version           | `u64`, 1                                          |
//! | 17..18              | type of the ids   | `u8`: 8 for `uint16`, 4 for `int32`; else no ids   |
//! | 18..26              | sequences, s      | `u64`                                             |
//! | 26..34              | borders, d        | `u64`, documents + 1                              |
//! | 4 · s               | tokens            | `i32`, of each sequence                           |
//! | 8 · s               | pointers          | `i64`, byte of `NAME.bin` where each begins       |
//! | 8 · d               | document borders  | `i64`, in sequences; from 0 to s, never falling   |
//!
//! Here each document is one sequence. Files of other projects may have several in a document, and
//! documents or sequences without a token.
//!
//! **Invariant:** an opened index has the length its header claims, and its sequences follow each
//! other in the `.bin` and fill it.

use std::path::{Path, PathBuf};

use schemas::shard::TokenBytes;

use crate::exchange::error::{ForeignError, Reading, file_bytes};

const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
const VERSION: u64 = 1;
const HEADER_BYTES: u64 = 34;
const CODE_INT32: u8 = 4;
const CODE_UINT16: u8 = 8;
/// Tokens of the longest sequence.
pub(crate) const SEQUENCE_TOKENS_MAX: u64 = i32::MAX as u64;
/// Every id of four bytes is below this value.
pub(crate) const INT32_ID_END: u64 = 1 << 31;

/// `prefix` with `extension` appended: a prefix may have dots.
pub(crate) fn with_extension(prefix: &Path, extension: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(extension);
    name.into()
}

/// Type of the ids, as the header of the index names it.
pub(crate) fn dtype(token_bytes: TokenBytes) -> &'static str {
    match token_bytes {
        TokenBytes::Two => "uint16",
        TokenBytes::Four => "int32",
    }
}

/// The header of an index whose documents are one sequence each.
pub(crate) fn encode_header(token_bytes: TokenBytes, document_count: u64) -> Vec<u8> {
    let code = match token_bytes {
        TokenBytes::Two => CODE_UINT16,
        TokenBytes::Four => CODE_INT32,
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(code);
    bytes.extend_from_slice(&document_count.to_le_bytes());
    bytes.extend_from_slice(&(document_count + 1).to_le_bytes());
    assert_eq!(bytes.len() as u64, HEADER_BYTES, "the table above");
    bytes
}

/// Bytes of the whole index; `None` on overflow.
pub(crate) fn index_bytes(sequence_count: u64, border_count: u64) -> Option<u64> {
    let of_sequences = sequence_count.checked_mul(12)?;
    border_count.checked_mul(8)?.checked_add(of_sequences)?.checked_add(HEADER_BYTES)
}

/// An opened index.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    path: PathBuf,
    pub(crate) token_bytes: TokenBytes,
    sequence_count: u64,
    border_count: u64,
}

impl Index {
    /// Opens and checks an index, and compares it with the length of its `.bin`.
    pub(crate) fn open(path: &Path, bin: &Path) -> Result<Index, ForeignError> {
        let found_bytes = file_bytes(path)?;
        let length =
            |expected| ForeignError::Length { path: path.to_owned(), found_bytes, expected };
        if found_bytes < HEADER_BYTES {
            return Err(length(format!("at least {HEADER_BYTES}, the header of an index")));
        }
        let index = Index::read_header(path)?;
        let Index { sequence_count, border_count, .. } = index;
        let expected_bytes = index_bytes(sequence_count, border_count);
        if expected_bytes != Some(found_bytes) {
            let of = format!("for {sequence_count} sequences and {border_count} document borders");
            let modes = expected_bytes.and_then(|bytes| bytes.checked_add(sequence_count));
            return Err(length(match expected_bytes {
                Some(_) if modes == Some(found_bytes) => {
                    format!("no modes of sequences ({of}): datasets of several modes are not read")
                }
                Some(expected) => format!("{expected} {of}"),
                None => format!("fewer than 2^64 {of}"),
            }));
        }
        index.check(bin)?;
        Ok(index)
    }

    fn read_header(path: &Path) -> Result<Index, ForeignError> {
        let mut head = Reading::open(path, 0)?;
        let field = |offset, what: &str, found: String, expected: &str| ForeignError::Field {
            path: path.to_owned(),
            offset,
            what: what.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let magic: [u8; 9] = head.array()?;
        if magic != MAGIC {
            let found = format!("\"{}\"", magic.escape_ascii());
            return Err(field(0, "magic", found, "\"MMIDIDX\\x00\\x00\""));
        }
        let version = u64::from_le_bytes(head.array()?);
        if version != VERSION {
            return Err(field(9, "version", version.to_string(), "1"));
        }
        let [code] = head.array()?;
        let token_bytes = match code {
            CODE_UINT16 => TokenBytes::Two,
            CODE_INT32 => TokenBytes::Four,
            _ => {
                let expected = "8 (uint16) or 4 (int32)";
                return Err(field(17, "type of the ids", code.to_string(), expected));
            }
        };
        let sequence_count = u64::from_le_bytes(head.array()?);
        let border_count = u64::from_le_bytes(head.array()?);
        if border_count == 0 {
            return Err(field(26, "number of document borders", "0".to_owned(), "at least 1"));
        }
        Ok(Index { path: path.to_owned(), token_bytes, sequence_count, border_count })
    }

    /// Reads the whole index once: sequences follow each other and fill the `.bin`; borders rise
    /// from 0 to the last.
    fn check(&self, bin: &Path) -> Result<(), ForeignError> {
        let token_bytes = u64::from(self.token_bytes.get());
        let mut lengths = Reading::open(&self.path, self.lengths_offset())?;
        let mut pointers = Reading::open(&self.path, self.pointers_offset())?;
        let mut end_byte = 0u64;
        for sequence in 0..self.sequence_count {
            let pointer = i64::from_le_bytes(pointers.array()?);
            if u64::try_from(pointer) != Ok(end_byte) {
                let offset = self.pointers_offset() + 8 * sequence;
                let what = format!("pointer of sequence {sequence}");
                let expected = format!("{end_byte}, where the sequence before ends");
                return Err(self.field(offset, what, pointer.to_string(), expected));
            }
            let tokens = self.length(&mut lengths, sequence)?;
            // At most 2^64 / 12 sequences of 2^33 bytes: only a corrupt file gets here.
            end_byte = end_byte.saturating_add(tokens * token_bytes);
        }
        let found_bytes = file_bytes(bin)?;
        if found_bytes != end_byte {
            let expected =
                format!("{end_byte}, where {} ends its last sequence", self.path.display());
            return Err(ForeignError::Length { path: bin.to_owned(), found_bytes, expected });
        }
        let mut borders = Reading::open(&self.path, self.borders_offset())?;
        let mut before = 0;
        for border in 0..self.border_count {
            let found = i64::from_le_bytes(borders.array()?);
            let expected = match (border, self.border_count - border) {
                (0, 1) if self.sequence_count > 0 => "a second one: there are sequences".to_owned(),
                (0, _) => "0".to_owned(),
                (_, 1) => format!("{}, the number of sequences", self.sequence_count),
                _ => format!("{before} to {}", self.sequence_count),
            };
            let sequence = u64::try_from(found).ok();
            let fits = match (border, self.border_count - border) {
                (0, 1) => sequence == Some(0) && self.sequence_count == 0,
                (0, _) => sequence == Some(0),
                (_, 1) => sequence == Some(self.sequence_count),
                _ => sequence.is_some_and(|at| before <= at && at <= self.sequence_count),
            };
            if !fits {
                let offset = self.borders_offset() + 8 * border;
                let what = format!("document border {border}");
                return Err(self.field(offset, what, found.to_string(), expected));
            }
            before = sequence.unwrap_or(before);
        }
        Ok(())
    }

    fn length(&self, lengths: &mut Reading, sequence: u64) -> Result<u64, ForeignError> {
        let tokens = i32::from_le_bytes(lengths.array()?);
        u64::try_from(tokens).map_err(|_negative| {
            let offset = self.lengths_offset() + 4 * sequence;
            let what = format!("number of tokens of sequence {sequence}");
            self.field(offset, what, tokens.to_string(), "0 or more".to_owned())
        })
    }

    fn field(&self, offset: u64, what: String, found: String, expected: String) -> ForeignError {
        ForeignError::Field { path: self.path.clone(), offset, what, found, expected }
    }

    fn lengths_offset(&self) -> u64 {
        HEADER_BYTES
    }

    fn pointers_offset(&self) -> u64 {
        HEADER_BYTES + 4 * self.sequence_count
    }

    fn borders_offset(&self) -> u64 {
        HEADER_BYTES + 12 * self.sequence_count
    }

    /// Where each document ends, in tokens.
    pub(crate) fn document_ends(&self) -> Result<DocumentEnds, ForeignError> {
        Ok(DocumentEnds {
            index: self.clone(),
            lengths: Reading::open(&self.path, self.lengths_offset())?,
            borders: Reading::open(&self.path, self.borders_offset() + 8)?,
            next_border: 1,
            sequence: 0,
            token: 0,
        })
    }
}

/// The ends of an index's documents, from front to back.
pub(crate) struct DocumentEnds {
    index: Index,
    lengths: Reading,
    borders: Reading,
    next_border: u64,
    sequence: u64,
    token: u64,
}

impl DocumentEnds {
    /// The token after the next document.
    pub(crate) fn next_end(&mut self) -> Result<Option<u64>, ForeignError> {
        if self.next_border == self.index.border_count {
            return Ok(None);
        }
        self.next_border += 1;
        let border = i64::from_le_bytes(self.borders.array()?);
        // Checked when the index was opened. An index changed while being read leads to too few
        // tokens, not to too many.
        while u64::try_from(border).is_ok_and(|border| self.sequence < border)
            && self.sequence < self.index.sequence_count
        {
            self.token += self.index.length(&mut self.lengths, self.sequence)?;
            self.sequence += 1;
        }
        Ok(Some(self.token))
    }
}
