//! Our own encoder: exact where it is used, and used only where it is exact.
//!
//! **Invariant:** ids are those of the `tokenizers` crate.

pub(crate) mod merges;
