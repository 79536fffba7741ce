//! The names of a tokenizer's files, and reading one of them.
//!
//! **Invariant:** a pipe or a device is an error and is never waited for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use schemas::git_lfs;

/// The tokenizer itself.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Hugging Face tools read it with the tokenizer; it names BOS and EOS.
pub const CONFIG_FILE: &str = "tokenizer_config.json";
/// The folder of the tokenizer's files inside a corpus.
pub const TOKENIZER_FOLDER: &str = "tokenizer";
/// All files a tokenizer may have, in the order of a manifest.
pub const TOKENIZER_FILES: [&str; 4] =
    [TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "tokenizer.model"];

/// Reads a whole file. A pipe would block, a device may never end, and a Git LFS pointer is not the
/// file itself: all three are errors.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() && !found.is_dir() {
        let what = "it is a pipe or a device; expected a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    if git_lfs::is_pointer(&bytes) {
        let what = format!("it {}", git_lfs::ADVICE);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}
