//! The files of token ids other projects read, for [`crate::exchange::export`] and
//! [`crate::exchange::import`]: the facts of each format, and the errors in a file of one.
//!
//! The facts are those of the projects' own readers: Megatron-core's in `megatron`, OLMo-core's and
//! dolma's in `olmo`, datatrove's in `datatrove`. nanoGPT (`train.py`) maps a file of `uint16` and
//! knows nothing else. `sources` finds such files, and `files` writes them.
//!
//! **Invariant:** a file its project's reader would not expect is an error naming the file, the
//! place, the value found and the value expected; never a panic, and never memory in proportion to
//! a file's claims.

pub(crate) mod error;
pub mod export;
pub mod formats;
pub mod import;

pub use error::ForeignError;
pub use export::spec::ExportSpec;
pub use export::target::Target;
pub use import::spec::ImportSpec;
