//! A document's entry on its way to the index.
//!
//! **Invariant:** an entry has no place for its tokens: its series decides where they lie.

use schemas::index::CONTENT_HASH_BYTES;

/// A document's entry in the index, without the place of its tokens.
pub(crate) struct DocEntry {
    pub(crate) row: u64,
    pub(crate) set_name: Option<String>,
    pub(crate) text_bytes: u64,
    /// `None` if the text is unknown, and then `text_bytes` is 0.
    pub(crate) content_hash: Option<[u8; CONTENT_HASH_BYTES]>,
    /// Lone surrogates in its JSON; counted once, with its last piece.
    pub(crate) surrogates_replaced: u64,
    /// Whether it is its document's last piece: a shard closes only after such a piece.
    pub(crate) is_last: bool,
}
