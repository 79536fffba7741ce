//! A document's entry in the index, on its way there.
//!
//! **Invariant:** where its tokens lie is not part of it: its series decides that.

use schemas::index::CONTENT_HASH_BYTES;

/// A document's entry in the index, but for where its tokens come to lie.
pub(crate) struct DocEntry {
    pub(crate) row: u64,
    pub(crate) set_name: Option<String>,
    pub(crate) text_bytes: u64,
    /// `None` if the text is not known, and then `text_bytes` is 0.
    pub(crate) content_hash: Option<[u8; CONTENT_HASH_BYTES]>,
    /// Lone surrogates of its JSON; told once, with its last piece.
    pub(crate) surrogates_replaced: u64,
    /// Whether it is its document's last piece: a shard closes behind no other.
    pub(crate) is_last: bool,
}
