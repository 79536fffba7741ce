//! Documents of inputs in memory, and the checksum of their ids.
//!
//! **Invariant:** documents are in the order of the corpus: inputs by name, lines and rows as they
//! stand.

use std::path::PathBuf;

use anyhow::Context;
use pipeline::read::documents::{self, Columns, DocsError};
use pipeline::read::inputs;

/// A document and where it came from.
#[derive(Clone, Debug)]
pub struct Text {
    /// "file:line" or whatever finds it again.
    pub name: String,
    /// The document.
    pub text: String,
}

/// Calls `each` with the documents of `arguments` (files, folders, globs), about `batch_bytes` of
/// text at a time.
pub fn for_each_batch(
    arguments: &[PathBuf],
    batch_bytes: usize,
    mut each: impl FnMut(Vec<Text>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for input in inputs::find(arguments)? {
        documents::for_each(&input, &Columns::default(), |doc| {
            bytes += doc.text.len();
            let name = format!("{}:{}", input.name, doc.row);
            batch.push(Text { name, text: doc.text.into_owned() });
            if bytes >= batch_bytes {
                bytes = 0;
                each(std::mem::take(&mut batch)).map_err(Stop::Caller)?;
            }
            Ok(())
        })
        .map_err(Stop::into_error)?;
    }
    if batch.is_empty() { Ok(()) } else { each(batch) }
}

/// All documents of `arguments`.
pub fn load(arguments: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    for_each_batch(arguments, usize::MAX, |batch| {
        texts.extend(batch.into_iter().map(|text| text.text));
        Ok(())
    })
    .context("cannot load the documents")?;
    Ok(texts)
}

/// Bytes of UTF-8.
pub fn text_bytes(texts: &[String]) -> u64 {
    texts.iter().map(|text| text.len() as u64).sum()
}

/// Sum of id × (position + 1) modulo 2^64, positions counted over all documents: ids and order, in
/// a form that a vectorised script can compute too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Ids so far.
    pub tokens: u64,
    /// The sum.
    pub sum: u64,
}

impl Checksum {
    /// Adds what follows.
    pub fn push(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            self.tokens += 1;
            self.sum = self.sum.wrapping_add(u64::from(id).wrapping_mul(self.tokens));
        }
    }
}

/// Reasons to end a walk over documents.
enum Stop {
    Docs(DocsError),
    Caller(anyhow::Error),
}

impl From<DocsError> for Stop {
    fn from(err: DocsError) -> Stop {
        Stop::Docs(err)
    }
}

impl Stop {
    fn into_error(self) -> anyhow::Error {
        match self {
            Stop::Docs(err) => err.into(),
            Stop::Caller(err) => err,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_depend_on_the_order() {
        let of = |ids: [u32; 3]| {
            let mut checksum = Checksum::default();
            checksum.push(ids);
            checksum
        };
        assert_eq!(of([5, 6, 7]), Checksum { tokens: 3, sum: 5 + 12 + 21 });
        assert_ne!(of([5, 6, 7]), of([6, 5, 7]));
    }
}
