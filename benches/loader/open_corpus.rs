//! Where the time goes between the start of a run and its first batch, part by part, on an open
//! corpus of any size.
//!
//!     open_corpus CORPUS [--io mmap|pread] [--rounds 20] [--window-units 2048]
//!
//! Parts: the manifest read and parsed; every shard asked for its length; every shard opened and
//! its header read and checked, alone and as `Corpus::open` does it all; the plan; the windows of a
//! step; the first footer, and the first micro-batch of 16 windows, at the start and in the middle
//! of the run. Median and range in milliseconds, warm: all that is read lies in the page cache
//! after the first round, which is given apart.
//!
//! Estimate: a system call takes some 0.3 µs, and to find, open or close a file some 1 µs; at five
//! calls a shard 1,000 shards take some 5 ms, and a footer of 1.9 MB some 0.3 ms more at the first
//! touch of each.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use benches::epoch::{epoch_spec, parse_backend};
use clap::Parser;
use pipeline::corpus::{Corpus, read_manifest};
use pipeline::disk::source::{FileState, Source};
use plan::Plan;
use schemas::manifest::Manifest;
use schemas::run::ReadBackend;
use schemas::shard::{HEADER_BYTES, ShardHeader};
use serde_json::json;

const STEP_TOKENS: u64 = 2_097_152;
const BATCH_WINDOWS: u64 = 16;

#[derive(clap::Parser)]
struct Args {
    /// A corpus folder.
    corpus: PathBuf,
    /// How shards are read: mmap or pread.
    #[arg(long, default_value = "mmap", value_parser = parse_backend)]
    io: ReadBackend,
    /// How often all parts are measured.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Tokens of a window.
    #[arg(long, default_value_t = 2048)]
    window_units: u64,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

/// Milliseconds of each part, in the order in which they were measured.
#[derive(Default)]
struct Parts(Vec<(&'static str, f64)>);

impl Parts {
    fn time<T>(&mut self, name: &'static str, part: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let made = part();
        self.0.push((name, started.elapsed().as_secs_f64() * 1e3));
        made
    }
}

fn open_shards(
    dir: &Path,
    manifest: &Manifest,
    io: ReadBackend,
) -> anyhow::Result<Vec<(Source, FileState)>> {
    let paths = manifest.shards().map(|shard| dir.join(&shard.file.path));
    paths.map(|path| Ok(Source::open(&path, io)?)).collect()
}

/// The reads of `Corpus::open` from each open shard.
fn check_headers(shards: &[(Source, FileState)]) -> anyhow::Result<()> {
    let mut head = [0; HEADER_BYTES as usize];
    for (source, state) in shards {
        source.read(0, &mut head)?;
        ShardHeader::decode(&head, state.byte_count)?;
    }
    Ok(())
}

fn read_batch(corpus: &Corpus, plan: &Plan, step: u64) -> anyhow::Result<i64> {
    let slots = 0..BATCH_WINDOWS.min(plan.phase_of(step).windows_per_step);
    let mut ids = Vec::new();
    for window in plan.windows(step, slots) {
        let first = ids.len();
        ids.resize(first + window.token_count as usize, 0i64);
        corpus.read(window.first_token, &mut ids[first..])?;
    }
    Ok(ids.iter().sum())
}

fn round(args: &Args) -> anyhow::Result<Parts> {
    let (dir, mut parts) = (args.corpus.as_path(), Parts::default());
    let manifest = parts.time("manifest read, parsed and checked", || read_manifest(dir))?;
    let lengths = parts.time("lengths of all shards (stat)", || {
        let paths = manifest.shards().map(|shard| dir.join(&shard.file.path));
        paths.map(|path| Ok(path.metadata()?.len())).sum::<anyhow::Result<u64>>()
    })?;
    let bytes: u64 = manifest.shards().map(|shard| shard.file.bytes).sum();
    ensure!(lengths == bytes, "shards have {lengths} bytes; the manifest says {bytes}");
    let sources = parts.time("all shards opened", || open_shards(dir, &manifest, args.io))?;
    parts.time("all headers read and decoded", || check_headers(&sources))?;
    parts.time("all shards closed", || drop(sources));
    let corpus = parts.time("Corpus::open, in all", || Corpus::open(dir, args.io))?;
    let whole_windows = manifest.totals.tokens / args.window_units * args.window_units;
    let spec = epoch_spec(&manifest, args.window_units, STEP_TOKENS.min(whole_windows));
    let plan = parts.time("plan", || Plan::new(&spec))?;
    parts.time("windows of a step", || plan.step(0).count());
    parts.time("one footer", || corpus.shard_footer(0))?;
    parts.time("first micro-batch of 16 windows", || read_batch(&corpus, &plan, 0))?;
    let middle = plan.step_count() / 2;
    parts.time("the same at 50 %", || read_batch(&corpus, &plan, middle))?;
    parts.time("the same again: all checked", || read_batch(&corpus, &plan, middle))?;
    parts.time("Corpus dropped", || drop(corpus));
    Ok(parts)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds begins at 1");
    let first = round(&args)?;
    let mut rounds = vec![Vec::new(); first.0.len()];
    for _ in 0..args.rounds {
        for (times, (_, time)) in rounds.iter_mut().zip(round(&args)?.0) {
            times.push(time);
        }
    }
    let mut lines = Vec::new();
    for (times, (name, cold)) in rounds.iter_mut().zip(&first.0) {
        times.sort_by(f64::total_cmp);
        let (low, mid, high) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        if !args.json {
            println!("{mid:9.3} ms ({low:.3}–{high:.3}; first round {cold:.3})  {name}");
        }
        lines.push(json!({
            "part": name, "median_ms": mid, "min_ms": low, "max_ms": high, "first_ms": cold
        }));
    }
    if args.json {
        println!("{}", json!({"corpus": args.corpus, "rounds": args.rounds, "parts": lines}));
    }
    Ok(())
}
