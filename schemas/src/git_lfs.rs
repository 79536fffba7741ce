//! The text that Git LFS leaves in place of a file it has not fetched yet.
//!
//! A clone without `git lfs pull` has pointers of some 130 bytes under the names of data files,
//! tokenizers and weights. Ours never begin like one.
//!
//! **Invariant:** a text is a pointer if and only if it begins with [`HEAD`].

/// The first bytes of a pointer.
pub const HEAD: &[u8] = b"version https://git-lfs.github.com/spec/v1";
/// Length of [`HEAD`]: as many bytes of a file decide.
pub const HEAD_BYTES: u64 = HEAD.len() as u64;
/// The part of a message that follows the name of the file.
pub const ADVICE: &str = "is a pointer of Git LFS, and its content was not fetched; fetch it with \
                          `git lfs pull` or download the file itself";

/// Whether a file with this beginning is a pointer.
pub fn is_pointer(beginning: &[u8]) -> bool {
    beginning.starts_with(HEAD)
}
