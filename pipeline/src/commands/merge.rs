//! `patchmill merge`: writes the manifest of a corpus made by tasks.
//!
//! **Invariant:** the output is the report of [`merge::merge`].

use std::path::PathBuf;

use crate::commands::values::local_path;
use crate::write::merge;

/// Options of `patchmill merge`.
#[derive(clap::Args, Clone, Debug)]
pub struct MergeArgs {
    /// The folder the tasks have written into.
    #[arg(value_parser = local_path())]
    pub dir: PathBuf,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

/// Runs `patchmill merge`.
pub fn run(args: &MergeArgs) -> anyhow::Result<()> {
    merge::merge(&args.dir)?.print(args.json)
}
