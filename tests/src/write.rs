//! Documents become a corpus: which ones, and with which ids.

pub(crate) mod ids;
mod select;
