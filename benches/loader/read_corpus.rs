//! Patchmill's loader on a corpus in the page cache: one epoch at its first touch, when blocks are
//! checked, then one with all blocks checked.
//!
//!     read_corpus CORPUS --id-sum SUM [--window-tokens 2048] [--workers 1] [--io mmap|pread]
//!                 [--output i64]
//!
//! Batches are 16 windows in the plan's global order. One JSON object: tokens a second of both, on
//! the wall and of CPU time (all threads), and the milliseconds from opening the corpus to the
//! first batch, at the start and at 50 %.
//!
//! **Invariant:** the ids of one more, untimed epoch add up to the corpus' sum.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use benches::clock::process_cpu_seconds;
use benches::epoch::{epoch_spec, parse_backend};
use clap::Parser;
use pipeline::console::numbers::parse_positive_count;
use pipeline::corpus::{Corpus, OutId};
use pipeline::loader::{Batch, Loader, LoaderSpec, READ_AHEAD_BYTES};
use plan::Plan;
use schemas::run::ReadBackend;
use serde_json::json;

const BATCH_WINDOWS: u64 = 16;

#[derive(clap::Parser)]
struct Args {
    /// A corpus folder whose tokens are a multiple of a batch's.
    corpus: PathBuf,
    /// The sum of its ids.
    #[arg(long)]
    id_sum: u64,
    /// Tokens of a window.
    #[arg(long, default_value_t = 2048)]
    window_tokens: u64,
    /// Reading threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// How shards are read: mmap or pread.
    #[arg(long, default_value = "mmap", value_parser = parse_backend)]
    io: ReadBackend,
    /// How ids are delivered.
    #[arg(long, value_enum, default_value_t = Output::I64)]
    output: Output,
    /// Bytes of all rings. Data within the second-level and third-level caches need not go through
    /// memory.
    #[arg(long, default_value = "16e6", value_parser = parse_positive_count)]
    ring_bytes: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    U16,
    U32,
    I32,
    I64,
}

/// A single phase of whole epochs; a step is a batch.
fn plan(corpus: &Corpus, window_tokens: u64) -> anyhow::Result<Plan> {
    let step_tokens = BATCH_WINDOWS * window_tokens;
    Ok(Plan::new(&epoch_spec(corpus.manifest(), window_tokens, step_tokens))?)
}

/// Starts the loader at `from_step`: the one place that knows its options.
fn start<T: OutId>(args: &Args, corpus: &Arc<Corpus>, from_step: u64) -> anyhow::Result<Loader<T>> {
    let plan = Arc::new(plan(corpus, args.window_tokens)?);
    Ok(Loader::start(LoaderSpec {
        corpus: Arc::clone(corpus),
        from_step,
        end_step: plan.step_count(),
        plan,
        rank: 0,
        world_size: 1,
        micro_batch_windows: BATCH_WINDOWS,
        workers: args.workers,
        ring_bytes: args.ring_bytes,
        read_ahead_bytes: READ_AHEAD_BYTES,
        pin: None,
    })?)
}

/// Tokens a second, on the wall and of CPU time.
struct Rates {
    wall: f64,
    cpu: f64,
}

/// Reads an epoch, handing each batch to `each`.
fn epoch<T: OutId>(
    args: &Args,
    corpus: &Arc<Corpus>,
    mut each: impl FnMut(&Batch<T>),
) -> anyhow::Result<Rates> {
    let (started, cpu_before) = (Instant::now(), process_cpu_seconds());
    let (mut loader, mut tokens) = (start::<T>(args, corpus, 0)?, 0);
    while let Some(batch) = loader.next_batch()? {
        tokens += batch.ids.len() as u64;
        each(&batch);
        loader.recycle(batch);
    }
    drop(loader);
    ensure!(
        tokens == corpus.token_count(),
        "{tokens} tokens of {} were read",
        corpus.token_count()
    );
    let cpu = process_cpu_seconds() - cpu_before;
    Ok(Rates { wall: tokens as f64 / started.elapsed().as_secs_f64(), cpu: tokens as f64 / cpu })
}

/// Milliseconds from a corpus that is not open to the first batch, at the start or at 50 %.
fn first_batch_ms<T: OutId>(args: &Args, is_resumed: bool) -> anyhow::Result<f64> {
    let started = Instant::now();
    let corpus = Arc::new(Corpus::open(&args.corpus, args.io)?);
    let step_count = corpus.token_count() / (BATCH_WINDOWS * args.window_tokens);
    let mut loader = start::<T>(args, &corpus, if is_resumed { step_count / 2 } else { 0 })?;
    ensure!(loader.next_batch()?.is_some(), "the corpus is shorter than a batch");
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn measure<T: OutId>(args: &Args) -> anyhow::Result<()> {
    let (first_ms, resumed_ms) =
        (first_batch_ms::<T>(args, false)?, first_batch_ms::<T>(args, true)?);
    let corpus = Arc::new(Corpus::open(&args.corpus, args.io)?);
    let touch = |batch: &Batch<T>| {
        std::hint::black_box((batch.ids[0], batch.ids[batch.ids.len() - 1]));
    };
    let first_touch = epoch(args, &corpus, touch)?;
    let checked = epoch(args, &corpus, touch)?;
    let mut sum = 0;
    epoch(args, &corpus, |batch: &Batch<T>| {
        sum += batch.ids.iter().map(|id| id.number()).sum::<u64>();
    })?;
    ensure!(sum == args.id_sum, "the ids add up to {sum}; expected {}", args.id_sum);
    println!(
        "{}",
        json!({
            "tokens_per_sec": checked.wall,
            "tokens_per_cpu_sec": checked.cpu,
            "first_touch_tokens_per_sec": first_touch.wall,
            "first_touch_tokens_per_cpu_sec": first_touch.cpu,
            "first_batch_ms": first_ms,
            "resume_ms": resumed_ms,
        })
    );
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.output {
        Output::U16 => measure::<u16>(&args),
        Output::U32 => measure::<u32>(&args),
        Output::I32 => measure::<i32>(&args),
        Output::I64 => measure::<i64>(&args),
    }
}
