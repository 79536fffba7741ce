//! The commands of `patchmill`, one file each: arguments in, specs to the library, results out.
//!
//! **Invariant:** only this module and `cli` know the command line.

pub mod duplicates;
pub mod exit;
pub mod export;
pub mod import;
pub mod init;
pub mod inspect;
pub mod merge;
pub mod plan;
pub mod read_parquet;
pub mod shell;
pub mod stream;
pub mod tokenize;
pub mod train_tokenizer;
pub mod values;
pub mod verify;
