//! Rows of Parquet read together, and their documents.
//!
//! **Invariant:** a chunk has one entry a row, in the file's order.

use std::borrow::Cow;

use crate::read::document::{Columns, Doc, Refusal};
use crate::read::jsonl::json;

/// Rows read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChunk {
    /// 1-based.
    pub(crate) first_row: u64,
    /// Text and set name of each row.
    pub(crate) rows: Vec<[Cell; 2]>,
    /// The texts and set names, one after the other.
    pub(crate) bytes: Vec<u8>,
    /// Keys of the set name's path inside the column's JSON.
    pub(crate) json_keys: u32,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    /// This number of bytes, after those of the cells before.
    Bytes(u64),
    /// Longer than a document may be, and left out.
    TooLong(u64),
}

impl RowChunk {
    pub(crate) fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn docs<'a>(
        &'a self,
        columns: &'a Columns,
    ) -> impl Iterator<Item = Result<Doc<'a>, Refusal>> + 'a {
        let keys: Vec<&str> = columns.set_path().split('.').collect();
        let json_path = keys[keys.len().saturating_sub(self.json_keys as usize)..].to_vec();
        let mut at = 0;
        (self.first_row..).zip(&self.rows).map(move |(row, cells)| {
            let [text, set] = cells.map(|cell| match cell {
                Cell::Bytes(bytes) => {
                    let start = at;
                    at += bytes as usize;
                    Some(&self.bytes[start..at])
                }
                _ => None,
            });
            let refusal = |reason| Refusal { row, byte_offset: None, reason };
            if let Cell::TooLong(bytes) = cells[0] {
                columns.check_length(bytes).map_err(refusal)?;
            }
            let Some(text) = text else {
                return Err(refusal("the text is null; expected a string".to_owned()));
            };
            let text = utf8(text).map_err(|reason| refusal(format!("the text {reason}")))?;
            columns.check_length(text.len() as u64).map_err(refusal)?;
            let (set_name, surrogates_replaced) = match set.map(utf8).transpose() {
                Ok(Some(name)) if json_path.is_empty() => (Some(Cow::Borrowed(name)), 0),
                Ok(Some(json)) => match json::string_at(json, &json_path) {
                    Some((name, replaced)) => (Some(name), replaced),
                    None => (None, 0),
                },
                Err(reason) if columns.set.is_some() => {
                    return Err(refusal(format!("the set name {reason}")));
                }
                _ => (None, 0),
            };
            Ok(Doc { text: Cow::Borrowed(text), set_name, row, surrogates_replaced })
        })
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    simdutf8::compat::from_utf8(bytes).map_err(|err| {
        let at = err.valid_up_to();
        format!("is not UTF-8 from its byte {at} ({:#04x}) on", bytes[at])
    })
}
