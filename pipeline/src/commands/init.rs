//! `patchmill init` and `patchmill config`: run files to start from, and their schema.
//!
//! **Invariant:** a run file written by `init` passes `patchmill plan` on the corpus it was written
//! for.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;

use crate::commands::values::{RunArgs, local_path};
use crate::console::numbers::format_count;
use crate::console::usage::UsageError;
use crate::corpus::read_manifest;
use crate::run_file::Run;

/// The file that `init` writes.
pub const RUN_FILE_NAME: &str = "run.toml";

/// Arguments of `patchmill init`.
#[derive(clap::Args, Debug)]
pub struct InitArgs {
    /// Folder for the run file; created if missing.
    #[arg(value_parser = local_path())]
    dir: PathBuf,
    /// Training corpus to take vocabulary and sizes from.
    #[arg(long, value_parser = local_path())]
    corpus: Option<PathBuf>,
    /// Validation corpus.
    #[arg(long, value_parser = local_path())]
    validation: Option<PathBuf>,
    /// Overwrite an existing run file.
    #[arg(long)]
    force: bool,
}

/// Arguments of `patchmill config`.
#[derive(clap::Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print a run file with its overrides applied, as TOML.
    Show(RunArgs),
    /// Print the JSON Schema of run files.
    Schema,
}

/// A run file exists already.
#[derive(Debug, thiserror::Error)]
#[error("{} exists; give --force to overwrite it", path.display())]
pub struct RunFileExists {
    path: PathBuf,
}

/// `patchmill init`.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let path = args.dir.join(RUN_FILE_NAME);
    if path.exists() && !args.force {
        return Err(RunFileExists { path }.into());
    }
    let manifest = args.corpus.as_deref().map(read_manifest).transpose()?;
    if let Some(validation) = args.validation.as_deref() {
        let validation = read_manifest(validation)?;
        if let Some(train) = &manifest {
            crate::run_file::check_same_tokenizer(train, &validation)?;
        }
    }
    let sizes = match manifest.as_ref().zip(args.corpus.as_deref()) {
        Some((manifest, corpus)) => {
            check_tokens(corpus, manifest.totals.tokens)?;
            Sizes::new(manifest.totals.tokens, manifest.tokenizer.vocab_size)
        }
        // The paper's.
        None => Sizes::new(360_000_000_000, 32_000),
    };
    std::fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let corpus = match &args.corpus {
        Some(corpus) => relative(&args.dir, corpus)?,
        None => "corpus".to_owned(),
    };
    let validation = match &args.validation {
        Some(validation) => Some(relative(&args.dir, validation)?),
        None => None,
    };
    let text = run_file_text(&corpus, validation.as_deref(), &sizes);
    write_new(&path, &text, args.force)?;
    let run = Run::load(&path, &[])?;
    let mut out = std::io::stdout().lock();
    match &manifest {
        Some(manifest) => {
            let plan = run.plan_of(manifest)?;
            let steps = format_count(plan.step_count());
            writeln!(out, "wrote {}: {steps} steps; see `patchmill plan {0}`", path.display())?;
        }
        None => writeln!(
            out,
            "wrote {}; set data.corpus and model.vocab_size, then see `patchmill plan {0}`",
            path.display()
        )?,
    }
    Ok(())
}

/// Refuses a corpus too small for the two phases of the run file, whatever its sizes.
fn check_tokens(corpus: &Path, tokens: u64) -> anyhow::Result<()> {
    if tokens >= CORPUS_TOKENS_MIN {
        return Ok(());
    }
    Err(UsageError(format!(
        "{} has {tokens} tokens; a run of two phases needs at least {CORPUS_TOKENS_MIN}: \
         {STEPS_MIN} steps that read one window of {WINDOW_UNITS_MIN} patches of {PATCH_SIZE} \
         tokens each; tokenize more text",
        corpus.display()
    ))
    .into())
}

/// `patchmill config`.
pub fn config(command: &ConfigCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        ConfigCommand::Show(args) => {
            let run = args.load()?;
            write!(out, "{}", toml::to_string(&run.file).context("write a run file as TOML")?)?;
        }
        ConfigCommand::Schema => write!(out, "{}", schemas::run::json_schema())?,
    }
    Ok(())
}

fn write_new(path: &Path, text: &str, overwrite: bool) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    // `create_new` also refuses a file that appeared since the check.
    let options =
        if overwrite { options.create(true).truncate(true) } else { options.create_new(true) };
    let mut file = options.open(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

/// `target` relative to the folder `dir`; both exist.
fn relative(dir: &Path, target: &Path) -> anyhow::Result<String> {
    let real =
        |path: &Path| path.canonicalize().with_context(|| format!("find {}", path.display()));
    let (dir, target) = (real(dir)?, real(target)?);
    let shared = dir.components().zip(target.components()).take_while(|(a, b)| a == b).count();
    let up = dir.components().skip(shared).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(target.components().skip(shared)).collect();
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(if text.is_empty() { ".".to_owned() } else { text.to_owned() })
}

/// The numbers of a run file that depend on the corpus.
struct Sizes {
    vocab_size: u64,
    window_units: u64,
    step_tokens: u64,
    token_phase_steps: u64,
    micro_batch_windows: u64,
    shape: Shape,
}

/// Sizes of a model.
struct Shape {
    name: &'static str,
    hidden_size: u64,
    intermediate_size: u64,
    layers: u64,
    heads: u64,
    dtype: &'static str,
    peak: &'static str,
    every_steps: u64,
}

const PATCH_SIZE: u64 = 4;
/// The first unit of a window is not a target, so a window of one would teach nothing.
const WINDOW_UNITS_MIN: u64 = 2;
/// Two thirds of the corpus are read as patches, one third as tokens, each third in at least one
/// step.
const STEPS_MIN: u64 = 3;
const CORPUS_TOKENS_MIN: u64 = STEPS_MIN * PATCH_SIZE * WINDOW_UNITS_MIN;

const TINY: Shape = Shape {
    name: "a tiny model, for a corpus of less than a billion tokens",
    hidden_size: 192,
    intermediate_size: 512,
    layers: 4,
    heads: 4,
    dtype: "fp32",
    peak: "2e-3",
    every_steps: 100,
};

const PAPER_370M: Shape = Shape {
    name: "the paper's 370M",
    hidden_size: 1024,
    intermediate_size: 2752,
    layers: 24,
    heads: 16,
    dtype: "bf16",
    peak: "3e-4",
    every_steps: 1000,
};

impl Sizes {
    /// The paper's sizes, reduced until a small corpus has some hundred steps.
    fn new(corpus_tokens: u64, vocab_size: u64) -> Sizes {
        let (mut window_units, mut step_windows) = (2048, 256);
        while window_units > WINDOW_UNITS_MIN && corpus_tokens / (PATCH_SIZE * window_units) < 4000
        {
            window_units /= 2;
        }
        while step_windows > 1 && corpus_tokens / (PATCH_SIZE * window_units * step_windows) < 300 {
            step_windows /= 2;
        }
        let step_tokens = PATCH_SIZE * window_units * step_windows;
        Sizes {
            vocab_size,
            window_units,
            step_tokens,
            token_phase_steps: corpus_tokens / step_tokens / 3,
            micro_batch_windows: step_windows.min(4),
            shape: if corpus_tokens < 1_000_000_000 { TINY } else { PAPER_370M },
        }
    }
}

/// A tenth of a phase's steps, at most the paper's 2,000. A short phase needs more: on the
/// fixtures, of 208 and 104 steps, validation perplexity fell from 154 to 133 when 10 became 100
/// and 52.
fn warmup_steps(phase_steps: u64) -> u64 {
    (phase_steps / 10).max((phase_steps / 2).min(100)).min(2000)
}

fn run_file_text(corpus: &str, validation: Option<&str>, sizes: &Sizes) -> String {
    let sized =
        [plan_text(sizes), phases_text(sizes), model_text(sizes), train_text(sizes)].concat();
    data_text(corpus, validation) + &align_comments(&sized)
}

/// Aligns the comments after values, set off by two spaces, in one column.
fn align_comments(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("  # ") {
        Some((value, comment)) => format!("{value:<38} # {comment}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn data_text(corpus: &str, validation: Option<&str>) -> String {
    let corpus = format!("corpus = {}", quoted(corpus));
    let validation = match validation {
        Some(path) => format!("validation = {}\n", quoted(path)),
        None => {
            "# validation = \"valid\"                 # a second corpus, for the validation loss\n"
                .to_owned()
        }
    };
    format!(
        "# A run of patch-level training. Everything that changes a result is written out here;\n\
         # unknown keys are refused. Paths are relative to this file. `patchmill plan` shows the\n\
         # plan; `--set section.key=value` overrides a value.\n\
         \n\
         [data]\n\
         {corpus:<38} # folder with manifest.json\n\
         {validation}\
         # Read only a random subset of this size; the whole corpus when absent.\n\
         # subset_tokens = 60_000_000_000\n\n"
    )
}

fn plan_text(sizes: &Sizes) -> String {
    let Sizes { window_units, step_tokens, .. } = sizes;
    let step_tokens = format_count(*step_tokens);
    format!(
        "[plan]\n\
         window_units = {window_units}  # T: positions a model sees at once, patches or tokens\n\
         step_tokens = {step_tokens}  # tokens read per optimizer step, in every phase\n\
         epochs = 1  # passes over the corpus or its subset\n\
         seed = 1  # of the reading order\n\
         shuffle = \"global\"  # or \"none\": file order\n\n"
    )
}

fn phases_text(sizes: &Sizes) -> String {
    let Sizes { token_phase_steps, shape: Shape { peak, .. }, .. } = *sizes;
    let [patches, tokens] = [2 * token_phase_steps, token_phase_steps].map(|steps| {
        let warmup_steps = warmup_steps(steps);
        format!(
            "schedule = {{ kind = \"cosine\", peak = {peak}, warmup_steps = {warmup_steps}, \
             final = 0.0 }}\n\
             # Optimizer and schedule start afresh; \"weights+optimizer\" keeps the moments.\n\
             carry = \"weights\"\n\n"
        )
    });
    format!(
        "# Schedules: kind = \"cosine\", \"linear\" (both down to `final`), \"constant\" (no\n\
         # `final`), or \"wsd\", which also takes decay_steps = N, the last of the phase, and\n\
         # decay = \"linear\", \"cosine\" or \"1-sqrt\".\n\
         [[phases]]  # in order; shares are exact fractions and add up to 1\n\
         patch_size = {PATCH_SIZE}  # K: windows of K*T tokens, regrouped as T patches\n\
         share = \"2/3\"  # lambda\n\
         # The paper's variants, discarded at the phase's end.\n\
         # input_map = true\n\
         # output_map = true\n\
         {patches}\
         [[phases]]\n\
         patch_size = 1  # token-level training\n\
         share = \"1/3\"\n\
         {tokens}"
    )
}

fn model_text(sizes: &Sizes) -> String {
    let Sizes { vocab_size, shape, .. } = sizes;
    let Shape { name, hidden_size, intermediate_size, layers, heads, .. } = shape;
    format!(
        "[model]  # {name}; Hugging Face names\n\
         vocab_size = {vocab_size}  # at least the tokenizer's\n\
         hidden_size = {hidden_size}\n\
         intermediate_size = {intermediate_size}\n\
         num_hidden_layers = {layers}\n\
         num_attention_heads = {heads}\n\
         num_key_value_heads = {heads}\n\
         rms_norm_eps = 1e-6\n\
         rope_theta = 10000.0\n\
         tie_word_embeddings = false\n\
         initializer_range = 0.02\n\n\
         [optimizer]\n\
         kind = \"adamw\"\n\
         betas = [0.9, 0.95]\n\
         eps = 1e-8\n\
         weight_decay = 0.1  # matrices and embeddings; not norm gains\n\
         clip_norm = 1.0\n\
         nonfinite = \"stop\"  # or \"skip\": at a non-finite loss or gradient\n\
         # What to do at a sudden rise of the loss; action may also be \"skip\".\n\
         # spike = {{ window_steps = 100, sigma = 6.0, action = \"stop\" }}\n\n"
    )
}

fn train_text(sizes: &Sizes) -> String {
    let Sizes { micro_batch_windows, shape: Shape { dtype, every_steps, .. }, .. } = sizes;
    format!(
        "[train]\n\
         init_seed = 1  # of the initial weights\n\
         # Start from these weights (a Hugging Face directory).\n\
         # init_from = \"checkpoint-100\"\n\
         device = \"auto\"  # or \"cpu\", \"cuda\", \"cuda:1\"\n\
         # Or \"attention\", \"block\": less memory for more time, the same result.\n\
         activation_checkpointing = \"none\"\n\
         # Of the computation; master weights and moments stay fp32.\n\
         dtype = \"{dtype}\"\n\
         # Per rank and micro-step; a step must split evenly.\n\
         micro_batch_windows = {micro_batch_windows}\n\
         output = \"output\"  # checkpoints, metrics, the resolved run file\n\
         checkpoint_every_steps = {every_steps}\n\
         keep_checkpoints = 3\n\
         keep_every_steps = 0  # multiples of this many steps are kept for good; 0 for none\n\
         eval_every_steps = {every_steps}\n\
         log_every_steps = 10\n\n\
         [loader]  # never changes the data read\n\
         workers = 2\n\
         # Or \"pread\": for network file systems and files that may shrink.\n\
         io = \"mmap\"\n\
         ring_bytes = 67_108_864\n"
    )
}

#[cfg(test)]
mod tests {
    use schemas::run::RunFile;

    use super::*;

    #[test]
    fn what_init_writes_is_a_run_file_and_plans() {
        let sizes = [10_000, 1_234_567, 900_000_000, 60_000_000_001, 360_000_000_000];
        for tokens in (CORPUS_TOKENS_MIN..600).chain(sizes) {
            let sizes = Sizes::new(tokens, 4096);
            let text = run_file_text("../a \"b\"", Some("c"), &sizes);
            let file: RunFile = schemas::run::parse(&text, &[]).unwrap();
            assert_eq!(file.data.corpus, "../a \"b\"");
            let spec = crate::run_file::plan_spec(&file, tokens, None);
            let plan = plan::Plan::new(&spec).unwrap();
            crate::loader::check_split(&plan, file.train.micro_batch_windows, 1).unwrap();
            for (phase, settings) in plan.phases().iter().zip(&file.phases) {
                assert!(settings.schedule.warmup_steps() < phase.steps, "{tokens} tokens");
            }
        }
    }
}
