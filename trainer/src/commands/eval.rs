//! `patchmill-train eval`: loss and perplexity of a model on a corpus or a text.
//!
//! **Invariant:** a corpus whose ids have another meaning in the model is refused.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use pipeline::corpus::Corpus;
use pipeline::read::documents::{self, Columns};
use pipeline::read::inputs;
use schemas::run::ReadBackend;
use serde_json::json;

use crate::commands::error::CorpusMismatch;
use crate::commands::model::{ModelArgs, load_encoder};
use crate::console::progress::{print, progress};
use crate::console::stop::StopFlag;
use crate::model::eval::{EvalShape, Evaluation, Evaluator};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::run::validation::evaluate_corpus;

/// Arguments of `eval`.
#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A corpus folder, or a text file (.jsonl, .jsonl.zst, .jsonl.gz, .parquet) to tokenize with
    /// the model's tokenizer.
    #[arg(long, value_name = "FILE|CORPUS")]
    data: PathBuf,
    /// Tokens of a window [default: the model's positions].
    #[arg(long, value_name = "T")]
    window_units: Option<u64>,
    /// K above 1 gives the patch loss, which is not a token-level loss.
    #[arg(
        long,
        value_name = "K",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=1 << 20)
    )]
    patch_size: u64,
    /// Windows computed at once; does not affect the result.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=1 << 20)
    )]
    micro_batch_windows: u64,
    /// tokenizer.json for a text file, or the folder with it [default: that of the model].
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Key or column of the text in a text file.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_column: String,
    /// Longest text accepted in a text file; a longer one is refused.
    #[arg(long, value_name = "BYTES", default_value_t = documents::DOCUMENT_BYTES_MAX)]
    max_document_bytes: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `eval`: loss and perplexity by the definition of `crate::model::eval`.
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
        let (text_bytes, group) = (corpus.manifest().totals.text_bytes, &ProcessGroup::single());
        let found =
            evaluate_corpus(&model, &corpus, shape, text_bytes, &StopFlag::default(), group)?;
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

fn check_corpus(corpus: &Corpus, model: &Llama, model_folder: &Path) -> Result<()> {
    let (found, expected) = (corpus.vocab_size(), model.config().vocab_size);
    if found > expected {
        bail!(CorpusMismatch::Vocabulary { found, expected });
    }
    let path = model_folder.join("tokenizer.json");
    if !path.exists() {
        progress(
            "notice: the model's folder has no tokenizer.json \
             to compare the corpus' tokenizer with",
        );
        return Ok(());
    }
    let expected = pipeline::disk::atomic::hash_file(&path)?.1.to_hex().to_string();
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
         {} tokens in {} windows of {} that do not overlap, {} of them predicted; \
         {} tokens of the tail dropped",
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
        documents::for_each(input, &columns, |doc| -> Result<()> {
            ids.clear();
            session.encode(&doc.text, &mut ids)?;
            text_bytes += doc.text.len() as u64;
            Ok(evaluator.push(&ids)?)
        })?;
    }
    Ok(evaluator.finish(Some(text_bytes))?)
}
