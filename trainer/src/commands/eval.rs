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
use crate::commands::model::{ModelArgs, Text, load_encoder};
use crate::console::progress::{print, progress};
use crate::console::stop::StopFlag;
use crate::model::eval::{EvalShape, Evaluation, Evaluator};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::run::validation::evaluate_corpus;
use pipeline::commands::values::local_path;

/// Arguments of `eval`.
#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A corpus folder, or a text file (.jsonl, .jsonl.zst, .jsonl.gz, .parquet) to tokenize with
    /// the model's tokenizer.
    #[arg(long, value_name = "FILE|CORPUS", value_parser = local_path())]
    data: PathBuf,
    /// Tokens of a window [default: the model's positions].
    #[arg(long, value_name = "T")]
    window_units: Option<u64>,
    /// K above 1 gives the patch loss, which is not a token-level loss and has no perplexity.
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
    #[arg(long, value_name = "PATH", value_parser = local_path())]
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
    let (found, words) = if args.data.is_dir() {
        let corpus = Corpus::open(&args.data, ReadBackend::Mmap)?;
        check_corpus(&corpus, &model, &args.model.folder())?;
        let (text_bytes, group) = (corpus.manifest().totals.text_bytes, &ProcessGroup::single());
        let found =
            evaluate_corpus(&model, &corpus, shape, text_bytes, &StopFlag::default(), group)?;
        (found.context("nobody can ask this evaluation to stop")?, None)
    } else {
        evaluate_text(&model, shape, args)?
    };
    let measures = Measures::new(&found, shape, words);
    let text = if args.json {
        json!({
            "loss": found.loss,
            "perplexity": measures.token_perplexity,
            "word_perplexity": measures.word_perplexity,
            "byte_perplexity": measures.byte_perplexity,
            "tokens": found.tokens,
            "predicted_tokens": found.predicted_tokens,
            "windows": found.windows,
            "dropped_tokens": found.dropped_tokens,
            "bits_per_byte": measures.bits_per_byte,
            "window_units": shape.window_units,
            "patch_size": shape.patch_size,
        })
        .to_string()
    } else {
        describe(&found, shape, &measures)
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

/// Measures that follow from the mean loss. Each is `None` if it has no meaning at this K, or if
/// the size of the text is unknown.
struct Measures {
    /// exp(loss), per token of this tokenizer: the paper's perplexity.
    token_perplexity: Option<f64>,
    /// The loss of the whole text, by its words between white space.
    word_perplexity: Option<f64>,
    /// The same by its bytes.
    byte_perplexity: Option<f64>,
    bits_per_byte: Option<f64>,
}

impl Measures {
    fn new(found: &Evaluation, shape: EvalShape, words: Option<u64>) -> Measures {
        let is_token_level = shape.patch_size == 1;
        let stream_loss = found.loss * (found.tokens + found.dropped_tokens) as f64;
        let words = words.filter(|&words| is_token_level && 0 < words);
        let bits_per_byte = found.bits_per_byte.filter(|_| is_token_level);
        Measures {
            token_perplexity: is_token_level.then_some(found.perplexity),
            word_perplexity: words.map(|words| (stream_loss / words as f64).exp()),
            byte_perplexity: bits_per_byte.map(f64::exp2),
            bits_per_byte,
        }
    }
}

fn describe(found: &Evaluation, shape: EvalShape, measures: &Measures) -> String {
    let mut text = match measures.token_perplexity {
        Some(perplexity) => {
            format!("loss {:.6} nats a token, perplexity {perplexity:.4} per token", found.loss)
        }
        None => format!(
            "patch loss {:.6} nats a token (K = {}); it is the mean over the tokens of the next \
             patch and has no perplexity: use --patch-size 1",
            found.loss, shape.patch_size
        ),
    };
    let others = [
        ("word perplexity", measures.word_perplexity),
        ("byte perplexity", measures.byte_perplexity),
    ];
    for (name, value) in others.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        text += &format!(", {name} {value:.4}");
    }
    text += &measures.bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.4} bits/byte"));
    text + &format!(
        "\n{} tokens in {} windows of {} that do not overlap, {} of them predicted; \
         {} tokens of the tail dropped",
        found.tokens,
        found.windows,
        shape.window_units * shape.patch_size,
        found.predicted_tokens,
        found.dropped_tokens,
    )
}

/// Tokenizes the documents of a file, by the policy of the model's folder, as one stream. Also
/// returns its words.
fn evaluate_text(
    model: &Llama,
    shape: EvalShape,
    args: &EvalArgs,
) -> Result<(Evaluation, Option<u64>)> {
    let folder = args.model.folder();
    let encoder = load_encoder(args.tokenizer.as_ref().unwrap_or(&folder), model, Text::Documents)?;
    let found = inputs::find(std::slice::from_ref(&args.data))?;
    let columns = Columns {
        text: args.text_column.clone(),
        document_bytes_max: args.max_document_bytes,
        ..Columns::default()
    };
    let mut evaluator = Evaluator::new(model, shape)?;
    let (mut text_bytes, mut words) = (0, 0);
    let mut session = encoder.session::<u32>();
    let mut ids = Vec::new();
    for input in &found {
        documents::for_each(input, &columns, |doc| -> Result<()> {
            ids.clear();
            session.encode(&doc.text, &mut ids)?;
            text_bytes += doc.text.len() as u64;
            words += doc.text.split_whitespace().count() as u64;
            Ok(evaluator.push(&ids)?)
        })?;
    }
    Ok((evaluator.finish(Some(text_bytes))?, Some(words)))
}
