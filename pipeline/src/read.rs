//! Reads input files as documents: JSON lines (plain, zstd or gzip) and Parquet, in bounded memory.
//!
//! JSON lines are bounded in length and depth. A gzip or zstd file that stops within its data is
//! never accepted as a whole one.
//!
//! **Invariant:** every line or row of an input yields a document, or an error with its position.

pub mod document;
pub mod documents;
pub mod error;
pub mod inputs;
pub mod jsonl;
pub mod parquet;
