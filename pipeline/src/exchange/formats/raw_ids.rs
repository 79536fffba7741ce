//! Reads raw little-endian ids of another project, from front to back in bounded memory.
//!
//! **Invariant:** every id returned is below the size of the vocabulary.

use std::path::Path;

use schemas::shard::TokenBytes;

use crate::exchange::error::{ForeignError, Reading, file_bytes};

/// Ids read together.
pub(crate) const CHUNK_TOKENS: usize = 1 << 16;

/// The number of ids in a file: its length must be a multiple of their size, and not 0.
pub(crate) fn token_count(path: &Path, token_bytes: TokenBytes) -> Result<u64, ForeignError> {
    let found_bytes = file_bytes(path)?;
    let bytes = u64::from(token_bytes.get());
    if found_bytes > 0 && found_bytes.is_multiple_of(bytes) {
        return Ok(found_bytes / bytes);
    }
    let expected = format!("a multiple of {bytes}, the bytes of an id, and not 0");
    Err(ForeignError::Length { path: path.to_owned(), found_bytes, expected })
}

/// A file of ids being read.
pub(crate) struct IdFile {
    reading: Reading,
    token_bytes: TokenBytes,
    vocab_size: u64,
    next_token: u64,
    bytes: Vec<u8>,
}

impl IdFile {
    pub(crate) fn open(
        path: &Path,
        token_bytes: TokenBytes,
        vocab_size: u64,
    ) -> Result<IdFile, ForeignError> {
        let reading = Reading::open(path, 0)?;
        Ok(IdFile { reading, token_bytes, vocab_size, next_token: 0, bytes: Vec::new() })
    }

    /// Fills `ids` with the next `count` ids; the file has at least as many.
    pub(crate) fn read(&mut self, count: usize, ids: &mut Vec<u32>) -> Result<(), ForeignError> {
        self.bytes.resize(count * self.token_bytes.get() as usize, 0);
        self.reading.fill(&mut self.bytes)?;
        ids.clear();
        match self.token_bytes {
            TokenBytes::Two => {
                let two = self.bytes.as_chunks::<2>().0.iter();
                ids.extend(two.map(|id| u32::from(u16::from_le_bytes(*id))));
            }
            TokenBytes::Four => {
                let four = self.bytes.as_chunks::<4>().0.iter();
                ids.extend(four.map(|id| u32::from_le_bytes(*id)));
            }
        }
        let id_max = ids.iter().copied().fold(0, u32::max);
        if u64::from(id_max) >= self.vocab_size {
            return Err(self.outside(ids));
        }
        self.next_token += count as u64;
        Ok(())
    }

    /// The offset of a token in the file.
    pub(crate) fn offset(&self, token: u64) -> u64 {
        token * u64::from(self.token_bytes.get())
    }

    /// Names the first id outside the vocabulary.
    fn outside(&self, ids: &[u32]) -> ForeignError {
        let vocab_size = self.vocab_size;
        let (token, found) = (self.next_token..)
            .zip(ids)
            .find(|(_, id)| u64::from(**id) >= vocab_size)
            .expect("the largest of these ids is too large");
        ForeignError::Field {
            path: self.reading.path().to_owned(),
            offset: self.offset(token),
            what: format!("id of token {token}"),
            found: found.to_string(),
            expected: format!("one below {vocab_size}, the size of the tokenizer's vocabulary"),
        }
    }
}
