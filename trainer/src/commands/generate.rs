//! `patchmill-train generate`: a model's continuation of a text.
//!
//! **Invariant:** stdout has only the text, or with `--json` one JSON object.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::commands::model::{ModelArgs, Text, load_encoder};
use crate::console::progress::{print, progress};
use crate::model::generate::{Sampling, Stop, generate as continue_ids};
use pipeline::commands::values::local_path;

/// Arguments of `generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
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
    #[arg(long, value_name = "PATH", value_parser = local_path())]
    tokenizer: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `generate`: the prompt's continuation on stdout.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let (model, notes) = args.model.load()?;
    let folder = args.model.folder();
    let tokenizer = args.tokenizer.as_ref().unwrap_or(&folder);
    let encoder = load_encoder(tokenizer, &model, Text::Beginnings)?;
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
        json!({
            "text": text,
            "prompt_tokens": prompt_tokens,
            "token_ids": token_ids,
            "stop": stop,
        })
        .to_string()
    } else {
        text
    };
    print(&format!("{text}\n")).map(|_| ())
}
