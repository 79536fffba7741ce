//! `patchmill inspect --tokenizer`: describes a tokenizer and names the encoder that makes its ids.
//!
//! **Invariant:** the named encoder is the one `patchmill tokenize` would use for texts as text.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use schemas::manifest::SpecialTokens;
use serde_json::{Map, Value, json};

use crate::console::printable;
use encoder::{Encoder, Policy, TokenId};

/// Prints a tokenizer.json, or the one in a folder.
pub(crate) fn show(path: &Path, as_json: bool) -> anyhow::Result<()> {
    let policy = Policy { bos: false, eos: false, special_tokens: SpecialTokens::Text };
    let encoder = Encoder::load(path, policy)?;
    let description = describe(&encoder)?;
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", Value::Object(description))?;
        return Ok(());
    }
    for (key, value) in &description {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Array(items) => {
                let items = items.iter().map(|item| item.as_str().unwrap_or_default());
                items.collect::<Vec<_>>().join("; ")
            }
            other => other.to_string(),
        };
        writeln!(out, "{key:15} {}", printable::line(&value))?;
    }
    Ok(())
}

fn describe(encoder: &Encoder) -> anyhow::Result<Map<String, Value>> {
    let context = || format!("read {}", encoder.path().display());
    let text = std::fs::read_to_string(encoder.path()).with_context(context)?;
    let definition: Value = serde_json::from_str(&text).with_context(context)?;
    let model = &definition["model"];
    let flag_names = [
        "byte_fallback",
        "ignore_merges",
        "fuse_unk",
        "unk_token",
        "dropout",
        "continuing_subword_prefix",
        "end_of_word_suffix",
    ];
    let flags = flag_names.into_iter().filter_map(|name| Some((name, model.get(name)?.clone())));
    let added = definition["added_tokens"].as_array().map_or(0, Vec::len);
    let token_bytes = if encoder.vocab_size() <= u16::VOCAB_SIZE_MAX { 2 } else { 4 };
    let description = json!({
        "tokenizer": encoder.path().display().to_string(),
        "fingerprint": encoder.fingerprint().to_hex().as_str(),
        "model": model["type"],
        "model_flags": flags.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>(),
        "merges": model["merges"].as_array().map_or(0, Vec::len),
        "normalizer": definition["normalizer"],
        "pre_tokenizer": definition["pre_tokenizer"],
        "added_tokens": added,
        "vocab_size": encoder.vocab_size(),
        "token_bytes": token_bytes,
        "encoder": encoder.name(),
        "obstacles": encoder.obstacles(),
        "joined_pairs": encoder.pair_count(),
    });
    match description {
        Value::Object(description) => Ok(description),
        _ => unreachable!("it was made as an object"),
    }
}
