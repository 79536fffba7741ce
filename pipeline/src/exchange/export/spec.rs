//! What an export writes, and where.
//!
//! **Invariant:** a spec says nothing about its corpus; what does not fit that is an error of the
//! export.

use std::path::PathBuf;

use crate::exchange::export::target::Target;

/// An export of a corpus.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// The corpus.
    pub corpus: PathBuf,
    /// Whose files to write.
    pub to: Target,
    /// Where: for Megatron-core a prefix, else a folder.
    pub out: PathBuf,
    /// A file for each shard in place of one for all; for OLMo-core and datatrove.
    pub file_per_shard: bool,
    /// For nanoGPT the corpus of `val.bin`; the hold-out of `corpus`, if it has one, when `None`.
    pub val: Option<PathBuf>,
    /// Replace files of an export that are there.
    pub force: bool,
}
