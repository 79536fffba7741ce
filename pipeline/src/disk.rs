//! Files: complete or absent when written, mapped or read by `pread`, and checked for changes.
//!
//! **Invariant:** a file has its final name only when it is complete.

pub mod atomic;
pub mod failpoint;
pub(crate) mod limits;
pub mod lost_pages;
pub mod source;
