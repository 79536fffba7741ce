//! The files of token ids that other projects read, for [`crate::exchange::export`] and
//! [`crate::exchange::import`]: what is known of each format, and what is wrong with a file of one.
//!
//! The facts are those of the projects' own readers: Megatron-core's in `megatron`, OLMo-core's and
//! dolma's in `olmo`, datatrove's in `datatrove`. nanoGPT (`train.py`) maps a file of `uint16` and
//! knows nothing else. `sources` finds such files, and `files` writes them.
//!
//! **Invariant:** a file that is not what its project's reader expects is an error that names the
//! file, the place, what was found there and what was expected; never a panic, and never memory in
//! proportion to what a file claims.

pub(crate) mod error;
pub mod export;
pub mod formats;
pub mod import;

pub use error::ForeignError;
pub use export::spec::ExportSpec;
pub use export::target::Target;
pub use import::spec::ImportSpec;
