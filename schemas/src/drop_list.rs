//! The list of exact duplicates, written by `patchmill duplicates` and left out by
//! `patchmill tokenize --drop-list`.
//!
//! It names documents by input and row, so the first of equal ones stays, whatever the threads,
//! tasks or restarts.
//!
//! **Invariant:** [`DropList::decode`] accepts only a list of the length it promises, with its
//! hash, whose rows rise.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selection::Selection;

/// The first bytes.
pub const MAGIC: [u8; 8] = *b"PATCHDUP";
/// The version this build writes and reads.
pub const VERSION: u32 = 1;
/// Bytes before the description.
pub const FIXED_BYTES: usize = 24;
/// Bytes of the hash at the end.
pub const HASH_BYTES: usize = 32;
/// Bytes of a row.
pub const ROW_BYTES: usize = 8;

/// The description in the list, as compact JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropListHead {
    /// Fingerprint of the corpus whose document indexes were read.
    pub corpus: String,
    /// Which documents of its inputs the corpus holds; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// The corpus's inputs, in byte order of their names.
    pub inputs: Vec<DropListInput>,
}

/// An input, and how many of its documents are listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropListInput {
    /// Relative to the root it was given with.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Documents of it in the list.
    pub row_count: u64,
}

/// A whole list. All integers are little-endian.
///
/// | bytes          | field                                                      | encoding      |
/// |----------------|------------------------------------------------------------|---------------|
/// | 0..8           | magic                                                      | `MAGIC`       |
/// | 8..12          | version                                                    | `u32`         |
/// | 12..16         | `head_bytes`                                               | `u32`         |
/// | 16..24         | `row_count`                                                | `u64`         |
/// | `head_bytes`   | [`DropListHead`]                                           | JSON in UTF-8 |
/// | 8·`row_count`  | rows, 1-based, rising within an input, in order of inputs  | `u64` each    |
/// | the last 32    | BLAKE3 of everything before: the list's identity           | bytes         |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropList {
    head: DropListHead,
    rows: Vec<Vec<u64>>,
    fingerprint: [u8; HASH_BYTES],
}

/// Why a list was refused.
#[derive(Debug, thiserror::Error)]
pub enum DropListError {
    /// Shorter than any list.
    #[error("the list is {found} bytes; the shortest has {}", FIXED_BYTES + HASH_BYTES)]
    Short {
        /// Its length.
        found: usize,
    },
    /// Another kind of file.
    #[error("it begins with {found:02x?}; a list of duplicates begins with {MAGIC:02x?}")]
    Magic {
        /// Its first bytes.
        found: [u8; 8],
    },
    /// Another version.
    #[error(
        "list of duplicates of version {found} is not supported; this build reads version {VERSION}"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// Cut off, or with trailing bytes.
    #[error(
        "the list is {found} bytes; \
         {head_bytes} bytes of description and {row_count} rows come to {expected}"
    )]
    Length {
        /// Its length.
        found: u64,
        /// As written.
        head_bytes: u32,
        /// As written.
        row_count: u64,
        /// The length these promise.
        expected: u64,
    },
    /// Changed since it was written.
    #[error(
        "the list's content has BLAKE3 {found}; its end says {expected}: \
         it was changed after it was written"
    )]
    Hash {
        /// Of the actual content.
        found: String,
        /// As written.
        expected: String,
    },
    /// A description in another form.
    #[error("the list's description is not of its form: {0}")]
    Head(#[from] serde_json::Error),
    /// Counts that do not add up.
    #[error("the list has {found} rows; its inputs come to {expected}")]
    Sum {
        /// As written.
        found: u64,
        /// Of the inputs; the largest number on overflow.
        expected: u64,
    },
    /// Rows out of order.
    #[error("row {row} of {input} comes after row {before}; rows begin at 1 and rise")]
    Order {
        /// Which input.
        input: String,
        /// The row.
        row: u64,
        /// The one before it; 0 at the beginning.
        before: u64,
    },
}

impl DropListHead {
    /// The bytes before the rows.
    ///
    /// # Panics
    /// If the description takes 4 GiB or more, or the counts overflow.
    pub fn encode(&self) -> Vec<u8> {
        let head = serde_json::to_vec(self).expect("a description is plain data");
        let head_bytes = u32::try_from(head.len()).expect("a description is below 4 GiB");
        let row_count = self.row_count().expect("fewer than 2^64 documents");
        let mut bytes = Vec::with_capacity(FIXED_BYTES + head.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&head_bytes.to_le_bytes());
        bytes.extend_from_slice(&row_count.to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes
    }

    /// Documents listed; `None` on overflow.
    pub fn row_count(&self) -> Option<u64> {
        self.inputs.iter().try_fold(0u64, |sum, input| sum.checked_add(input.row_count))
    }
}

impl DropList {
    /// Reads a list and checks it against its own length, hash, description and order.
    pub fn decode(bytes: &[u8]) -> Result<DropList, DropListError> {
        if bytes.len() < FIXED_BYTES + HASH_BYTES {
            return Err(DropListError::Short { found: bytes.len() });
        }
        let (content, end) = bytes.split_at(bytes.len() - HASH_BYTES);
        let magic: [u8; 8] = field(content, 0);
        if magic != MAGIC {
            return Err(DropListError::Magic { found: magic });
        }
        let version = u32::from_le_bytes(field(content, 8));
        if version != VERSION {
            return Err(DropListError::Version { found: version });
        }
        let head_bytes = u32::from_le_bytes(field(content, 12));
        let row_count = u64::from_le_bytes(field(content, 16));
        let fixed = (FIXED_BYTES + HASH_BYTES) as u64 + u64::from(head_bytes);
        let expected = row_count.saturating_mul(ROW_BYTES as u64).saturating_add(fixed);
        let found = bytes.len() as u64;
        if expected != found {
            return Err(DropListError::Length { found, head_bytes, row_count, expected });
        }
        let hash = *blake3::hash(content).as_bytes();
        if hash != end {
            let expected = end.iter().map(|byte| format!("{byte:02x}")).collect();
            let found = blake3::Hash::from_bytes(hash).to_hex().to_string();
            return Err(DropListError::Hash { found, expected });
        }
        let (head, rows) = content[FIXED_BYTES..].split_at(head_bytes as usize);
        let head: DropListHead = serde_json::from_slice(head)?;
        let rows = read_rows(&head, row_count, rows)?;
        Ok(DropList { head, rows, fingerprint: hash })
    }

    /// The list's description of itself.
    pub fn head(&self) -> &DropListHead {
        &self.head
    }

    /// The rows of an input, in rising order; empty for an input missing from the list.
    pub fn rows(&self, input: &str) -> &[u64] {
        let at = self.head.inputs.iter().position(|listed| listed.name == input);
        at.map_or(&[], |at| &self.rows[at])
    }

    /// BLAKE3 of the list in hex.
    pub fn fingerprint(&self) -> String {
        blake3::Hash::from_bytes(self.fingerprint).to_hex().to_string()
    }
}

/// `N` bytes from `at`; the caller has checked that they exist.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn read_rows(
    head: &DropListHead,
    row_count: u64,
    mut bytes: &[u8],
) -> Result<Vec<Vec<u64>>, DropListError> {
    let expected = head.row_count().unwrap_or(u64::MAX);
    if expected != row_count {
        return Err(DropListError::Sum { found: row_count, expected });
    }
    let mut inputs = Vec::with_capacity(head.inputs.len());
    for input in &head.inputs {
        // Fits: all rows together are within the file, whose length was checked.
        let (rows, rest) = bytes.split_at(input.row_count as usize * ROW_BYTES);
        bytes = rest;
        let rows: Vec<u64> =
            rows.chunks_exact(ROW_BYTES).map(|row| u64::from_le_bytes(field(row, 0))).collect();
        let mut before = 0;
        for &row in &rows {
            if row <= before {
                return Err(DropListError::Order { input: input.name.clone(), row, before });
            }
            before = row;
        }
        inputs.push(rows);
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list as the first version of this program wrote it.
    const V1: &[u8] = include_bytes!("drop_list.v1.dup");

    fn head() -> DropListHead {
        let input = |name: &str, bytes, row_count| DropListInput {
            name: name.to_owned(),
            bytes,
            row_count,
        };
        DropListHead {
            corpus: "ab".to_owned(),
            selection: Some(Selection { min_bytes: Some(9), ..Selection::default() }),
            inputs: vec![input("00.jsonl.zst", 100, 2), input("01.parquet", 7, 0)],
        }
    }

    fn encode(head: &DropListHead, rows: &[u64]) -> Vec<u8> {
        let mut bytes = head.encode();
        bytes.extend(rows.iter().flat_map(|row| row.to_le_bytes()));
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    #[test]
    fn a_list_of_version_1_is_written_and_read_byte_for_byte() {
        assert_eq!(encode(&head(), &[3, 70_000]), V1);
        let list = DropList::decode(V1).unwrap();
        assert_eq!(list.head(), &head());
        assert_eq!(list.rows("00.jsonl.zst"), [3, 70_000]);
        assert!(list.rows("01.parquet").is_empty() && list.rows("other").is_empty());
        assert_eq!(
            list.fingerprint().as_bytes()[..2],
            format!("{:02x}", V1[V1.len() - 32]).as_bytes()[..]
        );
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_found() {
        for bit in 0..V1.len() * 8 {
            let mut bytes = V1.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            DropList::decode(&bytes).unwrap_err();
        }
        for length in 0..V1.len() {
            DropList::decode(&V1[..length]).unwrap_err();
        }
        DropList::decode(&[V1, b"\0"].concat()).unwrap_err();
    }

    fn check(bytes: &[u8], expected: &str) {
        let found = DropList::decode(bytes).unwrap_err().to_string();
        assert!(found.contains(expected), "{found}");
    }

    #[test]
    fn what_is_wrong_with_a_list_is_named() {
        let with = |at: usize, byte: u8| {
            let mut bytes = V1.to_vec();
            bytes[at] = byte;
            bytes
        };
        check(&V1[..55], "the list is 55 bytes; the shortest has 56");
        check(&with(0, b'X'), "it begins with [58, ");
        check(&with(8, 2), "version 2 is not supported; this build reads version 1");
        check(&with(16, 3), "3 rows come to ");
        check(&with(30, b'!'), "it was changed after it was written");
        check(&encode(&head(), &[3, 3]), "row 3 of 00.jsonl.zst comes after row 3");
        check(&encode(&head(), &[0, 3]), "row 0 of 00.jsonl.zst comes after row 0");
        let mut wide = head();
        wide.inputs[1].row_count = 1;
        let mut bytes = encode(&wide, &[1, 2]);
        bytes[16] = 2; // the inputs say 3
        let end = bytes.len() - HASH_BYTES;
        let hash = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(hash.as_bytes());
        check(&bytes, "the list has 2 rows; its inputs come to 3");
    }
}
