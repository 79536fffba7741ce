//! The commands of `patchmill`: one line a command, and what their errors mean to the caller.
//!
//! **Invariant:** results go to stdout, everything else to stderr.

use std::process::ExitCode;

use crate::build::{self, TokenizeArgs};
use crate::folder::UsageError;

/// Arguments of `patchmill`.
#[derive(clap::Parser)]
#[command(
    name = "patchmill",
    version,
    about = "Text to shards to plan to batches, for patch-level training"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Turn texts into a corpus: shards of token ids, a document index, a manifest.
    Tokenize(TokenizeArgs),
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Tokenize(args) => build::tokenize(&args),
    }
}

/// Exit code of a wrong use of the command line or of a wrong run file.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of data that does not match what describes it.
pub const EXIT_MISMATCH: u8 = 4;

/// 2 usage or configuration, 4 data does not match, else 1.
pub fn exit_code(err: &anyhow::Error) -> ExitCode {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<UsageError>()
            || cause.is::<crate::inputs::InputsError>()
            || cause.is::<schemas::run::RunFileError>()
    };
    let is_mismatch = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<schemas::shard::ShardError>() || cause.is::<schemas::manifest::ManifestError>()
    };
    if err.chain().any(is_mismatch) {
        ExitCode::from(EXIT_MISMATCH)
    } else if err.chain().any(is_usage) {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// Whether the reader of stdout went away, as `head` does: no error of ours.
pub fn is_closed_pipe(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The error with its causes, each said once: a message that already quotes its cause is not followed by it again.
pub fn describe(err: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in err.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}
