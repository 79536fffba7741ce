//! The commands of `patchmill`: one line a command, and what their errors mean to the caller.
//!
//! **Invariant:** results go to stdout, everything else to stderr.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::commands_merge::{self, MergeArgs};
use crate::commands_read_parquet::{self, ReadParquetArgs};
use crate::commands_tokenize::{self, TokenizeArgs};
use crate::corpus::CorpusError;
use crate::duplicates::{self, DuplicatesArgs};
use crate::exchange::ForeignError;
use crate::export::{self, ExportArgs};
use crate::import::{self, ImportArgs};
use crate::index::IndexError;
use crate::init::{self, ConfigCommand, InitArgs, RunFileExists};
use crate::inspect::{self, InspectArgs};
use crate::loader::LoaderError;
use crate::merge::MergeError;
use crate::plan::PlanError;
use crate::plan_command::{self, PlanArgs};
use crate::row_process::Isolation;
use crate::rows;
use crate::run_file::RunError;
use crate::select::DropListMismatch;
use crate::shell::{self, CompletionsArgs, ManArgs};
use crate::stop::{Stopped, StoppedBefore};
use crate::stream::{self, SinkError, StreamArgs};
use crate::tokenize::TokenizeError;
use crate::train_tokenizer::{self, TrainTokenizerArgs};
use crate::usage::UsageError;
use crate::verify::{self, VerifyArgs, VerifyError};

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
    /// Make one corpus of what tasks have written (`tokenize --task`).
    Merge(MergeArgs),
    /// Check every byte of a corpus against what it says about itself.
    Verify(VerifyArgs),
    /// Show a corpus' totals, a shard's header or a document's text.
    Inspect(InspectArgs),
    /// List the documents of a corpus whose text an earlier one has, for tokenize --drop-list.
    Duplicates(DuplicatesArgs),
    /// Write a corpus as files that Megatron-core, OLMo-core, nanoGPT or datatrove read.
    Export(ExportArgs),
    /// Make a corpus of token ids that Megatron-core, OLMo-core or nanoGPT wrote.
    Import(ImportArgs),
    /// Train a small LLaMA-style tokenizer on texts.
    TrainTokenizer(TrainTokenizerArgs),
    /// Say what a run file comes to: phases, epochs, steps, tokens, cost, fingerprint.
    Plan(PlanArgs),
    /// Read a run's windows as a trainer would, and measure it.
    Stream(StreamArgs),
    /// Write a commented run file to start from.
    Init(InitArgs),
    /// Show run files and their schema.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write man pages.
    Man(ManArgs),
    /// Decode a Parquet file for another process of this program.
    #[command(hide = true)]
    ReadParquet(ReadParquetArgs),
}

/// Runs the command. Parquet files are decoded by other processes of this program from then on.
pub fn run(args: Args) -> anyhow::Result<()> {
    rows::isolate(Isolation::this_program());
    match args.command {
        Command::Tokenize(args) => commands_tokenize::tokenize(&args),
        Command::Merge(args) => commands_merge::run(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Duplicates(args) => duplicates::duplicates(&args),
        Command::Export(args) => export::export(&args),
        Command::Import(args) => import::import(&args),
        Command::TrainTokenizer(args) => train_tokenizer::train_tokenizer(&args),
        Command::Plan(args) => plan_command::plan(&args),
        Command::Stream(args) => stream::stream(&args),
        Command::Init(args) => init::init(&args),
        Command::Config(command) => init::config(&command),
        Command::Completions(args) => shell::completions(&args, Args::command()),
        Command::Man(args) => shell::man(&args, Args::command()),
        Command::ReadParquet(args) => commands_read_parquet::read_parquet(&args),
    }
}

/// Exit code of a wrong use of the command line or of a wrong run file.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of data that does not match what describes it.
pub const EXIT_MISMATCH: u8 = 4;

/// Exit code of a run that was asked to stop, and can be started again to go on.
pub const EXIT_STOPPED: u8 = 75;

/// What the process ends with: [`exit_status`].
pub fn exit_code(err: &anyhow::Error) -> ExitCode {
    ExitCode::from(exit_status(err))
}

/// 2 usage or configuration, 4 data does not match, 75 stopped on request, else 1.
pub fn exit_status(err: &anyhow::Error) -> u8 {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<UsageError>()
            || cause.is::<crate::inputs::InputsError>()
            || cause.is::<PlanError>()
            || cause.is::<SinkError>()
            || cause.is::<RunFileExists>()
            || matches!(cause.downcast_ref(), Some(CorpusError::Document { .. }))
            || cause.downcast_ref::<RunError>().is_some_and(RunError::is_usage)
            || cause.downcast_ref::<LoaderError>().is_some_and(LoaderError::is_usage)
    };
    let is_mismatch = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<VerifyError>()
            || cause.is::<MergeError>()
            || cause.is::<schemas::shard::ShardError>()
            || cause.downcast_ref::<TokenizeError>().is_some_and(TokenizeError::is_mismatch)
            || cause.downcast_ref::<IndexError>().is_some_and(IndexError::is_mismatch)
            || cause.downcast_ref::<ForeignError>().is_some_and(ForeignError::is_mismatch)
            || cause.is::<schemas::manifest::ManifestError>()
            || cause.is::<schemas::drop_list::DropListError>()
            || cause.is::<DropListMismatch>()
            || cause.downcast_ref::<CorpusError>().is_some_and(CorpusError::is_mismatch)
            || cause.downcast_ref::<RunError>().is_some_and(RunError::is_mismatch)
            || cause.downcast_ref::<LoaderError>().is_some_and(LoaderError::is_mismatch)
    };
    if err.is::<Stopped>() || err.is::<StoppedBefore>() {
        EXIT_STOPPED
    } else if err.chain().any(is_mismatch) {
        EXIT_MISMATCH
    } else if err.chain().any(is_usage) {
        EXIT_USAGE
    } else {
        1
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
