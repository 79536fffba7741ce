//! Why a corpus could not be opened or read.
//!
//! **Invariant:** every error of a file names it.

use std::io;
use std::path::PathBuf;

use schemas::manifest::{self, ManifestError};
use schemas::shard::ShardError;

use crate::corpus::sets::MixedSeries;

/// Why a corpus could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, such as "open".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no manifest, so this is no complete corpus.
    #[error(
        "{} has no {}: it is no corpus folder, or one whose `patchmill tokenize` did not finish",
        dir.display(), manifest::FILE_NAME
    )]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// The manifest was refused.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// Sets that are wanted apart and are not.
    #[error(transparent)]
    Sets(#[from] MixedSeries),
    /// Shards that are not there, or not as long as they should be.
    #[error("{}: {} of {shard_count} shards are not as the manifest says: {}", dir.display(), faults.len(), faults.join("; "))]
    Files {
        /// The folder.
        dir: PathBuf,
        /// Shards in the manifest.
        shard_count: usize,
        /// One line a shard, with its path.
        faults: Vec<String>,
    },
    /// A shard's bytes were refused.
    #[error("{}: {source}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Why.
        source: ShardError,
    },
    /// A shard that is sound but not the one that the manifest means.
    #[error("{}: header has {field} {found}; the manifest says {expected}", path.display())]
    Mismatch {
        /// The shard.
        path: PathBuf,
        /// Its name in the header.
        field: &'static str,
        /// In the header.
        found: String,
        /// From the manifest.
        expected: String,
    },
    /// A shard became another after it was opened.
    #[error(
        "{}: the file {what} while it was read, of its bytes {first_byte}..{end_byte} last: no id read since is certain; \
         put the corpus right (`patchmill verify`), and start again from the last checkpoint",
        path.display()
    )]
    Changed {
        /// The shard.
        path: PathBuf,
        /// What became of it: "was written to", "was removed or replaced".
        what: &'static str,
        /// Offset in the file of what was read last.
        first_byte: u64,
        /// Its end, exclusive.
        end_byte: u64,
    },
    /// A shard became shorter after it was opened.
    #[error(
        "{}: bytes {first_byte}..{end_byte} are gone: the file was cut to {found_bytes} bytes while it was read; \
         put it back, check the corpus (`patchmill verify`), and start again from the last checkpoint",
        path.display()
    )]
    Shrunk {
        /// The shard.
        path: PathBuf,
        /// Offset in the file of what was wanted.
        first_byte: u64,
        /// Its end, exclusive.
        end_byte: u64,
        /// Length of the file now.
        found_bytes: u64,
    },
    /// Tokens that the corpus does not have.
    #[error("tokens {first_token}..{end_token} are wanted; the corpus has {corpus_tokens}")]
    Tokens {
        /// First token that was asked for.
        first_token: u64,
        /// The token after the last one.
        end_token: u64,
        /// Tokens in the corpus.
        corpus_tokens: u64,
    },
    /// A document that the corpus does not have.
    #[error("document {document} is wanted; the corpus has {document_count}, numbered from 0")]
    Document {
        /// The number that was asked for.
        document: u64,
        /// Documents in the corpus.
        document_count: u64,
    },
}

impl CorpusError {
    /// Whether data differ from what describes them; else the system or the caller is at fault.
    pub fn is_mismatch(&self) -> bool {
        use CorpusError::{Changed, Files, Manifest, Mismatch, NoManifest, Sets, Shard, Shrunk};
        matches!(
            self,
            Changed { .. }
                | Files { .. }
                | Manifest { .. }
                | Mismatch { .. }
                | NoManifest { .. }
                | Sets { .. }
                | Shard { .. }
                | Shrunk { .. }
        )
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE) => " (each shard stays open: raise `ulimit -n`)",
        Some(libc::ENOMEM) => {
            " (too many mappings: raise vm.max_map_count, or set loader.io = \"pread\")"
        }
        _ => "",
    }
}
