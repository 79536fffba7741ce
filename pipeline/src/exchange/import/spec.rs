//! The options of an import: the files, and the user's declarations about them.
//!
//! **Invariant:** a spec repeats nothing its files state themselves.

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
    /// The project of the files.
    pub from: ForeignFormat,
    /// The tokenizer.json used for the ids, or its folder.
    pub tokenizer: PathBuf,
    /// The folder to write the corpus into.
    pub out: PathBuf,
    /// Tokens around each document, which are checked, and the treatment of special tokens written
    /// out in a text, which is recorded.
    pub policy: Policy,
    /// Bytes of an id in files of olmo; by the size of the vocabulary when `None`.
    pub token_bytes: Option<TokenBytes>,
    /// Bytes of ids at which a shard closes, at the next document boundary; at least 1.
    pub shard_bytes: u64,
    /// Replace a corpus in the folder, and write beside unrelated files.
    pub force: bool,
}
