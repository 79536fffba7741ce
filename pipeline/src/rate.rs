//! `patchmill inspect DIR --rate-for TOKENS`: the sample rate that gives so many tokens of a corpus' inputs.
//!
//! A sample takes each text with the same chance, whatever its length, so the tokens that come out vary about the rate
//! times all tokens. How much, the tokens of the single documents tell: their squares, times rate · (1 − rate), are
//! the variance, where no two texts are equal.
//!
//! **Invariant:** the rate named is the smallest of nine decimal places that gives the tokens on average.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use schemas::index::TOKEN_COUNT;
use serde_json::json;

use crate::corpus::read_manifest;
use crate::folder::UsageError;
use crate::index;
use crate::select::Rate;

/// Decimal places of the rate.
const RATE_PLACES: u32 = 9;

/// Prints the rate for `tokens` tokens.
pub(crate) fn print(dir: &Path, tokens: u64, as_json: bool) -> anyhow::Result<()> {
    let manifest = read_manifest(dir)?;
    let corpus_tokens = manifest.totals.tokens;
    if tokens > corpus_tokens {
        let dir = dir.display();
        let what = format!("{tokens} tokens are wanted; {dir} has {corpus_tokens}");
        return Err(UsageError(what).into());
    }
    let selection = manifest.selection.unwrap_or_default();
    let before = selection.sample_rate.as_deref().unwrap_or("1").parse::<Rate>();
    let before = before.map_err(anyhow::Error::msg).context("sample_rate of the manifest")?;
    let rate = Rate::at_least(before.as_f64() * tokens as f64 / corpus_tokens as f64, RATE_PLACES);
    // Of this corpus; the rate named is of its inputs.
    let share = (rate.as_f64() / before.as_f64()).min(1.0);
    let mut squares = 0.0;
    let mut found_tokens = 0;
    for record in manifest.series.iter().filter_map(|series| series.index.as_ref()) {
        index::check_file(dir, record)?;
        for batch in index::read_columns(&dir.join(&record.path), &[TOKEN_COUNT])? {
            for &count in batch?.column(0).as_primitive::<UInt64Type>().values() {
                found_tokens += count;
                squares += (count as f64).powi(2);
            }
        }
    }
    ensure!(
        found_tokens == corpus_tokens,
        "the document indexes of {} have {found_tokens} tokens; the manifest says {corpus_tokens}",
        dir.display()
    );
    let deviation = (squares * share * (1.0 - share)).sqrt();
    let expected = share * corpus_tokens as f64;
    let mut out = std::io::stdout().lock();
    if as_json {
        let json = json!({
            "sample_rate": rate.to_string(),
            "sample_seed": selection.sample_seed,
            "tokens": tokens,
            "expected_tokens": expected.round() as u64,
            "deviation_tokens": deviation.ceil() as u64,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let seed = selection.sample_seed.map(|seed| format!(" --sample-seed {seed}"));
    writeln!(
        out,
        "--sample-rate {rate}{}",
        seed.filter(|_| before != Rate::ONE).unwrap_or_default()
    )?;
    writeln!(
        out,
        "gives {:.0} tokens on average, with a standard deviation of {:.0} ({:.4} %), and otherwise the same options",
        expected,
        deviation.ceil(),
        100.0 * deviation / expected.max(1.0)
    )?;
    Ok(())
}
