//! Why a tokenizer or a text was refused, in words.
//!
//! **Invariant:** what concerns a file names it.

use std::path::PathBuf;

use super::files::CONFIG_FILE;

/// Why a tokenizer or a text was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not what the `tokenizers` crate takes for a tokenizer.
    #[error("{} is not a tokenizer that can be used: {reason}", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// The crate's error.
        reason: String,
    },
    /// A BOS or EOS that the tokenizer does not have.
    #[error(
        "{}: {reason}; name another one in {CONFIG_FILE} or leave it out (--no-{flag})",
        path.display()
    )]
    NoToken {
        /// The tokenizer.
        path: PathBuf,
        /// Why it has none.
        reason: String,
        /// "bos" or "eos".
        flag: &'static str,
    },
    /// A configuration that does not settle the tokens around a document.
    #[error("{}: {reason}; choose --{flag} or --no-{flag}", path.display())]
    Unsettled {
        /// The tokenizer.
        path: PathBuf,
        /// The settings found, and the open question.
        reason: String,
        /// "bos" or "eos".
        flag: &'static str,
    },
    /// A tokenizer that is not the one that a corpus was made with.
    #[error(
        "{}: {what} is {found}; the corpus was made with {expected}: \
         put the corpus' own tokenizer back, or make the corpus again",
        path.display()
    )]
    Differs {
        /// Which file.
        path: PathBuf,
        /// Its part: "its BLAKE3", "the size of its vocabulary", "its BOS", "its EOS".
        what: &'static str,
        /// As it is.
        found: String,
        /// The value in the manifest.
        expected: String,
    },
    /// A text that the tokenizer fails on.
    #[error("the tokenizer failed: {reason}")]
    Encode {
        /// The crate's error.
        reason: String,
    },
}

impl TokenizeError {
    /// Whether data differ from what describes them; else the tokenizer itself or the system is at
    /// fault.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, TokenizeError::Differs { .. })
    }
}
