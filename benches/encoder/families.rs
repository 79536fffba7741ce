//! Compares our encoder with the `tokenizers` crate on real tokenizers and a corpus, in both modes
//! of special tokens, and measures it: `families SHARE TEXTS.jsonl.zst TOKENIZER...`.
//!
//! Of the texts one of `SHARE` is compared, all are timed. A tokenizer is a tokenizer.json or a
//! folder with one.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use encoder::{Encoder, Policy, TokenId};
use pipeline::read::documents::{self, Columns, DocsError};
use pipeline::read::inputs;
use schemas::manifest::SpecialTokens;

/// Timed passes over all texts, each with an empty cache.
const PASSES: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(arguments.len() >= 3, "usage: families SHARE TEXTS.jsonl.zst TOKENIZER...");
    let share: usize = arguments[0].parse().context("SHARE is a number")?;
    let texts = read(Path::new(&arguments[1]))?;
    for tokenizer in &arguments[2..] {
        for special_tokens in [SpecialTokens::Text, SpecialTokens::Hf] {
            let policy = Policy { bos: false, eos: false, special_tokens };
            let encoder = Encoder::load(Path::new(tokenizer), policy)?;
            let line = if encoder.vocab_size() <= u16::VOCAB_SIZE_MAX {
                compare::<u16>(&encoder, &texts, share)?
            } else {
                compare::<u32>(&encoder, &texts, share)?
            };
            println!("{tokenizer} {special_tokens:?}: {line}");
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for input in inputs::find(&[path.to_owned()])? {
        documents::for_each(&input, &Columns::default(), |doc| {
            texts.push(doc.text.into_owned());
            Ok::<(), DocsError>(())
        })?;
    }
    Ok(texts)
}

fn compare<I: TokenId>(encoder: &Encoder, texts: &[String], share: usize) -> Result<String> {
    if !encoder.obstacles().is_empty() {
        return Ok(format!("not ours: {:?}", encoder.obstacles()));
    }
    let text_bytes: usize = texts.iter().map(String::len).sum();
    let (mut rates, mut tokens, mut hit_rate) = (Vec::new(), 0, 0.0);
    for _ in 0..PASSES {
        let mut session = encoder.session::<I>();
        let mut ids: Vec<I> = Vec::new();
        tokens = 0;
        let started = Instant::now();
        for text in texts {
            ids.clear();
            session.encode(text, &mut ids)?;
            tokens += ids.len();
        }
        rates.push(text_bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
        let statistics = session.statistics();
        hit_rate = statistics.cache_hits as f64 / statistics.cache_lookups as f64;
    }
    rates.sort_by(f64::total_cmp);
    let (mut compared_bytes, mut compared, mut differing) = (0, 0, 0);
    let mut session = encoder.session::<I>();
    for text in texts.iter().step_by(share.max(1)) {
        let (mut ids, mut expected) = (Vec::new(), Vec::new());
        session.encode(text, &mut ids)?;
        encoder.encode_by_definition(text, &mut expected)?;
        compared_bytes += text.len();
        compared += 1;
        differing += usize::from(!ids.iter().map(|id| id.widen()).eq(expected));
    }
    Ok(format!(
        "{differing} of {compared} documents differ ({:.1} MB); {:.1} MB/s ({:.1} to {:.1}), \
         {:.1} Mtok/s, hits {:.4}, {:.2} bytes a token",
        compared_bytes as f64 / 1e6,
        rates[PASSES / 2],
        rates[0],
        rates[PASSES - 1],
        tokens as f64 / text_bytes as f64 * rates[PASSES / 2],
        hit_rate,
        text_bytes as f64 / tokens as f64
    ))
}
