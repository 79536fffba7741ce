//! The commands of `patchmill`: one line a command.
//!
//! **Invariant:** results go to stdout, everything else to stderr.

use clap::CommandFactory as _;

use crate::commands::duplicates::{self, DuplicatesArgs};
pub use crate::commands::exit::{
    EXIT_MISMATCH, EXIT_STOPPED, EXIT_USAGE, describe, exit_code, exit_status, is_closed_pipe,
};
use crate::commands::export::{self, ExportArgs};
use crate::commands::import::{self, ImportArgs};
use crate::commands::init::{self, ConfigCommand, InitArgs};
use crate::commands::inspect::{self, InspectArgs};
use crate::commands::merge::{self, MergeArgs};
use crate::commands::plan::{self, PlanArgs};
use crate::commands::read_parquet::{self, ReadParquetArgs};
use crate::commands::shell::{self, CompletionsArgs, ManArgs};
use crate::commands::stream::{self, StreamArgs};
use crate::commands::tokenize::{self, TokenizeArgs};
use crate::commands::train_tokenizer::{self, TrainTokenizerArgs};
use crate::commands::verify::{self, VerifyArgs};
use crate::read::parquet;
use crate::read::parquet::process::Isolation;

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
    /// Merge the parts written by tasks (`tokenize --task`) into one corpus.
    Merge(MergeArgs),
    /// Check every byte of a corpus against its own description.
    Verify(VerifyArgs),
    /// Show a corpus' totals, a shard's header or a document's text.
    Inspect(InspectArgs),
    /// List the documents whose text an earlier document has, for tokenize --drop-list.
    Duplicates(DuplicatesArgs),
    /// Write a corpus as files that Megatron-core, OLMo-core, nanoGPT or datatrove read.
    Export(ExportArgs),
    /// Make a corpus of token ids that Megatron-core, OLMo-core or nanoGPT wrote.
    Import(ImportArgs),
    /// Train a small LLaMA-style tokenizer on texts.
    TrainTokenizer(TrainTokenizerArgs),
    /// Summarize a run file: phases, epochs, steps, tokens, cost, fingerprint.
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

/// Runs the command. From then on, child processes of this program decode Parquet files.
pub fn run(args: Args) -> anyhow::Result<()> {
    parquet::isolate(Isolation::this_program());
    match args.command {
        Command::Tokenize(args) => tokenize::tokenize(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Duplicates(args) => duplicates::duplicates(&args),
        Command::Export(args) => export::export(&args),
        Command::Import(args) => import::import(&args),
        Command::TrainTokenizer(args) => train_tokenizer::train_tokenizer(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Stream(args) => stream::stream(&args),
        Command::Init(args) => init::init(&args),
        Command::Config(command) => init::config(&command),
        Command::Completions(args) => shell::completions(&args, Args::command()),
        Command::Man(args) => shell::man(&args, Args::command()),
        Command::ReadParquet(args) => read_parquet::read_parquet(&args),
    }
}
