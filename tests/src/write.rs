//! Documents become a corpus: which ones, and with which ids.

mod ids;
mod select;
