//! Documents become a corpus: which ones, and with which ids.
//!
//! Trees of 1, 2 and 5 threads, of 1, 2 and 6 tasks, and of runs killed at each step of publishing
//! are compared.

mod ids;
mod select;
