//! The files of token ids that other projects read, for [`crate::export`] and [`crate::import`]: what is known of each
//! format, and what is wrong with a file of one.
//!
//! The facts are those of the projects' own readers: Megatron-core's in `megatron`, OLMo-core's and dolma's in `olmo`,
//! datatrove's in `datatrove`. nanoGPT (`train.py`) maps a file of `uint16` and knows nothing else. `sources` finds such
//! files, and `files` writes them.
//!
//! **Invariant:** a file that is not what its project's reader expects is an error that names the file, the place, what was
//! found there and what was expected; never a panic, and never memory in proportion to what a file claims.

pub(crate) mod datatrove;
mod error;
pub(crate) mod export_spec;
pub(crate) mod export_target;
pub(crate) mod files;
pub(crate) mod ids;
pub(crate) mod import_spec;
pub(crate) mod megatron;
pub(crate) mod olmo;
pub(crate) mod sources;

pub use error::ForeignError;
pub use export_spec::ExportSpec;
pub use export_target::Target;
pub use import_spec::ImportSpec;
