//! Are the encoder's ids those of the `tokenizers` crate, for every document of some inputs?
//!
//!     cargo run --release -p benches --example exactness -- \
//!         --tokenizer llama2/ --adversarial pile/
//!
//! Both readings of special tokens, whole and in parts. Exits with 1 if a document differs.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use benches::exact::{self, Comparison, MODES, Outcome};
use benches::{adversarial, texts};
use clap::Parser;
use schemas::manifest::SpecialTokens;

/// Text held in memory at a time.
const BATCH_BYTES: usize = 256 << 20;

#[derive(clap::Parser)]
struct Args {
    /// A tokenizer.json, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Which reading of special tokens; both when absent.
    #[arg(long)]
    special_tokens: Option<Mode>,
    /// Threads; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Compare the set of awkward documents, made from the first inputs, as well.
    #[arg(long)]
    adversarial: bool,
    /// Where documents that differ go, as JSON lines.
    #[arg(long)]
    failures: Option<PathBuf>,
    /// Files, folders or globs.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Mode {
    Text,
    Hf,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let started = Instant::now();
    let modes = match args.special_tokens {
        None => &MODES[..],
        Some(Mode::Text) => &[SpecialTokens::Text],
        Some(Mode::Hf) => &[SpecialTokens::Hf],
    };
    let threads = args.threads.unwrap_or(std::thread::available_parallelism()?.get());
    let comparison = Comparison { tokenizer: &args.tokenizer, modes, threads };
    let mut outcome = Outcome::default();
    let mut awkward = None;
    texts::for_each_batch(&args.inputs, BATCH_BYTES, |batch| {
        if args.adversarial && awkward.is_none() {
            let texts = batch.iter().take(2000).map(|text| text.text.clone()).collect();
            let tokenizer = exact::reference(&args.tokenizer, SpecialTokens::Text)?;
            awkward = Some(adversarial::documents(&exact::material(&tokenizer, texts)));
        }
        let found = comparison.run(batch.len() as u64, |index| batch[index as usize].clone())?;
        eprintln!("{} documents, {} differ", outcome.documents + found.documents, found.differing);
        outcome.add(found);
        Ok(())
    })?;
    let mut is_exact = outcome.differing == 0;
    print!("{}", exact::conclude(&outcome, args.failures.as_deref(), "inputs")?);
    if let Some(documents) = awkward {
        let count = documents.len() as u64;
        let found = comparison.run(count, |index| documents[index as usize].clone())?;
        is_exact &= found.differing == 0;
        let failures = args.failures.map(|path| path.with_extension("adversarial.jsonl"));
        print!("{}", exact::conclude(&found, failures.as_deref(), "adversarial")?);
    }
    println!("{:.0} seconds", started.elapsed().as_secs_f64());
    Ok(if is_exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
