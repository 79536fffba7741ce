//! What an import reads, and what is said about it.
//!
//! **Invariant:** a spec says nothing that its files say themselves.

use std::path::PathBuf;

use schemas::manifest::ForeignFormat;
use schemas::shard::TokenBytes;

use encoder::Policy;

/// An import of another project's files.
#[derive(Clone, Debug)]
pub struct ImportSpec {
    /// megatron: a prefix, its .bin or its .idx, or a folder of such pairs; olmo: a .npy or a
    /// folder of them; nanogpt: a .bin.
    pub source: PathBuf,
    /// Whose files they are.
    pub from: ForeignFormat,
    /// The tokenizer.json that made the ids, or the folder that holds it.
    pub tokenizer: PathBuf,
    /// The folder to write the corpus into.
    pub out: PathBuf,
    /// What goes around each document, which is checked; and what special tokens written out in a
    /// text were, which is recorded.
    pub policy: Policy,
    /// Of files of olmo: bytes of an id; by the size of the vocabulary when `None`.
    pub token_bytes: Option<TokenBytes>,
    /// Bytes of ids at which a shard closes, at the next document boundary; at least 1.
    pub shard_bytes: u64,
    /// Replace a corpus that the folder holds, and write beside files of others.
    pub force: bool,
}
