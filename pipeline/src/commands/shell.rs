//! `patchmill completions` and `patchmill man`: the commands for shells and `man`.
//!
//! **Invariant:** both are generated from the definitions that parse the command line.

use crate::commands::values::local_path;
use std::path::PathBuf;

use anyhow::Context as _;

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// The shell to complete for.
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Folder for the pages; created if missing.
    #[arg(value_parser = local_path())]
    dir: PathBuf,
}

/// Writes the completions of `command` to stdout.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(())
}

/// Writes a page for `command` and one for each of its subcommands.
pub fn man(args: &ManArgs, command: clap::Command) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("write man pages to {}", args.dir.display()))
}
