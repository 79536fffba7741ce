//! Reads raw little-endian ids of another project, from front to back in bounded memory.
//!
//! **Invariant:** every id returned is below the size of the vocabulary.

use std::path::Path;

use schemas::shard::TokenBytes;

use crate::exchange::error::{ForeignError, Reading, file_bytes};

/// Ids read together.
pub(crate) const CHUNK_TOKENS: usize = 1 << 16;

/// The ids in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Where the first one lies.
    pub(crate) first_byte: u64,
    /// Their number, at least 1.
    pub(crate) token_count: u64,
}

/// The ids of a file: all of it, unless it has llm.c's header. Its length must be a multiple of
/// their size, and not 0; and it may not begin as a known file of another kind.
pub(crate) fn span(path: &Path, token_bytes: TokenBytes) -> Result<Span, ForeignError> {
    let found_bytes = file_bytes(path)?;
    let head = head(path, found_bytes)?;
    if let Some(token_count) = llm_c_tokens(path, &head, token_bytes, found_bytes)? {
        return Ok(Span { first_byte: LLM_C_HEADER_BYTES, token_count });
    }
    for (magic, found, advice) in KINDS {
        if head.starts_with(magic) {
            let (path, advice) = (path.to_owned(), (*advice).to_owned());
            return Err(ForeignError::Kind { path, found, advice });
        }
    }
    let bytes = u64::from(token_bytes.get());
    if found_bytes > 0 && found_bytes.is_multiple_of(bytes) {
        return Ok(Span { first_byte: 0, token_count: found_bytes / bytes });
    }
    let expected = format!("a multiple of {bytes}, the bytes of an id, and not 0");
    Err(ForeignError::Length { path: path.to_owned(), found_bytes, expected })
}

/// First bytes of files that are sometimes taken for raw ids, what they are, and the right way.
///
/// Each has four bytes or more: as ids, these are two in a row that no text gives.
const KINDS: &[(&[u8], &str, &str)] = &[
    (b"\x93NUMPY", "a file of numpy.save", "write the array with numpy's tofile"),
    (
        b"PK\x03\x04",
        "a zip archive, such as numpy.savez writes",
        "write the ids with numpy's tofile",
    ),
    (b"MMIDIDX\0", "Megatron-core's index", "name it with --from megatron"),
    (&schemas::shard::MAGIC, "a shard of Patchmill", "a corpus needs no import"),
    (b"PAR1", "Parquet", "if it holds texts, use patchmill tokenize"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "decompress it first"),
];

/// Length of llm.c's header: 256 integers of 4 bytes, the first three of them magic, version and
/// number of ids (`dev/data/data_common.py`).
const LLM_C_HEADER_BYTES: u64 = 1024;
/// Magic, version and bytes of an id: of GPT-2's vocabulary, and of Llama 3's.
const LLM_C_KINDS: [(u32, u32, u32); 2] = [(20_240_520, 1, 2), (20_240_801, 7, 4)];

/// The first bytes of a file, as many as it has and as a header needs.
fn head(path: &Path, file_bytes: u64) -> Result<Vec<u8>, ForeignError> {
    let bytes = file_bytes.min(16);
    let mut head = vec![0; usize::try_from(bytes).expect("at most 16")];
    Reading::open(path, 0)?.fill(&mut head)?;
    Ok(head)
}

/// The number of ids, if the file has llm.c's header.
fn llm_c_tokens(
    path: &Path,
    head: &[u8],
    token_bytes: TokenBytes,
    found_bytes: u64,
) -> Result<Option<u64>, ForeignError> {
    let Some((fields, _)) = head.split_first_chunk::<12>() else { return Ok(None) };
    let [magic, version, tokens] =
        [0, 4, 8].map(|at| u32::from_le_bytes(*fields[at..].first_chunk().expect("of 12")));
    let kind = LLM_C_KINDS.iter().find(|kind| (kind.0, kind.1) == (magic, version));
    let Some(&(_, _, bytes)) = kind else { return Ok(None) };
    if bytes != token_bytes.get() {
        let advice = format!(
            "its ids have {bytes} bytes, where {} are expected: remove the header with `tail -c \
             +{} FILE > NAME.npy`, and import that with --from olmo --token-bytes {bytes}",
            token_bytes.get(),
            LLM_C_HEADER_BYTES + 1
        );
        return Err(ForeignError::Kind { path: path.to_owned(), found: "llm.c's ids", advice });
    }
    let ids_bytes = u64::from(tokens) * u64::from(bytes);
    if tokens > 0 && found_bytes == LLM_C_HEADER_BYTES + ids_bytes {
        return Ok(Some(tokens.into()));
    }
    let expected = format!(
        "{LLM_C_HEADER_BYTES} of llm.c's header and {ids_bytes} of the {tokens} ids it promises"
    );
    Err(ForeignError::Length { path: path.to_owned(), found_bytes, expected })
}

/// A file of ids being read.
pub(crate) struct IdFile {
    reading: Reading,
    token_bytes: TokenBytes,
    vocab_size: u64,
    first_byte: u64,
    next_token: u64,
    bytes: Vec<u8>,
}

impl IdFile {
    pub(crate) fn open(
        path: &Path,
        token_bytes: TokenBytes,
        vocab_size: u64,
        first_byte: u64,
    ) -> Result<IdFile, ForeignError> {
        let reading = Reading::open(path, first_byte)?;
        let (next_token, bytes) = (0, Vec::new());
        Ok(IdFile { reading, token_bytes, vocab_size, first_byte, next_token, bytes })
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
        self.first_byte + token * u64::from(self.token_bytes.get())
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
