//! Cross-crate tests, in the order of the data's path.

mod small_corpus;

mod corpus;
mod permute;
mod plan;

mod loader;
mod run_file;
