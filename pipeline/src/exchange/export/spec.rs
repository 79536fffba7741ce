//! The options of an export.
//!
//! **Invariant:** a spec describes nothing of its corpus; options unfit for the corpus are an error
//! of the export.

use std::path::PathBuf;

use crate::exchange::export::target::Target;

/// An export of a corpus.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// The corpus.
    pub corpus: PathBuf,
    /// Whose files to write.
    pub to: Target,
    /// The destination: for Megatron-core a prefix, else a folder.
    pub out: PathBuf,
    /// A file for each shard in place of one for all; for OLMo-core and datatrove.
    pub file_per_shard: bool,
    /// For nanoGPT the corpus of `val.bin`; the hold-out of `corpus`, if it has one, when `None`.
    pub val: Option<PathBuf>,
    /// Replace existing files of an export.
    pub force: bool,
}
