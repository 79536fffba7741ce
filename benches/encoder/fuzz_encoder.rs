//! Random inputs through the encoder and the `tokenizers` crate, both readings of special tokens.
//!
//!     cargo run --release -p benches --example fuzz_encoder -- \
//!         --tokenizer llama2/ --seed 1 pile/00.jsonl.zst
//!
//! `--short` inputs of up to 128 bytes, then `--long` ones of up to 64 KiB. An input is named by
//! seed, length and number; `--only short:N` or `--only long:N` makes it again. Exits with 1 if an
//! input differs.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use benches::exact::{self, Comparison, MODES, Outcome};
use benches::generate::Material;
use benches::texts::{self, Text};
use clap::Parser;
use schemas::manifest::SpecialTokens;

/// Bytes of inputs between two lines of progress, if all are as long as may be.
const STRETCH_BYTES: u64 = 64 << 20;

#[derive(clap::Parser)]
struct Args {
    /// A tokenizer.json, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Seed of all inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Inputs of up to 128 bytes.
    #[arg(long, default_value_t = 10_000_000)]
    short: u64,
    /// Inputs of up to 64 KiB.
    #[arg(long, default_value_t = 10_000)]
    long: u64,
    /// One input alone: `short:N` or `long:N`.
    #[arg(long)]
    only: Option<String>,
    /// Threads; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Where inputs that differ go, as JSON lines.
    #[arg(long)]
    failures: Option<PathBuf>,
    /// Real texts to cut slices from: files, folders or globs.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
}

/// Inputs of one length.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    bytes_max: usize,
}

const SHORT: Kind = Kind { name: "short", bytes_max: 128 };
const LONG: Kind = Kind { name: "long", bytes_max: 64 << 10 };

fn input(material: &Material, seed: u64, kind: Kind, index: u64) -> Text {
    // Long inputs do not continue short ones.
    let (text, way) = material.input(seed ^ (kind.bytes_max as u64) << 32, index, kind.bytes_max);
    Text { name: format!("seed {seed}, {}:{index} ({way})", kind.name), text }
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let texts = texts::load(&args.inputs)?;
    ensure!(!texts.is_empty(), "the inputs hold no documents to cut slices from");
    let tokenizer = exact::reference(&args.tokenizer, SpecialTokens::Text)?;
    let material = exact::material(&tokenizer, texts);
    let threads = args.threads.unwrap_or(std::thread::available_parallelism()?.get());
    let comparison = Comparison { tokenizer: &args.tokenizer, modes: &MODES, threads };
    let mut outcome = Outcome::default();
    if let Some(only) = &args.only {
        let (kind, index) = only.split_once(':').context("--only is short:N or long:N")?;
        let kind = if kind == SHORT.name { SHORT } else { LONG };
        let index: u64 = index.parse()?;
        outcome = comparison.run(1, |_| input(&material, args.seed, kind, index))?;
        print!("{}", exact::conclude(&outcome, args.failures.as_deref(), only)?);
        return Ok(if outcome.differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    for (kind, count) in [(SHORT, args.short), (LONG, args.long)] {
        let (started, mut of_kind) = (Instant::now(), Outcome::default());
        let stretch_inputs = STRETCH_BYTES / kind.bytes_max as u64;
        for first in (0..count).step_by(stretch_inputs as usize) {
            let stretch = stretch_inputs.min(count - first);
            let document = |index| input(&material, args.seed, kind, first + index);
            of_kind.add(comparison.run(stretch, document)?);
            let seconds = started.elapsed().as_secs_f64();
            let (done, differing) = (of_kind.documents, of_kind.differing);
            eprintln!(
                "{}: {done} of {count} inputs, {differing} differ, {seconds:.0} s",
                kind.name
            );
        }
        let what =
            format!("seed {}, {} inputs of up to {} bytes", args.seed, kind.name, kind.bytes_max);
        print!("{}", exact::conclude(&of_kind, None, &what)?);
        outcome.add(of_kind);
    }
    print!("{}", exact::conclude(&outcome, args.failures.as_deref(), "all inputs")?);
    Ok(if outcome.differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
