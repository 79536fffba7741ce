//! What each command of `patchmill-train` does, above the library.
//!
//! **Invariant:** with `--json` the last line of stdout is one JSON object.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use pipeline::corpus::Corpus;
use pipeline::docs::{self, Columns};
use pipeline::inputs;
use pipeline::run_file;
use pipeline::tokenize::{Encoder, PolicyChoice, TokenizeError};
use schemas::manifest::SpecialTokens;
use schemas::run::{Device, Dtype, ReadBackend};
use serde_json::json;

use crate::checkpoint;
use crate::device;
use crate::eval::{EvalShape, Evaluation, Evaluator};
use crate::exit::{EXIT_STOPPED, report};
use crate::generate::{Sampling, Stop, generate as continue_ids};
use crate::launch;
use crate::model::Llama;
use crate::progress::{self, print, progress};
use crate::ranks::{self, Place, RanksError};
use crate::resume::Resume;
use crate::stop::StopFlag;
use crate::team::Team;
use crate::train::{Ending, Run};
use crate::validation::evaluate_corpus;
use crate::weights;

/// Arguments of `pretrain`.
#[derive(Args)]
pub struct PretrainArgs {
    /// The run file.
    run: PathBuf,
    /// Replaces a value of the run file, such as train.dtype=fp32 or phases.0.share="1/2".
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where to go on: auto (the newest whole checkpoint, else the beginning), never, or a checkpoint's folder.
    #[arg(long, default_value = "auto", value_name = "auto|never|PATH")]
    resume: Resume,
    /// Start this many processes on this machine, which train together: one for each GPU. On several machines torchrun, srun or
    /// mpirun start them, without this.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1024))]
    ranks: Option<u64>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

impl PretrainArgs {
    /// The same command for one rank.
    fn words_of_a_rank(&self) -> Vec<OsString> {
        let joined = |option: &str, value: &OsStr| {
            let mut word = OsString::from(option);
            word.push(value);
            word
        };
        let mut words: Vec<OsString> = vec!["pretrain".into()];
        words.extend(self.overrides.iter().map(|found| joined("--set=", found.as_ref())));
        words.push(match &self.resume {
            Resume::Auto => "--resume=auto".into(),
            Resume::Never => "--resume=never".into(),
            Resume::Path(path) => joined("--resume=", path.as_ref()),
        });
        words.extend(self.json.then(|| "--json".into()));
        words.extend(["--".into(), self.run.clone().into()]);
        words
    }
}

/// Kind of the compute, on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    Fp32,
    Bf16,
}

/// The model and where it computes.
#[derive(Args)]
struct ModelArgs {
    /// Folder of the model: a checkpoint, or any Hugging Face directory of a LLaMA.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// auto, cpu, cuda or cuda:INDEX.
    #[arg(long, default_value = "auto", value_parser = |text: &str| Device::try_from(text.to_owned()))]
    device: Device,
    /// Kind of the compute.
    #[arg(long, default_value = "fp32")]
    dtype: DtypeArg,
}

impl ModelArgs {
    fn load(&self) -> Result<(Llama, crate::hf_config::ModelNotes)> {
        let dtype = match self.dtype {
            DtypeArg::Fp32 => Dtype::Fp32,
            DtypeArg::Bf16 => Dtype::Bf16,
        };
        checkpoint::verify_if_ours(&self.model)?;
        Ok(weights::load_model(&self.model, dtype, device::resolve(self.device)?)?)
    }
}

/// Arguments of `eval`.
#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A corpus folder, or a text file (.jsonl, .jsonl.zst, .jsonl.gz, .parquet) to tokenize with the model's tokenizer.
    #[arg(long, value_name = "FILE|CORPUS")]
    data: PathBuf,
    /// Tokens of a window [default: the model's positions].
    #[arg(long, value_name = "T")]
    window_units: Option<u64>,
    /// K above 1 gives the patch loss, which is no token-level loss.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    patch_size: u64,
    /// Windows that are computed at once; says nothing about the result.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    micro_batch_windows: u64,
    /// A text file's tokenizer.json or the folder with it [default: that of the model].
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// A text file's key or column of the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_column: String,
    /// A longer text of a text file is refused.
    #[arg(long, value_name = "BYTES", default_value_t = docs::DOCUMENT_BYTES_MAX)]
    max_document_bytes: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to go on from.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to generate, at most.
    #[arg(long, value_name = "COUNT", default_value_t = 128)]
    max_tokens: u64,
    /// Always take the most likely token.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "seed"])]
    greedy: bool,
    /// Divides the logits: below 1 is safer, above 1 is wilder.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Draw from the most likely tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Key of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// tokenizer.json or the folder with it [default: that of the model].
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `pretrain`: exit code 0 for a run that is done, 75 for one that was stopped on request.
pub fn pretrain(args: &PretrainArgs) -> Result<ExitCode> {
    let place = ranks::from_environment(|name| std::env::var(name).ok())?;
    if let Some(place) = &place {
        progress::speak_as(place.rank);
    }
    let file = run_file::Run::load(&args.run, &args.overrides)?;
    match (args.ranks, place) {
        (Some(2..), Some(_)) => Err(RanksError::Nested.into()),
        (Some(count @ 2..), None) => launch::launch(count, &args.words_of_a_rank()),
        (_, Some(place)) => {
            launch::follow_launcher()?;
            let team = Team::meet(&place, launch::listener().filter(|_| place.rank == 0))?;
            let Place { world_size, host, port, .. } = place;
            progress(&format!("{world_size} ranks have met at {host}:{port}"));
            // Said before the others lose this one, so that it is read before what they say then.
            let ending = train(args, &file, team.clone());
            Ok(ending.unwrap_or_else(|err| report(&err)))
        }
        (_, None) => train(args, &file, Team::alone()),
    }
}

/// Trains as one of a team. Until here a signal ends the process at once: it may wait for others that do not come.
fn train(args: &PretrainArgs, file: &run_file::Run, team: Team) -> Result<ExitCode> {
    let stop = StopFlag::install()?;
    let is_first = team.is_first();
    let mut run = Run::prepare(file, &args.resume, team)?;
    match run.execute(&stop)? {
        Ending::Done(_) if !is_first => Ok(ExitCode::SUCCESS),
        Ending::Done(summary) if args.json => print(&format!("{}\n", summary.json())),
        Ending::Done(summary) => print(&format!("\n{}", summary.text())),
        Ending::Stopped { next_step, checkpoint } => {
            progress(&format!(
                "stopped on request after step {next_step}; the same command goes on from {}",
                checkpoint.display()
            ));
            Ok(ExitCode::from(EXIT_STOPPED))
        }
    }
}

/// `eval`: loss and perplexity by the definition of `crate::eval`.
pub fn eval(args: &EvalArgs) -> Result<()> {
    let (model, _) = args.model.load()?;
    let shape = EvalShape {
        window_units: args.window_units.unwrap_or(model.compute().position_count),
        patch_size: args.patch_size,
        micro_batch_windows: args.micro_batch_windows,
    };
    let found = if args.data.is_dir() {
        let corpus = Corpus::open(&args.data, ReadBackend::Mmap)?;
        check_corpus(&corpus, &model, &args.model.model)?;
        let (text_bytes, team) = (corpus.manifest().totals.text_bytes, &Team::alone());
        let found =
            evaluate_corpus(&model, &corpus, shape, text_bytes, &StopFlag::default(), team)?;
        found.context("nobody can ask this evaluation to stop")?
    } else {
        evaluate_text(&model, shape, args)?
    };
    let text = if args.json {
        json!({
            "loss": found.loss,
            "perplexity": found.perplexity,
            "tokens": found.tokens,
            "predicted_tokens": found.predicted_tokens,
            "windows": found.windows,
            "dropped_tokens": found.dropped_tokens,
            "bits_per_byte": found.bits_per_byte,
            "window_units": shape.window_units,
            "patch_size": shape.patch_size,
        })
        .to_string()
    } else {
        describe(&found, shape)
    };
    print(&format!("{text}\n")).map(|_| ())
}

/// A corpus whose ids mean something else to the model.
#[derive(Debug, thiserror::Error)]
pub enum CorpusMismatch {
    /// Ids that the model's embedding does not have.
    #[error("the corpus has a vocabulary of {found}; the model's vocab_size is {expected}")]
    Vocabulary {
        /// Of the corpus.
        found: u64,
        /// Of the model.
        expected: u64,
    },
    /// Made by another tokenizer than the model's.
    #[error(
        "the corpus was made by the tokenizer {found}; the model's tokenizer.json is {expected}: \
         tokenize the text with that one, or give the text itself as --data"
    )]
    Tokenizer {
        /// BLAKE3 of the corpus' tokenizer.json.
        found: String,
        /// BLAKE3 of the one in the model's folder.
        expected: String,
    },
}

fn check_corpus(corpus: &Corpus, model: &Llama, model_folder: &Path) -> Result<()> {
    let (found, expected) = (corpus.vocab_size(), model.config().vocab_size);
    if found > expected {
        bail!(CorpusMismatch::Vocabulary { found, expected });
    }
    let path = model_folder.join("tokenizer.json");
    if !path.exists() {
        progress(
            "notice: the model's folder has no tokenizer.json to compare the corpus' tokenizer with",
        );
        return Ok(());
    }
    let expected = pipeline::publish::hash_file(&path)?.1.to_hex().to_string();
    let found = corpus.manifest().tokenizer.fingerprint.clone();
    if found != expected {
        bail!(CorpusMismatch::Tokenizer { found, expected });
    }
    Ok(())
}

fn describe(found: &Evaluation, shape: EvalShape) -> String {
    let level = if shape.patch_size == 1 { "token level" } else { "patch level" };
    let bits = found.bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.4} bits/byte"));
    format!(
        "loss {:.6}, perplexity {:.4}{bits} ({level}, K = {})\n\
         {} tokens in {} windows of {} that do not overlap, {} of them predicted; {} tokens of the tail dropped",
        found.loss,
        found.perplexity,
        shape.patch_size,
        found.tokens,
        found.windows,
        shape.window_units * shape.patch_size,
        found.predicted_tokens,
        found.dropped_tokens,
    )
}

/// Tokenizes the documents of a file, each with its BOS, as one stream.
fn evaluate_text(model: &Llama, shape: EvalShape, args: &EvalArgs) -> Result<Evaluation> {
    let tokenizer = args.tokenizer.as_deref().unwrap_or(&args.model.model);
    let encoder = load_encoder(tokenizer, model)?;
    let found = inputs::find(std::slice::from_ref(&args.data))?;
    let columns = Columns {
        text: args.text_column.clone(),
        document_bytes_max: args.max_document_bytes,
        ..Columns::default()
    };
    let mut evaluator = Evaluator::new(model, shape)?;
    let mut text_bytes = 0;
    let mut session = encoder.session::<u32>();
    let mut ids = Vec::new();
    for input in &found {
        docs::for_each(input, &columns, |doc| -> Result<()> {
            ids.clear();
            session.encode(&doc.text, &mut ids)?;
            text_bytes += doc.text.len() as u64;
            Ok(evaluator.push(&ids)?)
        })?;
    }
    Ok(evaluator.finish(Some(text_bytes))?)
}

/// A tokenizer that fits the model. Its own configuration decides whether a BOS stands before each document, and one
/// does where that leaves it open; special tokens are text.
fn load_encoder(path: &Path, model: &Llama) -> Result<Encoder> {
    let load = |bos| {
        let special_tokens = SpecialTokens::Text;
        Encoder::load(path, PolicyChoice { bos, eos: Some(false), special_tokens })
    };
    let encoder = load(None)
        .or_else(|err| match err {
            TokenizeError::Unsettled { .. } => load(Some(true)),
            err => Err(err),
        })
        .with_context(|| "load the tokenizer; --tokenizer names another one".to_owned())?;
    if encoder.vocab_size() > model.config().vocab_size {
        bail!(
            "{} has {} entries; the model's vocab_size is {}: it is not this model's tokenizer",
            encoder.path().display(),
            encoder.vocab_size(),
            model.config().vocab_size
        );
    }
    Ok(encoder)
}

/// `generate`: the prompt's continuation on stdout.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let (model, notes) = args.model.load()?;
    let encoder = load_encoder(args.tokenizer.as_deref().unwrap_or(&args.model.model), &model)?;
    let mut prompt = Vec::new();
    encoder.encode(&args.prompt, &mut prompt)?;
    let sampling = if args.greedy {
        Sampling::Greedy
    } else {
        Sampling::TopP { temperature: args.temperature, top_p: args.top_p, seed: args.seed }
    };
    let found = continue_ids(&model, &prompt, args.max_tokens, &notes.end_ids(), sampling)?;
    let text = encoder.decode_document(&[prompt.as_slice(), found.text_ids()].concat())?;
    if found.stop == Stop::ContextLimit {
        progress(&format!(
            "notice: stopped at the model's context of {} tokens",
            model.compute().position_count
        ));
    }
    let text = if args.json {
        let stop = match found.stop {
            Stop::EndOfText => "end of text",
            Stop::TokenLimit => "token limit",
            Stop::ContextLimit => "context limit",
        };
        let (prompt_tokens, token_ids) = (prompt.len(), &found.token_ids);
        json!({ "text": text, "prompt_tokens": prompt_tokens, "token_ids": token_ids, "stop": stop })
            .to_string()
    } else {
        text
    };
    print(&format!("{text}\n")).map(|_| ())
}
