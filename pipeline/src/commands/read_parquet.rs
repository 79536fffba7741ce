//! `patchmill read-parquet`: decodes a Parquet file for another process of this program.
//!
//! **Invariant:** the arguments are those [`crate::read::parquet`] gives its child.

use std::path::PathBuf;

use crate::commands::values::local_path;
use crate::read::document::{Columns, DOCUMENT_BYTES_MAX};
use crate::read::parquet::process;

/// Arguments of the child.
#[derive(clap::Args, Clone, Debug)]
pub struct ReadParquetArgs {
    /// Column of the text.
    #[arg(long)]
    text_column: String,
    /// Column of the set name.
    #[arg(long)]
    set_column: Option<String>,
    /// Bytes of the longest text handed on.
    #[arg(long, default_value_t = DOCUMENT_BYTES_MAX)]
    max_document_bytes: u64,
    /// The first row, 1-based.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    first_row: u64,
    /// The file.
    #[arg(value_parser = local_path())]
    file: PathBuf,
}

/// Runs `patchmill read-parquet`.
pub fn read_parquet(args: &ReadParquetArgs) -> anyhow::Result<()> {
    let columns = Columns {
        text: args.text_column.clone(),
        set: args.set_column.clone(),
        document_bytes_max: args.max_document_bytes,
    };
    process::serve(&args.file, &columns, args.first_row)
}
