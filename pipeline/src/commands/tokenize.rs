//! `patchmill tokenize`: makes a corpus of inputs.
//!
//! **Invariant:** a dry run writes nothing.

mod estimate;
pub(crate) mod report;

use std::path::PathBuf;

use crate::commands::values::{SelectArgs, Specials, local_path};
use crate::console::stop::StopFlag;
use crate::read::document::{Columns, DOCUMENT_BYTES_MAX};
use crate::write::corpus;
use crate::write::set_column;
use crate::write::spec::{CorpusSpec, OnError};
use crate::write::tasks::Task;
use encoder::{Encoder, PolicyChoice};

/// Options of `patchmill tokenize`.
#[derive(clap::Args, Clone, Debug)]
pub struct TokenizeArgs {
    /// A tokenizer.json, or the folder that holds it.
    #[arg(long, value_parser = local_path())]
    pub tokenizer: PathBuf,
    /// The folder to write the corpus into: new, empty, or with an interrupted run of the same
    /// options.
    #[arg(long, value_parser = local_path())]
    pub out: PathBuf,
    /// Files, folders or globs: .jsonl, .json or .ndjson (plain, .zst or .gz), .parquet.
    #[arg(required = true, value_name = "INPUT", value_parser = local_path())]
    pub inputs: Vec<PathBuf>,
    /// Threads that encode; when absent, one per core. The output is the same for any number.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    pub threads: Option<u16>,
    /// Effect of a line or row without a valid document.
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    pub on_error: OnError,
    /// Put the beginning-of-sequence token before each document. Without --bos or --no-bos the
    /// tokenizer's own configuration decides; a BOS is put where it has none.
    #[arg(long, overrides_with = "no_bos")]
    pub bos: bool,
    /// Put nothing before each document.
    #[arg(long, overrides_with = "bos")]
    pub no_bos: bool,
    /// Put the end-of-sequence token after each document. Without --eos or --no-eos the tokenizer's
    /// own configuration decides; nothing is put where it has none.
    #[arg(long, overrides_with = "no_eos")]
    pub eos: bool,
    /// Put nothing after each document.
    #[arg(long, overrides_with = "eos")]
    pub no_eos: bool,
    /// How to read special tokens written out in a text: as text, or as control ids, Hugging Face's
    /// default.
    #[arg(long, value_enum, default_value_t = Specials::Text)]
    pub special_tokens: Specials,
    /// Bytes of each thread's cache of words. The output is the same for any size.
    #[arg(long, default_value_t = encoder::CACHE_BYTES, value_parser = cache_bytes)]
    pub cache_bytes: usize,
    /// Bytes of ids at which a shard closes, at the next document boundary.
    #[arg(long, default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub shard_bytes: u64,
    /// Key or column of the text.
    #[arg(long, default_value = "text")]
    pub text_column: String,
    /// Key, column or dotted path of the set name; when absent, `meta.pile_set_name` where present.
    #[arg(long)]
    pub set_column: Option<String>,
    /// Bytes of the longest document's text; longer ones are refused. The `tokenizers` crate, where
    /// it makes the ids, may need 160 times as much memory in each thread.
    #[arg(
        long,
        default_value_t = DOCUMENT_BYTES_MAX,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub max_document_bytes: u64,
    /// Write a series for each set of an input, to keep sets apart.
    #[arg(long)]
    pub by_set: bool,
    /// Write one share of the inputs, beside other tasks, for `patchmill merge`: "i/n" from 0, or
    /// "auto" in an array job of Slurm (SLURM_ARRAY_TASK_ID) or an indexed job of Kubernetes
    /// (JOB_COMPLETION_INDEX, with --tasks).
    #[arg(long, value_name = "I/N", conflicts_with = "force")]
    pub task: Option<String>,
    /// Number of tasks, where the environment does not give it.
    #[arg(
        long,
        value_name = "N",
        requires = "task",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub tasks: Option<u64>,
    /// Replace the folder's corpus once the new one is complete, and write beside other files;
    /// those are never removed.
    #[arg(long)]
    pub force: bool,
    /// Estimate sizes from a sample of the inputs and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
    /// Choice of the documents to write.
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Most threads. More is a typing error, and a system may lack the memory for them.
const THREADS_MAX: i64 = 1024;
/// Most bytes of a cache; one of this size hits no more often than a much smaller one.
const CACHE_BYTES_MAX: usize = 1 << 34;

fn cache_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<usize>().map_err(|err| err.to_string())?;
    if bytes <= CACHE_BYTES_MAX {
        return Ok(bytes);
    }
    Err(format!("it is {bytes}; expected at most {CACHE_BYTES_MAX}"))
}

impl clap::ValueEnum for OnError {
    fn value_variants<'a>() -> &'a [OnError] {
        &[OnError::Stop, OnError::Skip]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            OnError::Stop => {
                clap::builder::PossibleValue::new("stop").help("Stop with file and line")
            }
            OnError::Skip => clap::builder::PossibleValue::new("skip")
                .help("List it in skipped.jsonl, count it and continue"),
        })
    }
}

impl TokenizeArgs {
    /// The requested corpus.
    pub fn spec(&self) -> anyhow::Result<CorpusSpec> {
        let variable = |name: &str| std::env::var(name).ok();
        let task = self.task.as_deref().map(|task| Task::parse(task, self.tasks, variable));
        Ok(CorpusSpec {
            tokenizer: self.tokenizer.clone(),
            policy: self.policy(),
            out: self.out.clone(),
            inputs: self.inputs.clone(),
            threads: self.thread_count(),
            on_error: self.on_error,
            cache_bytes: self.cache_bytes,
            shard_bytes: self.shard_bytes,
            columns: self.columns(),
            by_set: self.by_set,
            task: task.transpose()?,
            force: self.force,
            select: self.select.spec(),
        })
    }

    fn policy(&self) -> PolicyChoice {
        let special_tokens = self.special_tokens.into();
        let chosen = |yes: bool, no: bool| (yes || no).then_some(yes);
        PolicyChoice {
            bos: chosen(self.bos, self.no_bos),
            eos: chosen(self.eos, self.no_eos),
            special_tokens,
        }
    }

    fn thread_count(&self) -> usize {
        match self.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn columns(&self) -> Columns {
        Columns {
            text: self.text_column.clone(),
            set: self.set_column.clone(),
            document_bytes_max: self.max_document_bytes,
        }
    }
}

/// Runs `patchmill tokenize`.
pub fn tokenize(args: &TokenizeArgs) -> anyhow::Result<()> {
    if args.dry_run {
        let encoder = Encoder::load(&args.tokenizer, args.policy())?;
        let inputs = corpus::find_inputs(&args.inputs)?;
        let select = corpus::make_select(&args.select.spec(), &inputs)?;
        set_column::notice_if_unknown(&inputs, &args.columns())?;
        return crate::commands::tokenize::estimate::print(
            &encoder,
            &inputs,
            &args.columns(),
            &select,
            args.json,
        );
    }
    let stop = StopFlag::install()?;
    let spec = args.spec()?;
    let (report, encoder) = corpus::build_until(&spec, &stop)?;
    report.print(args.json)?;
    // Freeing its tables takes milliseconds, and the process ends.
    std::mem::forget(encoder);
    Ok(())
}
