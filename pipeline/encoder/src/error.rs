//! Errors: why a tokenizer or a text was refused.
//!
//! **Invariant:** an error about a file names it.

use std::path::PathBuf;

use super::files::CONFIG_FILE;

/// Why a tokenizer or a text was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The `tokenizers` crate does not accept the file as a tokenizer, or we refuse it.
    #[error("{} is not a tokenizer that can be used: {reason}", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// The crate's error.
        reason: String,
    },
    /// The tokenizer lacks the BOS or EOS asked for.
    #[error(
        "{}: {reason}; name another one in {CONFIG_FILE} or leave it out (--no-{flag})",
        path.display()
    )]
    NoToken {
        /// The tokenizer.
        path: PathBuf,
        /// Why it has no such token.
        reason: String,
        /// "bos" or "eos".
        flag: &'static str,
    },
    /// The configuration does not determine the tokens around a document.
    #[error("{}: {reason}; choose --{flag} or --no-{flag}", path.display())]
    Unsettled {
        /// The tokenizer.
        path: PathBuf,
        /// The settings found, and the open question.
        reason: String,
        /// "bos" or "eos".
        flag: &'static str,
    },
    /// The tokenizer is not the one the corpus was made with.
    #[error(
        "{}: {what} is {found}; the corpus was made with {expected}: \
         put the corpus's own tokenizer back, or make the corpus again",
        path.display()
    )]
    Differs {
        /// Which file.
        path: PathBuf,
        /// The part that differs: "its BLAKE3", "the size of its vocabulary", "its BOS", "its EOS".
        what: &'static str,
        /// The value found.
        found: String,
        /// The value in the manifest.
        expected: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {reason}")]
    Encode {
        /// The crate's error.
        reason: String,
    },
}

impl TokenizeError {
    /// Whether data differ from their description. Otherwise the tokenizer itself or the system is
    /// at fault.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, TokenizeError::Differs { .. })
    }
}
