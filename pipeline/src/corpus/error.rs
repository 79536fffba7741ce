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
    /// A failed system call.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// The action, such as "open".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Without a manifest the corpus is incomplete.
    #[error(
        "{} has no {}: it is not a corpus folder, or one whose `patchmill tokenize` did not finish",
        dir.display(), manifest::FILE_NAME
    )]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder is a mixture of a corpus and its replacement.
    #[error(
        "the replacement of the corpus in {} was interrupted; the same command as then, with \
         --force, finishes it",
        dir.display()
    )]
    Interrupted {
        /// The folder.
        dir: PathBuf,
    },
    /// The tokenizer's copy is not that of the ids.
    #[error("{} {what}: the corpus cannot be used without its tokenizer", path.display())]
    Tokenizer {
        /// The copy.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// The manifest was refused.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// Sets needed in separate series and not stored so.
    #[error(transparent)]
    Sets(#[from] MixedSeries),
    /// Shards that are missing or have a wrong length.
    #[error(
        "{}: {} of {shard_count} shards differ from the manifest: {}",
        dir.display(),
        faults.len(),
        faults.join("; ")
    )]
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
    /// A sound shard other than the one in the manifest.
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
    /// A shard changed after it was opened.
    #[error(
        "{}: the file {what} while it was read, of its bytes {first_byte}..{end_byte} last: \
         no id read since is certain; repair the corpus (`patchmill verify`), and start again from \
         the last checkpoint",
        path.display()
    )]
    Changed {
        /// The shard.
        path: PathBuf,
        /// The change: "was written to", "was removed or replaced".
        what: &'static str,
        /// Offset in the file of the bytes read last.
        first_byte: u64,
        /// Its end, exclusive.
        end_byte: u64,
    },
    /// A shard became shorter after it was opened.
    #[error(
        "{}: bytes {first_byte}..{end_byte} are gone: the file was cut to {found_bytes} bytes \
         while it was read; put it back, check the corpus (`patchmill verify`), and start again \
         from the last checkpoint",
        path.display()
    )]
    Shrunk {
        /// The shard.
        path: PathBuf,
        /// Offset in the file of the bytes needed.
        first_byte: u64,
        /// Its end, exclusive.
        end_byte: u64,
        /// Length of the file now.
        found_bytes: u64,
    },
    /// Tokens past the end of the corpus.
    #[error("tokens {first_token}..{end_token} are wanted; the corpus has {corpus_tokens}")]
    Tokens {
        /// First token requested.
        first_token: u64,
        /// The token after the last one.
        end_token: u64,
        /// Tokens in the corpus.
        corpus_tokens: u64,
    },
    /// A document number past the end of the corpus.
    #[error("document {document} is wanted; the corpus has {document_count}, numbered from 0")]
    Document {
        /// The number requested.
        document: u64,
        /// Documents in the corpus.
        document_count: u64,
    },
}

impl CorpusError {
    /// Whether data differ from their description; otherwise the system or the caller is at fault.
    pub fn is_mismatch(&self) -> bool {
        use CorpusError::{
            Changed, Files, Interrupted, Manifest, Mismatch, NoManifest, Sets, Shard, Shrunk,
            Tokenizer,
        };
        matches!(
            self,
            Changed { .. }
                | Files { .. }
                | Interrupted { .. }
                | Manifest { .. }
                | Mismatch { .. }
                | NoManifest { .. }
                | Sets { .. }
                | Shard { .. }
                | Shrunk { .. }
                | Tokenizer { .. }
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
