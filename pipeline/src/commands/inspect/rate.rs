//! `patchmill inspect DIR --rate-for TOKENS`: the sample rate that gives this many tokens.
//!
//! The document index holds everything sampling depends on, so the tokens of each rate are counted,
//! not estimated. Every document has a lowest rate that takes it, and its tokens are added up at
//! this rate.
//!
//! **Invariant:** the printed rate is the smallest of six decimal places that gives the tokens, and
//! gives exactly the printed count.

use std::io::Write;
use std::path::Path;

use anyhow::ensure;
use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt64Type;
use schemas::index::{CONTENT_HASH, ROW, SET_NAME, TEXT_BYTES, TOKEN_COUNT};
use schemas::manifest::Manifest;
use schemas::selection::Selection;
use serde_json::json;

use crate::console::usage::UsageError;
use crate::corpus::index;
use crate::corpus::read_manifest;
use crate::write::select::{Candidate, Decision, Rate, SampleOrder, Select, SelectSpec};

/// Decimal places of the rate: steps of 360,000 tokens in a corpus of 360B.
const RATE_PLACES: u32 = 6;
/// The rate that takes everything, in units of the last place.
const ONE: usize = 10usize.pow(RATE_PLACES);

/// Tokens by the lowest rate that takes them, in units of the rate's last place.
struct Tokens {
    by_rate: Vec<u64>,
    /// Of all documents chosen by the other options.
    sum: u64,
}

/// Prints the rate for `tokens` tokens among the documents `spec` chooses.
pub(crate) fn print(
    dir: &Path,
    tokens: u64,
    spec: &SelectSpec,
    as_json: bool,
) -> anyhow::Result<()> {
    let manifest = read_manifest(dir)?;
    let select = Select::new(spec)?;
    let seed = spec.sample.sample_seed;
    check(dir, &manifest, &select, seed)?;
    let counted = count(dir, &manifest, &select, seed)?;
    let mut given = 0;
    let digits = counted.by_rate.iter().position(|at| {
        given += at;
        tokens <= given
    });
    let Some(digits) = digits else {
        let (dir, sum) = (dir.display(), counted.sum);
        let what = format!("{tokens} tokens are wanted; {dir} has {sum} of such documents");
        return Err(UsageError(what).into());
    };
    let rate = Rate::of_digits(digits.max(1) as u64, RATE_PLACES);
    let mut out = std::io::stdout().lock();
    if as_json {
        let json = json!({
            "sample_rate": rate.to_string(),
            "sample_seed": seed,
            "tokens": given,
            "tokens_wanted": tokens,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let other = if seed == 0 { String::new() } else { format!(" --sample-seed {seed}") };
    writeln!(out, "--sample-rate {rate}{other}")?;
    let (more, all) = (given - tokens, counted.sum);
    writeln!(
        out,
        "gives {given} tokens ({more} more than asked for) of {all}, with otherwise the same \
         options"
    )?;
    Ok(())
}

/// Refuses options that would take documents missing from this corpus: their tokens cannot be
/// counted.
fn check(dir: &Path, manifest: &Manifest, select: &Select, seed: u64) -> anyhow::Result<()> {
    let usage = |what: String| Err(UsageError(what).into());
    let asked = select.record().unwrap_or_default();
    if asked.sample_rate.is_some() {
        return usage("--rate-for names a --sample-rate; leave that out".to_owned());
    }
    if asked.split_words.is_some() {
        return usage("--rate-for counts whole documents; leave --split-words out".to_owned());
    }
    if manifest.imported.is_some() {
        return usage(format!(
            "{} was imported as ids: without texts there are no hashes that a sample could go by",
            dir.display()
        ));
    }
    select.check_inputs(manifest.series.iter().map(|s| (s.input.as_str(), s.input_bytes)))?;
    let Some(held) = &manifest.selection else { return Ok(()) };
    let has_chance = held.sample_rate.is_some() || held.holdout_rate.is_some();
    // The hold-out and the sample share one seed.
    let held = Selection { part: None, sample_rate: None, sample_seed: None, ..held.clone() };
    let asked = Selection { sample_seed: None, ..asked };
    let is_within = has_all(&held.min_bytes, &asked.min_bytes)
        && has_all(&held.max_bytes, &asked.max_bytes)
        && has_all(&held.keep_sets, &asked.keep_sets)
        && has_all(&held.drop_sets, &asked.drop_sets)
        && has_all(&held.drop_list, &asked.drop_list)
        && has_all(&held.holdout_rate, &asked.holdout_rate)
        && held.split_words.is_none();
    let same_seed = manifest.selection.as_ref().and_then(|held| held.sample_seed) == Some(seed);
    if !is_within || (has_chance && !same_seed) {
        let held = serde_json::to_string(&manifest.selection).expect("a selection is plain data");
        return usage(format!(
            "{} has only some of its inputs' documents ({held}); give the same options, or a \
             corpus of all of them",
            dir.display()
        ));
    }
    Ok(())
}

/// Whether a corpus made with `held` has all documents `asked` takes.
fn has_all<T: PartialEq>(held: &Option<T>, asked: &Option<T>) -> bool {
    held.is_none() || held == asked
}

fn count(dir: &Path, manifest: &Manifest, select: &Select, seed: u64) -> anyhow::Result<Tokens> {
    let order = SampleOrder::new(seed);
    let mut counted = Tokens { by_rate: vec![0; ONE + 1], sum: 0 };
    let mut found_tokens = 0;
    let names = [TOKEN_COUNT, SET_NAME, ROW, TEXT_BYTES, CONTENT_HASH];
    for series in &manifest.series {
        let Some(record) = &series.index else { continue };
        index::check_file(dir, record)?;
        let select = select.of_input(&series.input);
        for batch in index::read_columns(&dir.join(&record.path), &names)? {
            let batch = batch?;
            let column = |name| batch.column_by_name(name).expect("the schema was checked");
            let number = |name, at| column(name).as_primitive::<UInt64Type>().value(at);
            let set_names = column(SET_NAME).as_string::<i32>();
            let hashes = column(CONTENT_HASH).as_fixed_size_binary();
            for at in 0..batch.num_rows() {
                let content_hash = hashes.value(at).try_into().expect("the schema was checked");
                let tokens = number(TOKEN_COUNT, at);
                found_tokens += tokens;
                let decision = select.decide(Candidate {
                    row: number(ROW, at),
                    text_bytes: number(TEXT_BYTES, at),
                    set_name: set_names.is_valid(at).then(|| set_names.value(at)),
                    content_hash,
                });
                if decision == Decision::Write {
                    counted.by_rate[order.lowest_rate(content_hash, ONE as u64) as usize] += tokens;
                    counted.sum += tokens;
                }
            }
        }
    }
    let expected = manifest.totals.tokens;
    ensure!(
        found_tokens == expected,
        "the document indexes of {} have {found_tokens} tokens; the manifest says {expected}",
        dir.display()
    );
    Ok(counted)
}
