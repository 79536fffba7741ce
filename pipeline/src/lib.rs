//! Patchmill's data side: text to shards to plan to batches. Never depends on libtorch.
//!
//! The modules in their order; each imports only from those above it:
//! - `console` and [`disk`]: the base. Input and output for people; files.
//! - [`read`]: files to documents.
//! - [`corpus`]: a finished corpus as one checked stream of token ids.
//! - [`mod@write`]: documents and their ids to a corpus folder.
//! - [`run_file`]: run files from disk, resolved. [`loader`]: a plan's windows as batches.
//! - [`exchange`]: files of other projects.
//! - [`commands`] and [`cli`]: the program `patchmill`.
//!
//! The crates `encoder` (text to ids) and `plan` (spec to windows) are below all of them.

pub mod cli;
pub mod commands;
pub mod console;
pub mod corpus;
pub mod disk;
pub mod exchange;
pub mod loader;
pub mod read;
pub mod run_file;
pub mod write;
